"""What a session adds to a process: memory and the time to open it, each figure from fresh processes.

One process cannot tell: its allocator reuses what an earlier session left, and models share pages in it that separate
programs would not. So each contestant gets processes of its own, which open the model, run it once, and read their
own ``/proc/self/smaps_rollup`` before and after.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcd_graph.contestants import ROLLUP, Contestant, Setup, stored

__all__ = ["Footprint", "can_measure", "footprints_of", "measure_footprints"]


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
    return ROLLUP.exists()


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
        processes: how many hold the model open together.
        custom_ops: libraries of other operators that the model needs.

    Raises:
        InputError: a process failed; the message is its last line.
    """
    libraries = tuple(os.fspath(library) for library in custom_ops)
    setup = Setup(os.fspath(model), threads=threads, custom_ops=libraries)
    with stored(feed) as path:
        return footprints_of([setup] * processes, path)


def footprints_of(setups: Sequence[Setup], feed: Path) -> list[Footprint]:
    """Open models in fresh processes at the same time and measure each while all are open.

    Args:
        setups: one for each process.
        feed: the inputs of all, as :func:`mcd_graph.contestants.stored` wrote them.

    Raises:
        InputError: a process failed, or ended; the message says how.
    """
    with ExitStack() as stack:
        contestants = [stack.enter_context(Contestant(setup.command(), setup.model)) for setup in setups]
        opened = [contestant.opened() for contestant in contestants]
        for contestant in contestants:
            contestant.run_once(feed)
        added = [contestant.memory() for contestant in contestants]
    return [_footprint(one, seconds) for one, seconds in zip(added, opened, strict=True)]


def _footprint(added: Mapping[str, int], seconds: float) -> Footprint:
    return Footprint(
        private_bytes=added["Private_Clean"] + added["Private_Dirty"],
        proportional_bytes=added["Pss"],
        resident_bytes=added["Rss"],
        anonymous_bytes=added["Anonymous"],
        load_ms=seconds * 1e3,
    )
