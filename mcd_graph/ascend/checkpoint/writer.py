"""Writes a safetensors file tensor by tensor, so that no more than one of them is in memory."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.errors import InputError
from mcd_graph.model.files import sync
from mcd_graph.model.replacement import replace
from mcd_graph.model.temporaries import MARK, temporary_file

__all__ = ["TYPES", "Entry", "write_safetensors"]

TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
"""NumPy's names of types, and the format's."""

_ALIGNMENT = 8


class Entry:
    """A tensor to be written.

    Attributes:
        dtype: NumPy's.
        shape: of it.
        load: returns its elements when it is its turn.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], load: Callable[[], npt.NDArray[Any]]) -> None:
        self.dtype, self.shape, self.load = dtype, shape, load

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_safetensors(
    path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], *, force: bool = False
) -> None:
    """Write a file whole or not at all.

    Args:
        path: of it.
        entries: tensors by name.
        metadata: of the file.
        force: replace what is there.

    Raises:
        FileExistsError: it is there and ``force`` is not set.
        InputError: a tensor has a type that the format lacks, or is not what it was said to be.
        OSError: it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, entry in entries.items():
        if entry.dtype.name not in TYPES:
            raise InputError(f"tensor {name} is {entry.dtype}, which safetensors files do not hold")
        start, end = end, end + entry.nbytes
        header[name] = {"dtype": TYPES[entry.dtype.name], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{MARK}{secrets.token_hex(6)}")
    with temporary_file(temporary) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries.items():
            array = np.ascontiguousarray(entry.load())
            if array.dtype != entry.dtype or array.shape != entry.shape:
                raise InputError(f"tensor {name} has changed while it was written")
            file.write(array.reshape(-1).view(np.uint8).data)
        if hasattr(os, "fchmod"):  # not on Windows
            os.fchmod(file.fileno(), 0o644)
        sync(file)
        replace(temporary, path, force=force)
