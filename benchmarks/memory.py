"""Memory of one, four and sixteen processes on one model, and the time to open it, cold and warm.

    python benchmarks/memory.py [--workloads layers-16x4096,t5-encoder] [--processes 1,4,16] [--turns 5]
                                [--contestants onnxruntime,unpacked,saved,auto,shared,compressed,decoded]
                                [--json RECORD [--resume]] [--cache DIR]
    python benchmarks/memory.py --table RECORD

Contestants are those of benchmarks/sessions.py: onnxruntime on the original at default settings, its two ways to save
memory, and the compressed model by residency. Each figure comes from fresh processes with default settings that open
the model, run it once, and read their own /proc/self/smaps_rollup while all hold it open; what was there before is
subtracted. Anonymous memory is what no file backs; proportional memory (PSS) splits shared pages among those who map
them. Both are sums over the processes.

Opening is from before the session is created until it is ready, and the first run is told beside it: what is put off
is not saved. Medians of processes in turns. Cold: the model's files were dropped from the page cache before
(posix_fadvise), and it was checked that they are not there; onnxruntime and Python themselves are warm.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import onnxruntime as ort
import tables
import workloads
from entries import AGAIN, BASE, CONTESTANTS, OPENVINO, Entry, read
from matmul import append, processor
from page_cache import cached_pages

from mcd_graph.contestants import Contestant, stored
from mcd_graph.model.source import size_of

NAMES = (BASE, *(name for name in CONTESTANTS if name not in (AGAIN, OPENVINO)))
FIGURES = {"anonymous_bytes": "Anonymous", "proportional_bytes": "Pss", "resident_bytes": "Rss"}


def drop(files: Iterable[Path]) -> None:
    """Drop files from the page cache, and make sure that they are gone."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            there = cached_pages(file)
        if there:
            raise SystemExit(f"{path}: {there} pages stay in the page cache; does somebody map it?")


def held(entry: Entry, name: str, processes: int, feed: Path) -> dict[str, Any]:
    """What so many processes take that hold a model together."""
    with contextlib.ExitStack() as stack:
        group: list[Contestant] = [stack.enter_context(entry.contestant(name, 0)) for _ in range(processes)]
        for one in group:
            one.opened()
        for one in group:
            one.run_once(feed)
        added = [one.memory() for one in group]
    return {figure: sum(one[field] for one in added) for figure, field in FIGURES.items()}


def opening(entry: Entry, name: str, feed: Path, *, cold: bool) -> tuple[float, float]:
    """Milliseconds that a fresh process takes to open a model, and for its first run."""
    model = entry.model(name)
    if cold:
        drop([model, *model.parent.glob(f"{model.name}*data")])
    with entry.contestant(name, 0) as one:
        return one.opened() * 1e3, one.run_once(feed) * 1e3


def measured(entry: Entry, names: list[str], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of one model."""
    _, feed = next(entry.workload.feeds(entry.original))
    with stored(feed) as path:
        times: dict[tuple[str, bool], list[tuple[float, float]]] = {}
        for _ in range(arguments.turns):
            for name in names:
                for cold in (True, False):
                    times.setdefault((name, cold), []).append(opening(entry, name, path, cold=cold))
        for (name, cold), pairs in times.items():
            opened, first = (statistics.median(column) for column in zip(*pairs, strict=True))
            row = {"benchmark": "opening", "contestant": name, "cold": cold, "open_ms": opened, "first_run_ms": first}
            yield row | {"raw_ms": pairs}
        for processes in map(int, arguments.processes.split(",")):
            for name in names:
                found = {"file_bytes": size_of(entry.model(name)), **held(entry, name, processes, path)}
                yield {"benchmark": "memory", "contestant": name, "processes": processes, **found}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="layers-16x4096,t5-encoder")
    parser.add_argument("--contestants", default=",".join(NAMES))
    parser.add_argument("--processes", default="1,4,16")
    parser.add_argument("--profile", default="balanced", choices=["fast", "balanced", "small"])
    parser.add_argument("--turns", type=int, default=5, help="openings of each, cold and warm")
    parser.add_argument("--cache", type=Path, default=workloads.CACHE, help="where models are kept")
    parser.add_argument("--json", type=Path, help="the record to add rows to")
    parser.add_argument("--resume", action="store_true", help="leave out the models that the record has")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print a record, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(tables.memory(read(arguments.table))))
        return
    workloads.CACHE = arguments.cache
    print(f"{processor()}, onnxruntime {ort.__version__}, profile {arguments.profile}")
    there = read(arguments.json) if arguments.resume else []
    for name in arguments.workloads.split(","):
        if tables.matching(there, benchmark="memory", workload=name, profile=arguments.profile):
            continue
        with tempfile.TemporaryDirectory() as text:
            workload = workloads.WORKLOADS[name]
            entry = Entry(workload, workload.make(Path(text)), arguments.profile, Path(text))
            common = {"date": date.today().isoformat(), "profile": arguments.profile, "workload": name}
            rows = [common | row for row in measured(entry, arguments.contestants.split(","), arguments)]
        if arguments.json:
            append(arguments.json, rows)
        print("\n".join(tables.memory(rows)), flush=True)


if __name__ == "__main__":
    main()
