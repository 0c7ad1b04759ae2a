"""Files and locks as Linux and macOS have them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["create", "is_locked", "lock", "locked", "reopen", "sync_directory"]


def create(path: Path) -> BinaryIO:
    """Create a file and open it; it may be renamed and removed meanwhile.

    Raises:
        OSError: the file exists or cannot be created.
    """
    return path.open("x+b")


def reopen(path: Path, *, writing: bool) -> int:
    """Open a file of :func:`create` once more, for reading alone or for writing as well; return the descriptor.

    Raises:
        OSError: it is gone, or cannot be opened.
    """
    return os.open(path, (os.O_RDWR if writing else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)


def lock(file: BinaryIO) -> None:
    """Lock an open file; the lock dies with this process."""
    fcntl.flock(file, fcntl.LOCK_EX)


def is_locked(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other writers out of a directory; the lock leaves no file behind and dies with its holder."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
