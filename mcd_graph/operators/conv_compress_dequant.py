"""The operator ``mcd::ConvCompressDequant``, version 1.

It convolves quantised images with a compressed kernel, and requantises or dequantises the result. In NumPy::

    ReferenceEvaluator(model, new_ops=[ConvCompressDequant])
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx.reference.op_run import OpRun

from mcd_graph import _native
from mcd_graph.operators.inference import type_of_input
from mcd_graph.operators.nodes import NewConstant, NewNode, NewOutput
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION
from mcd_graph.operators.spec import Attribute, Input, OperatorSpec, Output, tell_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = [
    "ATTRIBUTE_NAMES",
    "INPUT_NAMES",
    "OP_DOMAIN",
    "OP_TYPE",
    "OP_VERSION",
    "SPEC",
    "ConvCompressDequant",
    "Window",
    "register_schema",
]

OP_TYPE = "ConvCompressDequant"

#: The inputs by position; all behind ``compress_index`` are optional.
INPUT_NAMES = (
    *("x1", "x2", "compress_index", "deq_scale", "bias", "x1_zero_point", "w_zero_point", "addend", "y_zero_point"),
    "x1_scale",
)

#: All but the first two are optional.
ATTRIBUTE_NAMES = ("compress_info", "kernel_shape", "strides", "dilations", "pads", "same", "group", "output_type")

#: Those that say how a kernel goes over an image.
_WINDOW = ATTRIBUTE_NAMES[1:-1]

#: What ``auto_pad`` is called for each value of ``same`` but 0.
_SAME = {1: "SAME_UPPER", 2: "SAME_LOWER"}

_DOC = """
Convolves x1 (batch, channels, pixels ...) with a compressed int8 or uint8 kernel, over one to three dimensions:

  acc = sum over taps and channels of (x1 - x1_zero_point) * (w - w_zero_point) + bias       (int32, wraps around)

where a pixel beside the image is x1_zero_point. As MatmulCompressDequant does it:

Without deq_scale: y = acc.
With deq_scale: y = float32(acc) * deq_scale [+ addend], each step rounded to nearest even.
With y_zero_point: y = saturate(round_half_even(float32(acc) * deq_scale) + y_zero_point).
With x1_scale: deq_scale stands for float32(x1_scale * deq_scale) in all of this.

kernel_shape, strides, dilations, pads and group are those of ONNX's Conv; same = 1 is its auto_pad SAME_UPPER, 2 its
SAME_LOWER. Of group groups, each n / group output channels see their own channels / group input channels.

compress_info declares the kernel as a matrix of n rows, the output channels, with k = taps * channels / group columns:
the channels of a tap beside each other, the taps in row-major order. It is the kernel (n, channels / group, taps ...)
with its second dimension last.
"""


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel goes over an image: the attributes of a node, checked.

    Attributes:
        kernel: its size, without channels.
        strides: steps, by dimension.
        dilations: distance of its taps.
        pads: pixels in front of each dimension, then those behind it.
        same: 0: ``pads`` count; 1, 2: ``SAME_UPPER``, ``SAME_LOWER``.
        group: groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    same: int
    group: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Window:
        """Return the window of attributes, by their names; those that are absent or ``None`` are as by default.

        Raises:
            ValueError: an attribute is wrong; the text names it.
        """
        kernel = tuple(given.get("kernel_shape") or ())
        strides, dilations, pads, same, group = (given.get(name) for name in _WINDOW[1:])
        rank = len(kernel)
        if not 1 <= rank <= 3:
            raise ValueError(f"kernel_shape is {list(kernel)} instead of one to 3 numbers")
        if same not in (None, 0, 1, 2):
            raise ValueError(f"same is {same} instead of 0, 1 or 2")
        if same and pads is not None:
            raise ValueError("pads must be absent where same is not 0")
        window = cls(
            kernel,
            tuple(strides or (1,) * rank),
            tuple(dilations or (1,) * rank),
            tuple(pads or (0,) * 2 * rank),
            same or 0,
            1 if group is None else group,
        )
        lists = (window.kernel, window.strides, window.dilations, window.pads, (window.group,))
        counts = (rank, rank, rank, 2 * rank, 1)
        for name, numbers, count in zip((*_WINDOW[:4], "group"), lists, counts, strict=True):
            if len(numbers) != count:
                raise ValueError(f"{name} is {list(numbers)} instead of {count} numbers")
            if min(numbers) < (least := 0 if name == "pads" else 1):
                raise ValueError(f"{name} is {list(numbers)} instead of numbers that are {least} or more")
        return window

    @property
    def taps(self) -> int:
        """Pixels under the kernel."""
        return math.prod(self.kernel)

    def placed(self, image: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
        """Return the padding of each dimension of an image, and the output's dimensions.

        Raises:
            ValueError: the kernel does not fit.
        """
        padding, output = [], []
        for i, size in enumerate(image):
            reach = self.dilations[i] * (self.kernel[i] - 1) + 1
            before, behind = self.pads[i], self.pads[i + len(self.kernel)]
            if self.same:
                all_ = max((math.ceil(size / self.strides[i]) - 1) * self.strides[i] + reach - size, 0)
                before = all_ // 2 if self.same == 1 else all_ - all_ // 2
                behind = all_ - before
            free = size + before + behind - reach
            if free < 0:
                raise ValueError(
                    f"an image of {size} with {before} and {behind} beside it in dimension {i}, where the kernel "
                    f"reaches over {reach}"
                )
            padding.append((before, behind))
            output.append(free // self.strides[i] + 1)
        return padding, output


def _infer(context: Any) -> None:
    """Type and shape inference: what the kernel makes of the image's dimensions, as far as they are known."""
    info = context.get_attribute("compress_info")
    if info is None or len(info.ints) != 5:
        raise onnx.shape_inference.InferenceError("compress_info must hold 5 integers")
    given = {name: context.get_attribute(name) for name in _WINDOW}
    plain = {
        name: attribute.i if name in ("same", "group") else list(attribute.ints)
        for name, attribute in given.items()
        if attribute is not None
    }
    result = onnx.TypeProto()
    result.tensor_type.elem_type = _output_type(context)
    x1 = type_of_input(context, INPUT_NAMES, "x1")
    try:
        window = Window.of(plain)
        _check_sizes(list(info.ints), window)
        if x1 is not None and x1.tensor_type.HasField("shape"):
            _infer_shape(x1.tensor_type.shape, result.tensor_type.shape, list(info.ints), window)
    except ValueError as error:
        raise onnx.shape_inference.InferenceError(str(error)) from None
    context.set_output_type(0, result)


def _infer_shape(image: Any, result: Any, info: list[int], window: Window) -> None:
    """Write the result's dimensions; those that are not known stay without a number."""
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in image.dim]
    channels = info[2] // window.taps * window.group
    if len(dims) != len(window.kernel) + 2 or dims[1] not in (None, channels):
        raise ValueError(f"x1 must be of shape (batch, {channels}, ...) and {len(window.kernel) + 2} dimensions")
    result.dim.add().CopyFrom(image.dim[0])
    result.dim.add().dim_value = info[3]
    known = [size for size in dims[2:] if size is not None]
    output = window.placed(known)[1] if len(known) == len(window.kernel) else [None] * len(window.kernel)
    for size in output:
        dim = result.dim.add()
        if size is not None:
            dim.dim_value = size


def _check_sizes(info: Sequence[int], window: Window) -> None:
    """Refuse a kernel whose matrix does not have the rows and columns that it needs."""
    _, _, k, n, _ = info
    if k % window.taps:
        raise ValueError(f"kernel_shape is {list(window.kernel)}, and the weight has {k} values for each output")
    if n % window.group:
        raise ValueError(f"group is {window.group}, and there are {n} outputs")


def _output_type(context: Any) -> int:
    attribute = context.get_attribute("output_type")
    if attribute is not None:
        return int(attribute.i)
    zero_point = type_of_input(context, INPUT_NAMES, "y_zero_point")
    if zero_point is not None:
        return int(zero_point.tensor_type.elem_type)
    scale = type_of_input(context, INPUT_NAMES, "deq_scale")
    return int(TensorProto.INT32 if scale is None else TensorProto.FLOAT)


class ConvCompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = OP_DOMAIN

    def _run(  # noqa: PLR0917  (the operator's inputs and attributes come by position)
        self,
        x1: np.ndarray,
        x2: np.ndarray,
        compress_index: np.ndarray,
        deq_scale: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        x1_zero_point: np.ndarray | None = None,
        w_zero_point: np.ndarray | None = None,
        addend: np.ndarray | None = None,
        y_zero_point: np.ndarray | None = None,
        x1_scale: np.ndarray | None = None,
        compress_info: list[int] | None = None,
        kernel_shape: list[int] | None = None,
        strides: list[int] | None = None,
        dilations: list[int] | None = None,
        pads: list[int] | None = None,
        same: int | None = None,
        group: int | None = None,
        output_type: int | None = None,  # noqa: ARG002  (the inputs tell it)
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: an attribute is wrong, the image does not have the kernel's channels, the kernel does not fit,
                scales and zero points are there without what they need, or the compressed weight is not valid.
        """
        given = (kernel_shape, strides, dilations, pads, same, group)
        window = Window.of(dict(zip(_WINDOW, given, strict=True)))
        info = np.asarray(compress_info, dtype=np.int64)
        _check_sizes(info.tolist(), window)
        if deq_scale is None and any(each is not None for each in (addend, y_zero_point, x1_scale)):
            raise ValueError("addend, y_zero_point and x1_scale need a deq_scale")
        if addend is not None and y_zero_point is not None:
            raise ValueError("addend needs a deq_scale, and no y_zero_point")
        total = _convolve(window, x1, x1_zero_point, _native.decode(x2, compress_index, info), w_zero_point)
        channels_last = np.moveaxis(total, 1, -1)
        if bias is not None:
            channels_last += bias.reshape(-1)
        acc = channels_last.astype(np.int32)
        if deq_scale is None:
            return (_channels_second(acc),)
        scale = deq_scale.reshape(-1)
        if x1_scale is not None:
            scale = x1_scale.reshape(()) * scale
        y = acc.astype(np.float32) * scale
        if y_zero_point is not None:
            limits, zero_point = np.iinfo(y_zero_point.dtype), np.float32(y_zero_point.reshape(()))
            y = np.clip(y, np.float32(limits.min) - zero_point, np.float32(limits.max) - zero_point)
            return (_channels_second((np.rint(y) + zero_point).astype(y_zero_point.dtype)),)
        return (_channels_second(y if addend is None else y + addend.reshape(-1)),)


def _channels_second(result: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(result, -1, 1))


def _convolve(
    window: Window,
    x1: np.ndarray,
    x1_zero_point: np.ndarray | None,
    weight: np.ndarray,
    w_zero_point: np.ndarray | None,
) -> np.ndarray:
    """Return the exact sums (batch, n, output ...) as int64."""
    n, k = weight.shape
    group, rank = window.group, len(window.kernel)
    if x1.ndim != rank + 2 or x1.shape[1] != k // window.taps * group:
        raise ValueError(f"x1 has shape {x1.shape} instead of (batch, {k // window.taps * group}, ...)")
    padding, output = window.placed(x1.shape[2:])
    # Exact: a sum of fewer than 2**37 products below 2**17 stays below 2**53.
    image = x1.astype(np.float64) - (0 if x1_zero_point is None else float(x1_zero_point.reshape(())))
    image = np.pad(image, [(0, 0), (0, 0), *padding])
    matrix = weight.astype(np.float64)
    if w_zero_point is not None:
        matrix = matrix - w_zero_point.reshape(-1, 1)
    kernel = matrix.reshape(group, n // group, window.taps, k // window.taps)
    total = np.zeros((x1.shape[0], group, n // group, *output))
    for tap, offset in enumerate(np.ndindex(*window.kernel)):
        here = tuple(
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, dilation, size, stride in zip(offset, window.dilations, output, window.strides, strict=True)
        )
        seen = image[:, :, *here].reshape(x1.shape[0], group, k // window.taps, *output)
        total += np.einsum("goc,bgc...->bgo...", kernel[:, :, tap], seen)
    return total.reshape(x1.shape[0], n, *output).astype(np.int64)


def _window_of(node: CompressedNode) -> Window:
    """Return the window of a node.

    Raises:
        ValueError: an attribute is wrong, or of another type.
    """
    attributes = node.node.attributes
    try:
        return Window.of(
            {
                name: attributes[name].as_int() if name in ("same", "group") else list(attributes[name].as_ints())
                for name in _WINDOW
                if name in attributes
            }
        )
    except TypeError as error:
        raise ValueError(str(error)) from None


def _kernel_shape(node: CompressedNode) -> tuple[int, ...]:
    """Return the shape of the kernel, (n, channels / group, size ...); that of the matrix, if attributes are wrong."""
    try:
        window = _window_of(node)
        _check_sizes(node.info, window)
    except ValueError:
        return node.n, node.k
    return node.n, node.k // window.taps, *window.kernel


def _kernel_of(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:
    shape = _kernel_shape(node)
    if len(shape) == 2:
        return decoded
    n, channels, *size = shape
    return np.ascontiguousarray(np.moveaxis(decoded.reshape(n, *size, channels), -1, 1))


def _check_node(node: CompressedNode) -> str | None:
    """Return what is wrong with a node: its attributes contradict each other or its weight."""
    try:
        _check_sizes(node.info, _window_of(node))
    except ValueError as error:
        return str(error)
    has = {name: node.input(name) is not None for name in INPUT_NAMES}
    if not has["deq_scale"] and any(has[name] for name in ("addend", "y_zero_point", "x1_scale")):
        return "addend, y_zero_point and x1_scale need a deq_scale"
    if has["addend"] and has["y_zero_point"]:
        return "addend needs a deq_scale, and no y_zero_point"
    return None


def _restore(node: CompressedNode, weight: ir.Value) -> Operand:
    """Return the ConvInteger or QLinearConv, and what stood behind it, that give the node's bits."""
    window = _window_of(node)
    attributes = _conv_attributes(window)
    scale, x1_scale = node.input("deq_scale"), node.input("x1_scale")
    zero_points: list[Operand] = [node.input("x1_zero_point"), node.input("w_zero_point")]
    factor: Operand = scale if x1_scale is None else NewOutput(NewNode("Mul", (x1_scale, scale)))
    if (y_zero_point := node.input("y_zero_point")) is not None:
        return _qlinear_conv(node, weight, factor, y_zero_point, attributes)
    while zero_points and zero_points[-1] is None:
        zero_points.pop()
    result = NewOutput(NewNode("ConvInteger", (node.input("x1"), weight, *zero_points), attributes))
    columns = NewConstant(np.array([1, -1, *(1,) * len(window.kernel)], np.int64), "columns")

    def along_channels(values: Operand) -> Operand:
        """Return one value for each channel in the place of the result's channels."""
        return NewOutput(NewNode("Reshape", (values, columns)))

    if (bias := node.input("bias")) is not None:
        result = NewOutput(NewNode("Add", (result, along_channels(bias))))
    if scale is None:
        return result
    result = NewOutput(NewNode("Cast", (result,), {"to": int(TensorProto.FLOAT)}))
    result = NewOutput(NewNode("Mul", (result, along_channels(factor))))
    addend = node.input("addend")
    return result if addend is None else NewOutput(NewNode("Add", (result, along_channels(addend))))


def _qlinear_conv(
    node: CompressedNode, weight: ir.Value, factor: Operand, y_zero_point: ir.Value, attributes: dict[str, Any]
) -> Operand:
    """Return the QLinearConv that gives the bits of a node that requantises: its scales are 1 but for the kernel's."""
    one = NewConstant(np.array(1, np.float32), "one")
    x1_zero_point, w_zero_point = node.input("x1_zero_point"), node.input("w_zero_point")
    x_zero: Operand = x1_zero_point
    if x1_zero_point is None:
        x1 = node.input("x1")
        signed = x1 is not None and x1.dtype == ir.DataType.INT8
        x_zero = NewConstant(np.zeros((), np.int8 if signed else np.uint8), "zero")
    w_zero: Operand = w_zero_point
    if w_zero_point is None:
        w_zero = NewConstant(np.zeros((), node.dtype.numpy()), "zero")
    inputs: list[Operand] = [node.input("x1"), one, x_zero, weight, factor, w_zero, one, y_zero_point]
    if (bias := node.input("bias")) is not None:
        inputs.append(bias)
    return NewOutput(NewNode("QLinearConv", tuple(inputs), attributes))


def _conv_attributes(window: Window) -> dict[str, Any]:
    """Return the attributes of ONNX's convolutions that say the same."""
    attributes: dict[str, Any] = {
        "kernel_shape": list(window.kernel), "strides": list(window.strides), "dilations": list(window.dilations),
    }  # fmt: skip
    if window.same:
        attributes["auto_pad"] = _SAME[window.same]
    else:
        attributes["pads"] = list(window.pads)
    return attributes if window.group == 1 else {**attributes, "group": window.group}


SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=_DOC,
    inputs=(
        Input("x1", "T1", "images (batch, channels, pixels ...)"),
        Input("x2", "tensor(int8)", "compressed stream of the kernel, constant"),
        Input("compress_index", "tensor(int8)", "8 bytes for each tile of the kernel, constant"),
        Input("deq_scale", "tensor(float)", "one scale or one per output channel", optional=True),
        Input("bias", "tensor(int32)", "(n), added to the integer sum", optional=True),
        Input("x1_zero_point", "T1", "one value", optional=True),
        Input("w_zero_point", "TW", "one value or one per output channel, of the kernel's type", optional=True),
        Input(
            "addend", "tensor(float)", "one value or one per output channel, added to the scaled result", optional=True
        ),
        Input("y_zero_point", "TQ", "one value; present: the output is quantised, with this type", optional=True),
        Input("x1_scale", "tensor(float)", "one value, multiplied by deq_scale before that is used", optional=True),
    ),
    outputs=(Output("y", "TY", "result (batch, n, pixels ...)"),),
    types={
        "T1": (("tensor(int8)", "tensor(uint8)"), "activation"),
        "TW": (("tensor(int8)", "tensor(uint8)"), "kernel"),
        "TQ": (("tensor(int8)", "tensor(uint8)"), "quantised output"),
        "TY": (("tensor(int32)", "tensor(float)", "tensor(int8)", "tensor(uint8)"), "output"),
    },
    attributes=(
        Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
        Attribute("kernel_shape", ir.AttributeType.INTS, "size of the kernel, without channels", required=True),
        Attribute("strides", ir.AttributeType.INTS, "steps in each dimension; 1 by default"),
        Attribute("dilations", ir.AttributeType.INTS, "distance of taps in each dimension; 1 by default"),
        Attribute("pads", ir.AttributeType.INTS, "pixels before each dimension, then those behind; 0 by default"),
        Attribute("same", ir.AttributeType.INT, "0: pads count; 1: SAME_UPPER; 2: SAME_LOWER", default=0),
        Attribute("group", ir.AttributeType.INT, "groups of channels", default=1),
        Attribute("output_type", ir.AttributeType.INT, "ONNX data type of the output"),
    ),
    infer=_infer,
    reference=ConvCompressDequant,
    check=_check_node,
    weight_shape=_kernel_shape,
    weight_of=_kernel_of,
    restore=_restore,
    telling_inputs=("bias", "deq_scale", "addend", "y_zero_point"),
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
