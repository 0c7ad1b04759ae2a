"""What ``mcd::ConvCompressDequant`` is in standard operators, and whether a node is one that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from mcd_graph.operators.conv_compress_dequant.signature import INPUT_NAMES, NUMBERS, WINDOW_NAMES
from mcd_graph.operators.conv_compress_dequant.window import Window
from mcd_graph.operators.nodes import NewConstant, NewNode, NewOutput

if TYPE_CHECKING:
    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = ["check_node", "kernel_of", "kernel_shape", "restore", "window_of"]

#: What ``auto_pad`` is called for each value of ``same`` but 0.
_SAME = {1: "SAME_UPPER", 2: "SAME_LOWER"}


def window_of(node: CompressedNode) -> Window:
    """Return the window of a node.

    Raises:
        ValueError: an attribute is wrong, or of another type.
    """
    attributes = node.node.attributes
    try:
        return Window.of(
            {
                name: attributes[name].as_int() if name in NUMBERS else list(attributes[name].as_ints())
                for name in WINDOW_NAMES
                if name in attributes
            }
        )
    except TypeError as error:
        raise ValueError(str(error)) from None


def kernel_shape(node: CompressedNode) -> tuple[int, ...]:
    """Return the shape of the kernel, (n, channels / group, size ...); that of the matrix, if attributes are wrong."""
    try:
        window = window_of(node)
        window.check_sizes(node.info)
    except ValueError:
        return node.n, node.k
    return node.n, node.k // window.taps, *window.kernel


def kernel_of(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:
    """Return the kernel (n, channels / group, size ...) that a decoded matrix (n, k) is."""
    shape = kernel_shape(node)
    if len(shape) == 2:
        return decoded
    n, channels, *size = shape
    return np.ascontiguousarray(np.moveaxis(decoded.reshape(n, *size, channels), -1, 1))


def check_node(node: CompressedNode) -> str | None:
    """Return what is wrong with a node: its attributes contradict each other or its weight."""
    try:
        window_of(node).check_sizes(node.info)
    except ValueError as error:
        return str(error)
    has = {name: node.input(name) is not None for name in INPUT_NAMES}
    if not has["deq_scale"] and any(has[name] for name in ("addend", "y_zero_point", "x1_scale")):
        return "addend, y_zero_point and x1_scale need a deq_scale"
    if has["addend"] and has["y_zero_point"]:
        return "addend needs a deq_scale, and no y_zero_point"
    return None


def restore(node: CompressedNode, weight: ir.Value) -> Operand:
    """Return the ConvInteger or QLinearConv, and what stood behind it, that give the node's bits.

    Where its channels are last, all that is between two Transposes.
    """
    window = window_of(node)
    x1: Operand = node.input("x1")
    if not window.channels_last:
        return _channels_second(node, x1, weight, window)
    x1 = NewOutput(NewNode("Transpose", (x1,), {"perm": window.to_second}))
    result = _channels_second(node, x1, weight, window)
    return NewOutput(NewNode("Transpose", (result,), {"perm": window.to_last}))


def _channels_second(node: CompressedNode, x1: Operand, weight: ir.Value, window: Window) -> Operand:
    attributes = _conv_attributes(window)
    scale, x1_scale = node.input("deq_scale"), node.input("x1_scale")
    zero_points: list[Operand] = [node.input("x1_zero_point"), node.input("w_zero_point")]
    factor: Operand = scale if x1_scale is None else NewOutput(NewNode("Mul", (x1_scale, scale)))
    if (y_zero_point := node.input("y_zero_point")) is not None:
        return _qlinear_conv(node, x1, weight, (factor, y_zero_point), attributes)
    while zero_points and zero_points[-1] is None:
        zero_points.pop()
    result = NewOutput(NewNode("ConvInteger", (x1, weight, *zero_points), attributes))
    columns = NewConstant(np.array([1, -1, *(1,) * len(window.kernel)], np.int64), "columns")

    def along_channels(values: Operand, given: ir.Value) -> Operand:
        """Return one value for each channel in the place of the result's channels; as many as are ``given``."""
        shape = given.shape
        if shape is not None and all(size == 1 for size in shape):
            return values
        return NewOutput(NewNode("Reshape", (values, columns)))

    if (bias := node.input("bias")) is not None:
        result = NewOutput(NewNode("Add", (result, along_channels(bias, bias))))
    if scale is None:
        return result
    result = NewOutput(NewNode("Cast", (result,), {"to": int(TensorProto.FLOAT)}))
    result = NewOutput(NewNode("Mul", (result, along_channels(factor, scale))))
    addend = node.input("addend")
    return result if addend is None else NewOutput(NewNode("Add", (result, along_channels(addend, addend))))


def _qlinear_conv(
    node: CompressedNode,
    x1: Operand,
    weight: ir.Value,
    of_result: tuple[Operand, ir.Value],
    attributes: dict[str, Any],
) -> Operand:
    """Return the QLinearConv that gives the bits of a node that requantises: its scales are 1 but for the kernel's."""
    factor, y_zero_point = of_result
    one = NewConstant(np.array(1, np.float32), "one")
    x1_zero_point, w_zero_point = node.input("x1_zero_point"), node.input("w_zero_point")
    x_zero: Operand = x1_zero_point
    if x1_zero_point is None:
        image = node.input("x1")
        signed = image is not None and image.dtype == ir.DataType.INT8
        x_zero = NewConstant(np.zeros((), np.int8 if signed else np.uint8), "zero")
    w_zero: Operand = w_zero_point
    if w_zero_point is None:
        w_zero = NewConstant(np.zeros((), node.dtype.numpy()), "zero")
    inputs: list[Operand] = [x1, one, x_zero, weight, factor, w_zero, one, y_zero_point]
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
