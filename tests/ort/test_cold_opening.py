"""What is read of a model's files when a session is created: headers and indexes. How the rest is read."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcd_graph

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LAYERS, SIZE = 3, 1024


def model(path: Path, layers: int = LAYERS, size: int = SIZE) -> None:
    """Write layers whose weights hardly compress: files of some size are made soon."""
    rng = np.random.default_rng(0)
    nodes, initializers, x = [], [], "x"
    for i in range(layers):
        weight = rng.normal(0, 25, (size, size)).clip(-127, 127).astype(np.int8)
        initializers.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMulInteger", [x, f"w{i}"], [f"y{i}"]))
        nodes.append(helper.make_node("Cast", [f"y{i}"], [f"z{i}"], to=TensorProto.UINT8))
        x = f"z{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "layers", [value("x", TensorProto.UINT8, ["m", size])], [value(x, TensorProto.UINT8, ["m", size])],
        initializers,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(made.SerializeToString())


def may_be_large_pages(file: Path) -> int:
    """Return how many mappings of a file the system was told to have in large pages."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith("VmFlags:"):
            found += "hg" in line.split()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell otherwise what is in their page cache")
def test_opening_reads_headers_and_indexes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    cached_pages = importlib.import_module("page_cache").cached_pages
    model(tmp_path / "model.onnx")
    mcd_graph.compress_model(tmp_path / "model.onnx", tmp_path / "model.mcd.onnx")
    with (tmp_path / "model.mcd.onnx_data").open("rb") as data:
        os.fsync(data.fileno())
        os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_pages(data):
            pytest.skip("this file system keeps what it was asked to drop")
        session = mcd_graph.InferenceSession(tmp_path / "model.mcd.onnx")
        # A header, an index and an end may lie in two pages each.
        assert 0 < cached_pages(data) <= 6 * LAYERS
        session.run(None, {"x": np.ones((1, SIZE), np.uint8)})
        assert cached_pages(data) > 6 * LAYERS


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no large pages")
def test_weights_are_read_by_large_pages(tmp_path: Path) -> None:
    model(tmp_path / "model.onnx", layers=1, size=2560)
    mcd_graph.compress_model(tmp_path / "model.onnx", tmp_path / "model.mcd.onnx")
    session = mcd_graph.InferenceSession(tmp_path / "model.mcd.onnx")
    assert may_be_large_pages(tmp_path / "model.mcd.onnx_data") == 0
    session.run(None, {"x": np.ones((1, 2560), np.uint8)})
    assert may_be_large_pages(tmp_path / "model.mcd.onnx_data") == 1
