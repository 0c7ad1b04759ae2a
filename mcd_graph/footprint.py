"""What a session adds to a process: memory and the time to open it, each figure from fresh processes.

One process cannot tell: its allocator reuses what an earlier session left, and models share pages in it that separate
programs would not. So each contestant gets processes of its own, which open the model, run it once, and read their
own ``/proc/self/smaps_rollup`` before and after.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.errors import InputError
from mcd_graph.session import create_session

__all__ = ["Footprint", "can_measure", "measure_footprints"]

_ROLLUP = Path("/proc/self/smaps_rollup")


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What opening a model and running it once added to a process.

    Attributes:
        private_bytes: memory that no other process has mapped: anonymous memory, and pages of files that nobody else
            reads just now.
        proportional_bytes: resident memory, shared pages split among those who map them (PSS).
        resident_bytes: resident memory, shared or not.
        anonymous_bytes: memory that no file backs.
        load_ms: from before the session is created until it is ready, in milliseconds.
    """

    private_bytes: int
    proportional_bytes: int
    resident_bytes: int
    anonymous_bytes: int
    load_ms: float


def can_measure() -> bool:
    """Whether this system tells a process about its memory."""
    return _ROLLUP.exists()


def measure_footprints(
    model: str | os.PathLike[str],
    feed: Mapping[str, npt.NDArray[np.generic]],
    *,
    threads: int = 1,
    processes: int = 1,
    custom_ops: Iterable[str | os.PathLike[str]] = (),
) -> list[Footprint]:
    """Open a model in fresh processes at the same time and measure each while all hold it open.

    Args:
        model: path of a model.
        feed: its inputs, by name.
        threads: threads within one operator.
        custom_ops: libraries of other operators that the model needs.
        processes: how many hold the model open together.

    Raises:
        InputError: a process failed; the message is its last line.
    """
    with ExitStack() as stack:
        inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "feed.npz"
        arrays: dict[str, Any] = {f"feed:{name}": array for name, array in feed.items()}
        np.savez(inputs, **arrays)
        command = [sys.executable, "-P", "-m", __spec__.name, os.fspath(model), str(inputs), str(threads)]
        command += [os.fspath(library) for library in custom_ops]
        children = [stack.enter_context(_child(command)) for _ in range(processes)]
        for child in children:
            _read_line(child)  # ready: the session is open and has run
        return [Footprint(**json.loads(_ask(child))) for child in children]


@contextmanager
def _child(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:  # noqa: S603 - ourselves
        try:
            yield child
        finally:
            if child.stdin is not None:
                child.stdin.close()  # at its end the child leaves


def _ask(child: subprocess.Popen[str]) -> str:
    assert child.stdin is not None  # noqa: S101 - for mypy; it was asked for
    child.stdin.write("measure\n")
    child.stdin.flush()
    return _read_line(child)


def _read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None  # noqa: S101 - as above
    assert child.stderr is not None  # noqa: S101 - as above
    line = child.stdout.readline()
    if not line:
        said = child.stderr.read().strip().splitlines() or ["it exited without output"]
        raise InputError(f"measuring in a process of its own failed: {said[-1]}")
    return line


def _rollup() -> dict[str, int]:
    """Return the fields of this process's memory map in bytes."""
    fields = {}
    for line in _ROLLUP.read_text().splitlines():
        if line.endswith(" kB"):
            name, value = line[:-3].split(":")
            fields[name] = int(value) * 1024
    return fields


def _serve(model: str, inputs: str, threads: int, custom_ops: Sequence[str]) -> None:
    """Be the process that is measured."""
    with np.load(inputs, allow_pickle=False) as file:
        feed = {name.removeprefix("feed:"): file[name] for name in file}
    before = _rollup()
    start = time.perf_counter_ns()
    session = create_session(model, threads=threads, custom_ops=custom_ops)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    session.run(None, feed)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return
    added = {name: value - before.get(name, 0) for name, value in _rollup().items()}
    footprint = Footprint(
        private_bytes=added["Private_Clean"] + added["Private_Dirty"],
        proportional_bytes=added["Pss"],
        resident_bytes=added["Rss"],
        anonymous_bytes=added["Anonymous"],
        load_ms=load_ms,
    )
    sys.stdout.write(json.dumps(dataclasses.asdict(footprint)) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()  # hold the model until the others have been measured too


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
