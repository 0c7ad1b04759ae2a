"""Constants of DequantizeLinear nodes that onnxruntime runs: decoded at run time, restored, and equal to the byte."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import make_model, pack_all
from onnx import TensorProto, helper, numpy_helper
from sessions import session

import mcd_graph
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model
from mcd_graph.passes import plan_lowering, plan_restoration

F = np.float32
RNG = np.random.default_rng(8)


def bell(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    middle = 0 if dtype == np.int8 else 128
    drawn = np.rint(np.random.default_rng(sum(shape)).normal(middle, 12, shape))
    return np.clip(drawn, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def node(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"/{output}/{op_type}", **attributes)


def conv(op_type: str = "Conv", *, columns: bool = False, dtype: Any = np.int8) -> onnx.ModelProto:
    """A convolution of floats with a constant of bytes."""
    size = (176,) if columns else ()
    constants = {
        "w": bell(176, 176, 3, 3, dtype=dtype),
        "s": np.full(size, 0.02, F),
        "z": np.full(size, 3 if dtype == np.int8 else 131, dtype),
    }
    nodes = [node("DequantizeLinear", "w s z", "f", axis=0), node(op_type, "x f", pads=[1] * 4)]
    return make_model(nodes, {"x": (F, ["b", 176, "h", "w"])}, {"y": (F, [None] * 4)}, constants, opset=17)


def outside() -> onnx.ModelProto:
    """A multiplication inside of an If, whose weight is dequantised in the graph around it."""

    def branch(name: str, *more: onnx.NodeProto) -> onnx.GraphProto:
        nodes = [node("MatMul", "d f", f"{name}_m"), *more]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
        )

    nodes = [
        node("DequantizeLinear", "w s", "f"),
        node("QuantizeLinear", "x s u", "q"),
        node("DequantizeLinear", "q s u", "d"),
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            then_branch=branch("then"),
            else_branch=branch("else", node("Neg", "else_m", "else_n")),
        ),
    ]
    constants = {"w": bell(512, 520), "s": F(0.1), "u": np.uint8(128)}
    inputs = {"x": (F, ["m", 512]), "flag": (np.bool_, [])}
    return make_model(nodes, inputs, {"y": (F, [None, None])}, constants)


def in_function() -> onnx.ModelProto:
    """A convolution in a local function with its weight as a Constant node, called twice."""
    body = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(bell(176, 176, 3, 3), "w")),
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(F(0.05), "s")),
        node("DequantizeLinear", "w s", "f"),
        node("Conv", "x f", "y", pads=[1] * 4),
    ]
    function = helper.make_function("fn", "Block", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Block", [a], [b], domain="fn", name=b) for a, b in (("x", "h"), ("h", "y"))]
    shape = (F, ["b", 176, "h", "w"])
    return make_model(nodes, {"x": shape}, {"y": (F, [None] * 4)}, {}, opset=17, functions=[function])


def shared() -> onnx.ModelProto:
    """A weight that two DequantizeLinear read, with scales of their own, and one of them feeds two convolutions."""
    nodes = [
        node("DequantizeLinear", "w s", "f"),
        node("DequantizeLinear", "w t", "g"),
        node("Conv", "x f", "a", pads=[1] * 4),
        node("Conv", "a g", "b", pads=[1] * 4),
        node("Conv", "b f", "y", pads=[1] * 4),
    ]
    constants = {"w": bell(176, 176, 3, 3), "s": F(0.02), "t": F(0.03)}
    return make_model(nodes, {"x": (F, ["b", 176, "h", "w"])}, {"y": (F, [None] * 4)}, constants, opset=17)


def batch() -> onnx.ModelProto:
    """A batch of weights, with one scale for each of their columns."""
    nodes = [node("DequantizeLinear", "w s", "f", axis=2), node("MatMul", "x f")]
    constants = {"w": bell(3, 32, 48), "s": RNG.random(48).astype(F)}
    return make_model(nodes, {"x": (F, ["b", 3, "m", 32])}, {"y": (F, [None] * 4)}, constants)


IMAGE = {"x": RNG.standard_normal((2, 176, 5, 4)).astype(F)}
CASES: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "convolution": (conv(), IMAGE),
    "a scale for each channel": (conv(columns=True), IMAGE),
    "uint8": (conv(columns=True, dtype=np.uint8), IMAGE),
    "transposed convolution": (conv("ConvTranspose"), IMAGE),
    "outside": (outside(), {"x": RNG.standard_normal((5, 512)).astype(F), "flag": np.array(False)}),
    "function": (in_function(), {"x": RNG.standard_normal((1, 176, 5, 4)).astype(F)}),
    "shared": (shared(), IMAGE),
    "batch": (batch(), {"x": RNG.standard_normal((2, 3, 5, 32)).astype(F)}),
}


@pytest.mark.parametrize("name", CASES)
def test_decoded_at_run_with_the_same_bytes_and_restored(name: str) -> None:
    model, feed = CASES[name]
    loaded = ir.from_proto(model)
    plan = plan_lowering(loaded)
    assert {site.op_type for site in plan.sites if site.status == "lowered"} == {"DequantizeLinear"}
    assert plan.apply(pack_all(plan))
    lowered = ir.to_proto(loaded)
    onnx.checker.check_model(lowered)
    assert plan_restoration(loaded).apply()
    restored = ir.to_proto(loaded)
    assert len(plan.weights) == 1
    for threads in (1, 2):
        for optimized in (True, False):
            expected, ours, back = (
                session(each, threads, optimized=optimized).run(None, feed)[0] for each in (model, lowered, restored)
            )
            assert ours.tobytes() == expected.tobytes()
            assert back.tobytes() == expected.tobytes()
    assert [each.op_type for each in restored.graph.node] == [each.op_type for each in model.graph.node]
    assert len(restored.SerializeToString()) == pytest.approx(len(model.SerializeToString()), abs=300)


def test_files_reports_and_checks(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "c.onnx"
    source.write_bytes(shared().SerializeToString())
    before = inspect_model(source).constants
    report = mcd_graph.compress_model(source, output)
    (constant,) = report.constants
    assert (constant.status, constant.way, constant.read_by) == ("lowered", "run", "DequantizeLinear+Conv")
    assert [each.status for each in before] == ["lowerable"]
    (after,) = inspect_model(output).constants
    assert (after.way, after.read_by, after.bytes_after) == ("run", "DequantizeLinear+Conv", constant.bytes_after)
    assert report.proof is not None
    assert report.proof.settings == ("default", "no optimisations")
    assert mcd_graph.verify_model(source, output, runs=2).identical
    assert not check_model(output).problems
    mcd_graph.restore_model(output, tmp_path / "r.onnx", inline=True)
    assert (tmp_path / "r.onnx").stat().st_size == pytest.approx(source.stat().st_size, abs=200)


def quantised_conv() -> onnx.ModelProto:
    """A convolution that onnxruntime computes in integers; groups of 24 channels stay as they are."""
    nodes = [
        node("QuantizeLinear", "x s u", "q"),
        node("DequantizeLinear", "q s u", "d"),
        node("DequantizeLinear", "w s", "f"),
        node("Conv", "d f", "c", pads=[1] * 4, group=8),
        node("QuantizeLinear", "c t u", "o"),
        node("DequantizeLinear", "o t u", "y"),
    ]
    constants = {"w": bell(192, 256, 3, 3), "s": F(0.02), "u": np.uint8(128), "t": F(0.5)}
    return make_model(nodes, {"x": (F, ["b", 2048, "h", "w"])}, {"y": (F, [None] * 4)}, constants, opset=17)


def folded() -> onnx.ModelProto:
    """A weight that is cast and scaled, which onnxruntime does once."""
    nodes = [node("Cast", "w", "c", to=TensorProto.FLOAT), node("Mul", "c s", "f"), node("MatMul", "x f")]
    return make_model(nodes, {"x": (F, ["m", 64])}, {"y": (F, [None, None])}, {"w": bell(64, 64), "s": F(0.02)})


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        (quantised_conv(), "prepared-at-opening", "QLinearConv"),
        (folded(), "decoding-costs", "Cast is folded"),
    ],
    ids=["convolution in integers", "folded"],
)
def test_what_onnxruntime_prepares_stays_with_a_reason(model: onnx.ModelProto, code: str, said: str) -> None:
    plan = plan_lowering(ir.from_proto(model))
    assert not plan.weights
    (refusal,) = plan.refused.values()
    assert refusal.code == code
    assert said in refusal.reason
    assert "--at-open" in refusal.code.remedy


def test_names_leave_constants_out() -> None:
    for options in ({"exclude": "y/Conv"}, {"include": "nobody"}):
        plan = plan_lowering(ir.from_proto(conv()), **options)
        assert not plan.weights
        assert {refusal.code for refusal in plan.refused.values()} == {
            "excluded" if "exclude" in options else "not-included"
        }


def test_a_small_weight_is_taken_however_seldom_it_is_used() -> None:
    """It is decoded once; then its floats are made as soon as onnxruntime makes them."""
    for height in (16, 1, "h"):
        model = conv()
        (weight,) = [each for each in model.graph.initializer if each.name == "w"]
        weight.CopyFrom(numpy_helper.from_array(bell(64, 64, 1, 1), "w"))
        shape = (F, [1, 64, height, 16])
        made = make_model(list(model.graph.node), {"x": shape}, {"y": shape}, {
            each.name: numpy_helper.to_array(each) for each in model.graph.initializer
        }, opset=17)  # fmt: skip
        assert plan_lowering(ir.from_proto(made)).weights
