"""Tensors that are read from mapped files."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lowering import make_model
from onnx import helper
from samples import write_external

from mcd_graph import compress_model
from mcd_graph.mapped import unmap


def test_a_tensor_somebody_holds_an_array_of(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(range(64)))
    tensor = ir.ExternalTensor("data", 16, 8, ir.DataType.UINT8, shape=ir.Shape((8,)), name="t", base_dir=tmp_path)
    held = tensor.numpy()
    unmap(tensor)
    np.testing.assert_array_equal(held, range(16, 24))
    np.testing.assert_array_equal(tensor.numpy(), held)


@pytest.mark.parametrize("tensor", [None, np.zeros(3), ir.tensor([1, 2])])
def test_what_is_not_mapped(tensor: object) -> None:
    unmap(tensor)


def test_a_zero_point_in_a_data_file(tmp_path: Path) -> None:
    """As neural-compressor writes them: one for each of many columns, so that it counts among the constants."""
    k, n = 16, 2048
    random = np.random.default_rng(0)
    constants = {
        "w": random.integers(-9, 9, (k, n), np.int8), "zero": np.zeros(n, np.int8),
        "scale": np.full(n, 0.01, np.float32), "s": np.array(0.02, np.float32), "z": np.array(128, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "w", "scale", "zero", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    model = make_model(nodes, {"x": (np.float32, ("m", k))}, {"y": (np.float32, ("m", n))}, constants, opset=17)
    source = write_external(model, tmp_path / "model.onnx", "model.data")
    report = compress_model(source, tmp_path / "out.onnx", force_larger=True)
    assert report.totals.lowered == 1
