"""What a command says where a mapped file is truncated under it, which ends the process (SIGBUS)."""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec

from mcd_graph.model.temporaries import tell

__all__ = ["with_last_word"]

_P = ParamSpec("_P")

_MESSAGE = (
    "mcd: a file was truncated, or could not be read, while it was mapped (SIGBUS); no file was left half-written. "
    "Run it again when nobody writes there; compress and restore read a private copy with --no-mmap\n"
)


def with_last_word(command: Callable[_P, None]) -> Callable[_P, None]:
    """Let a command end with a message and without temporaries where it would end without a word."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with _last_word():
            command(*args, **kwargs)

    return run


@contextlib.contextmanager
def _last_word() -> Iterator[None]:
    from mcd_graph import _native  # noqa: PLC0415 - takes a moment, and --help needs none of it

    _native.explain_bus_error(_MESSAGE.encode())
    try:
        with tell(_native.remove_at_bus_error, _native.keep_at_bus_error):
            yield
    finally:
        _native.explain_bus_error(None)
