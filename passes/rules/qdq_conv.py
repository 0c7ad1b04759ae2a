"""Conv between DequantizeLinear and QuantizeLinear ("QDQ"), as onnxruntime runs it when it optimises: as QLinearConv.

::

    QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(W), DequantizeLinear(b)), y_scale, y_zp)
    ->
    ConvCompressDequant(x, W', (x_scale * w_scale) / y_scale, b, x_zp, w_zp, y_zp)

==============================  ======================================================================================
accepted                        uint8 and int8 activations, kernels per tensor or per channel; an int32 bias behind a
                                DequantizeLinear, or a constant float bias, which onnxruntime 1.21 and later quantise;
                                a Relu in front of the QuantizeLinear that its saturation makes superfluous
left, as floats                 kernels alone quantised; results that are not quantised
kept, with the reason           what is kept of MatMul and Gemm, and of QLinearConv
==============================  ======================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators import conv_compress_dequant
from mcd_graph.passes.engine.facts import get_input, int_attribute, known_dtype, known_shape
from mcd_graph.passes.engine.match import Family, Match, Rule
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.convolution import Convolution, find_kernel, large_enough, requantized, scaled, window_of
from mcd_graph.passes.rules.qdq_bias import integer_bias
from mcd_graph.passes.rules.qdq_destination import destination, output_parameters
from mcd_graph.passes.rules.qdq_operands import check_activation
from mcd_graph.passes.rules.qdq_pairs import dequantized_at
from mcd_graph.passes.rules.scales import fold_scales

if TYPE_CHECKING:
    from mcd_graph.passes.rules.qdq_pairs import Dequantized

__all__ = ["FAMILY"]


def _match(node: ir.Node) -> Match | None:
    x, w = (dequantized_at(get_input(node, index), node) for index in (0, 1))
    if x is None or w is None:
        return None  # a convolution of floats, whatever its kernel is stored as
    kernel = find_kernel(node, w.value, (w.node, *w.path))
    quantized = None if kernel is None else destination(node, kernel.n)
    if kernel is None or quantized is None or quantized.moved:
        return None
    _check_operands(x, w)
    check_activation(x)
    y = output_parameters(quantized)
    scale = fold_scales(x.scale, w.scale, y.scale, n=kernel.n)
    c = get_input(node, 2)
    bias = None if c is None else integer_bias(node, c, x, w, kernel, alpha=1.0, requantized=True)
    convolution = scaled(
        Convolution(x.value, bias=bias, window=window_of(node, kernel, x.value)),
        kernel,
        scale,
        (x.zero_point, w.zero_point),
    )
    nodes = (node, *quantized.between, quantized.node)
    pattern = "+".join(["DequantizeLinear", *(each.op_type for each in nodes)])
    # Without a type of the result, for an int8 one may become uint8.
    fused = large_enough(node, kernel, x.value, requantized(convolution, y.zero_point, typed=False))
    return Match(pattern, kernel, fused, quantized.node.outputs[0], nodes, optimized=True)


def _check_operands(x: Dequantized, w: Dequantized) -> None:
    """Refuse operands that onnxruntime does not take as integers."""
    if int_attribute(w.node, "block_size", 0):
        raise Refusal(ReasonCode.WEIGHT_BLOCKED, "its kernel is quantised in blocks, so onnxruntime computes in float")
    if any(int_attribute(each.node, "output_dtype", 0) not in (0, ir.DataType.FLOAT) for each in (x, w)):
        raise Refusal(ReasonCode.SCALE_TYPE, "its operands are not dequantised to float32")
    if known_dtype(x.scale) == ir.DataType.FLOAT16:
        raise Refusal(ReasonCode.SCALE_TYPE, "its scales are float16, so onnxruntime computes in float")
    if known_shape(w.scale) not in ((), (1,)) and int_attribute(w.node, "axis", 1) != 0:
        raise Refusal(
            ReasonCode.WEIGHT_SCALE_AXIS,
            "its kernel's scale is not per output channel, so onnxruntime computes in float",
        )


conv_qdq_rule = Rule("conv_qdq_rule", "", "Conv", _match, "DequantizeLinear+Conv", spec=conv_compress_dequant.SPEC)

FAMILY = Family(
    "QdqConv",
    "Conv between DequantizeLinear and QuantizeLinear",
    "`DequantizeLinear` → `Conv` → `QuantizeLinear`",
    "a `ConvCompressDequant`, with int32 or float bias, superfluous `Relu`",
    (conv_qdq_rule,),
)
