"""Times models against the original, in turns, so that a busy machine slows all alike.

Absolute times on a shared machine say little. So all sessions take turns within each repetition, and what is reported
beside the medians is their ratio, with an interval that the same measurement would fall into 95 times of 100 (by
resampling the turns). Memory and the time to open a session come from processes of their own, also in turns.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mcd_graph.codec.weights import Profile
from mcd_graph.compress import compress_model
from mcd_graph.errors import InputError
from mcd_graph.footprint import Footprint, can_measure, measure_footprints
from mcd_graph.inputs import InputSpec, bind_dimensions, input_specs, random_inputs
from mcd_graph.machine import Machine, this_machine
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import size_of
from mcd_graph.session import create_session

__all__ = ["SCHEMA_VERSION", "Bench", "BenchRow", "Contestant", "bench_models", "interleaved"]

SCHEMA_VERSION = 1

_RESAMPLES = 1000
_MEMORY_TURNS = 3

Arrays = Mapping[str, npt.NDArray[np.generic]]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One measurement: a compressed model against the original on inputs of one shape.

    Attributes:
        contestant: name of the compressed model.
        m: rows of the activations: batch 1 with this length, or this batch where the model has no other dimension;
            ``None`` where dimensions were given one by one, or the model has none to choose.
        dimensions: what each symbol in the inputs' shapes stood for.
        threads: threads within one operator.
        repeats: timed calls of each model.
        original_ms: median time of a call of the original, in milliseconds.
        compressed_ms: median time of a call of the compressed model.
        speedup: the first over the second; above 1 the compressed model is faster.
        speedup_low: lower end of the ratio's 95 % interval.
        speedup_high: its upper end.
    """

    contestant: str
    m: int | None
    dimensions: dict[str, int]
    threads: int
    repeats: int
    original_ms: float
    compressed_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float

    @property
    def shape(self) -> str:
        """The shape in a few words."""
        if self.m is not None:
            return f"m = {self.m}"
        return ", ".join(f"{name} = {size}" for name, size in self.dimensions.items()) or "fixed"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A benchmarked model.

    Attributes:
        name: ``original``, the profile it was made with, or its file's name.
        file_bytes: size of the model with its external data.
        footprints: memory and opening times, one for each process that was measured; empty where the system does not
            tell.
    """

    name: str
    file_bytes: int
    footprints: tuple[Footprint, ...]

    def median(self, figure: str) -> float:
        """Return the median of one of the footprints' figures, by the name of its attribute."""
        return float(np.median([getattr(footprint, figure) for footprint in self.footprints]))


@dataclasses.dataclass(frozen=True)
class Bench:
    """A comparison.

    Attributes:
        machine: what it ran on.
        contestants: the models, the original first.
        rows: the timings, for each shape, number of threads and compressed model.
    """

    machine: Machine
    contestants: tuple[Contestant, ...]
    rows: tuple[BenchRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, with the version of its layout."""
        return {"schema": "mcd-bench", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def bench_models(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str] | None = None,
    *,
    profiles: Sequence[Profile] = ("balanced",),
    m: Sequence[int] = (1, 8, 64, 512),
    axes: Sequence[Mapping[str, int]] = (),
    threads: Sequence[int] = (1, 2),
    repeats: int = 15,
    seed: int = 0,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    progress: Progress | None = None,
) -> Bench:
    """Compare models on the same random inputs, onnxruntime's optimisations on.

    Args:
        original: path of a model.
        compressed: path of the compressed one; made in a temporary directory by default.
        profiles: what to make then, each a contestant.
        m: rows of the activations.
        axes: numbers for the symbols in the inputs' shapes, one shape each, instead of ``m``.
        threads: numbers of threads.
        repeats: timed calls of each.
        seed: seed of the inputs.
        custom_ops: libraries of other operators that the models need.
        progress: called with the number of steps done and of all steps, from this thread.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: a model does not run on random inputs, an argument is not positive, or there is no such axis.
    """
    if repeats < 1 or any(number < 1 for number in (*m, *threads, *(n for each in axes for n in each.values()))):
        raise InputError("m, axes, threads and repeats must be at least 1")
    if not threads or not (m or axes):
        raise InputError("give at least one number of threads and one m")
    rng = np.random.default_rng(seed)
    with contextlib.ExitStack() as stack:
        specs = input_specs(load_model(original))
        shapes = _shapes(specs, m, axes)
        paths = {"original": Path(original)}
        if compressed is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for profile in profiles:
                paths[profile] = folder / f"{profile}.mcd.onnx"
                compress_model(original, paths[profile], profile=profile, verify=False)
        else:
            paths[Path(compressed).name] = Path(compressed)
        feeds = [random_inputs(specs, bound, rng) for _, bound in shapes]
        turns = _MEMORY_TURNS if can_measure() else 0
        step = _counter(progress, len(threads) * len(shapes) * (repeats + 1) + turns * len(paths))
        rows = []
        for count in threads:
            sessions = {
                name: create_session(path, threads=count, spin=False, custom_ops=custom_ops)
                for name, path in paths.items()
            }
            for (rows_m, bound), feed in zip(shapes, feeds, strict=True):
                times = interleaved(list(sessions.values()), feed, repeats=repeats, step=step)
                for index, name in enumerate(sessions):
                    if index:
                        rows.append(
                            _row(times[[0, index]], rng, contestant=name, m=rows_m, dimensions=bound, threads=count)
                        )
            del sessions  # before other processes compete with their threads
        footprints: dict[str, list[Footprint]] = {name: [] for name in paths}
        for _ in range(turns):
            for name, path in paths.items():
                footprints[name] += measure_footprints(path, feeds[0], custom_ops=custom_ops)
                step()
        contestants = tuple(Contestant(name, size_of(path), tuple(footprints[name])) for name, path in paths.items())
    return Bench(this_machine(), contestants, tuple(rows))


def interleaved(
    sessions: Sequence[ort.InferenceSession],
    feed: Arrays,
    *,
    repeats: int,
    seconds: float = 0.0,
    step: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """Time sessions in turns, after an untimed turn that warms caches and pools.

    Args:
        sessions: the contestants.
        feed: their inputs, by name.
        repeats: turns to take at least.
        seconds: take further ones until this time is up.
        step: called after each turn.

    Returns:
        The times of all calls in milliseconds, of shape (sessions, turns).

    Raises:
        InputError: a session does not run on the inputs.
    """
    for session in sessions:
        try:
            session.run(None, dict(feed))
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in feed.items())
            reason = " ".join(str(error).split())
            raise InputError(f"the model does not run on random inputs ({shapes}); try --axes: {reason}") from error
    step()
    deadline = time.perf_counter() + seconds
    turns: list[list[float]] = []
    while len(turns) < repeats or time.perf_counter() < deadline:
        taken = [0.0] * len(sessions)
        # The one that goes second finds the caches as the first left them: change places each time.
        order = list(enumerate(sessions))
        for index, session in order if len(turns) % 2 else reversed(order):
            start = time.perf_counter_ns()
            session.run(None, dict(feed))
            taken[index] = (time.perf_counter_ns() - start) / 1e6
        turns.append(taken)
        step()
    return np.array(turns).T


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return a function that counts its calls and reports each."""
    done = itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress(next(done), total)

    return step


def _shapes(
    specs: Sequence[InputSpec], m: Sequence[int], axes: Sequence[Mapping[str, int]]
) -> list[tuple[int | None, dict[str, int]]]:
    """Return each shape to try: the rows it stands for, if any, and what each symbol is."""
    symbols = bind_dimensions(specs, 1, itertools.repeat(1))
    for given in axes:
        missing = [name for name in symbols if name not in given]
        unknown = [name for name in given if name not in symbols]
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] * bool(missing)
            wrong += [f"has {', '.join(unknown)}, which the model has not"] * bool(unknown)
            raise InputError(f"--axes {' and '.join(wrong)}: the axes are {', '.join(symbols) or 'all fixed'}")
    if axes:
        return [(None, dict(given)) for given in axes]
    if not symbols:
        return [(None, {})]
    return [(rows, _dimensions(specs, rows)) for rows in m]


def _dimensions(specs: Sequence[InputSpec], rows: int) -> dict[str, int]:
    """Give the activations ``rows`` rows: batch 1 of that length, or that batch where there is no length."""
    bound = bind_dimensions(specs, 1, itertools.repeat(rows))
    if rows not in bound.values():
        bound = bind_dimensions(specs, rows, itertools.repeat(rows))
    return bound


def _row(
    times: npt.NDArray[np.float64],
    rng: np.random.Generator,
    *,
    contestant: str,
    m: int | None,
    dimensions: dict[str, int],
    threads: int,
) -> BenchRow:
    """Sum up the times of the original and one contestant, of shape (2, turns)."""
    original_ms, compressed_ms = np.median(times, axis=1).tolist()
    low, high = _interval(times, rng)
    return BenchRow(
        contestant=contestant,
        m=m,
        dimensions=dict(dimensions),
        threads=threads,
        repeats=times.shape[1],
        original_ms=original_ms,
        compressed_ms=compressed_ms,
        speedup=original_ms / compressed_ms,
        speedup_low=low,
        speedup_high=high,
    )


def _interval(times: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of medians, by resampling the turns."""
    picks = rng.integers(0, times.shape[1], (_RESAMPLES, times.shape[1]))
    original, compressed = (np.median(times[index][picks], axis=1) for index in (0, 1))
    low, high = np.percentile(original / compressed, [2.5, 97.5])
    return float(low), float(high)
