"""The inputs, output and attributes of ``mcd::MatmulCompressDequant``, and what it computes, in words."""

import onnx_ir as ir

from mcd_graph.operators.spec import Attribute, Input, Output

__all__ = ["ATTRIBUTES", "DOC", "ELEMENTWISE_NEEDS", "INPUTS", "INPUT_NAMES", "OP_TYPE", "OUTPUTS", "TYPES"]

OP_TYPE = "MatmulCompressDequant"

#: What an error says of a ``gate`` or ``residual`` where there must be none.
ELEMENTWISE_NEEDS = "needs a float32 deq_scale, and neither y_zero_point nor y_perm"

DOC = """
Multiplies x1 (..., k) with a compressed int8 or uint8 weight of shape (k, n) and dequantises the result:

  acc = sum over k of (x1 - x1_zero_point) * (w - w_zero_point) + bias       (int32, wraps around)

and, with deq_scale float32: y = float32(acc) * deq_scale [+ addend], each step rounded to nearest even.
With deq_scale uint64 (fp32 bits, zero-extended): y = float16(float32(acc) * deq_scale).
Without deq_scale: y = acc.
With y_zero_point: y = saturate(round_half_even(float32(acc) * deq_scale) + y_zero_point).
With y_zero_point and y_scale: y = float32(that - y_zero_point) * y_scale.
With x1_scale: deq_scale, which is float32 then, stands for float32(x1_scale * deq_scale) in all of this.
With x1 float32: DynamicQuantizeLinear makes x1, x1_scale and x1_zero_point of it. The two inputs are absent then, and
deq_scale is float32. NaN in x1 is left out of the range, and quantised as the lowest value.

With x1_shape and x1_perm: x1 stands for Reshape(Transpose(x1, x1_perm), x1_shape).
With y_shape and y_perm: the result is Transpose(Reshape(y, y_shape), y_perm). Both reshape as ONNX's operator does
with allowzero 0. They are how the heads of an attention are split and put together.

With gate, residual or both, where deq_scale is float32 and y_zero_point and y_perm are absent:
y = float32(acc) * deq_scale [+ addend] [* gate] [+ residual], each step rounded to nearest even, none fused. Both are
broadcast as ONNX's Mul and Add do. They are how feed-forward layers are gated and residual streams go on.

On x86 processors without VNNI, where onnxruntime's products of uint8 x1 and int8 w saturate, so do these: each two
neighbours along k are multiplied and added in 16 bits. Session config entry mcd.products = exact has them as above.

It is a superset of Ascend's aclnnMatmulCompressDequant, with that operator's argument names.
"""

INPUTS = (
    Input("x1", "T1", "activation (..., k); float32: quantised by the operator itself"),
    Input("x2", "tensor(int8)", "compressed weight stream, constant"),
    Input("compress_index", "tensor(int8)", "8 bytes for each tile of the weight, constant"),
    Input("deq_scale", "TS", "one scale or one per column; uint64 holds the bits of a float32", optional=True),
    Input("bias", "tensor(int32)", "(n) or (1, n), added to the integer sum", optional=True),
    Input("offset_w", "tensor(int8)", "must be absent", optional=True),
    Input("x1_zero_point", "T1", "one value", optional=True),
    Input("w_zero_point", "TW", "one value or one per column, of the weight's type", optional=True),
    Input("addend", "TA", "one value or one per column, added after the multiplication by deq_scale", optional=True),
    Input("y_zero_point", "TQ", "one value; present: the output is quantised, with this type", optional=True),
    Input(
        "x1_scale", "tensor(float)", "one value, multiplied by a float32 deq_scale before that is used", optional=True
    ),
    Input(
        "y_scale", "tensor(float)", "one value; present: a quantised output is made float32 again by it", optional=True
    ),
    Input(
        "x1_shape",
        "tensor(int64)",
        "shape (..., k) that x1 is brought to; present just if x1_perm is, and x1 float32",
        optional=True,
    ),
    Input(
        "y_shape",
        "tensor(int64)",
        "shape that the result (..., n) is brought to; present just if y_perm is",
        optional=True,
    ),
    Input("gate", "tensor(float)", "the float32 result is multiplied with it, element by element", optional=True),
    Input("residual", "tensor(float)", "added to the float32 result at last, element by element", optional=True),
)

#: The inputs by position; all behind ``compress_index`` are optional.
INPUT_NAMES = tuple(each.name for each in INPUTS)

OUTPUTS = (Output("y", "TY", "result (..., n), broadcast with gate and residual"),)

TYPES = {
    "T1": (("tensor(int8)", "tensor(uint8)", "tensor(float)"), "activation"),
    "TW": (("tensor(int8)", "tensor(uint8)"), "weight"),
    "TQ": (("tensor(int8)", "tensor(uint8)"), "quantised output"),
    "TS": (("tensor(uint64)", "tensor(float)", "tensor(float16)"), "dequantisation scale"),
    "TA": (("tensor(float)", "tensor(float16)"), "float bias"),
    "TY": (("tensor(int32)", "tensor(float)", "tensor(float16)", "tensor(int8)", "tensor(uint8)"), "output"),
}

ATTRIBUTES = (
    Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
    Attribute("offset_x", ir.AttributeType.INT, "zero point of x1 in Ascend's operator: 0", default=0),
    Attribute("output_type", ir.AttributeType.INT, "ONNX data type of the output"),
    Attribute("x1_perm", ir.AttributeType.INTS, "order of x1's dimensions"),
    Attribute("y_perm", ir.AttributeType.INTS, "order of the result's dimensions"),
)
