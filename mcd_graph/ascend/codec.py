"""Which codec wrote a compressed weight, and the NZ order that the device's compressor reads.

There are two: the open codec of docs/reference/format.md, for the CPU, and CANN's own, which only the
``compress_excutor`` of a CANN installation writes and only the hardware reads. A stream of the open codec begins with
its magic number, which makes it known wherever it turns up; files say in their metadata as well which codec they were
written with. The two must agree, so that a mix-up is an error and never a wrong result.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mcd_graph import _native
from mcd_graph.errors import InputError

__all__ = [
    "CODEC_KEY",
    "TILE",
    "Codec",
    "check_codec",
    "codec_of",
    "decode_open",
    "from_nz",
    "stated_codec",
    "stream_of",
    "tile_count",
    "to_nz",
]

Codec = Literal["open", "cann"]

CODEC_KEY = "mcd.codec"
"""Metadata key, in models, safetensors files and folders of .dat files, that holds the codec's name."""

TILE = (128, 256)
"""(n, k) of a tile of 8 x 8 fractals, the only tiling that the device's operator knows."""

_FRACTAL = (16, 32)
_MAGIC = b"MCDW"
_SIZES = slice(16, 32)  # where an open stream's header holds k and n
_LENGTH = slice(32, 40)  # and how many bytes it has


def codec_of(x2: npt.NDArray[np.int8]) -> Codec:
    """Return the codec of a stream: the open one if it has its magic number, else CANN's."""
    return "open" if x2[:4].tobytes() == _MAGIC else "cann"


def stream_of(x2: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return the part of an ``x2`` that is the stream.

    vLLM-Ascend's parameter has n * k bytes, and its loader fills the front: the rest is whatever memory held. An open
    stream's header says where it ends. CANN's says nothing that is public, so that one stays as it is.
    """
    if codec_of(x2) != "open":
        return x2
    return x2[: int.from_bytes(x2[_LENGTH].tobytes(), "little")]


def check_codec(name: str, x2: npt.NDArray[np.int8], stated: str | None) -> Codec:
    """Return the codec of a weight after comparing it with what its file says.

    Args:
        name: of the weight, for the message.
        x2: its stream.
        stated: what the file's metadata say; ``None`` if they say nothing, as files of msModelSlim itself.

    Raises:
        InputError: the two do not agree.
    """
    found = codec_of(x2)
    if stated is not None and stated != found:
        raise InputError(f"weight {name} is a stream of codec {found!r}, but its file says {stated!r}")
    return found


def tile_count(n: int, k: int) -> int:
    """Return the number of tiles of a weight (n, k), which is the number of entries of its index."""
    return -(-n // TILE[0]) * -(-k // TILE[1])


def to_nz(w: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Bring an (n, k) matrix into fractals: (k / 32, n / 16, 16, 32), padded with zeros."""
    n, k = w.shape
    padded = np.pad(w, ((0, -n % _FRACTAL[0]), (0, -k % _FRACTAL[1])))
    fractals = padded.reshape(-1, _FRACTAL[0], padded.shape[1] // _FRACTAL[1], _FRACTAL[1])
    return np.ascontiguousarray(fractals.transpose(2, 0, 1, 3))


def from_nz(fractals: npt.NDArray[np.int8], n: int, k: int) -> npt.NDArray[np.int8]:
    """Undo :func:`to_nz` and cut the padding off."""
    columns, panels = fractals.shape[:2]
    padded = fractals.transpose(1, 2, 0, 3).reshape(panels * _FRACTAL[0], columns * _FRACTAL[1])
    return padded[:n, :k]


def decode_open(
    name: str, x2: npt.NDArray[np.int8], index: npt.NDArray[np.int8], info: npt.NDArray[np.int64], stated: str | None
) -> npt.NDArray[np.int8]:
    """Decode an int8 weight (n, k) of the open codec.

    A stand-in for ``compress_excutor`` sees whole fractals only, as that does, so its streams may hold the padding too.

    Raises:
        InputError: the stream is CANN's, which only the device reads, or it is damaged, or not int8.
    """
    if check_codec(name, x2, stated) != "open":
        raise InputError(f"weight {name} is a stream of CANN's codec, which only the device can read")
    k, n = int(info[2]), int(info[3])
    padded = np.array([*info[:2], k + -k % _FRACTAL[1], n + -n % _FRACTAL[0], info[4]], np.int64)
    stored = x2[_SIZES].tobytes() == padded[2:4].astype("<i8").tobytes()
    try:
        weight = _native.decode(x2, index, padded if stored else info)[:n, :k]
    except ValueError as error:
        raise InputError(f"weight {name}: {error}") from None
    if weight.dtype != np.int8:
        raise InputError(f"weight {name} is {weight.dtype}; Ascend's operator takes int8")
    return weight  # type: ignore[return-value]


def stated_codec(metadata: Mapping[str, Any] | None) -> str | None:
    """Return what a file's metadata say about the codec, if anything."""
    value = None if metadata is None else metadata.get(CODEC_KEY)
    return value if isinstance(value, str) else None
