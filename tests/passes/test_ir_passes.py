"""The onnx_ir passes: each does its own family, tells the truth about it, and can be put in a row."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_same_bytes, floats, integers, make_model, run, scales
from onnx import TensorProto, helper

from mcd_graph import passes

K, N = 24, 16


def everything() -> onnx.ModelProto:
    """Return a model with one multiplication of each family, all on the same quantised activation."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("MatMulInteger", ["q", "w1", "xz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "ws"], ["y1"]),
        helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w2", "ws", "wz", "ys", "yz"], ["y2"]),
        helper.make_node("MatMulIntegerToFloat", ["q", "w3", "xs", "ws", "xz"], ["y3"], domain="com.microsoft"),
        helper.make_node("QGemm", ["q", "xs", "xz", "w4", "ws", "wz"], ["y4"], domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w5", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y5"]),
        helper.make_node("Unsqueeze", ["q", "last"], ["q3"]),
        helper.make_node("QLinearConv", ["q3", "xs", "xz", "w6", "ws", "wz", "ys", "yz"], ["y6"]),
    ]
    constants = {f"w{i}": integers(np.int8, (K, N), i) for i in range(1, 6)}
    constants |= {
        "w6": integers(np.int8, (N, K, 1), 6), "xs": scales((), 1, 0.1), "xz": np.array(120, np.uint8),
        "ws": scales((), 2), "wz": np.array(0, np.int8), "ys": scales((), 3, 9), "yz": np.array(7, np.uint8),
        "last": np.array([2]),
    }  # fmt: skip
    outputs = {f"y{i}": (np.float32, ("m", N)) for i in (1, 3, 4, 5)}
    outputs |= {"y2": (np.uint8, ("m", N)), "y6": (np.uint8, ("m", N, 1))}
    return make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants)


FAMILIES = {
    passes.CompressMatMulIntegerPass: {"w1"},
    passes.CompressQLinearMatMulPass: {"w2"},
    passes.CompressMatMulIntegerToFloatPass: {"w3"},
    passes.CompressQGemmPass: {"w4"},
    passes.CompressQdqMatMulPass: {"w5"},
    passes.CompressPointwiseConvPass: {"w6"},
    passes.CompressPass: {"w1", "w2", "w3", "w4", "w5"},
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_each_pass_does_its_own_family(family: type[passes.CompressPass]) -> None:
    model = ir.from_proto(everything())
    result = family()(model)
    assert result.model is model
    assert result.modified
    assert {f"w{i}" for i in range(1, 7)} - set(model.graph.initializers) == FAMILIES[family]
    assert not family()(model).modified


def test_passes_in_a_row_and_back() -> None:
    original = everything()
    x = {"x": floats((5, K), 1)}
    expected = run(original, x, optimize=True)
    model = ir.from_proto(original)
    compress = ir.passes.Sequential(*(family(profile="small") for family in FAMILIES))
    assert compress(model).modified
    assert sum(node.domain == "mcd" for node in model.graph) == 6
    assert_same_bytes(run(ir.to_proto(model), x, optimize=True), expected)
    assert not compress(model).modified
    assert passes.RestorePass()(model).modified
    assert not passes.RestorePass()(model).modified
    assert_same_bytes(run(ir.to_proto(model), x, optimize=True), expected)


def test_include_and_exclude() -> None:
    model = everything()
    model.graph.node[1].name, model.graph.node[4].name = "first", "second"
    loaded = ir.from_proto(model)
    assert passes.CompressPass(include="^(first|second)$", exclude="second")(loaded).modified
    assert "w1" not in loaded.graph.initializers
    assert "w2" in loaded.graph.initializers
