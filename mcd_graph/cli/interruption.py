"""Ctrl-C that falls into a moment in which Python loses it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["no_interruption_lost"]

_PAUSE = 0.005
"""Seconds until it is tried again: what loses it, such as the callback of a weak reference, takes less."""


@contextlib.contextmanager
def no_interruption_lost() -> Iterator[None]:
    """Interrupt once more where KeyboardInterrupt was raised in a callback: Python prints that, and goes on."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before(unraisable)
            return
        arguments = (threading.main_thread().ident, signal.SIGINT)
        timer = threading.Timer(_PAUSE, signal.pthread_kill, arguments)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
