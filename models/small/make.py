"""Makes the small models of this folder, from one seed, with onnxruntime's quantisers, and prints sizes and hashes.

    pip install '.[models]'
    python models/small/make.py [DIRECTORY]

A float model of two layers is quantised in the three ways that onnxruntime has. Its weights are of Student's
t-distribution: a bell with a few far values, as trained models have it, so that they compress. README.md says which
versions of onnx and onnxruntime wrote the files; others, or another processor, may write other bytes.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

SEED = 20
FREEDOM = 5
K, HIDDEN, N = 128, 208, 112
"""Degrees of freedom of the weights; columns of the input, of the layer in between, and of the output."""


def float_model() -> onnx.ModelProto:
    """Return x float32 (batch, K) -> MatMul, Add, Relu, MatMul, Add -> y float32 (batch, N)."""
    rng = np.random.default_rng(SEED)
    constants = {
        "w1": rng.standard_t(FREEDOM, (K, HIDDEN)) * K**-0.5,
        "b1": rng.normal(0, 0.1, HIDDEN),
        "w2": rng.standard_t(FREEDOM, (HIDDEN, N)) * HIDDEN**-0.5,
        "b2": rng.normal(0, 0.1, N),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["x.w1"], name="/layer1/MatMul"),
        helper.make_node("Add", ["x.w1", "b1"], ["a"], name="/layer1/Add"),
        helper.make_node("Relu", ["a"], ["hidden"], name="/layer1/Relu"),
        helper.make_node("MatMul", ["hidden", "w2"], ["hidden.w2"], name="/layer2/MatMul"),
        helper.make_node("Add", ["hidden.w2", "b2"], ["y"], name="/layer2/Add"),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", N])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class Normal(CalibrationDataReader):
    """Eight batches of normal numbers to calibrate with."""

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED + 1)
        self.batches = iter([rng.standard_normal((16, K)).astype(np.float32) for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or ``None`` at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def make(directory: Path) -> list[Path]:
    """Write the three models into a directory and return their paths."""
    paths = [directory / name for name in ("dynamic.onnx", "qdq.onnx", "qoperator.onnx")]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "float.onnx"
        source.write_bytes(float_model().SerializeToString())
        quantize_dynamic(source, paths[0], weight_type=QuantType.QInt8)
        for path, form in ((paths[1], QuantFormat.QDQ), (paths[2], QuantFormat.QOperator)):
            quantize_static(
                source,
                path,
                Normal(),
                quant_format=form,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=form == QuantFormat.QDQ,
            )
    return paths


def main() -> None:
    """Make the models beside this file, or elsewhere, and print their sizes and hashes."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    directory.mkdir(parents=True, exist_ok=True)
    for path in make(directory):
        content = path.read_bytes()
        print(f"{path.name}  {len(content)} bytes  {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
