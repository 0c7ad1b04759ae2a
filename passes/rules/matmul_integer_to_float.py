"""com.microsoft MatMulIntegerToFloat and DynamicQuantizeMatMul: what onnxruntime makes of MatMulInteger and its tail.

They are met in models that onnxruntime had optimised and saved.

::

    y = MatMulIntegerToFloat(x1, W, x1_scale, w_scale, x1_zp, w_zp, bias)
    ->
    y = MatmulCompressDequant(x1, W', w_scale, x1_zp, w_zp, addend=bias, x1_scale)

    y = DynamicQuantizeMatMul(x, W, w_scale, w_zp, bias)
    ->
    x1, x1_scale, x1_zp = DynamicQuantizeLinear(x)
    y = MatmulCompressDequant(x1, W', w_scale, x1_zp, w_zp, addend=bias, x1_scale)

==============================  ======================================================================================
accepted                        weight scale and zero point for the whole matrix or per column; any of the optional
                                inputs; scales constant or computed at run time
kept, with the reason           weights that are not constant int8 or uint8 matrices; an activation scale or zero
                                point per row; a bias that is not a vector over the columns; float16 activations
==============================  ======================================================================================

onnxruntime rounds the product and the sum with the bias separately, and quantises as DynamicQuantizeLinear does.
"""

from __future__ import annotations

import onnx_ir as ir

from mcd_graph.passes.engine.facts import MS_DOMAIN, get_input, known_dtype, known_rank
from mcd_graph.passes.engine.match import Family, Match, NewNode, NewOutput, Rule
from mcd_graph.passes.engine.operands import find_weight, quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import Scale, fold_scales, fuse, require_matrix

__all__ = ["FAMILY"]


def _match_integer_to_float(node: ir.Node) -> Match:
    x1, w, x1_scale, w_scale, x1_zero_point, w_zero_point, bias = (get_input(node, index) for index in range(7))
    weight = find_weight(w)
    if x1 is None or x1_scale is None or w_scale is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that MatMulIntegerToFloat needs is missing")
    require_matrix(weight, w_scale)
    scale = fold_scales(x1_scale, w_scale, n=weight.n)
    fused = fuse(x1, x1_zero_point, weight, w_zero_point, scale, addend=bias, rank=known_rank(x1))
    return Match(node.op_type, weight, fused, node.outputs[0], (node,))


def _match_dynamic(node: ir.Node) -> Match:
    x, w, w_scale, w_zero_point, bias = (get_input(node, index) for index in range(5))
    weight = find_weight(w)
    if x is None or w_scale is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that DynamicQuantizeMatMul needs is missing")
    if known_dtype(x) not in (ir.DataType.FLOAT, None):
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"its activation {x.name} is not float32")
    require_matrix(weight, w_scale)
    quantized = NewNode("DynamicQuantizeLinear", (x,), num_outputs=3)
    column = quantization_vector(w_scale, weight.n)
    scale = Scale(column, NewOutput(quantized, 1))
    fused = fuse(
        NewOutput(quantized, 0), NewOutput(quantized, 2), weight, w_zero_point, scale, addend=bias, rank=known_rank(x)
    )
    return Match(node.op_type, weight, fused, node.outputs[0], (node,))


matmul_integer_to_float_rule = Rule(
    "matmul_integer_to_float_rule", MS_DOMAIN, "MatMulIntegerToFloat", _match_integer_to_float
)
dynamic_quantize_matmul_rule = Rule("dynamic_quantize_matmul_rule", MS_DOMAIN, "DynamicQuantizeMatMul", _match_dynamic)

FAMILY = Family(
    "MatMulIntegerToFloat",
    "com.microsoft's MatMulIntegerToFloat and DynamicQuantizeMatMul",
    "`MatMulIntegerToFloat`, `DynamicQuantizeMatMul` (com.microsoft)",
    "with the scales; the latter with its quantiser",
    (matmul_integer_to_float_rule, dynamic_quantize_matmul_rule),
)
