"""A model that is given as bytes, for the operator library, which reads constants to be restored from files."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["as_file", "was_file"]

_SIGNS = (b"mcd.at_open", b'{"data":""')
"""What the metadata of a model says that has such constants, and has them inside of itself."""

_TOKEN = os.urandom(8).hex()
"""Names of this process that nobody can foresee."""

_lock = threading.Lock()


@contextlib.contextmanager
def as_file(model: bytes) -> Iterator[str | None]:
    """Have a model in a file while session options are made for it; ``None`` for one that does not need that.

    The library tells models apart by path, size and time of change. The same bytes have the same of all three, so that
    their constants are in memory once, however many sessions are created from them.

    Raises:
        OSError: temporary files cannot be written.
    """
    if not all(sign in model for sign in _SIGNS):
        yield None
        return
    import hashlib  # noqa: PLC0415 - it brings 4 MB of libcrypto into a process, for this alone
    import tempfile  # noqa: PLC0415 - as above, with other libraries

    name = f"mcd-{_TOKEN}-{os.getpid()}-{hashlib.blake2b(model, digest_size=16).hexdigest()}.onnx"
    path = Path(tempfile.gettempdir()) / name
    with _lock:
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(model)
            os.utime(path, (0, 0))
            yield os.fspath(path)
        finally:
            path.unlink(missing_ok=True)


def was_file(path: str) -> bool:
    """Tell whether a path is of a file that :func:`as_file` made."""
    return Path(path).name.startswith(f"mcd-{_TOKEN}-")
