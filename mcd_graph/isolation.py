"""Work that may end the process: onnxruntime does so on some models, by a failed assertion or a wrong address.

It is done in a fork of this process, which costs some milliseconds and needs nothing loaded again. What is
computed there is lost, unless it is written to a file.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

__all__ = ["death_of"]

_LONGEST_PAUSE = 0.005

_INTERRUPTING = (signal.SIGINT, signal.SIGTERM)


def death_of(work: Callable[[], object], *, seconds: float) -> str | None:
    """Do some work in a fork of this process; return the signal that ended it, or ``None`` if it came to an end.

    Exceptions are not passed on, and what it prints is not shown. Work that takes too long is ended, and is taken for
    work that comes to an end: a fork of a process with threads can get stuck where that process does not. Where the
    system has no fork, the work is done in this process.

    Args:
        work: what to do; nothing that it changes in memory is seen here.
        seconds: how long it may take.

    Examples:
        >>> import os
        >>> from mcd_graph.isolation import death_of
        >>> death_of(os.abort, seconds=10)
        'SIGABRT'
        >>> death_of(lambda: 1 + 1, seconds=10)
    """
    if not hasattr(os, "fork"):  # as on Windows: then what would end the fork ends this process
        with contextlib.suppress(Exception):
            work()
        return None
    end, pause = time.monotonic() + seconds, 0.0005
    child = 0
    try:
        with _held_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later, where there are threads
            child = os.fork()
            if child == 0:
                _work(work)
        while time.monotonic() < end:
            ended, death = _end_of(child)
            if ended:
                child = 0
                return death
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None
    finally:
        if child:
            _kill(child)


def _end_of(child: int) -> tuple[bool, str | None]:
    """Tell whether a child has ended, and the signal that ended it."""
    if sys.platform != "win32":  # for mypy, as below: nobody comes here without a fork
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return True, signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
    return False, None


def _kill(child: int) -> None:
    if sys.platform != "win32":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold signals back that raise an exception, and hand them on at the end.

    What raises while the process forks, in what modules have done then, is printed by Python, and lost.
    """
    if threading.current_thread() is not threading.main_thread():  # no signal's handler runs in another one
        yield
        return
    caught: list[int] = []
    before = {}
    try:
        for number in _INTERRUPTING:
            if signal.getsignal(number) is not None:  # as it is for a handler that is not Python's
                before[number] = signal.signal(number, lambda number, _: caught.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in caught:
            signal.raise_signal(each)


def _work(work: Callable[[], object]) -> None:
    """Do the work and end this process, without what Python does at its end."""
    try:
        for number in _INTERRUPTING:
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()  # it may print to a copy of stderr, as pytest lets it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        work()
    except BaseException:  # noqa: BLE001, S110 - as the docstring of death_of says
        pass
    finally:
        os._exit(0)
