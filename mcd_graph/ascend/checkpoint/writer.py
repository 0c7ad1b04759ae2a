"""Writes a safetensors file block by block, so that no tensor has to be in memory whole."""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.checkpoint.element_types import TYPES
from mcd_graph.errors import InputError
from mcd_graph.model.files import sync
from mcd_graph.model.replacement import replace
from mcd_graph.model.temporaries import MARK, remove_leftovers, temporary_file
from mcd_graph.system import locked

__all__ = ["Entry", "write_safetensors"]

_ALIGNMENT = 8


class Entry:
    """A tensor to be written.

    Attributes:
        dtype: NumPy's.
        shape: of it.
        blocks: yields its elements, one block behind another, when it is its turn.
    """

    def __init__(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Callable[[], Iterable[npt.NDArray[Any]]]
    ) -> None:
        self.dtype, self.shape, self.blocks = dtype, shape, blocks

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
    with ExitStack() as stack:
        with locked(path.parent):  # so that nobody takes the new one for a leftover before it is locked
            remove_leftovers(path)
            file = stack.enter_context(temporary_file(temporary))
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries.items():
            _write_blocks(file, name, entry)
        if hasattr(os, "fchmod"):  # not on Windows
            os.fchmod(file.fileno(), 0o644)
        sync(file)
        replace(temporary, path, force=force)


def _write_blocks(file: BinaryIO, name: str, entry: Entry) -> None:
    written = 0
    for block in entry.blocks():
        if block.dtype != entry.dtype:
            break
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        written += block.nbytes
    if written != entry.nbytes:
        raise InputError(f"tensor {name} has changed while it was written")
