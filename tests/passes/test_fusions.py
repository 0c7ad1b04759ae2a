"""Each fusion and its inverse: what a node took in comes back, and a node that is refused is not touched."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_same_bytes, floats, integers, lower, make_model, run, scales
from onnx import helper

from mcd_graph.passes import LegalizePass, ReasonCode
from mcd_graph.passes.engine.emit import Names
from mcd_graph.passes.fusions.registry import FUSIONS, undo_fusions

K, N = 24, 64
CONSTANTS = {
    "w": integers(np.int8, (K, N), 1), "ws": scales((N,), 2), "xs": scales((), 3, 0.1), "xz": np.array(120, np.uint8),
    "wz": np.zeros(N, np.int8), "ys": scales((), 4, 9), "yz": np.array(7, np.uint8), "heads": np.array([0, 0, 4, 16]),
}  # fmt: skip
DYNAMIC = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
    helper.make_node("MatMulInteger", ["q", "w", "z"], ["a"], name="matmul"),
    helper.make_node("Cast", ["a"], ["f"], to=onnx.TensorProto.FLOAT),
    helper.make_node("Mul", ["s", "ws"], ["m"]),
]
GATED = [*DYNAMIC, helper.make_node("Mul", ["f", "m"], ["p"]), helper.make_node("Mul", ["p", "g"], ["y"])]
HEADS = [
    *DYNAMIC, helper.make_node("Mul", ["f", "m"], ["p"]), helper.make_node("Reshape", ["p", "heads"], ["r"]),
    helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1, 3]),
]  # fmt: skip
LINEAR = [
    helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
    helper.make_node("QLinearMatMul", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["yq"], name="matmul"),
    helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
]
#: What each takes in, by the names of the fusions.
MODELS = {
    "gated": (GATED, {"DynamicQuantizeLinear", "Mul or Add"}),
    "heads": (HEADS, {"DynamicQuantizeLinear", "Reshape and Transpose"}),
    "linear": (LINEAR, {"DequantizeLinear"}),
}


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    shape = (2, 4, 5, 16) if nodes is HEADS else (2, 5, N)
    inputs = {"x": (np.float32, (2, 5, K))} | ({"g": (np.float32, (2, 5, N))} if "g" in used else {})
    constants = {name: array for name, array in CONSTANTS.items() if name in used}
    return make_model(nodes, inputs, {"y": (np.float32, shape)}, constants)


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {value.name: floats((2, 5, K if value.name == "x" else N), 5) for value in model.graph.input}


@pytest.mark.parametrize("name", MODELS)
def test_an_inverse_puts_back_what_was_taken_in(name: str) -> None:
    nodes, expected = MODELS[name]
    model = model_of(nodes)
    lowered = lower(model).model
    (node,) = (each for each in lowered.graph if each.domain == "mcd")
    before = len(lowered.graph)
    names = Names(lowered)
    undone = {fusion.name for fusion in reversed(FUSIONS) if fusion.undo(node, names)}
    assert undone == expected
    assert len(lowered.graph) > before
    assert not undo_fusions(node, names)
    assert_same_bytes(run(ir.to_proto(lowered), feeds(model)), run(model, feeds(model)))


@pytest.mark.parametrize("name", MODELS)
def test_what_was_put_back_is_taken_in_again(name: str) -> None:
    nodes, expected = MODELS[name]
    lowered = lower(model_of(nodes)).model
    (node,) = (each for each in lowered.graph if each.domain == "mcd")
    undo_fusions(node, Names(lowered))
    taken = [fusion.name for fusion in FUSIONS if fusion.fuse(node) is not None]
    assert set(taken) == expected
    assert taken == [fusion.name for fusion in FUSIONS if fusion.name in expected]


def test_a_node_that_is_refused_is_not_touched() -> None:
    """Not even what it took in is put back."""
    model = lower(model_of(GATED)).model
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    legalize = LegalizePass(max_rows=256)
    (x,) = (value for value in model.graph.inputs if value.name == "x")
    x.shape = ir.Shape(("b", "m", K))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not legalize(model).modified
    assert [site.code for site in legalize.sites] == [ReasonCode.ROWS_UNKNOWN]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
