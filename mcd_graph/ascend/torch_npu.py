"""``torch_npu.npu_matmul_compress_dequant`` on NumPy, as vLLM-Ascend calls it: for weights of the open codec."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.codec import decode_open, stream_of
from mcd_graph.ascend.tensors import as_array
from mcd_graph.errors import InputError

__all__ = ["multiply", "npu_matmul_compress_dequant"]

_ROWS = 256  # of the weight at a time, so that wider copies of it stay small
_FEW = 32  # rows of activations


def npu_matmul_compress_dequant(
    x1: Any, x2: Any, compress_index: Any, bias: Any, scale: Any, *, offset_w: Any = None, offset_x: Any = None
) -> npt.NDArray[np.float16]:
    """Return ``(x1 @ unzip(x2).T + bias) * scale`` in float16.

    Args:
        x1: int8 (m, k), NumPy or torch, as the others.
        x2: int8 (c,), the stream, in front of whatever its buffer holds behind it.
        compress_index: int8 (8 * tiles,).
        bias: int32 (1, n).
        scale: uint64 (1, n), or int64 as files hold it; of each word the lower half counts, the bits of a float32.
        offset_w: ``None``, as torch_npu asks (its ``offsetW``).
        offset_x: ``None`` or 0 (its ``offsetX``).

    Raises:
        InputError: torch_npu would refuse the arguments, or the weight is damaged or of CANN's codec.

    Examples:
        >>> import numpy
        >>> from mcd_graph import pack_weight
        >>> from mcd_graph.ascend import npu_matmul_compress_dequant
        >>> packed = pack_weight(numpy.ones((128, 320), numpy.int8))
        >>> padded = numpy.concatenate([packed.x2, numpy.zeros(128 * 320 - packed.x2.size, numpy.int8)])
        >>> bias, scale = numpy.zeros((1, 128), numpy.int32), numpy.full((1, 128), 0x3F800000, numpy.uint64)
        >>> x1 = numpy.ones((1, 320), numpy.int8)
        >>> float(npu_matmul_compress_dequant(x1, padded, packed.compress_index, bias, scale)[0, 0])
        320.0
    """
    if offset_w is not None or offset_x:
        raise InputError("offsetW must be None and offsetX 0: torch_npu rejects others")
    given = {"x1": x1, "x2": x2, "compress_index": compress_index, "bias": bias, "scale": scale}
    arrays = {name: as_array(name, value) for name, value in given.items()}
    ranks = {"x1": 2, "x2": 1, "compress_index": 1, "bias": 2, "scale": 2}
    for name, rank in ranks.items():
        if arrays[name].ndim != rank:
            raise InputError(f"{name} has shape {arrays[name].shape}; torch_npu takes {rank} dimensions")
    n, k = arrays["scale"].shape[1], arrays["x1"].shape[1]
    info = np.array([8, 8, k, n, 1], np.int64)
    w = decode_open("x2", stream_of(arrays["x2"]), arrays["compress_index"], info, None)
    return multiply(arrays["x1"], w, arrays["bias"][0], arrays["scale"][0])


def multiply(
    x1: npt.NDArray[np.int8], w: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], scale: npt.NDArray[Any]
) -> npt.NDArray[np.float16]:
    """Return ``(x1 @ w.T + bias) * scale``: exact int32 sums, one product in float32, one rounding to float16."""
    out = np.empty((x1.shape[0], w.shape[0]), np.float16)
    factors = np.asarray(scale.astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    for start in range(0, w.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        sums = _sums(x1, w[rows]) + bias[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            out[:, rows] = (sums.astype(np.float32) * factors[rows]).astype(np.float16)
    return out


def _sums(x1: npt.NDArray[np.int8], w: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return ``x1 @ w.T``. A few rows are soonest done in integers; for many, doubles are exact up to 2**53."""
    if x1.shape[0] <= _FEW:
        few: npt.NDArray[np.int32] = np.einsum("mk,nk->mn", x1.astype(np.int32), w.astype(np.int32))
        return few
    return np.asarray(x1.astype(np.float64) @ w.T.astype(np.float64)).astype(np.int64).astype(np.int32)
