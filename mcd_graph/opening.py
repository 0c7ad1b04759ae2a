"""Memory while a session is created: of constants that were restored, only what is read at the time."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING

from mcd_graph.library import get_library_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["dropping_pages"]

_EVERY = 0.002
"""Seconds between two times that pages are dropped. onnxruntime reads some megabytes meanwhile."""


@contextlib.contextmanager
def dropping_pages() -> Iterator[None]:
    """Let go of the pages of restored constants while a session is created, and when it is there.

    onnxruntime reads each of them once, to copy or to pack it. The library has them in a file that it maps, so that
    those that were read need no memory any more, and come back if they are touched again.
    """
    drop = _dropper()
    if not drop():
        yield
        return
    done = threading.Event()

    def again() -> None:
        while not done.wait(_EVERY):
            drop()

    thread = threading.Thread(target=again, name="mcd-drop-pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        drop()


def _dropper() -> Callable[[], int]:
    """Return the function of the library that onnxruntime has loaded; one of an older build has constants in memory."""
    drop = getattr(ctypes.CDLL(get_library_path()), "mcd_drop_pages", None)
    if drop is None:
        return int  # zero
    drop.restype = ctypes.c_uint64
    return drop  # type: ignore[no-any-return]
