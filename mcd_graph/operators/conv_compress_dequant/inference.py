"""Type and shape inference of ``mcd::ConvCompressDequant``."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto

from mcd_graph.operators.conv_compress_dequant.signature import INPUT_NAMES, NUMBERS, WINDOW_NAMES
from mcd_graph.operators.conv_compress_dequant.window import Window
from mcd_graph.operators.inference import type_of_input

__all__ = ["infer"]


def infer(context: Any) -> None:
    """Type and shape inference: what the kernel makes of the image's dimensions, as far as they are known."""
    info = context.get_attribute("compress_info")
    if info is None or len(info.ints) != 5:
        raise onnx.shape_inference.InferenceError("compress_info must hold 5 integers")
    given = {name: context.get_attribute(name) for name in WINDOW_NAMES}
    plain = {
        name: attribute.i if name in NUMBERS else list(attribute.ints)
        for name, attribute in given.items()
        if attribute is not None
    }
    result = onnx.TypeProto()
    result.tensor_type.elem_type = _output_type(context)
    x1 = type_of_input(context, INPUT_NAMES, "x1")
    try:
        window = Window.of(plain)
        window.check_sizes(list(info.ints))
        if x1 is not None and x1.tensor_type.HasField("shape"):
            _infer_shape(x1.tensor_type.shape, result.tensor_type.shape, list(info.ints), window)
    except ValueError as error:
        raise onnx.shape_inference.InferenceError(str(error)) from None
    context.set_output_type(0, result)


def _infer_shape(image: Any, result: Any, info: list[int], window: Window) -> None:
    """Write the result's dimensions; those that are not known stay without a number."""
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in image.dim]
    channels = info[2] // window.taps * window.group
    if len(dims) != len(window.kernel) + 2 or dims.pop(window.channels) not in (None, channels):
        order = f"(batch, ..., {channels})" if window.channels_last else f"(batch, {channels}, ...)"
        raise ValueError(f"x1 must be of shape {order} and {len(window.kernel) + 2} dimensions")
    result.dim.add().CopyFrom(image.dim[0])
    known = [size for size in dims[1:] if size is not None]
    unknown: list[int | None] = [None] * len(window.kernel)
    output = [*window.placed(known)[1]] if len(known) == len(window.kernel) else unknown
    output.insert(window.channels - 1, info[3])
    for size in output:
        dim = result.dim.add()
        if size is not None:
            dim.dim_value = size


def _output_type(context: Any) -> int:
    attribute = context.get_attribute("output_type")
    if attribute is not None:
        return int(attribute.i)
    zero_point = type_of_input(context, INPUT_NAMES, "y_zero_point")
    if zero_point is not None:
        return int(zero_point.tensor_type.elem_type)
    scale = type_of_input(context, INPUT_NAMES, "deq_scale")
    return int(TensorProto.INT32 if scale is None else TensorProto.FLOAT)
