"""Convolutions with a 1x1 kernel, which are matrix multiplications over the channels. Only on request.

::

    y = ConvInteger(x, W, x_zp, w_zp)                       x: (batch, k, …), W: (n, k, 1, …), y: (batch, n, …)
    ->
    y = Transpose(MatmulCompressDequant(Transpose(x), W'))

and the same of QLinearConv, with its bias and its requantisation.

==============================  ======================================================================================
accepted                        kernels of size 1 in every direction, strides and dilations of 1, one group, no
                                padding; any number of spatial dimensions; zero points and scales per channel
kept, with the reason           everything else; weights that are not constant
==============================  ======================================================================================

The two Transposes cost time that the convolution kernels of onnxruntime do not spend, while the file gets smaller:
hence the option.
"""

from __future__ import annotations

import onnx_ir as ir

from mcd_graph.passes.engine.facts import dimensions, get_input, int_attribute, ints_attribute, known_shape
from mcd_graph.passes.engine.match import Family, Fused, Match, NewNode, NewOutput, Result, Rule, Weight
from mcd_graph.passes.engine.operands import find_weight, quantization_column, quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import fold_scales, fuse

__all__ = ["FAMILY"]


def _match_conv_integer(node: ir.Node) -> Match:
    x, w, x_zero_point, w_zero_point = (get_input(node, index) for index in range(4))
    weight = _pointwise_weight(node, w)
    if x is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no activation input")
    zero_point = quantization_vector(w_zero_point, weight.n)
    if x_zero_point is not None and known_shape(x_zero_point) not in ((), (1,), None):
        raise Refusal(ReasonCode.PARAMETER_SHAPE, f"zero point {x_zero_point.name} is not one value")
    last, _ = _permutations(weight)
    x1 = NewOutput(NewNode("Transpose", (x,), {"perm": last}))
    fused = Fused(x1, x1_zero_point=x_zero_point, w_zero_point=zero_point, output_type=ir.DataType.INT32)
    return _replacement(node, weight, fused)


def _match_qlinear_conv(node: ir.Node) -> Match:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b = (
        get_input(node, index) for index in range(9)
    )
    weight = _pointwise_weight(node, w)
    if x is None or x_scale is None or w_scale is None or y_scale is None or y_zero_point is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QLinearConv needs is missing")
    scale = fold_scales(x_scale, w_scale, y_scale, n=weight.n)
    bias = quantization_column(b, weight.n)
    last, _ = _permutations(weight)
    x1 = NewOutput(NewNode("Transpose", (x,), {"perm": last}))
    fused = fuse(x1, x_zero_point, weight, w_zero_point, scale, bias=bias, y_zero_point=y_zero_point)
    return _replacement(node, weight, fused)


def _replacement(node: ir.Node, weight: Weight, fused: Fused) -> Match:
    shape = known_shape(get_input(node, 0))
    if shape is not None and len(shape) > 1 and shape[1] not in (weight.k, None):
        raise Refusal(ReasonCode.SHAPE_MISMATCH, f"its input has {shape[1]} channels, its kernel {weight.k}")
    _, second = _permutations(weight)
    result = NewOutput(NewNode("Transpose", (Result(),), {"perm": second}))
    return Match(node.op_type, weight, fused, node.outputs[0], (node,), result)


def _permutations(weight: Weight) -> tuple[list[int], list[int]]:
    """Return the permutations that bring the channels from second to last place, and back."""
    rank = len(dimensions(weight.tensor))
    return [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]


def _pointwise_weight(node: ir.Node, value: ir.Value | None) -> Weight:
    """Return the kernel as a matrix, or why the node is more than a multiplication over the channels."""
    weight = find_weight(value, transposed=True, kernel=True)
    if any(size != 1 for size in dimensions(weight.tensor)[2:]):
        raise Refusal(ReasonCode.KERNEL_SIZE, "its kernel is larger than 1")
    if int_attribute(node, "group", 1) != 1:
        raise Refusal(ReasonCode.KERNEL_SIZE, "it has several groups")
    for name, neutral in (("strides", 1), ("dilations", 1), ("pads", 0)):
        if any(number != neutral for number in ints_attribute(node, name) or ()):
            raise Refusal(ReasonCode.KERNEL_SIZE, f"its {name} are not all {neutral}")
    return weight


pointwise_conv_integer_rule = Rule("pointwise_conv_integer_rule", "", "ConvInteger", _match_conv_integer)
pointwise_qlinear_conv_rule = Rule("pointwise_qlinear_conv_rule", "", "QLinearConv", _match_qlinear_conv)

FAMILY = Family(
    "PointwiseConv",
    "ConvInteger and QLinearConv with a 1x1 kernel",
    "`ConvInteger`, `QLinearConv` with a 1x1 kernel",
    "between two `Transpose`; only with `--convolutions`",
    (pointwise_conv_integer_rule, pointwise_qlinear_conv_rule),
    on_request=True,
)
