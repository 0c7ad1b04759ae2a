"""bench_models measures what it says; how fast anything is, is not for a test to judge."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from lowering import make_model
from samples import K, N, gaussian_weight, layer, write

from mcd_graph import InputError
from mcd_graph.bench import bench_models


def spy(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[int, tuple[int, ...]]]:
    """Record which session runs (by identity) with which shape of input ``name``."""
    calls = []
    run = ort.InferenceSession.run

    def record(self, outputs, feed, options=None):  # type: ignore[no-untyped-def]
        calls.append((id(self), np.shape(feed[name])))
        return run(self, outputs, feed, options)

    monkeypatch.setattr(ort.InferenceSession, "run", record)
    return calls


def test_m_is_the_length_and_sessions_take_turns(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch, "ids")
    rows = list(bench_models(model, m=(5, 2), threads=(1,), repeats=4))
    assert [(row.m, row.threads, row.repeats) for row in rows] == [(5, 1, 4), (2, 1, 4)]
    assert {shape for _, shape in calls} == {(1, 5), (1, 2)}
    sessions = [session for session, shape in calls if shape == (1, 5)]
    first, second = sessions[:2]
    assert first != second
    assert sessions == [first, second, second, first, first, second, second, first, first, second]
    for row in rows:
        assert row.speedup == row.original_ms / row.compressed_ms
        assert 0 < row.speedup_low <= row.speedup_high
        assert min(row.original_load_ms, row.compressed_load_ms) > 0


def test_m_is_the_batch_where_there_is_no_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    proto = make_model(
        layer("x", "w", "y"), {"x": (np.float32, ("batch", K))}, {"y": (np.float32, ("batch", N))}, constants
    )
    calls = spy(monkeypatch, "x")
    list(bench_models(write(proto, tmp_path / "m.onnx"), m=(7,), threads=(1,), repeats=1))
    assert {shape for _, shape in calls} == {(7, K)}


@pytest.mark.parametrize("options", [{"m": (0,)}, {"threads": (0,)}, {"repeats": 0}], ids=str)
def test_numbers_must_be_positive(model: Path, options: dict) -> None:
    with pytest.raises(InputError, match="m, threads and repeats must be at least 1"):
        list(bench_models(model, **options))
