"""Runs CANN's ``compress_excutor`` (so spelt), which writes the device's codec.

msModelSlim builds it, from sources that it brings, against an installed CANN; it works on the NPU. Its command line:
k / 32, n / 16, five switches, and the paths of the input in fractals and of three outputs. It leaves with status 0
even when it failed; only missing or impossible files tell.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.codec import tile_count, to_nz
from mcd_graph.errors import InputError

__all__ = ["run_excutor"]

_TIMEOUT_SECONDS = 600
_MAX_FRACTALS = 50_000  # in either direction; beyond it the program complains and goes on
_LONGEST_MESSAGE = 500


def run_excutor(
    executable: str | os.PathLike[str],
    w: npt.NDArray[np.int8],
    *,
    name: str,
    high_sparse: bool = False,
    scratch: str | os.PathLike[str] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Compress one weight with an installed ``compress_excutor``.

    Args:
        executable: its path.
        w: int8 (n, k).
        name: of the weight, for messages.
        high_sparse: the mode for W16A16S weights.
        scratch: folder for the files that go to and fro; the system's by default.

    Returns:
        x2 int8 (c,), compress_index int8 (8 * tiles,), compress_info int64 (5,).

    Raises:
        InputError: it cannot be run, fails, takes longer than 600 s, or leaves files that cannot be right.
    """
    n, k = w.shape
    fractals = to_nz(w)
    if max(fractals.shape[:2]) > _MAX_FRACTALS:
        raise InputError(f"weight {name} of {n} x {k} is larger than compress_excutor takes")
    with tempfile.TemporaryDirectory(prefix="mcd-", dir=scratch) as folder:
        source, x2, index, info = (Path(folder) / f"{part}.bin" for part in ("input", "output", "index", "info"))
        fractals.tofile(source)
        # Tight, one by one, then the mode, no tiling of its own.
        switches = ["1", "1", "1", "1" if high_sparse else "0", "0"]
        command = [os.fspath(executable), *(str(count) for count in fractals.shape[:2]), *switches]
        _run([*command, *(str(path) for path in (source, x2, index, info))], name)
        written = [
            _read(path, dtype, name) for path, dtype in ((x2, np.int8), (index, np.int8), (info, np.dtype("<u4")))
        ]
    stream, entries, numbers = written
    if numbers.size < 3:
        raise InputError(f"weight {name}: compress_excutor wrote {numbers.size} numbers of info, not 3")
    tiling_n, tiling_k, length = (int(number) for number in numbers[:3])
    if (tiling_n, tiling_k) != (8, 8):
        raise InputError(f"weight {name}: compress_excutor used tiles of {tiling_n} x {tiling_k}, not 8 x 8")
    if not 0 < length <= stream.size:
        raise InputError(f"weight {name}: compress_excutor says {length} bytes and wrote {stream.size}")
    if entries.size != 8 * tile_count(n, k):
        raise InputError(f"weight {name}: compress_excutor wrote an index of {entries.size} bytes")
    return stream, entries, np.array([tiling_k, tiling_n, k, n, 1], np.int64)


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603  (the user named the program)
            command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"weight {name}: {command[0]} took longer than {_TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise InputError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-_LONGEST_MESSAGE:]
        raise InputError(f"weight {name}: {command[0]} failed with status {done.returncode}: {said}")


def _read(path: Path, dtype: Any, name: str) -> npt.NDArray[Any]:
    if not path.is_file():
        raise InputError(f"weight {name}: compress_excutor left no {path.stem} file, so it failed")
    return np.fromfile(path, dtype)
