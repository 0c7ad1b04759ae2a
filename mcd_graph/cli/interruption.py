"""Ctrl-C that falls into a moment in which Python loses it."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["came_of_interruption", "no_interruption_lost"]

_PAUSE = 0.005
"""Seconds until it is tried again: what loses it, such as the callback of a weak reference, takes less."""


def _interrupt() -> None:
    """Interrupt the main thread, whatever it waits for if the system can do that."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def no_interruption_lost() -> Iterator[None]:
    """Interrupt once more where KeyboardInterrupt was raised in a callback: Python prints that, and goes on."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before(unraisable)
            return
        timer = threading.Timer(_PAUSE, _interrupt)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def came_of_interruption(error: BaseException) -> bool:
    """Whether it is what Ctrl-C became: a module in C or C++ may raise something else in KeyboardInterrupt's place."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False
