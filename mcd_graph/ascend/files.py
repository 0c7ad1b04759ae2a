"""msModelSlim's .dat files: raw little-endian numbers without a header, one file a weight.

A folder that ``mcd ascend compress`` wrote also has a ``mcd.json`` that says which codec the streams are of. Folders
that msModelSlim wrote have none; the open codec's streams are known by their magic number there as well.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.codec import CODEC_KEY, Codec, stated_codec, tile_count
from mcd_graph.ascend.layers import CompressedLayer, check_info
from mcd_graph.errors import InputError
from mcd_graph.model.files import write_bytes, write_text

__all__ = ["PARTS", "read_dat", "write_dat", "write_note"]

PARTS: dict[str, type[np.generic]] = {"weight": np.int8, "index": np.int8, "info": np.int64}
"""The folders, one for each part of a compressed weight, and the type of the numbers in them."""

_NOTE = "mcd.json"
_MODE = 0o640  # as msModelSlim 26.1 leaves them
_LONGEST_NOTE = 1 << 16


def write_dat(folder: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], dtype: type[np.generic]) -> None:
    """Write ``folder/NAME.dat`` for each array, replacing what is there.

    Args:
        folder: made if it is missing.
        arrays: by the weight's name.
        dtype: of the numbers in the files, int8 or int64.

    Raises:
        InputError: a name cannot be a file's, or a number does not fit ``dtype`` (k and n do not fit int8).
        OSError: a file cannot be written.
    """
    files = {_path(Path(folder), name): (name, array) for name, array in arrays.items()}
    for name, array in files.values():
        if not np.array_equal(np.asarray(array).astype(dtype), array):
            raise InputError(
                f"{name}: {np.asarray(array).tolist()} does not fit {np.dtype(dtype)}; give dtype=np.int64"
            )
    Path(folder).mkdir(mode=0o750, parents=True, exist_ok=True)
    for path, (_, array) in files.items():
        little_endian = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
        write_bytes(path, little_endian.tobytes(), force=True, mode=_MODE)


def write_note(folder: str | os.PathLike[str], codec: Codec) -> None:
    """Say in ``folder`` which codec its streams are of."""
    write_text(Path(folder) / _NOTE, json.dumps({CODEC_KEY: codec}) + "\n", force=True)


def read_dat(folder: str | os.PathLike[str]) -> dict[str, CompressedLayer]:
    """Read ``folder/weight/*.dat`` with their index and info, and check all of it.

    Args:
        folder: with the folders ``weight``, ``index`` and ``info`` (or ``compress_info``, as CANN's document calls it).

    Returns:
        The weights by name, sorted; streams stay on disk, memory-mapped.

    Raises:
        InputError: a part is missing or of the wrong size, or streams are not of the codec that the folder says.
        OSError: a file cannot be read.

    Examples:
        >>> import numpy
        >>> from mcd_graph.ascend import CompressConfig, Compressor, read_dat
        >>> numpy.save("weight.npy", {"query": numpy.zeros((64, 128), numpy.int8)})
        >>> compressor = Compressor(CompressConfig(), weight_path="weight.npy")
        >>> for name, arrays in zip(("weight", "index", "info"), compressor.run()):
        ...     compressor.export(arrays, f"dat/{name}", dtype=numpy.int64 if name == "info" else numpy.int8)
        >>> read_dat("dat")["query"].decode().shape
        (64, 128)
    """
    folder = Path(folder)
    codec = _noted_codec(folder / _NOTE)
    names = sorted(path.stem for path in (folder / "weight").glob("*.dat"))
    if not names:
        raise InputError(f"{folder} has no weight/*.dat")
    infos = folder / ("info" if (folder / "info").is_dir() else "compress_info")
    layers = {}
    for name in names:
        info = _read(infos / f"{name}.dat", np.int64, 5)
        k, n = check_info(name, info)
        index = _read(folder / "index" / f"{name}.dat", np.int8, 8 * tile_count(n, k))
        x2 = _read(folder / "weight" / f"{name}.dat", np.int8, None)
        layers[name] = CompressedLayer.checked(name, x2, index, info, codec)
    return layers


def _read(path: Path, dtype: type[np.generic], count: int | None) -> npt.NDArray[Any]:
    """Map a file of ``count`` numbers; of any number of them if that is ``None``."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    size = path.stat().st_size
    itemsize = np.dtype(dtype).itemsize
    if count is None:
        count = size // itemsize
    if not size or size != count * itemsize:
        raise InputError(f"{path} has {size} bytes, not {count * itemsize or 'any'}")
    # A plain view of the map: only the bytes matter, and np.memmap's own type would go on into every result.
    return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r"))


def _noted_codec(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(_LONGEST_NOTE)
    try:
        note = json.loads(content)
    except (ValueError, RecursionError):
        note = None
    codec = stated_codec(note) if isinstance(note, dict) else None
    if codec is None:
        raise InputError(f"{path} does not say which codec the weights are of")
    return codec


def _path(folder: Path, name: str) -> Path:
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise InputError(f"{name!r} cannot be the name of a file")
    return folder / f"{name}.dat"
