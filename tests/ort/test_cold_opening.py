"""What is read of a model's files when a session is created: a header and an index of each weight, and nothing else."""

import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcd_graph

LAYERS, SIZE = 3, 1024


def model(path: Path) -> None:
    """Write layers whose weights hardly compress: files of some size are made soon."""
    rng = np.random.default_rng(0)
    nodes, initializers, x = [], [], "x"
    for i in range(LAYERS):
        weight = rng.normal(0, 25, (SIZE, SIZE)).clip(-127, 127).astype(np.int8)
        initializers.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMulInteger", [x, f"w{i}"], [f"y{i}"]))
        nodes.append(helper.make_node("Cast", [f"y{i}"], [f"z{i}"], to=TensorProto.UINT8))
        x = f"z{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "layers", [value("x", TensorProto.UINT8, ["m", SIZE])], [value(x, TensorProto.UINT8, ["m", SIZE])],
        initializers,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(made.SerializeToString())


def cached_pages(file: BinaryIO) -> int:
    """Pages of a file that are in memory. To ask by reading would have the system read ahead."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.empty(-(-view.size // mmap.PAGESIZE), np.uint8)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return int((pages & 1).sum())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell otherwise what is in their page cache")
def test_opening_reads_headers_and_indexes_alone(tmp_path: Path) -> None:
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
