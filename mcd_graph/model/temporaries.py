"""Temporary files that nobody has to clean up after: not after an error, not after Ctrl-C, not after ``kill -9``.

A temporary carries its writer's file lock, which dies with the writer. So whoever comes next can tell what a killed
run left behind.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mcd_graph import system

__all__ = ["MARK", "closed_for_writing", "remove_leftovers", "remove_temporaries", "tell", "temporary_file"]

MARK = ".mcd-tmp-"
"""What the name of every temporary holds."""

_living: dict[Path, Callable[[], None]] = {}
"""This process's temporaries, each from before it is created until it is gone, and what to do before that."""

_listeners: list[tuple[Callable[[bytes], int], Callable[[int], None]]] = []


@contextlib.contextmanager
def tell(created: Callable[[bytes], int], gone: Callable[[int], None]) -> Iterator[None]:
    """Have somebody told of each temporary that may simply be removed, for a while.

    Args:
        created: called with its path; what it returns stands for the temporary.
        gone: called with that when the temporary is no more.
    """
    _listeners.append((created, gone))
    try:
        yield
    finally:
        _listeners.remove((created, gone))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell of a temporary that is there, and that it is gone on leaving."""
    with contextlib.ExitStack() as stack:
        for created, gone in _listeners:
            stack.callback(gone, created(os.fsencode(path)))
        yield


@contextlib.contextmanager
def temporary_file(path: Path, before_removal: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Create, lock and open a file that is removed on leaving unless it was renamed.

    Args:
        path: of the file; its name holds :data:`MARK`.
        before_removal: called before it is removed, again if that was interrupted; it may find the file missing.

    Raises:
        OSError: the file exists or cannot be created.
    """
    prepare = before_removal or (lambda: None)
    _living[path] = prepare
    try:
        file = system.create(path)
    except OSError:
        _living.pop(path, None)  # what is there is not ours
        raise
    with contextlib.nullcontext() if before_removal else _told(path):
        try:
            system.lock(file)
            yield file
        finally:
            prepare()
            path.unlink(missing_ok=True)
            _living.pop(path, None)
            with contextlib.suppress(OSError):  # a full disk was reported by the write that met it
                file.close()


@contextlib.contextmanager
def closed_for_writing(*files: BinaryIO) -> Iterator[None]:
    """Have temporaries of one directory open for reading alone for a while, for others to open them.

    Where a file is open for writing, Windows lets nobody open it who shares it with readers only, as onnxruntime does.
    The file objects stay what they are, at the places that they were at.

    Args:
        files: of :func:`temporary_file`; nothing may be written to them meanwhile.

    Raises:
        OSError: one of them, or the directory, is gone.
    """
    for file in files:
        file.flush()
    _reopen(files, writing=False)
    try:
        yield
    finally:
        # Ctrl-C may keep this from being left before those who made the files close them.
        if still_open := [file for file in files if not file.closed]:
            _reopen(still_open, writing=True)


def _reopen(files: Sequence[BinaryIO], *, writing: bool) -> None:
    """Have open files lead to what is opened anew, under their directory's lock: nobody finds them without."""
    with system.locked(Path(files[0].name).parent):
        for file in files:
            place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            descriptor = system.reopen(Path(file.name), writing=writing)
            try:
                system.unlock(file)  # else a fork of this process would hold it, and let nobody lock it again
                os.dup2(descriptor, file.fileno(), inheritable=False)
            finally:
                os.close(descriptor)
            os.lseek(file.fileno(), place, os.SEEK_SET)
            system.lock(file)


def remove_temporaries() -> None:
    """Remove what this process was writing when KeyboardInterrupt ended it.

    Ctrl-C may fall between any two bytecodes: just before a ``try`` is entered, or within a ``finally``. For the end of
    a program only: another thread that is still writing loses its temporaries too.
    """
    for path, before_removal in list(_living.items()):
        before_removal()
        path.unlink(missing_ok=True)
        _living.pop(path, None)


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries that dead runs have left of a file, under the lock of its directory."""
    prefix = f".{path.name}{MARK}"
    for found in sorted(path.parent.iterdir()):
        if found.name.startswith(prefix) and not system.is_locked(found):
            found.unlink(missing_ok=True)
