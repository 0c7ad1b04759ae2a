"""Times a compressed model against its original, fairly: in one process, in turns, and as a ratio of medians.

Clock rate and neighbours change from second to second, so absolute times of separate runs cannot be compared. Here
the two sessions take turns within each repetition, and what is reported beside the medians is their ratio, with an
interval that the same measurement would fall into 95 times of 100 (by resampling).
"""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mcd_graph.compress import compress_model
from mcd_graph.errors import InputError
from mcd_graph.inputs import InputSpec, bind_dimensions, input_specs, random_inputs
from mcd_graph.loading import load_model
from mcd_graph.session import create_session

__all__ = ["BenchRow", "bench_models"]

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One measurement.

    Attributes:
        m: rows of the activations: batch 1 with this length, or this batch where the model has no other dimension.
        threads: threads within one operator.
        repeats: timed calls of each model.
        original_ms: median time of a call of the original.
        compressed_ms: median time of a call of the compressed model.
        speedup: the first over the second; above 1 the compressed model is faster.
        speedup_low: lower end of the ratio's 95 % interval.
        speedup_high: its upper end.
        original_load_ms: time to open a session of the original.
        compressed_load_ms: time to open one of the compressed model.
    """

    m: int
    threads: int
    repeats: int
    original_ms: float
    compressed_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    original_load_ms: float
    compressed_load_ms: float


def bench_models(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str] | None = None,
    *,
    m: Sequence[int] = (1, 8, 64, 512),
    threads: Sequence[int] = (1, 2),
    repeats: int = 15,
    seed: int = 0,
) -> Iterator[BenchRow]:
    """Time two models on the same random inputs, onnxruntime's optimisations on.

    Args:
        original: path of a model.
        compressed: path of the compressed one; made in a temporary directory by default.
        m: rows of the activations.
        threads: numbers of threads.
        repeats: timed calls of each.
        seed: seed of the inputs.

    Yields:
        A row for each m and number of threads, as it is measured.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: a model does not run on random inputs, or an argument is not positive.
    """
    if repeats < 1 or any(number < 1 for number in (*m, *threads)):
        raise InputError("m, threads and repeats must be at least 1")
    rng = np.random.default_rng(seed)
    with contextlib.ExitStack() as stack:
        if compressed is None:
            compressed = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.mcd.onnx"
            compress_model(original, compressed)
        specs = input_specs(load_model(original))
        feeds = {rows: random_inputs(specs, _dimensions(specs, rows), rng) for rows in m}
        for count in threads:
            sessions, loads = zip(*(_timed_load(path, count) for path in (original, compressed)), strict=True)
            for rows in m:
                times = _interleaved(sessions, feeds[rows], repeats)
                middle = np.median(times, axis=1)
                low, high = _interval(times, rng)
                yield BenchRow(
                    m=rows,
                    threads=count,
                    repeats=repeats,
                    original_ms=float(middle[0]),
                    compressed_ms=float(middle[1]),
                    speedup=float(middle[0] / middle[1]),
                    speedup_low=low,
                    speedup_high=high,
                    original_load_ms=loads[0],
                    compressed_load_ms=loads[1],
                )


def _dimensions(specs: Sequence[InputSpec], rows: int) -> dict[str, int]:
    """Give the activations ``rows`` rows: batch 1 of that length, or that batch where there is no length."""

    def lengths() -> Iterator[int]:
        while True:
            yield rows

    bound = bind_dimensions(specs, 1, lengths())
    if rows not in bound.values():
        bound = bind_dimensions(specs, rows, lengths())
    return bound


def _timed_load(model: str | os.PathLike[str], threads: int) -> tuple[ort.InferenceSession, float]:
    create_session(model, threads=threads)  # brings the files into the page cache
    start = time.perf_counter_ns()
    session = create_session(model, threads=threads)
    return session, (time.perf_counter_ns() - start) / 1e6


def _interleaved(
    sessions: Sequence[ort.InferenceSession], feed: dict[str, npt.NDArray[np.generic]], repeats: int
) -> npt.NDArray[np.float64]:
    """Return the times of all calls in milliseconds, of shape (sessions, repeats)."""
    for session in sessions:
        session.run(None, feed)
    times = np.empty((len(sessions), repeats))
    for repeat in range(repeats):
        # The one that goes second finds the caches as the first left them: change places each time.
        order = list(enumerate(sessions))
        for index, session in order if repeat % 2 else reversed(order):
            start = time.perf_counter_ns()
            session.run(None, feed)
            times[index, repeat] = (time.perf_counter_ns() - start) / 1e6
    return times


def _interval(times: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of medians, by resampling the repetitions."""
    picks = rng.integers(0, times.shape[1], (_RESAMPLES, times.shape[1]))
    original, compressed = (np.median(times[index][picks], axis=1) for index in (0, 1))
    low, high = np.percentile(original / compressed, [2.5, 97.5])
    return float(low), float(high)
