"""A compressed weight as msModelSlim's files hold it, checked and ready to be decoded."""

import dataclasses

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.codec import Codec, check_codec, decode_open, stream_of, tile_count
from mcd_graph.errors import InputError

__all__ = ["CompressedLayer", "check_info"]

_MAX_DIMENSION = (1 << 31) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class CompressedLayer:
    """One compressed weight.

    Attributes:
        name: of the weight.
        x2: the stream, int8 (c,), without what a buffer may hold behind it (of the open codec; the device's streams do
            not say how long they are).
        compress_index: int8 (8 * tiles,).
        compress_info: int64 (5,): [8, 8, k, n, 1].
        codec: ``open``, which this package decodes, or ``cann``, which only the device does.
    """

    name: str
    x2: npt.NDArray[np.int8]
    compress_index: npt.NDArray[np.int8]
    compress_info: npt.NDArray[np.int64]
    codec: Codec

    @classmethod
    def checked(
        cls,
        name: str,
        x2: npt.NDArray[np.int8],
        compress_index: npt.NDArray[np.int8],
        compress_info: npt.NDArray[np.int64],
        stated_codec: str | None,
    ) -> "CompressedLayer":
        """Return a layer after checking that its parts fit each other.

        Args:
            name: of the weight.
            x2: int8 (c,).
            compress_index: int8.
            compress_info: int64.
            stated_codec: what the file says of the codec; ``None`` if it says nothing.

        Raises:
            InputError: a part has the wrong type or size, or the stream is not of the stated codec.
        """
        for part, array, dtype in (("stream", x2, np.int8), ("index", compress_index, np.int8)):
            if array.dtype != dtype or array.ndim != 1 or not array.size:
                raise InputError(f"the {part} of weight {name} is {array.dtype} of shape {array.shape}, not int8 (c,)")
        k, n = check_info(name, compress_info)
        if compress_index.size != 8 * tile_count(n, k):
            raise InputError(
                f"the index of weight {name} has {compress_index.size} bytes; "
                f"a weight of {n} x {k} needs {8 * tile_count(n, k)}"
            )
        codec = check_codec(name, x2, stated_codec)
        return cls(name, stream_of(x2), compress_index, compress_info, codec)

    def decode(self) -> npt.NDArray[np.int8]:
        """Return the weight (n, k).

        Raises:
            InputError: the stream is of the device's codec, or damaged.
        """
        return decode_open(self.name, self.x2, self.compress_index, self.compress_info, self.codec)


def check_info(name: str, info: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return (k, n) from a weight's five integers.

    Raises:
        InputError: they are not [8, 8, k, n, 1], which is all that the device's operator knows.
    """
    if info.dtype != np.int64 or info.shape != (5,):
        raise InputError(f"the info of weight {name} is {info.dtype} of shape {info.shape}, not int64 (5,)")
    tiling_k, tiling_n, k, n, direction = (int(number) for number in info)
    if (tiling_k, tiling_n, direction) != (8, 8, 1) or not 1 <= min(k, n) <= max(k, n) <= _MAX_DIMENSION:
        raise InputError(f"the info of weight {name} is {info.tolist()}, not [8, 8, k, n, 1]")
    return k, n
