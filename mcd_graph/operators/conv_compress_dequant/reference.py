"""The operator ``mcd::ConvCompressDequant`` in NumPy."""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun

from mcd_graph import _native
from mcd_graph.operators.conv_compress_dequant.signature import WINDOW_NAMES
from mcd_graph.operators.conv_compress_dequant.window import Window
from mcd_graph.operators.spec import DOMAIN

__all__ = ["ConvCompressDequant"]


class ConvCompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = DOMAIN

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
        channels_last: int | None = None,
        output_type: int | None = None,  # noqa: ARG002  (the inputs tell it)
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: an attribute is wrong, the image does not have the kernel's channels, the kernel does not fit,
                scales and zero points are there without what they need, or the compressed weight is not valid.
        """
        given = (kernel_shape, strides, dilations, pads, same, group, channels_last)
        window = Window.of(dict(zip(WINDOW_NAMES, given, strict=True)))
        info = np.asarray(compress_info, dtype=np.int64)
        window.check_sizes(info.tolist())
        if deq_scale is None and any(each is not None for each in (addend, y_zero_point, x1_scale)):
            raise ValueError("addend, y_zero_point and x1_scale need a deq_scale")
        if addend is not None and y_zero_point is not None:
            raise ValueError("addend needs a deq_scale, and no y_zero_point")
        # What is meant with channels last is what is computed with channels second.
        x1 = np.moveaxis(x1, window.channels, 1) if x1.ndim == len(window.kernel) + 2 else x1
        total = _convolve(window, x1, x1_zero_point, _native.decode(x2, compress_index, info), w_zero_point)
        sums = np.moveaxis(total, 1, -1)
        if bias is not None:
            sums += bias.reshape(-1)
        acc = sums.astype(np.int32)
        if deq_scale is None:
            return (_placed(acc, window),)
        scale = deq_scale.reshape(-1)
        if x1_scale is not None:
            scale = x1_scale.reshape(()) * scale
        y = acc.astype(np.float32) * scale
        if y_zero_point is not None:
            limits, zero_point = np.iinfo(y_zero_point.dtype), np.float32(y_zero_point.reshape(()))
            y = np.clip(y, np.float32(limits.min) - zero_point, np.float32(limits.max) - zero_point)
            return (_placed((np.rint(y) + zero_point).astype(y_zero_point.dtype), window),)
        return (_placed(y if addend is None else y + addend.reshape(-1), window),)


def _placed(result: np.ndarray, window: Window) -> np.ndarray:
    """Return a result that has its channels last with them where the operator gives them."""
    return np.ascontiguousarray(np.moveaxis(result, -1, window.channels))


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
