"""Stands in for CANN's compress_excutor: its command line and files, with the open codec instead of the device's.

Run as a program it takes that program's 11 arguments. MCD_TEST_EXCUTOR changes what it does: ``device`` writes a stream
that is not the open codec's, as CANN's would be; the other words make it fail in the ways that its callers must see.
"""

import os
import sys
from pathlib import Path

import numpy as np

from mcd_graph import _native
from mcd_graph.ascend.codec import from_nz

MODES = ("device", "silent", "status", "tiles", "length", "index", "info")


def install(folder: Path, mode: str = "") -> Path:
    """Write an executable of that name into ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "compress_excutor"
    path.write_text(f'#!/bin/sh\nMCD_TEST_EXCUTOR={mode} exec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return path


def main(arguments: list[str]) -> int:
    """Compress one weight."""
    mode = os.environ.get("MCD_TEST_EXCUTOR", "")
    if len(arguments) != 11 or arguments[2:5] != ["1", "1", "1"] or arguments[5] not in "01" or arguments[6] != "0":
        print(f"unexpected arguments {arguments}", file=sys.stderr)  # noqa: T201
        return 3
    if mode == "status":
        print("no device", file=sys.stderr)  # noqa: T201
        return 1
    columns, panels = int(arguments[0]), int(arguments[1])
    source, output, index_path, info_path = (Path(argument) for argument in arguments[7:])
    fractals = np.fromfile(source, np.int8)
    if fractals.size != columns * panels * 512:
        print("Invalid shape", file=sys.stderr)  # noqa: T201
        return 4
    weight = from_nz(fractals.reshape(columns, panels, 16, 32), panels * 16, columns * 32)
    x2, index, _ = _native.encode(weight)
    if mode == "device":
        x2 = x2[::-1].copy()
    if mode == "silent":
        return 0
    x2.tofile(output)
    (index[:-8] if mode == "index" else index).tofile(index_path)
    numbers = [8, 4 if mode == "tiles" else 8, x2.size + (1 if mode == "length" else 0)]
    np.array(numbers[: 2 if mode == "info" else 3], np.uint32).tofile(info_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
