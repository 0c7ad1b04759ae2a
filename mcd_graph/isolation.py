"""Work that may end the process: onnxruntime does so on some models, by a failed assertion or a wrong address.

It is done in a fork of this process, which costs some milliseconds and needs nothing loaded again. What is
computed there is lost, unless it is written to a file.
"""

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable

__all__ = ["death_of"]

_LONGEST_PAUSE = 0.005


def death_of(work: Callable[[], object], *, seconds: float) -> str | None:
    """Do some work in a fork of this process; return the signal that ended it, or ``None`` if it came to an end.

    Exceptions are not passed on, and what it prints is not shown. Work that takes too long is ended, and is taken for
    work that comes to an end: a fork of a process with threads can get stuck where that process does not.

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later, where there are threads
        child = os.fork()
    if child == 0:
        _work(work)
    end, pause = time.monotonic() + seconds, 0.0005
    try:
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work(work: Callable[[], object]) -> None:
    """Do the work and end this process, without what Python does at its end."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        work()
    except BaseException:  # noqa: BLE001, S110 - as the docstring of death_of says
        pass
    finally:
        os._exit(0)
