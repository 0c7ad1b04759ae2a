"""Convolutions with a constant int8 or uint8 kernel: ConvInteger, and QLinearConv.

::

    y = ConvInteger(x, W, x_zp, w_zp)
    ->
    y = ConvCompressDequant(x, W', x_zp, w_zp)

    y = QLinearConv(x, x_scale, x_zp, W, w_scale, w_zp, y_scale, y_zp, b)
    ->
    y = ConvCompressDequant(x, W', (x_scale * w_scale) / y_scale, b, x_zp, w_zp, y_zp)

==============================  ======================================================================================
accepted                        one to three dimensions; strides, dilations, pads, auto_pad; int8 or uint8 activations,
                                kernels and results; scales and zero points for the whole kernel or per channel
kept, with the reason           kernels that are not constant; several groups; run-time scales of odd shapes
==============================  ======================================================================================

onnxruntime folds the three scales in float32, multiplies the int32 sum with the result, clamps, rounds half to even
and adds the zero point; the operator does the same. Pixels beside the image are the activation's zero point.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir

from mcd_graph.model.constants import WORTH_NAMING
from mcd_graph.operators import conv_compress_dequant
from mcd_graph.passes.engine.facts import (
    dimensions,
    get_input,
    int_attribute,
    ints_attribute,
    known_dtype,
    known_shape,
    string_attribute,
)
from mcd_graph.passes.engine.match import Family, Match, NewCompressed, Operand, Rule, Weight
from mcd_graph.passes.engine.operands import find_weight, quantization_column, quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import Scale, fold_scales, require_one_value

if TYPE_CHECKING:
    from mcd_graph.operators.spec import OperatorSpec

__all__ = ["FAMILY"]

#: The attribute ``same`` for each ``auto_pad`` that depends on the image.
_SAME = {"SAME_UPPER": 1, "SAME_LOWER": 2}

#: Dimensions of an image at the most.
_DIMS = 3


@dataclasses.dataclass(frozen=True)
class Kernel(Weight):
    """A convolution's kernel (n, channels, size …), as a matrix of n rows: the channels of a tap beside each other."""

    @property
    def k(self) -> int:
        """Columns of the matrix: taps times channels."""
        return math.prod(dimensions(self.tensor)[1:])

    def array(self) -> np.ndarray:
        """Return the matrix (n, k)."""
        return np.ascontiguousarray(np.moveaxis(self.tensor.numpy(), 1, -1)).reshape(self.n, self.k)


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution(NewCompressed):
    """A ConvCompressDequant to be."""

    spec: ClassVar[OperatorSpec] = conv_compress_dequant.SPEC

    x1: Operand
    deq_scale: Operand = None
    bias: Operand = None
    x1_zero_point: Operand = None
    w_zero_point: Operand = None
    y_zero_point: Operand = None
    x1_scale: Operand = None
    window: conv_compress_dequant.Window | None = None
    output_type: ir.DataType | None = None

    def attributes(self) -> dict[str, Any]:
        """Return its attributes; those that are as by default are left out."""
        window = self.window
        if window is None:
            return {}
        attributes: dict[str, Any] = {"kernel_shape": list(window.kernel)}
        for name, numbers, default in (
            ("strides", window.strides, 1), ("dilations", window.dilations, 1), ("pads", window.pads, 0),
        ):  # fmt: skip
            if any(number != default for number in numbers):
                attributes[name] = list(numbers)
        if window.same:
            attributes["same"] = window.same
        if window.group != 1:
            attributes["group"] = window.group
        return attributes


def _match_conv_integer(node: ir.Node) -> Match | None:
    x, w, x_zero_point, w_zero_point = (get_input(node, index) for index in range(4))
    kernel = _kernel(w)
    if kernel is None:
        return None
    convolution = Convolution(
        x,
        x1_zero_point=x_zero_point,
        w_zero_point=quantization_vector(w_zero_point, kernel.n),
        window=_window(node, kernel, x),
        output_type=ir.DataType.INT32,
    )
    require_one_value(x_zero_point, "zero point")
    return Match("ConvInteger", kernel, convolution, node.outputs[0], (node,))


def _match_qlinear_conv(node: ir.Node) -> Match | None:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b = (
        get_input(node, index) for index in range(9)
    )
    kernel = _kernel(w)
    if kernel is None:
        return None
    if x_scale is None or w_scale is None or y_scale is None or y_zero_point is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QLinearConv needs is missing")
    scale = fold_scales(x_scale, w_scale, y_scale, n=kernel.n)
    convolution = Convolution(x, bias=quantization_column(b, kernel.n), window=_window(node, kernel, x))
    convolution = _requantized(_scaled(convolution, kernel, scale, (x_zero_point, w_zero_point)), y_zero_point)
    return Match("QLinearConv", kernel, convolution, node.outputs[0], (node,))


def _scaled(
    convolution: Convolution, kernel: Kernel, scale: Scale, zero_points: tuple[ir.Value | None, ir.Value | None]
) -> Convolution:
    """Return a convolution whose sums are multiplied by a scale; ``zero_points`` are those of image and kernel."""
    x_zero_point, w_zero_point = zero_points
    require_one_value(x_zero_point, "zero point")
    return dataclasses.replace(
        convolution,
        deq_scale=scale.deq_scale,
        x1_scale=scale.x1_scale,
        x1_zero_point=x_zero_point,
        w_zero_point=quantization_vector(w_zero_point, kernel.n),
    )


def _requantized(convolution: Convolution, y_zero_point: ir.Value) -> Convolution:
    """Return a convolution whose result is quantised again, with the type of its zero point."""
    require_one_value(y_zero_point, "output zero point")
    return dataclasses.replace(convolution, y_zero_point=y_zero_point, output_type=known_dtype(y_zero_point))


def _kernel(value: ir.Value | None) -> Kernel | None:
    """Return the constant kernel behind an input; ``None`` for one that is no weight to speak of."""
    weight = find_weight(value, transposed=True, kernel=True)
    if weight.tensor.nbytes < WORTH_NAMING:
        return None
    recipe = (*weight.recipe, "channels last")
    return Kernel(weight.value, weight.tensor, transposed=True, path=weight.path, recipe=recipe)


def _window(node: ir.Node, kernel: Kernel, x: ir.Value | None) -> conv_compress_dequant.Window:
    """Return how the kernel goes over the image, or refuse what the operator does not do."""
    if x is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no activation input")
    _, channels, *size = dimensions(kernel.tensor)
    group = int_attribute(node, "group", 1)
    if group != 1:
        raise Refusal(ReasonCode.CONVOLUTION_GROUPS, f"it has {group} groups")
    if not 1 <= len(size) <= _DIMS:
        raise Refusal(ReasonCode.CONVOLUTION_RANK, f"its kernel has {len(size)} dimensions beside channels")
    if list(ints_attribute(node, "kernel_shape") or size) != size:
        raise Refusal(ReasonCode.SHAPE_MISMATCH, f"its kernel_shape is not {size}, the size of its kernel")
    auto_pad = string_attribute(node, "auto_pad", "NOTSET")
    pads = ints_attribute(node, "pads") if auto_pad == "NOTSET" else None
    try:
        window = conv_compress_dequant.Window.of(
            {
                "kernel_shape": size,
                "strides": ints_attribute(node, "strides"),
                "dilations": ints_attribute(node, "dilations"),
                "pads": pads,
                "same": _SAME.get(auto_pad),
                "group": group,
            }
        )
    except ValueError as error:
        raise Refusal(ReasonCode.CONVOLUTION_ATTRIBUTE, f"its {error}") from None
    shape = known_shape(x)
    if shape is not None and (len(shape) != len(size) + 2 or shape[1] not in (channels * group, None)):
        raise Refusal(ReasonCode.SHAPE_MISMATCH, f"its input has {shape[1:2]} channels, its kernel {channels * group}")
    dtype = known_dtype(x)
    if dtype not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"its activation is {dtype.name.lower()}, not int8 or uint8")
    return window


conv_integer_rule = Rule("conv_integer_rule", "", "ConvInteger", _match_conv_integer, spec=conv_compress_dequant.SPEC)
qlinear_conv_rule = Rule("qlinear_conv_rule", "", "QLinearConv", _match_qlinear_conv, spec=conv_compress_dequant.SPEC)

FAMILY = Family(
    "Conv",
    "ConvInteger and QLinearConv",
    "`ConvInteger`, `QLinearConv`",
    "a `ConvCompressDequant`, with the requantisation",
    (conv_integer_rule, qlinear_conv_rule),
)
