"""Files and locks as Windows has them.

A file that Python opens there can be neither renamed nor removed before it is closed, and a directory cannot be opened.
So files are opened by the system's own call, which can allow the one and stand in for the other.
"""

import contextlib
import ctypes
import msvcrt
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

# Where mypy checks for another system, it knows nothing of what follows.
assert sys.platform == "win32" or not TYPE_CHECKING  # noqa: S101

__all__ = ["copy_attributes", "create", "is_locked", "lock", "locked", "reopen", "sync_directory", "unlock"]

_READ, _WRITE = 0x8000_0000, 0x4000_0000
_SHARE_ALL = 1 | 2 | 4  # reading, writing, renaming and removing
_CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
_NORMAL, _DELETE_ON_CLOSE = 0x80, 0x0400_0000
_INVALID = ctypes.c_void_p(-1).value

_ACCESS_DENIED = 5
"""Also of a file that is being removed: for a moment only."""
_SHARING_VIOLATION = 32

_FAR = 1 << 30
"""The upper half of the place that locks are at: no file has a byte there, for what is locked cannot be read."""

_LOCK_FILE = ".mcd-lock"
_PAUSE = 0.02
_PATIENCE = 50
"""Pauses until a refusal is believed."""

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.CreateFileW.restype = ctypes.c_void_p
_handle, _number = ctypes.c_void_p, ctypes.c_uint32
_kernel.CreateFileW.argtypes = [ctypes.c_wchar_p, _number, _number, ctypes.c_void_p, _number, _number, _handle]
_kernel.LockFile.argtypes = [_handle, _number, _number, _number, _number]
_kernel.CloseHandle.argtypes = [_handle]


def _failed(code: int, path: Path) -> OSError:
    """Return the error of a code of the system's, of the class that Python has for it."""
    return OSError(0, ctypes.FormatError(code), os.fspath(path), code)


def _open(path: Path, access: int, share: int, disposition: int, flags: int) -> int:
    """Open a file by the system's call; return its handle."""
    handle = _kernel.CreateFileW(os.fspath(path), access, share, None, disposition, flags, None)
    if handle == _INVALID:
        raise _failed(ctypes.get_last_error(), path)
    return int(handle)


def copy_attributes(source: Path, descriptor: int) -> None:
    """Do nothing: a new file has the permissions that its directory hands down."""


def create(path: Path) -> BinaryIO:
    """Create a file and open it; it may be renamed and removed meanwhile.

    Raises:
        OSError: the file exists or cannot be created.
    """
    handle = _open(path, _READ | _WRITE, _SHARE_ALL, _CREATE_NEW, _NORMAL)
    descriptor = msvcrt.open_osfhandle(handle, os.O_RDWR | os.O_BINARY | os.O_NOINHERIT)
    # By its path, so that the file knows its name.
    return open(path, "r+b", opener=lambda _path, _flags: descriptor)


def reopen(path: Path, *, writing: bool) -> int:
    """Open a file of :func:`create` once more, for reading alone or for writing as well; return the descriptor.

    Raises:
        OSError: it is gone, or cannot be opened, or somebody goes on reading it who lets nobody write.
    """
    refused = 0
    while True:
        try:
            handle = _open(path, _READ | (_WRITE if writing else 0), _SHARE_ALL, _OPEN_EXISTING, _NORMAL)
            break
        except OSError as error:  # a scanner looks at what was written just now
            refused += 1
            if error.winerror not in (_ACCESS_DENIED, _SHARING_VIOLATION) or refused > _PATIENCE:
                raise
        time.sleep(_PAUSE)
    return msvcrt.open_osfhandle(handle, (os.O_RDWR if writing else os.O_RDONLY) | os.O_BINARY | os.O_NOINHERIT)


def _try_lock(handle: int) -> bool:
    return bool(_kernel.LockFile(handle, 0, _FAR, 1, 0))


def lock(file: BinaryIO) -> None:
    """Lock an open file; the lock dies with this process."""
    handle = msvcrt.get_osfhandle(file.fileno())
    while not _try_lock(handle):  # somebody is asking whether it is locked
        time.sleep(_PAUSE)


def unlock(file: BinaryIO) -> None:
    """Do nothing: what opened the file is about to be closed, and nobody has inherited it."""


def is_locked(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file."""
    try:
        handle = _open(path, _READ, _SHARE_ALL, _OPEN_EXISTING, _NORMAL)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        _kernel.CloseHandle(handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other writers out of a directory; the lock leaves no file behind and dies with its holder.

    It is a file that nobody else can open, and that the system removes when it is closed, by whatever end.
    """
    refused = 0
    while True:
        try:
            handle = _open(directory / _LOCK_FILE, _WRITE, 0, _OPEN_ALWAYS, _NORMAL | _DELETE_ON_CLOSE)
            break
        except OSError as error:
            refused += error.winerror == _ACCESS_DENIED
            if error.winerror not in (_ACCESS_DENIED, _SHARING_VIOLATION) or refused > _PATIENCE:
                raise
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        _kernel.CloseHandle(handle)


def sync_directory(directory: Path) -> None:
    """Do nothing: the file system writes names down by itself, and there is no call for it."""
