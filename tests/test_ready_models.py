"""The small models of models/small: the files that its README describes, compressed and brought back."""

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from samples import ROOT

import mcd_graph

SMALL = ROOT / "models" / "small"
ROWS = {
    name: (int(size), digest)
    for name, size, digest in re.findall(
        r"^\| `([\w.]+)` \| (\d+) \|.*\| `([0-9a-f]{64})` \|$", (SMALL / "README.md").read_text(), re.MULTILINE
    )
}
OPERATORS = {
    "dynamic.onnx": {"DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Add"},
    "qdq.onnx": {"QuantizeLinear", "DequantizeLinear", "MatMul"},
    "qoperator.onnx": {"QLinearMatMul", "QLinearAdd"},
}


def int8_weights(path: Path) -> dict[tuple[int, ...], bytes]:
    """Return the bytes of the int8 matrices of a model by their shapes, which all differ."""
    arrays = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    return {array.shape: array.tobytes() for array in arrays}


def test_every_file_is_described() -> None:
    assert set(ROWS) == set(OPERATORS) == {path.name for path in SMALL.glob("*.onnx")}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_file_is_the_one_described(name: str) -> None:
    content = (SMALL / name).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == ROWS[name]
    assert len(content) < 60_000
    assert {node.op_type for node in onnx.load(SMALL / name).graph.node} >= OPERATORS[name]


@pytest.mark.parametrize("name", OPERATORS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    compressed, restored = tmp_path / "model.mcd.onnx", tmp_path / "restored.onnx"
    report = mcd_graph.compress_model(SMALL / name, compressed)
    assert (report.totals.lowered, report.totals.kept) == (2, 0)
    assert report.totals.file_bytes_after is not None
    assert report.totals.file_bytes_after < report.totals.file_bytes_before
    assert mcd_graph.verify_model(SMALL / name, compressed).identical
    assert mcd_graph.restore_model(compressed, restored).restored == 2
    assert mcd_graph.verify_model(SMALL / name, restored).identical
    assert int8_weights(restored) == int8_weights(SMALL / name)


def test_the_script_makes_these_weights(tmp_path: Path) -> None:
    """Not these bytes: scales that were calibrated are a float kernel's, and may differ between processors."""
    pytest.importorskip("sympy")  # onnxruntime's quantisation imports it
    spec = importlib.util.spec_from_file_location("make_small", SMALL / "make.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = script.make(tmp_path)
    assert [path.name for path in paths] == list(OPERATORS)
    for path in paths:
        made, kept = int8_weights(path), int8_weights(SMALL / path.name)
        assert set(made) == set(kept) == {(script.K, script.HIDDEN), (script.HIDDEN, script.N)}
        for shape, content in kept.items():
            steps = np.frombuffer(made[shape], np.int8).astype(int) - np.frombuffer(content, np.int8)
            assert abs(steps).max() <= 1  # a rounding may differ between versions
            assert np.count_nonzero(steps) < 0.001 * steps.size
