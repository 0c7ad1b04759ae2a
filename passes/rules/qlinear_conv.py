"""QLinearConv with a constant int8 or uint8 kernel.

::

    y = QLinearConv(x, x_scale, x_zp, W, w_scale, w_zp, y_scale, y_zp, b)
    ->
    y = ConvCompressDequant(x, W', (x_scale * w_scale) / y_scale, b, x_zp, w_zp, y_zp)

==============================  ======================================================================================
accepted                        one to three dimensions; strides, dilations, pads, auto_pad; int8 or uint8 activations,
                                kernels and results; scales and zero points for the whole kernel or per channel
kept, with the reason           kernels that are not constant; those of uint8 images below 16 KiB where channels come
                                last, else below 32 KiB, or with less than 200 multiply-adds for each byte of image
                                that goes in or comes out, 300 in a graph with depthwise convolutions; groups whose
                                output channels are no multiple of 16, as in depthwise convolutions; scales and zero
                                points of other shapes
==============================  ======================================================================================

onnxruntime folds the three scales in float32, multiplies the int32 sum with the result, clamps, rounds half to even
and adds the zero point; the operator does the same. Pixels beside the image are the activation's zero point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.operators import conv_compress_dequant
from mcd_graph.passes.engine.facts import get_input
from mcd_graph.passes.engine.match import Family, Match, Rule
from mcd_graph.passes.engine.operands import quantization_column
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.convolution import Convolution, find_kernel, large_enough, requantized, scaled, window_of
from mcd_graph.passes.rules.scales import fold_scales

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FAMILY"]


def _match(node: ir.Node) -> Match | None:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b = (
        get_input(node, index) for index in range(9)
    )
    kernel = find_kernel(node, w)
    if kernel is None:
        return None
    if x_scale is None or w_scale is None or y_scale is None or y_zero_point is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QLinearConv needs is missing")
    scale = fold_scales(x_scale, w_scale, y_scale, n=kernel.n)
    convolution = Convolution(x, bias=quantization_column(b, kernel.n), window=window_of(node, kernel, x))
    convolution = requantized(scaled(convolution, kernel, scale, (x_zero_point, w_zero_point)), y_zero_point)
    convolution = large_enough(node, kernel, x, convolution)
    return Match("QLinearConv", kernel, convolution, node.outputs[0], (node,))


qlinear_conv_rule = Rule("qlinear_conv_rule", "", "QLinearConv", _match, spec=conv_compress_dequant.SPEC)

FAMILY = Family(
    "QLinearConv",
    "QLinearConv",
    "`QLinearConv`",
    "a `ConvCompressDequant`, with the requantisation",
    (qlinear_conv_rule,),
)
