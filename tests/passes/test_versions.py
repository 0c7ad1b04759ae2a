"""Operator set and IR versions, old to new, and onnx's own node tests through the lowering."""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest
from lowering import assert_exact, assert_same_bytes, check, floats, integers, lower, make_model, run
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import _NodeTestCases

K, N = 33, 20

#: The newest that the installed onnxruntime still promises to load.
NEWEST_OPSET = 26
NEWEST_IR = 13


def dynamic_model(opset: int, ir_version: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["y"]),
    ]
    constants = {
        "w": integers(np.int8, (K, N), 1), "wz": np.array(2, np.int8), "ws": np.array(0.01, np.float32),
        "b": floats((N,), 2),
    }  # fmt: skip
    return make_model(
        nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants,
        opset=opset, ir_version=ir_version,
    )  # fmt: skip


def qdq_model(opset: int) -> onnx.ModelProto:
    axis = {} if opset < 13 else {"axis": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **axis),
        helper.make_node("MatMul", ["xd", "wd"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    constants = {
        "xs": np.array(0.03, np.float32), "xz": np.array(120, np.uint8), "w": integers(np.int8, (K, N), 1),
        "ws": np.array(0.01, np.float32), "wz": np.array(1, np.int8), "ys": np.array(0.5, np.float32),
        "yz": np.array(99, np.uint8),
    }  # fmt: skip
    return make_model(
        nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants, opset=opset, ir_version=8
    )


def qlinear_model(opset: int) -> onnx.ModelProto:
    constants = {
        "xs": np.array(0.03, np.float32), "xz": np.array(120, np.uint8), "w": integers(np.int8, (K, N), 1),
        "ws": np.array(0.01, np.float32), "wz": np.array(1, np.int8), "ys": np.array(0.5, np.float32),
        "yz": np.array(99, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QLinearMatMul", ["x", *constants], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return make_model(
        nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.float32, ("m", N))}, constants, opset=opset, ir_version=8
    )


@pytest.mark.parametrize("opset", range(11, NEWEST_OPSET + 1))
def test_opsets(opset: int) -> None:
    x = floats((3, K), 3)
    lowered = assert_exact(dynamic_model(opset, 10 if opset > 20 else 8), {"x": x})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul+Add", None)]
    lowered = assert_exact(qdq_model(opset), {"x": x}, optimized=True)
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear", None)]
    lowered = assert_exact(qlinear_model(opset), {"x": integers(np.uint8, (3, K), 3)})
    assert lowered.outcome == [("QLinearMatMul+DequantizeLinear", None)]


@pytest.mark.parametrize("ir_version", range(4, NEWEST_IR + 1))
def test_ir_versions(ir_version: int) -> None:
    lowered = assert_exact(dynamic_model(13, ir_version), {"x": floats((3, K), 3)})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul+Add", None)]
    assert lowered.proto.ir_version == ir_version


def node_tests() -> list[Any]:
    """Return onnx's own test cases of the multiplications; its loader computes those of all operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in ("matmulinteger", "qlinearmatmul"):
            import_module(f"onnx.backend.test.case.node.{operator}")
    return [case for case in _NodeTestCases if case.name.startswith(("test_matmulinteger", "test_qlinearmatmul"))]


@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_node_tests_of_onnx(case: Any) -> None:
    """The case as it is, and with all inputs but the activation constant, so that it can be lowered."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    ((inputs, outputs),) = case.data_sets
    arrays = {value.name: np.asarray(array) for value, array in zip(model.graph.input, inputs, strict=True)}
    assert not lower(model).modified
    activation = model.graph.node[0].input[0]
    for value in [value for value in model.graph.input if value.name != activation]:
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(arrays[value.name], value.name))
    lowered = lower(model)
    check(lowered.proto)
    assert_same_bytes(run(lowered.proto, {activation: arrays[activation]}), outputs)
    stacked = arrays[model.graph.node[0].input[1 if "integer" in case.name else 3]].ndim == 3
    assert lowered.modified != stacked


def test_there_are_node_tests() -> None:
    assert len(node_tests()) >= 2
