"""Files that appear whole or not at all, and what that takes: bytes that reach the disk."""

import os
import secrets
from pathlib import Path
from typing import BinaryIO

from mcd_graph.model.replacement import replace
from mcd_graph.model.temporaries import MARK, temporary_file
from mcd_graph.system import copy_attributes

__all__ = ["is_text", "sync", "write_bytes", "write_text"]


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> None:
    """Write a small text file whole or not at all; see :func:`write_bytes`."""
    write_bytes(path, text.encode(), force=force)


def write_bytes(
    path: str | os.PathLike[str], data: bytes | memoryview, *, force: bool = False, mode: int | None = None
) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file.
        data: its content.
        force: replace a file that is already there.
        mode: permissions; the usual ones by default.

    Raises:
        FileExistsError: the file exists and ``force`` is not set.
        OSError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{MARK}{secrets.token_hex(6)}")
    with temporary_file(temporary) as file:
        file.write(data)
        copy_attributes(path, file.fileno())
        if mode is not None and hasattr(os, "fchmod"):  # not on Windows, which has no such permissions
            os.fchmod(file.fileno(), mode)
        sync(file)
        replace(temporary, path, force=force)


def sync(file: BinaryIO) -> None:
    """Wait until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def is_text(name: str) -> bool:
    """Tell whether a file's name is UTF-8, and so one that a model can mention."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
