"""Models on which a rule's claim and onnxruntime's optimiser differed: the lowered model has to give the same bytes.

onnxruntime removes no-ops, folds constants and counts readers before it decides what it computes in integers. Each
model here has a form that it decides differently from what the graph as written suggests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from mcd_graph import compress_model, get_library_path

if TYPE_CHECKING:
    from pathlib import Path

K, M = 128, 192
node = helper.make_node

QUANTIZE_X = (
    node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_quantised"]),
    node("DequantizeLinear", ["x_quantised", "x_scale", "x_zero"], ["x_float"]),
)
WEIGHT = node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"])
MATMUL = node("MatMul", ["x_float", "w_float"], ["h"], name="mm")


def _quantize_y(value: str, output: str = "y") -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [value, "y_scale", "y_zero"], [f"{output}_quantised"]),
        node("DequantizeLinear", [f"{output}_quantised", "y_scale", "y_zero"], [output]),
    ]


def _model(nodes: list[onnx.NodeProto], *, rank: int, transposed: bool = False, outputs: int = 1) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    shape = (M, K) if transposed else (K, M)
    constants = {
        "w": np.clip(np.rint(random.standard_normal(shape) * 12), -128, 127).astype(np.int8),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(128),
        "y_scale": np.float32(0.05),
        "y_zero": np.uint8(120),
        "bias": random.standard_normal(M).astype(np.float32),
        "one": np.float32(1),
        "plain": np.clip(np.rint(random.standard_normal((K, M)) * 12), -128, 127).astype(np.int8),
    }
    # Something to compress, whatever becomes of the rest.
    nodes = [
        *nodes,
        node("DynamicQuantizeLinear", ["x"], ["p_quantised", "p_scale", "p_zero"]),
        node("MatMulInteger", ["p_quantised", "plain", "p_zero"], ["p"], name="plain"),
    ]
    lead = ["b", "m"][-(rank - 1) :]
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*lead, K])],
        [
            *(helper.make_tensor_value_info(f"y{i or ''}", onnx.TensorProto.FLOAT, [*lead, M]) for i in range(outputs)),
            helper.make_tensor_value_info("p", onnx.TensorProto.INT32, [*lead, M]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _shared_transpose() -> onnx.ModelProto:
    turned = [WEIGHT, node("Transpose", ["w_float"], ["w_turned"], perm=[1, 0])]
    first = [node("MatMul", ["x_float", "w_turned"], ["h"], name="first"), *_quantize_y("h")]
    second = [
        node("MatMul", ["x_float", "w_turned"], ["h1"], name="second"),
        node("Tanh", ["h1"], ["t"]),
        *_quantize_y("t", "y1"),
    ]
    return _model([*QUANTIZE_X, *turned, *first, *second], rank=3, transposed=True, outputs=2)


def _without_zero_point(*, gemm: bool) -> onnx.ModelProto:
    weight = node("DequantizeLinear", ["w", "w_scale"], ["w_float"])
    if gemm:
        product = [node("Gemm", ["x_float", "w_float", "bias"], ["h"], name="mm", transB=1)]
    else:
        turned = node("Transpose", ["w_float"], ["w_turned"], perm=[1, 0])
        product = [turned, node("MatMul", ["x_float", "w_turned"], ["h"], name="mm")]
    return _model([*QUANTIZE_X, weight, *product, *_quantize_y("h")], rank=2 if gemm else 3, transposed=True)


def _noop(kind: str) -> list[onnx.NodeProto]:
    if kind == "Transposes":
        swap = {"perm": [0, 2, 1]}
        return [node("Transpose", ["h"], ["t"], **swap), node("Transpose", ["t"], ["i"], **swap)]
    if kind == "Cast":
        return [node("Cast", ["h"], ["i"], to=onnx.TensorProto.FLOAT)]
    if kind == "Mul":
        return [node("Mul", ["h", "one"], ["i"])]
    return [node(kind, ["h"], ["i"])]


MODELS = {
    "shared transpose": _shared_transpose,
    "Gemm without zero point": lambda: _without_zero_point(gemm=True),
    "Transpose without zero point": lambda: _without_zero_point(gemm=False),
    "no-op before bias": lambda: _model(
        [*QUANTIZE_X, WEIGHT, MATMUL, node("Identity", ["h"], ["i"]), node("Add", ["i", "bias"], ["y"])], rank=2
    ),
}


def _run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def _assert_same_bytes(model: onnx.ModelProto, folder: Path) -> None:
    source, target = folder / "model.onnx", folder / "model.mcd.onnx"
    source.write_bytes(model.SerializeToString())
    compress_model(source, target)
    shape = (16, K) if len(model.graph.input[0].type.tensor_type.shape.dim) == 2 else (2, 16, K)
    for spread in (0.3, 1.0, 20.0):  # the last saturates
        x = (np.random.default_rng(1).standard_normal(shape) * spread).astype(np.float32)
        for expected, got in zip(_run(source, x), _run(target, x), strict=True):
            assert expected.tobytes() == got.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_default_settings_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    _assert_same_bytes(MODELS[name](), tmp_path)


@pytest.mark.parametrize("kind", ["Identity", "Dropout", "Cast", "Mul", "Transposes"])
def test_noop_before_the_quantizer(kind: str, tmp_path: Path) -> None:
    model = _model([*QUANTIZE_X, WEIGHT, MATMUL, *_noop(kind), *_quantize_y("i")], rank=3)
    _assert_same_bytes(model, tmp_path)
