"""One weight at a time: a matrix in, the operator's three tensors out, and back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mcd_graph import _native
from mcd_graph.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PROFILES", "CompressedWeight", "Profile", "WeightStats", "pack_weight", "unpack_weight"]

Profile = Literal["fast", "balanced", "small"]
"""Points of the trade between speed and size."""

PROFILES: tuple[Profile, ...] = get_args(Profile)

Int8Matrix = npt.NDArray[np.int8] | npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class WeightStats:
    """What is known of a compressed weight without looking at its stream again.

    Attributes:
        k: rows of the multiplication's right-hand side.
        n: its columns.
        codec: how the weights are coded, as the stream's header says.
        profile: the profile they were coded with.
        entropy_bits: order-0 entropy in bits per weight, the tables' cost excluded.
        weight_bytes: size before.
        payload_bytes: size of the coded weights alone.
        stored_bytes: size after: payload, tables, header, checksums, padding and the index.
        format_version: version of the format of stream and index.
    """

    k: int
    n: int
    codec: str
    profile: str
    entropy_bits: float
    weight_bytes: int
    payload_bytes: int
    stored_bytes: int
    format_version: int

    @property
    def saving(self) -> float:
        """Share of the size that was saved; negative when the stored form is larger."""
        return 1 - self.stored_bytes / self.weight_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class CompressedWeight:
    """A weight in the form that MatmulCompressDequant takes.

    Attributes:
        x2: the stream, int8 of shape (c,), in memory or as a tensor that lies in a file.
        compress_index: int8 of shape (8 * tiles,), in memory or as a tensor that lies in a file.
        compress_info: int64 of shape (5,): [tilingK, tilingN, k, n, direction].
        stats: sizes and entropy.

    Examples:
        >>> import numpy, mcd_graph
        >>> packed = mcd_graph.pack_weight(numpy.eye(64, 96, dtype=numpy.int8))
        >>> packed.compress_info[2:4].tolist()  # k, n
        [96, 64]
        >>> packed.x2.dtype.name, packed.x2.ndim, packed.stats.weight_bytes
        ('int8', 1, 6144)
    """

    x2: npt.NDArray[np.int8] | ir.TensorProtocol
    compress_index: npt.NDArray[np.int8] | ir.TensorProtocol
    compress_info: npt.NDArray[np.int64]
    stats: WeightStats

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
        """The stream and the index as arrays, mapped where they lie in a file."""
        return _as_array(self.x2), _as_array(self.compress_index)


def _as_array(part: npt.NDArray[np.int8] | ir.TensorProtocol) -> npt.NDArray[np.int8]:
    # Not numpy.asarray: before NumPy 2.3 it makes floats of onnx_ir's tensors, one by one.
    return part if isinstance(part, np.ndarray) else part.numpy()


def pack_weight(
    w: Int8Matrix,
    *,
    profile: Profile = "balanced",
    tiling: tuple[int, int] | None = None,
    packed: bool = False,
) -> CompressedWeight:
    """Compress one weight.

    Args:
        w: int8 or uint8 matrix of shape (n, k): the transpose of what a MatMul multiplies by. Any strides do, so
            the transposed view of a (k, n) matrix is taken as it is.
        profile: ``fast``, ``balanced`` or ``small``.
        tiling: (tilingK, tilingN), a tile's size in fractals of 32 k and 16 n; the codec's own choice by default.
        packed: as few bytes as can be, for a weight that is decoded once; a decoder takes longer for it.

    Returns:
        The compressed weight, in memory.

    Raises:
        InputError: ``w`` is not such a matrix, or the profile or tiling does not exist.

    Examples:
        >>> import numpy, mcd_graph
        >>> w = numpy.arange(-8, 8, dtype=numpy.int8).repeat(64).reshape(16, 64)
        >>> packed = mcd_graph.pack_weight(w)
        >>> numpy.array_equal(mcd_graph.unpack_weight(packed.x2, packed.compress_index, packed.compress_info), w)
        True
    """
    if w.ndim != 2 or w.dtype not in (np.int8, np.uint8) or w.size == 0:
        raise InputError(f"a weight is a non-empty int8 or uint8 matrix, not {w.dtype} of shape {w.shape}")
    if profile not in PROFILES:
        raise InputError(f"there is no profile {profile!r}; choose from {', '.join(PROFILES)}")
    options: dict[str, Any] = {"packed": packed} if tiling is None else {"packed": packed, "tiling": tiling}
    try:
        x2, compress_index, compress_info = _native.encode(w, profile, **options)
    except ValueError as error:
        raise InputError(str(error)) from None
    info = _native.inspect(x2, compress_index, compress_info)
    n, k = w.shape
    stats = WeightStats(
        k=k,
        n=n,
        codec=info["codec"],
        profile=info["profile"],
        entropy_bits=_native.entropy_bits(w),
        weight_bytes=w.nbytes,
        payload_bytes=info["payload_bytes"],
        stored_bytes=x2.nbytes + compress_index.nbytes,
        format_version=info["version"],
    )
    return CompressedWeight(x2, compress_index, compress_info, stats)


def unpack_weight(
    x2: npt.NDArray[np.int8] | ir.TensorProtocol,
    compress_index: npt.NDArray[np.int8],
    compress_info: npt.ArrayLike,
) -> Int8Matrix:
    """Decode a compressed weight; every checksum is checked.

    Args:
        x2: the stream, int8 of shape (c,).
        compress_index: int8 of shape (8 * tiles,).
        compress_info: five integers [tilingK, tilingN, k, n, direction].

    Returns:
        The matrix of shape (n, k), int8 or uint8 as it was.

    Raises:
        ValueError: the tensors are damaged or do not belong together; the message names the reason.

    Examples:
        >>> import numpy, mcd_graph
        >>> packed = mcd_graph.pack_weight(numpy.full((16, 32), 7, numpy.uint8))
        >>> w = mcd_graph.unpack_weight(packed.x2, packed.compress_index, packed.compress_info)
        >>> w.dtype.name, w.shape, int(w.min()), int(w.max())
        ('uint8', (16, 32), 7, 7)
    """
    return _native.decode(_as_array(x2), compress_index, compress_info)
