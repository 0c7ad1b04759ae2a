"""Files and locks as Linux and macOS have them."""

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

# Where mypy checks for another system, it knows nothing of what follows.
assert sys.platform != "win32" or not TYPE_CHECKING  # noqa: S101

__all__ = ["copy_attributes", "create", "is_locked", "lock", "locked", "reopen", "sync_directory", "unlock"]


def copy_attributes(source: Path, descriptor: int) -> None:
    """Give an open file the permissions, owner and extended attributes of ``source``, as far as the system allows."""
    try:
        status = source.stat()
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    # After the owner, for changing that one clears the set-user-ID bits.
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    if sys.platform == "linux":  # Python has no calls for those of macOS
        with contextlib.suppress(OSError):
            for name in os.listxattr(source):
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, name, os.getxattr(source, name))


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


def unlock(file: BinaryIO) -> None:
    """Give up the lock of an open file, also for processes that were forked from this one meanwhile."""
    fcntl.flock(file, fcntl.LOCK_UN)


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
