"""Builds of the library beside each other and onnxruntime, in one process: for finding what a change brings.

    python benchmarks/builds.py LIBRARY [LIBRARY …] [--workloads chain-64,…] [--threads 2] [--seconds 3] [--cache DIR]

What people have is a process for each session (benchmarks/sessions.py), but of two processes on a shared machine one
often has the better processor for seconds. Here all sessions run on the same threads, onnxruntime's pool for a
process, in short turns, so that what disturbs one disturbs all: taken again, ratios move by 1 to 3 %. LIBRARY is the
file of a build, or `installed`. The figure is onnxruntime's time over the build's (a speed-up), the median of the turns
with the quartiles. Outputs are compared first. The library that is opened last came out up to 6 % faster than the same
one opened before it: compare builds in either order.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import workloads
from entries import BASE, Entry
from speedups import summary

import mcd_graph

TURN = 0.02
"""Seconds of a turn, which has three runs at least."""


def made(name: str, cache: Path, folder: Path) -> tuple[Path, Path]:
    """A workload's model and what it becomes; for another process: here, sessions with own threads would be refused."""
    workloads.CACHE = cache
    entry = Entry(workloads.WORKLOADS[name], workloads.WORKLOADS[name].make(folder), "balanced", folder)
    return entry.original, entry.model("auto")


def opened(original: Path, compressed: Path, library: str) -> ort.InferenceSession:
    """A session on the threads of the process; `library` may be onnxruntime alone."""
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    if library != BASE:
        path = mcd_graph.get_library_path() if library == "installed" else str(Path(library).resolve())
        options.register_custom_ops_library(path)
    model = compressed if library != BASE else original
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def turn(session: ort.InferenceSession, feed: workloads.Feed) -> float:
    """Median seconds of the runs of a turn; the first, whose weights another has driven from the caches, is not one."""
    session.run(None, feed)
    times: list[float] = []
    end = time.perf_counter() + TURN
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_turns(sessions: dict[str, ort.InferenceSession], feed: workloads.Feed, seconds: float) -> dict[str, list[float]]:
    """Medians of each session's turns, five at least, in every order."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    orders = itertools.cycle(itertools.permutations(sessions))
    end = time.perf_counter() + seconds * len(sessions)
    while len(times[BASE]) < 5 or time.perf_counter() < end:
        for name in next(orders):
            times[name].append(turn(sessions[name], feed))
    return times


def compare(sessions: dict[str, ort.InferenceSession], feed: workloads.Feed, seconds: float) -> list[str]:
    """A cell for onnxruntime and each build."""
    expected, *others = [[np.asarray(value).tobytes() for value in each.run(None, feed)] for each in sessions.values()]
    times = in_turns(sessions, feed, seconds)
    cells = [f"{statistics.median(times[BASE]) * 1e3:9.4g} ms"]
    for name, outputs in zip(list(sessions)[1:], others, strict=True):
        of = summary([base / own for base, own in zip(times[BASE], times[name], strict=True)])
        low, high = of["quartiles"]
        cell = f"{of['speedup']:.3f} ({low:.2f} to {high:.2f})"
        cells.append(cell if outputs == expected else f"{cell} OTHER BYTES")
    return cells


def run(names: Sequence[str], libraries: Sequence[str], seconds: float) -> None:
    """All workloads."""
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawned) as others:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                models = others.submit(made, name, workloads.CACHE, Path(folder)).result()
                sessions = {library: opened(*models, library) for library in (BASE, *libraries)}
                for shape, feed in workloads.WORKLOADS[name].feeds(models[0]):
                    print(f"{name:<28} {shape:<8}", *compare(sessions, feed, seconds), sep="  ", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="+", metavar="LIBRARY")
    parser.add_argument("--workloads", default=",".join(workloads.ASKED))
    parser.add_argument("--threads", type=int, default=0, help="0: as many as processors")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each build and shape")
    parser.add_argument("--cache", type=Path, default=workloads.CACHE, help="where models are kept")
    arguments = parser.parse_args()
    workloads.CACHE = arguments.cache
    ort.set_global_thread_pool_sizes(arguments.threads, 1)
    run(arguments.workloads.split(","), arguments.libraries, arguments.seconds)


if __name__ == "__main__":
    main()
