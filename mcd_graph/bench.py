"""Times models against the original, in turns, so that a busy machine slows all alike.

Absolute times on a shared machine say little. So each model has a process of its own with default settings, they run in
bursts that take turns, and are opened anew several times. What is reported beside the medians is the median of the
ratios of bursts that were beside each other, with an interval that the same measurement would fall into 95 times of 100
(by resampling these pairs).
Memory and the time to open a session come from further processes, also in turns.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mcd_graph.alternatives import CONFIG, written
from mcd_graph.codec.weights import Profile
from mcd_graph.compress import compress_model
from mcd_graph.contestants import Contestant as Process
from mcd_graph.contestants import Setup, alternate, shared_out, stored
from mcd_graph.errors import InputError
from mcd_graph.footprint import Footprint, can_measure, footprints_of
from mcd_graph.inputs import InputSpec, bind_dimensions, input_specs, random_inputs
from mcd_graph.machine import Machine, this_machine
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import size_of

__all__ = ["RESIDENCIES", "SCHEMA_VERSION", "Bench", "BenchRow", "Contestant", "bench_models", "interleaved"]

SCHEMA_VERSION = 1

RESIDENCIES = ("auto", "compressed", "decoded")
"""What the weights of a compressed model can occupy."""

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
        threads: threads within one operator; 0 is onnxruntime's default, all processors.
        repeats: timed bursts of each model.
        original_ms: median time of a call of the original, in milliseconds.
        compressed_ms: median time of a call of the compressed model.
        speedup: the median of the ratios of bursts beside each other, the original's time over the compressed model's;
            above 1 the compressed model is faster.
        speedup_low: lower end of the ratio's 95 % interval.
        speedup_high: its upper end.
        identical: whether the outputs have the same bytes as the original's.
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
    identical: bool = True

    @property
    def threads_used(self) -> str:
        """The threads in a few words."""
        return str(self.threads or "default")

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
        name: ``original``, the profile it was made with, or its file's name; with the residency where there are
            several, or with onnxruntime's way to open the original.
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
    residencies: Sequence[str] = ("auto",),
    alternatives: Sequence[str] = (),
    m: Sequence[int] = (1, 8, 64, 512),
    axes: Sequence[Mapping[str, int]] = (),
    threads: Sequence[int] = (0, 1),
    repeats: int = 15,
    seed: int = 0,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    progress: Progress | None = None,
) -> Bench:
    """Compare models on the same random inputs, each in a process of its own with default settings.

    Args:
        original: path of a model.
        compressed: path of the compressed one; made in a temporary directory by default.
        profiles: what to make then, each a contestant.
        residencies: what weights occupy while a session lives, each a contestant.
        alternatives: other ways of onnxruntime to open the original that are contestants as well, of
            :data:`mcd_graph.alternatives.ALTERNATIVES`.
        m: rows of the activations.
        axes: numbers for the symbols in the inputs' shapes, one shape each, instead of ``m``.
        threads: numbers of threads; 0 is onnxruntime's default.
        repeats: timed bursts of each.
        seed: seed of the inputs.
        custom_ops: libraries of other operators that the models need.
        progress: called with the number of steps done and of all steps, from this thread.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: a model does not run on random inputs, or ends its process; an argument is not positive, or there is
            no such axis.
    """
    if repeats < 1 or any(number < 1 for number in (*m, *(n for each in axes for n in each.values()))):
        raise InputError("m, axes and repeats must be at least 1")
    if any(count < 0 for count in threads):
        raise InputError("threads must be at least 1, or 0 for onnxruntime's default")
    if not threads or not (m or axes):
        raise InputError("give at least one number of threads and one m")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        specs = input_specs(load_model(original))
        shapes = _shapes(specs, m, axes)
        made = _compressed(original, compressed, profiles, Path(folder), custom_ops)
        setups = _setups(original, made, residencies, alternatives, Path(folder))
        libraries = tuple(os.fspath(library) for library in custom_ops)
        setups = {name: dataclasses.replace(setup, custom_ops=libraries) for name, setup in setups.items()}
        feeds = [random_inputs(specs, bound, rng) for _, bound in shapes]
        turns = _MEMORY_TURNS if can_measure() else 0
        step = _counter(progress, len(threads) * len(shapes) * (repeats + 1) + turns * len(setups))
        rows: list[BenchRow] = []
        for count in threads:
            own = {name: dataclasses.replace(setup, threads=count) for name, setup in setups.items()}
            rows += _timed(own, shapes, feeds, repeats=repeats, rng=rng, step=step)
        footprints = _footprints(setups, feeds[0], turns, step)
        contestants = tuple(
            Contestant(name, size_of(Path(setup.model)), tuple(footprints[name])) for name, setup in setups.items()
        )
    return Bench(this_machine(), contestants, tuple(rows))


def _compressed(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str] | None,
    profiles: Sequence[Profile],
    folder: Path,
    custom_ops: Sequence[str | os.PathLike[str]],
) -> dict[str, Path]:
    """Return the compressed models by name, made with each profile where none is given."""
    if compressed is not None:
        return {Path(compressed).name: Path(compressed)}
    made: dict[str, Path] = {}
    for profile in profiles:
        made[profile] = folder / f"{profile}.mcd.onnx"
        compress_model(original, made[profile], profile=profile, verify=False, custom_ops=custom_ops)
    return made


def _setups(
    original: str | os.PathLike[str],
    compressed: Mapping[str, Path],
    residencies: Sequence[str],
    alternatives: Sequence[str],
    folder: Path,
) -> dict[str, Setup]:
    """Return how each contestant opens its model, the original first."""
    setups = {"original": Setup(os.fspath(original))}
    for way in alternatives:
        setups[f"original, {way}"] = Setup(str(written(way, original, folder)), CONFIG[way])
    for name, path in compressed.items():
        for residency in residencies:
            called = name if len(residencies) == 1 else f"{name}, {residency}"
            setups[called] = Setup(str(path), {"mcd.residency": residency})
    return setups


def _timed(
    setups: Mapping[str, Setup],
    shapes: Sequence[tuple[int | None, dict[str, int]]],
    feeds: Sequence[Arrays],
    *,
    repeats: int,
    rng: np.random.Generator,
    step: Callable[[], None],
) -> Iterator[BenchRow]:
    """Let contestants run in turns; yield a row for each shape and each of them but the first."""
    others, threads = list(setups)[1:], next(iter(setups.values())).threads
    times: list[dict[str, list[tuple[float, float]]]] = [{name: [] for name in others} for _ in shapes]
    different: list[set[str]] = [set() for _ in shapes]
    done = 0
    for opening, turns in enumerate(shared_out(repeats)):
        with contextlib.ExitStack() as stack:
            order = list(setups) if opening % 2 else list(setups)[::-1]
            opened = {name: stack.enter_context(Process(setups[name].command(), name)) for name in order}
            running = {name: opened[name] for name in setups}
            for feed, pairs, names in zip(feeds, times, different, strict=True):
                with stored(feed) as path:
                    ready = {name: process.load(path) for name, process in running.items()}
                if not done:
                    step()
                names |= {name for name in others if ready[name].digest != ready["original"].digest}
                more = alternate(running, ready, threads=threads, repeats=turns, turn=done, step=step)
                for name in others:
                    pairs[name] += more[name]
        done += turns
    for (rows_m, bound), pairs, names in zip(shapes, times, different, strict=True):
        for name in others:
            row = _row(np.array(pairs[name]).T * 1e3, rng, contestant=name, m=rows_m, dimensions=bound)
            yield dataclasses.replace(row, threads=threads, identical=name not in names)


def _footprints(
    setups: Mapping[str, Setup], feed: Arrays, turns: int, step: Callable[[], None]
) -> dict[str, list[Footprint]]:
    """Return memory and opening of each contestant, from processes of their own in turns."""
    footprints: dict[str, list[Footprint]] = {name: [] for name in setups}
    with stored(feed) as path:
        for _ in range(turns):
            for name, setup in setups.items():
                footprints[name] += footprints_of([setup], path)
                step()
    return footprints


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
) -> BenchRow:
    """Sum up the times of the original and one contestant, of shape (2, bursts); the threads are to be filled in."""
    original_ms, compressed_ms = np.median(times, axis=1).tolist()
    ratios = times[0] / times[1]
    low, high = _interval(ratios, rng)
    return BenchRow(
        contestant=contestant,
        m=m,
        dimensions=dict(dimensions),
        threads=0,
        repeats=len(ratios),
        original_ms=original_ms,
        compressed_ms=compressed_ms,
        speedup=float(np.median(ratios)),
        speedup_low=low,
        speedup_high=high,
    )


def _interval(ratios: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the median of ratios, by resampling them."""
    picks = rng.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)
