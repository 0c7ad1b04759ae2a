"""What is read of a model's files when a session is created: headers, indexes. How the rest is read, and given back."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
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


def mappings(file: Path, field: str) -> Iterator[list[str]]:
    """Give what the system says in a field of each mapping of a file."""
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith(f"{field}:"):
            yield line.split()[1:]


def may_be_large_pages(file: Path) -> int:
    """Return how many mappings of a file the system was told to have in large pages."""
    return sum("hg" in flags for flags in mappings(file, "VmFlags"))


def resident(file: Path) -> int:
    """Return how many bytes of a file this process has in memory."""
    return sum(int(size) << 10 for size, _ in mappings(file, "Rss"))


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


@pytest.mark.skipif(not os.access("/proc/self/pagemap", os.R_OK), reason="this system does not say what pages are")
@pytest.mark.parametrize("verify", ["use", "load"])
def test_pages_of_what_is_decoded_are_given_back(tmp_path: Path, verify: str) -> None:
    model(tmp_path / "model.onnx")
    mcd_graph.compress_model(tmp_path / "model.onnx", tmp_path / "model.mcd.onnx")
    data, x = tmp_path / "model.mcd.onnx_data", np.arange(SIZE, dtype=np.uint8)[None]
    expected = ort.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})[0]

    def opened(residency: str) -> tuple[mcd_graph.InferenceSession, int]:
        options = ort.SessionOptions()
        options.add_session_config_entry("mcd.verify", verify)
        session = mcd_graph.InferenceSession(tmp_path / "model.mcd.onnx", options, residency=residency)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
        return session, resident(data)

    # Of a weight, the pages at both ends stay, and those that its header was read from may be read again.
    few = 4 * LAYERS * os.sysconf("SC_PAGE_SIZE")
    first, left = opened("decoded")
    assert left < few
    # Another session compares all bytes with what is decoded already.
    second, left = opened("decoded")
    assert left < few
    third, left = opened("compressed")
    assert left > few
    for session in (first, second, third):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
