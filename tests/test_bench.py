"""bench_models measures what it says; how fast anything is, is not for a test to judge."""

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from lowering import make_model
from samples import K, N, gaussian_weight, layer, write

from mcd_graph import InputError, compress_model
from mcd_graph.bench import bench_models, interleaved
from mcd_graph.contestants import Contestant, Ready, Setup
from mcd_graph.footprint import can_measure, measure_footprints
from mcd_graph.session import create_session
from mcd_graph.system import allowed_processors


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the processes of their own, a second each."""
    monkeypatch.setattr("mcd_graph.bench.can_measure", lambda: False)


class Spied(Contestant):
    """A contestant whose bursts, and the shapes of its inputs, are recorded."""

    calls: ClassVar[list[tuple[str, tuple[tuple[int, ...], ...]]]]

    def load(self, feed: Path) -> Ready:
        with np.load(feed) as file:
            self._shapes = tuple(file[name].shape for name in file)
        return super().load(feed)

    def burst(self, runs: int, processor: int | None = None) -> list[float]:
        self.calls.append((self.name, self._shapes))
        return super().burst(runs, processor)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Record which contestant runs with which shapes."""
    monkeypatch.setattr("mcd_graph.bench.Process", Spied)
    monkeypatch.setattr("mcd_graph.contestants.BURST", 0.0)
    Spied.calls = []
    return Spied.calls


@pytest.mark.usefixtures("without_memory")
def test_m_is_the_length_and_sessions_take_turns(model: Path, calls: list) -> None:
    steps: list[tuple[int, int]] = []
    result = bench_models(model, m=(5, 2), threads=(1,), repeats=4, progress=lambda *step: steps.append(step))
    assert [(row.m, row.threads, row.repeats) for row in result.rows] == [(5, 1, 4), (2, 1, 4)]
    assert {shapes[0] for _, shapes in calls} == {(1, 5), (1, 2)}
    sessions = [name for name, shapes in calls if shapes[0] == (1, 5)]
    first, second = sessions[:2]
    assert first != second
    # Where processors can be chosen, each is first on two of them before the order is turned round.
    of_four = [first, second] * 2 + [second, first] * 2 if allowed_processors() else [first, second, second, first] * 2
    assert sessions == of_four
    for row in result.rows:
        assert 0 < row.speedup_low <= row.speedup <= row.speedup_high
        assert row.identical
    assert steps == [(done, 10) for done in range(1, 11)]
    assert [one.footprints for one in result.contestants] == [(), ()]


@pytest.mark.usefixtures("without_memory")
def test_m_is_the_batch_where_there_is_no_length(tmp_path: Path, calls: list) -> None:
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    proto = make_model(
        layer("x", "w", "y"), {"x": (np.float32, ("batch", K))}, {"y": (np.float32, ("batch", N))}, constants
    )
    bench_models(write(proto, tmp_path / "m.onnx"), m=(7,), threads=(1,), repeats=1)
    assert {shapes for _, shapes in calls} == {((7, K),)}


@pytest.mark.usefixtures("without_memory")
def test_shapes_by_the_models_own_axes(model: Path, calls: list) -> None:
    result = bench_models(model, axes=({"batch": 3, "length": 4},), threads=(1,), repeats=1)
    assert {shapes[0] for _, shapes in calls} == {(3, 4)}
    (row,) = result.rows
    assert (row.m, row.shape) == (None, "batch = 3, length = 4")
    with pytest.raises(InputError, match=r"lacks length: the axes are batch, length"):
        bench_models(model, axes=({"batch": 3},))


@pytest.mark.usefixtures("without_memory")
def test_a_model_without_free_axes_is_measured_once(tmp_path: Path) -> None:
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    proto = make_model(layer("x", "w", "y"), {"x": (np.float32, (2, K))}, {"y": (np.float32, (2, N))}, constants)
    result = bench_models(write(proto, tmp_path / "m.onnx"), m=(1, 8), threads=(1,), repeats=1)
    assert [(row.m, row.shape) for row in result.rows] == [(None, "fixed")]


@pytest.mark.usefixtures("without_memory")
def test_residencies_and_ways_of_onnxruntime_are_contestants(model: Path) -> None:
    result = bench_models(
        model,
        residencies=("compressed", "decoded"),
        alternatives=("unpacked", "saved"),
        m=(2,),
        threads=(0,),
        repeats=1,
    )
    others = ["original, unpacked", "original, saved", "balanced, compressed", "balanced, decoded"]
    assert [one.name for one in result.contestants] == ["original", *others]
    assert [(row.contestant, row.threads_used, row.identical) for row in result.rows] == [
        (name, "default", True) for name in others
    ]
    assert all(one.file_bytes > 0 for one in result.contestants)


@pytest.mark.usefixtures("without_memory")
def test_an_original_that_ends_its_process_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = Setup.command

    def command(setup: Setup) -> list[str]:
        ends = [sys.executable, "-P", "-c", "import os; os.abort()"]
        return ends if setup.model == str(model) else dies(setup)

    monkeypatch.setattr(Setup, "command", command)
    with pytest.raises(InputError, match=r"^original ended its process \(SIGABRT\)"):
        bench_models(model, m=(1,), threads=(1,), repeats=1)


@pytest.mark.usefixtures("without_memory")
def test_profiles_are_contestants(model: Path) -> None:
    result = bench_models(model, profiles=("fast", "small"), m=(2,), threads=(1,), repeats=1)
    assert [one.name for one in result.contestants] == ["original", "fast", "small"]
    assert [row.contestant for row in result.rows] == ["fast", "small"]


@pytest.mark.parametrize("options", [{"m": (0,)}, {"threads": (-1,)}, {"repeats": 0}, {"axes": ({"a": 0},)}], ids=str)
def test_numbers_must_be_positive(model: Path, options: dict) -> None:
    with pytest.raises(InputError, match=r"(m, axes and repeats|threads) must be at least 1"):
        bench_models(model, **options)


def test_a_model_that_does_not_run_is_an_error_that_says_what_to_try(model: Path) -> None:
    feed = {"ids": np.full((1, 2), 10**6), "mask": np.ones((1, 2), np.int64)}  # beyond the table
    with pytest.raises(InputError, match=r"does not run on random inputs \(ids \(1, 2\), mask \(1, 2\)\); try --axes"):
        interleaved([create_session(model)], feed, repeats=1)


@pytest.mark.skipif(not can_measure(), reason="the system does not tell a process about its memory")
def test_footprints_come_from_other_processes_that_hold_the_model_together(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    feed = {"ids": np.ones((1, 2), np.int64), "mask": np.ones((1, 2), np.int64)}
    footprints = measure_footprints(out / "m.onnx", feed, processes=2)
    assert len(footprints) == 2
    for one in footprints:
        assert one.load_ms > 0
        assert 0 < one.private_bytes <= one.resident_bytes
        assert one.proportional_bytes <= one.resident_bytes
    with pytest.raises(InputError, match=r"measuring in a process of its own failed: .*No such file"):
        measure_footprints(out / "gone.onnx", feed)
