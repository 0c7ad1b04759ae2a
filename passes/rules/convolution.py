"""What rules about convolutions share: the kernel as a matrix, the node to be, how the kernel goes over an image."""

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
    graph_of,
    int_attribute,
    ints_attribute,
    known_dtype,
    known_shape,
    string_attribute,
)
from mcd_graph.passes.engine.match import NewCompressed, NewConstant, NewNode, NewOutput, Operand, Result, Weight
from mcd_graph.passes.engine.operands import find_weight, quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import Scale, require_one_value

if TYPE_CHECKING:
    from mcd_graph.operators.spec import OperatorSpec
    from mcd_graph.passes.engine.match import Match

__all__ = [
    "SMALL",
    "SMALL_TURNED",
    "WORK",
    "Convolution",
    "Kernel",
    "channels_last",
    "find_kernel",
    "large_enough",
    "requantized",
    "scaled",
    "window_of",
]

#: Bytes of a kernel below which onnxruntime's QLinearConv of uint8 is faster: over many pixels by 5 % for 18 KiB, 26 %
#: for 16 KiB; from 36 KiB on it is slower (docs/experiments/2026-11-27-convolutions.md).
SMALL = 32 << 10

#: The same where its channels come last, as those of its neighbours do: nothing is turned then, and the work does not
#: matter (docs/experiments/2026-11-29-convolutions.md). Smaller ones gain little: the file says what each of them is.
SMALL_TURNED = 16 << 10

#: Multiply-adds for each byte of image that goes in or comes out below which it is faster as well, where neighbours are
#: not lowered: onnxruntime keeps images with their channels last between its own convolutions, and has to turn them for
#: others. Kernels among depthwise ones, which stay with onnxruntime, cost 2 to 7 % of a model with 160 to 256, on two
#: threads most, and gain with 384, so that half as much again is asked for there; with their own channels last they
#: cost 2 to 4 % with AVX2 (docs/experiments/2026-11-28-sessions.md, 2026-11-28-whole-model.md).
WORK = 200

#: The attribute ``same`` for each ``auto_pad`` that depends on the image.
_SAME = {"SAME_UPPER": 1, "SAME_LOWER": 2}

#: Output channels that are decoded together, of one group.
_PANEL = 16

#: Panels of a tile at the most, and fractals.
_MOST_PANELS, _MOST_FRACTALS = 8, 64

#: Pixels beside the image that groups of few outputs take: the operator has memory for them, each thread its own.
_MOST_BESIDE = 1 << 15

#: Columns of a fractal.
_FRACTAL_K = 32

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
    addend: Operand = None
    y_zero_point: Operand = None
    x1_scale: Operand = None
    window: conv_compress_dequant.Window | None = None
    output_type: ir.DataType | None = None
    unless_turned: Refusal | None = None
    """Why it stays where it is, unless its channels come last."""

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
        if window.channels_last:
            attributes["channels_last"] = 1
        return attributes

    def result_shape(self, weight: Weight) -> ir.Shape | None:
        """Return how many dimensions it has, and its channels: onnxruntime does not infer those of unnamed sizes."""
        if self.window is None:
            return None
        dims: list[int | None] = [None] * (len(self.window.kernel) + 2)
        dims[self.window.channels] = weight.n
        return ir.Shape(dims)

    def tiling(self, weight: Weight) -> tuple[int, int] | None:
        """Return tiles of which each group has whole ones; where none has, or there is one group, the codec chooses."""
        if self.window is None or self.window.group == 1 or weight.n % (self.window.group * _PANEL):
            return None
        panels = weight.n // self.window.group // _PANEL
        high = max(count for count in range(1, _MOST_PANELS + 1) if panels % count == 0)
        return min(_MOST_FRACTALS // high, math.ceil(weight.k / _FRACTAL_K)), high


def scaled(
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


def requantized(convolution: Convolution, y_zero_point: ir.Value | NewConstant, *, typed: bool = True) -> Convolution:
    """Return a convolution whose result is quantised again; ``typed``: and stays of the type of its zero point."""
    if isinstance(y_zero_point, ir.Value):
        require_one_value(y_zero_point, "output zero point")
    dtype = _dtype(y_zero_point)
    if dtype not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        raise Refusal(ReasonCode.RESULT_TYPE, f"its output is {dtype.name.lower()}, not int8 or uint8")
    return dataclasses.replace(convolution, y_zero_point=y_zero_point, output_type=dtype if typed else None)


def channels_last(match: Match) -> Match | None:
    """Return a match whose node has its channels last, between two Transposes; ``None`` where that brings nothing.

    onnxruntime keeps channels last between convolutions that requantise uint8, and cancels Transposes that meet.
    """
    fused = match.fused
    if not isinstance(fused, Convolution) or fused.window is None or not _can_be_turned(fused):
        return None
    window = dataclasses.replace(fused.window, channels_last=True)
    x1 = NewOutput(NewNode("Transpose", (fused.x1,), {"perm": window.to_last}))
    result = NewOutput(NewNode("Transpose", (Result(),), {"perm": window.to_second}))
    turned = dataclasses.replace(fused, x1=x1, window=window)
    return dataclasses.replace(match, fused=turned, result=result)


def _can_be_turned(convolution: Convolution) -> bool:
    if convolution.window is None or not isinstance(convolution.x1, ir.Value):
        return False
    x_type = _dtype(convolution.x1) or _dtype(convolution.x1_zero_point)
    return x_type == ir.DataType.UINT8 and _dtype(convolution.y_zero_point) == ir.DataType.UINT8


def _dtype(operand: Operand) -> ir.DataType | None:
    if isinstance(operand, NewConstant):
        return ir.DataType.from_numpy(operand.array.dtype)
    return known_dtype(operand) if isinstance(operand, ir.Value) else None


def find_kernel(node: ir.Node, value: ir.Value | None, path: tuple[ir.Node, ...] = ()) -> Kernel | None:
    """Return the constant kernel of a node; ``None`` for one that is no weight to speak of.

    Args:
        node: the convolution.
        value: its input, or what a DequantizeLinear in front of that reads.
        path: nodes in between that go when nobody else needs them.
    """
    weight = find_weight(value, transposed=True, kernel=True, path=path)
    group = int_attribute(node, "group", 1)
    if weight.tensor.nbytes < WORTH_NAMING:
        return None
    recipe = (*weight.recipe, "channels last", group)
    return Kernel(weight.value, weight.tensor, transposed=True, path=weight.path, recipe=recipe)


def large_enough(node: ir.Node, kernel: Kernel, x: ir.Value | None, convolution: Convolution) -> Convolution:
    """Return a convolution that onnxruntime is not faster with, if it has its channels last at least, or refuse it.

    Of int8 activations, onnxruntime's operator is slow with every kernel.
    """
    if known_dtype(x) == ir.DataType.INT8:
        return convolution
    refusal = _why_small(node, kernel, convolution.window)
    if refusal is None:
        return convolution
    if kernel.tensor.nbytes < SMALL_TURNED or not _can_be_turned(convolution):
        raise refusal
    return dataclasses.replace(convolution, unless_turned=refusal)


def _why_small(node: ir.Node, kernel: Kernel, window: conv_compress_dequant.Window | None) -> Refusal | None:
    """Return why onnxruntime is faster with a kernel whose channels are second, if it is."""
    if kernel.tensor.nbytes < SMALL:
        text = f"its kernel has {kernel.tensor.nbytes} bytes, and onnxruntime is faster with less than {SMALL}"
        return Refusal(ReasonCode.CONVOLUTION_SMALL, text)
    n, channels = kernel.n // (1 if window is None else window.group), dimensions(kernel.tensor)[1]
    work = kernel.k * n // (channels + n)
    done = f"it does {work} multiply-adds for each byte of image that it reads or writes, "
    done += "and onnxruntime is faster with"
    if work < WORK:
        return Refusal(ReasonCode.CONVOLUTION_SMALL, f"{done} less than {WORK}")
    least = WORK + WORK // 2
    if work < least and any(_is_depthwise(each) for each in graph_of(node)):
        return Refusal(ReasonCode.CONVOLUTION_SMALL, f"{done} less than {least} beside depthwise convolutions")
    return None


def _is_depthwise(node: ir.Node) -> bool:
    """Return whether each of its outputs is made of one channel of many; it stays with onnxruntime."""
    group = node.attributes.get("group")
    if node.op_type not in ("Conv", "QLinearConv") or group is None or group.is_ref() or group.value == 1:
        return False
    kernel = known_shape(get_input(node, 3 if node.op_type == "QLinearConv" else 1))
    return kernel is not None and len(kernel) > 1 and kernel[1] == 1


def _takes_groups(group: int, n: int, *, narrow: bool) -> bool:
    """Return whether so many groups are computed as fast as by onnxruntime; ``narrow``: also of few outputs each."""
    if group == 1:
        return True
    return group > 0 and n % group == 0 and (n // group % _PANEL == 0 or (narrow and n // group < _PANEL))


def _beside(window: conv_compress_dequant.Window) -> int:
    """Return how many pixels a channel has at the most that are none of the image's, were that a single one."""
    rank = len(window.kernel)
    pads = window.pads or (0,) * (2 * rank)
    sizes = zip(window.kernel, window.dilations, pads[:rank], pads[rank:], strict=True)
    return math.prod(max((size - 1) * dilation, begin + end) + 1 for size, dilation, begin, end in sizes)


def window_of(
    node: ir.Node, kernel: Kernel, x: ir.Value | None, *, narrow_groups: bool = False
) -> conv_compress_dequant.Window:
    """Return how the kernel goes over the image, or refuse what the operator does not do.

    Args:
        node: the convolution.
        kernel: its kernel.
        x: its activation.
        narrow_groups: groups may have fewer than 16 output channels, as those of a depthwise convolution.
    """
    if x is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no activation input")
    _, channels, *size = dimensions(kernel.tensor)
    group = int_attribute(node, "group", 1)
    if not _takes_groups(group, kernel.n, narrow=narrow_groups):
        raise Refusal(ReasonCode.CONVOLUTION_GROUPS, f"it has {group} groups for {kernel.n} output channels")
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
    if group != 1 and kernel.n // group < _PANEL and _beside(window) > _MOST_BESIDE:
        text = f"its kernel sees {_beside(window)} pixels beside the image, and groups of few outputs {_MOST_BESIDE}"
        raise Refusal(ReasonCode.CONVOLUTION_GROUPS, text)
    shape = known_shape(x)
    if shape is not None and (len(shape) != len(size) + 2 or shape[1] not in (channels * group, None)):
        raise Refusal(ReasonCode.SHAPE_MISMATCH, f"its input has {shape[1:2]} channels, its kernel {channels * group}")
    dtype = known_dtype(x)
    if dtype not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"its activation is {dtype.name.lower()}, not int8 or uint8")
    return window
