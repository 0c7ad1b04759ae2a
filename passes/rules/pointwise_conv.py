"""Convolutions with a 1x1 kernel, which are matrix multiplications over the channels. Only on request.

::

    y = QLinearConv(x, …, W, …, b)                       x: (batch, k, …), W: (n, k, 1, …), y: (batch, n, …)
    ->
    y = Transpose(MatmulCompressDequant(Transpose(x), W', …))

A ConvInteger is none: it has the kernel as its first operand, so that on
processors where onnxruntime's products saturate, others of them do than those of a multiplication.

==============================  ======================================================================================
accepted                        kernels of size 1 in every direction, strides and dilations of 1, one group, no
                                padding; any number of spatial dimensions; zero points and scales per channel
kept, with the reason           everything else; weights that are not constant
==============================  ======================================================================================

The two Transposes cost time that the convolution kernels of onnxruntime do not spend, while the file gets smaller:
hence the option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import dimensions, get_input, int_attribute, ints_attribute, known_shape
from mcd_graph.passes.engine.match import Family, Match, NewNode, NewOutput, Result, Rule, Weight
from mcd_graph.passes.engine.operands import find_weight, quantization_column
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import fold_scales, fuse

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FAMILY"]


def _match(node: ir.Node) -> Match:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b = (
        get_input(node, index) for index in range(9)
    )
    weight = _pointwise_weight(node, w)
    if x is None or x_scale is None or w_scale is None or y_scale is None or y_zero_point is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QLinearConv needs is missing")
    scale = fold_scales(x_scale, w_scale, y_scale, n=weight.n)
    bias = quantization_column(b, weight.n)
    last, second = _permutations(weight)
    x1 = NewOutput(NewNode("Transpose", (x,), {"perm": last}))
    fused = fuse(x1, x_zero_point, weight, w_zero_point, scale, bias=bias, y_zero_point=y_zero_point)
    shape = known_shape(x)
    if shape is not None and len(shape) > 1 and shape[1] not in (weight.k, None):
        raise Refusal(ReasonCode.SHAPE_MISMATCH, f"its input has {shape[1]} channels, its kernel {weight.k}")
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


pointwise_qlinear_conv_rule = Rule("pointwise_qlinear_conv_rule", "", "QLinearConv", _match)

FAMILY = Family(
    "PointwiseConv",
    "QLinearConv with a 1x1 kernel",
    "`QLinearConv` with a 1x1 kernel",
    "between two `Transpose`; only with `--convolutions`",
    (pointwise_qlinear_conv_rule,),
    on_request=True,
)
