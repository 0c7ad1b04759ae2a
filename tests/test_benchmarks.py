"""The benchmarks of sessions and memory write one record, and go on where they were ended; tables say what it has."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from samples import ROOT

from mcd_graph.contestants import OPENINGS

FEED = {"ids": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), np.int64)}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, model: Path) -> ModuleType:
    """The scripts of the folder, with one workload: a small model."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    workloads = importlib.import_module("workloads")

    def feeds(_: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        yield "1x3", FEED

    small = workloads.Workload("small", lambda _: model, feeds)
    monkeypatch.setattr(workloads, "WORKLOADS", {"small": small})
    monkeypatch.setattr(workloads, "AT_ONCE", {"small": "1x3"})
    monkeypatch.setattr("mcd_graph.contestants.BURST", 0.0)
    return workloads


def script(name: str) -> ModuleType:
    """A script by its file: the tests have helpers of the same names."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    module = script(name)
    if name == "sessions":
        monkeypatch.setattr(module, "rate_of", lambda group: float(len(group)))
    module.main()


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.slow
def test_sessions_and_memory_fill_one_record_and_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "r.jsonl"
    own = ("--workloads", "small", "--json", record, "--resume", "--cache", tmp_path)
    sessions = ("sessions", *own, "--contestants", "auto,unpacked", "--threads", "1", "--seconds", "0.001")
    memory = ("memory", *own, "--contestants", "onnxruntime,auto", "--processes", "1,2", "--turns", "1")
    run(monkeypatch, *sessions)
    run(monkeypatch, *memory)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    kinds = [row["benchmark"] for row in rows]
    assert kinds == ["sessions"] * 2 + ["throughput"] * 2 + ["opening"] * 4 + ["memory"] * 4
    assert {row["contestant"] for row in rows[:4]} == {"auto", "unpacked"}
    for row in rows[:2]:
        assert row["identical"]
        assert row["quartiles"][0] <= row["speedup"] <= row["quartiles"][1]
        assert len(row["openings"]) == OPENINGS
        assert min(row["openings"]) <= row["speedup"] <= max(row["openings"])
    assert all(row["processes"] == len(os.sched_getaffinity(0)) for row in rows[2:4])
    assert all(row["open_ms"] > 0 and row["first_run_ms"] > 0 for row in rows[4:8])
    assert all(row["anonymous_bytes"] > 0 and row["file_bytes"] > 0 for row in rows[8:])

    monkeypatch.setattr("mcd_graph.contestants.Contestant.__init__", lambda *_: pytest.fail("there is nothing to do"))
    run(monkeypatch, *sessions)
    run(monkeypatch, *memory)
    assert [json.loads(line) for line in record.read_text().splitlines()] == rows

    capsys.readouterr()
    run(monkeypatch, "sessions", "--table", record)
    run(monkeypatch, "memory", "--table", record)
    printed = capsys.readouterr().out
    assert "| small | 1x3 | 1 | " in printed
    assert f"| small | 1x3 | {len(os.sched_getaffinity(0))} processes of 1 | " in printed
    assert "| small | auto | " in printed


def test_builds_are_compared_on_the_threads_of_a_process() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "builds.py", "installed", "--workloads", "chain-16"]
    command += ["--threads", "2", "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["chain-16", "1"], ["chain-16", "16"]]
    assert all(float(row[4]) > 0 for row in rows)
    assert "OTHER BYTES" not in done.stdout
    assert "EP Error" not in done.stdout + done.stderr  # what onnxruntime says before it takes other threads


@pytest.mark.usefixtures("benchmarks")
def test_what_is_dropped_from_the_page_cache_is_gone(tmp_path: Path) -> None:
    memory = script("memory")
    path = tmp_path / "data"
    path.write_bytes(os.urandom(3 << 20))
    with path.open("rb") as file:
        if not memory.cached_pages(file):
            pytest.skip("the file system keeps nothing")
        memory.drop([path])
        assert memory.cached_pages(file) == 0


@pytest.mark.usefixtures("benchmarks")
def test_the_verdict_counts_last_rows_and_names_the_slowest() -> None:
    speedups = importlib.import_module("speedups")
    row = {"benchmark": "sessions", "workload": "w", "shape": "1", "threads": 1, "contestant": "auto"}
    of = {"1": 1.2, "8": 0.97, "64": 0.99}
    rows = [row | {"shape": shape, "speedup": it, "openings": [it - 0.02, it + 0.02]} for shape, it in of.items()]
    rows.insert(0, rows[0] | {"speedup": 0.1})
    rows.append(row | {"shape": "8", "threads": 0, "speedup": 0.9, "openings": [0.89, 0.91]})
    rows.append(row | {"benchmark": "throughput", "speedup": 0.1})
    (line,) = speedups.verdict(rows)
    assert "2 of 4 rows at 0.98" in line
    assert "1 at 1.05" in line
    assert "1 below 0.98 in each opening" in line
    assert "slowest 0.900 (w 8, threads: default)" in line
    (line,) = speedups.verdict([row | {"speedup": 0.9}])
    assert "opening" not in line


@pytest.mark.usefixtures("benchmarks")
def test_tables_take_the_last_row_and_mark_other_bytes() -> None:
    tables = importlib.import_module("tables")
    row = {"benchmark": "sessions", "workload": "w", "shape": "1", "threads": 0, "profile": "balanced"}
    row |= {"contestant": "auto", "onnxruntime_ms": 1.0, "quartiles": [1.0, 1.5]}
    lines = list(tables.sessions([row | {"speedup": 9.0}, row | {"speedup": 1.25, "identical": False}]))
    assert lines[2:] == ["| w | 1 | default | 1 ms | 1.25 (1.00 to 1.50) * |"]
    headline = list(tables.headline([row | {"workload": tables.HEADLINE, "speedup": 1.25, "date": "today"} | MACHINE]))
    assert "| speed-up, 1 tokens, default threads | 1 |  |  | 1.25 (1.00 to 1.50) |  |  |" in headline
    assert headline[-1] == "Measured today on a processor, onnxruntime 1.0."


MACHINE = {"processor": "a processor", "onnxruntime": "1.0"}
