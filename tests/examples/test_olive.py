"""The Olive example. Olive brings gigabytes (PyTorch), so this runs only where it was installed by hand."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from lowering import floats, make_model
from onnx import helper
from samples import ROOT, write

from mcd_graph import verify_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("olive") is None, reason="Olive is not installed: pip install olive-ai"),
]


def test_olive_quantizes_and_then_compresses(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["y"], name="down"),
    ]
    constants = {"up": floats((256, 512), 1), "down": floats((512, 256), 2)}
    shape = (np.float32, ("m", 256))
    write(make_model(nodes, {"x": shape}, {"y": shape}, constants), tmp_path / "float.onnx")
    script = ROOT / "examples" / "olive" / "mcd_pass.py"
    subprocess.run([sys.executable, str(script), "float.onnx", "out"], cwd=tmp_path, check=True)

    out = tmp_path / "out"
    assert {"libmcd_ort.so", "model.onnx_data", "model.onnx"} <= {path.name for path in out.iterdir()}
    (quantized,) = (out / "cache").rglob("float.onnx")  # the first step keeps the name
    result = verify_model(quantized, out / "model.onnx")
    assert result.identical
    assert result.values > 0
