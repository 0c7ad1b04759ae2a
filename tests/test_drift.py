"""How far outputs are apart: sums over runs, what is no number, and `mcd verify --strict` on a strict export."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mcd_graph import verify_model
from mcd_graph.ascend import export_model
from mcd_graph.cli import main
from mcd_graph.drift import DriftMeter


def test_runs_are_added_up() -> None:
    meter = DriftMeter("y")
    rng = np.random.default_rng(0)
    runs = [(rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)) for _ in range(3)]
    for ours, theirs in runs:
        meter.add(ours, theirs)
    a, b = (np.concatenate([run[at].reshape(-1) for run in runs]).astype(np.float64) for at in range(2))
    drift = meter.result()
    assert math.isclose(drift.cosine, a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert drift.largest == np.abs(a - b).max()
    assert drift.scale == np.abs(b).max()
    assert drift.values == 36


def test_what_is_equal_and_what_is_no_number() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 2.0])
    meter = DriftMeter("y")
    meter.add(odd, odd)
    assert (meter.result().cosine, meter.result().largest, meter.result().values) == (1, 0, 4)
    meter.add(np.array([np.nan]), np.array([1.0]))
    assert math.isnan(meter.result().cosine)
    nothing = DriftMeter("y")
    nothing.add(["text"], ["text"])
    nothing.add(np.zeros(3), np.zeros(2))
    nothing.add(np.array(["text"]), np.array(["text"]))
    assert nothing.result().values == 0
    assert nothing.result().cosine == 1
    zeros = DriftMeter("y")
    zeros.add(np.ones(2), np.zeros(2))
    assert math.isnan(zeros.result().cosine)


def test_a_strict_export_is_measured(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_model(model, out / "strict", input_shapes={"ids": (2, 7), "mask": (2, 7)})
    strict = out / "strict" / "model.onnx"
    result = verify_model(model, strict, runs=1, measure=True)
    assert result.shapes == ({"ids": (2, 7), "mask": (2, 7)},)  # the sizes that the export takes
    assert not result.identical
    (drift,) = result.drifts
    assert 0.99 < drift.cosine < 1
    assert 0 < drift.largest < drift.scale / 10
    assert main(["verify", str(model), str(strict), "--strict"]) == 0
    printed = capsys.readouterr().out
    assert f"{drift.output}: cosine 0.99" in printed
    assert "largest difference" in printed
    assert "a cosine is below" not in printed
    assert main(["verify", str(model), str(strict), "--strict", "--min-cosine", "1"]) == 1
    assert "a cosine is below 1: mcd ascend export --split-activations rounds less" in capsys.readouterr().out
    assert main(["verify", str(model), str(strict), "--strict", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["drifts"][0]["output"] == drift.output
    assert main(["verify", str(model), str(strict), "--runs", "1"]) == 2  # the original takes other sizes


def test_nothing_is_measured_unasked(model: Path) -> None:
    assert verify_model(model, model, runs=1, threads=[1]).drifts == ()
