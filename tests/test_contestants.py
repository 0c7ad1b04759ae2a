"""Contestants of a benchmark are processes of their own, and what goes wrong in one is a message."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mcd_graph import InputError, compress_model
from mcd_graph.alternatives import ALTERNATIVES, CONFIG, written
from mcd_graph.contestants import ROLLUP, Contestant, Ready, Setup, alternate, shared_out, stored
from mcd_graph.system import allowed_processors

FEED = {"ids": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), np.int64)}


def test_every_way_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    compress_model(model, tmp_path / "m.mcd.onnx")
    setups = {"onnxruntime": Setup(str(model), library=False)}
    for residency in ("auto", "compressed", "decoded"):
        setups[residency] = Setup(str(tmp_path / "m.mcd.onnx"), {"mcd.residency": residency}, threads=1)
    for way in ALTERNATIVES:
        setups[way] = Setup(str(written(way, model, tmp_path)), CONFIG[way], library=False)
    contestants = {name: Contestant(setup.command(), name) for name, setup in setups.items()}
    try:
        with stored(FEED) as path:
            ready = {name: one.load(path) for name, one in contestants.items()}
        assert len({one.digest for one in ready.values()}) == 1
        assert all(one.seconds > 0 and one.first > 0 and one.runs(0.0) == 3 for one in ready.values())
        if ROLLUP.exists():
            assert contestants["auto"].memory()["Anonymous"] > 0
        one = contestants["saved"]
        one.start(0.0)
        assert one.rate() > 0
        assert len(one.burst(3)) == 3
    finally:
        for one in contestants.values():
            one.close()


class Recorded:
    """A contestant that notes its bursts."""

    def __init__(self, name: str, calls: list[tuple[str, int]]) -> None:
        self.name, self.calls = name, calls
        self.processors: list[int | None] = []

    def burst(self, runs: int, processor: int | None) -> list[float]:
        self.processors.append(processor)
        self.calls.append((self.name, runs))
        return [len(self.calls), len(self.calls), 10**6]


def test_turns_alternate_and_each_has_a_burst_of_the_first_beside_it() -> None:
    calls: list[tuple[str, int]] = []
    contestants = {name: Recorded(name, calls) for name in "abcd"}
    ready = dict(zip("abcd", map(Enough, (5, 6, 7, 8)), strict=True))
    pairs = alternate(contestants, ready, threads=0, repeats=2)  # type: ignore[arg-type]
    assert "".join(name for name, _ in calls) == "cbadaabcad"
    assert dict(calls) == {"a": 5, "b": 6, "c": 7, "d": 8}
    assert pairs == {"b": [(3, 2), (6, 7)], "c": [(3, 1), (6, 8)], "d": [(5, 4), (9, 10)]}


def test_turns_go_on_and_bursts_of_several_threads_are_longer() -> None:
    calls: list[tuple[str, int]] = []
    contestants = {name: Recorded(name, calls) for name in "ab"}
    ready = {name: Ready("", 0.001, 0.0) for name in "ab"}
    alternate(contestants, ready, repeats=3, turn=1, threads=0)  # type: ignore[arg-type]
    assert calls == [(name, 150) for name in "abbaab"]
    assert contestants["a"].processors == [None] * 3
    calls.clear()
    alternate(contestants, ready, repeats=1, threads=1)  # type: ignore[arg-type]
    assert calls == [(name, 50) for name in "ba"]


@pytest.mark.skipif(not allowed_processors(), reason="the system does not let choose")
def test_sessions_with_one_thread_run_on_the_same_processor_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcd_graph.contestants.allowed_processors", lambda: [3, 5])
    calls: list[tuple[str, int]] = []
    contestants = {name: Recorded(name, calls) for name in "ab"}
    ready = {name: Ready("", 0.001, 0.0) for name in "ab"}
    alternate(contestants, ready, repeats=6, threads=1)  # type: ignore[arg-type]
    assert "".join(name for name, _ in calls) == "babaababbaba"
    assert contestants["a"].processors == contestants["b"].processors == [3, 5, 3, 5, 3, 5]
    code = "from mcd_graph.contestants import serve; serve(lambda: lambda feed: [])"
    with Contestant([sys.executable, "-P", "-c", code], "one") as one, stored(FEED) as path:
        one.load(path)
        processor = allowed_processors()[-1]
        one.burst(1, processor)
        assert os.sched_getaffinity(one._process.pid) == {processor}


def test_turns_are_shared_out_among_openings() -> None:
    assert shared_out(15) == [3, 3, 3, 3, 3]
    assert shared_out(7) == [2, 2, 1, 1, 1]
    assert shared_out(1) == [1]


class Enough:
    """What a contestant says of how often it runs in a burst."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def runs(self, burst: float) -> int:  # noqa: ARG002
        return self._runs


def test_a_model_that_ends_its_process_is_a_message(tmp_path: Path) -> None:
    for how, said in (("os.abort()", "SIGABRT"), ("sys.exit('no luck')", "no luck"), ("sys.exit(3)", "without output")):
        with (
            Contestant([sys.executable, "-P", "-c", f"import os, sys; {how}"], "original") as one,
            pytest.raises(InputError, match=rf"^original.*{said}"),
        ):
            one.opened()


def test_what_a_library_prints_is_no_answer() -> None:
    script = """
import numpy, os
from mcd_graph.contestants import serve

def run(feed):
    print("running")
    os.system("echo too")
    return [feed["x"] + 1]

serve(lambda: print("opening") or run)
"""
    with (
        Contestant([sys.executable, "-P", "-c", script], "loud") as one,
        stored({"x": np.arange(3)}) as path,
    ):
        assert one.opened() >= 0
        assert one.load(path).digest == hashlib.sha256(np.arange(1, 4).tobytes()).hexdigest()
        assert len(one.burst(2)) == 2


def test_a_model_that_does_not_open_or_run_is_a_message(model: Path, tmp_path: Path) -> None:
    with (
        Contestant(Setup(str(tmp_path / "gone.onnx")).command(), "gone") as one,
        pytest.raises(InputError, match=r"gone.*No such file"),
    ):
        one.opened()
    feed = {"ids": np.full((1, 2), 10**6), "mask": np.ones((1, 2), np.int64)}  # beyond the table
    with (
        Contestant(Setup(str(model)).command(), "original") as one,
        stored(feed) as path,
        pytest.raises(InputError, match=r"original: the model does not run on random inputs \(ids \(1, 2\)"),
    ):
        one.load(path)


def test_a_model_that_onnxruntime_cannot_write_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"m\.onnx: onnxruntime does not write it as 'saved'"):
        written("saved", path, tmp_path)
