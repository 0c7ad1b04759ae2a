"""Restoring standard operators where it does not mirror a lowering: Ascend's strict form, refusals, shared weights."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_same_bytes, check, floats, integers, lower, make_model, node, run
from onnx import helper, numpy_helper

import mcd_graph
from mcd_graph.passes import ReasonCode, plan_restoration
from mcd_graph.passes.engine.emit import RULE_KEY

K, N = 48, 32


def node_model(
    constants: dict[str, np.ndarray], inputs: list[str], y: type, *, x: type = np.int8, **attributes: object
) -> onnx.ModelProto:
    """Return a model of one MatmulCompressDequant; ``inputs`` are those behind compress_index."""
    packed = mcd_graph.pack_weight(integers(np.int8, (N, K), 1))
    constants = {"w.x2": packed.x2, "w.index": packed.compress_index, **constants}
    attributes = {"compress_info": [int(number) for number in packed.compress_info], **attributes}
    node = helper.make_node(
        "MatmulCompressDequant", ["x", "w.x2", "w.index", *inputs], ["y"], domain="mcd", name="node", **attributes
    )
    model = make_model([node], {"x": (x, ("m", K))}, {"y": (y, ("m", N))}, constants)
    model.opset_import.append(helper.make_opsetid("mcd", 1))
    return model


def restored(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str | None]]]:
    loaded = ir.from_proto(model)
    plan = plan_restoration(loaded)
    plan.apply()
    return ir.to_proto(loaded), [(site.status, site.code) for site in plan.sites]


@pytest.mark.parametrize("columns", [1, N])
@pytest.mark.parametrize("bias", [False, True])
def test_strict_form(columns: int, bias: bool) -> None:
    scale = np.abs(np.random.default_rng(1).standard_normal((1, columns))).astype(np.float32) * 1e-3
    constants = {"s": scale.view(np.uint32).astype(np.uint64), "b": np.arange(-N // 2, N // 2, dtype=np.int32) * 1000}
    model = node_model(
        {name: constants[name] for name in (["s", "b"] if bias else ["s"])}, ["s", "b"][: 1 + bias], np.float16
    )
    back, outcome = restored(model)
    assert outcome == [("restored", None)]
    check(back)
    x = {"x": integers(np.int8, (5, K), 2)}
    assert_same_bytes(run(back, x), run(model, x))
    assert [node.op_type for node in back.graph.node][-1] == "Cast"


def test_half_scales_and_addends() -> None:
    random = np.random.default_rng(1)
    constants = {"s": (random.random(N) * 1e-2).astype(np.float16), "a": random.standard_normal(N).astype(np.float16)}
    model = node_model(constants, ["s", "", "", "", "", "a"], np.float16)
    back, outcome = restored(model)
    assert outcome == [("restored", None)]
    check(back)
    x = {"x": integers(np.int8, (5, K), 2)}
    assert_same_bytes(run(back, x), run(model, x))


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("rank", [2, 3])
def test_requantization_with_a_bias(zero_points: bool, rank: int) -> None:
    constants = {
        "s": np.full(N, 1e-3, np.float32), "b": np.arange(N, dtype=np.int32) * 500, "xz": np.array(3, np.int8),
        "wz": np.zeros(N, np.int8), "yz": np.array(-5, np.int8),
    }  # fmt: skip
    inputs = ["s", "b", "", "xz", "wz", "", "yz"] if zero_points else ["s", "b", "", "", "", "", "yz"]
    model = node_model({name: constants[name] for name in inputs if name}, inputs, np.int8)
    shape = (2, 3, K)[-rank:]
    for value, last in ((model.graph.input[0], K), (model.graph.output[0], N)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.INT8, (*shape[:-1], last)))
    back, outcome = restored(model)
    assert outcome == [("restored", None)]
    x = {"x": integers(np.int8, shape, 2)}
    assert_same_bytes(run(back, x), run(model, x))
    assert ("QGemm" in {node.op_type for node in back.graph.node}) == (rank == 2)


def with_a_bias(shape: tuple[int, ...] | None) -> onnx.ModelProto:
    """Return a requantised multiplication with an int32 bias, whose activation says that shape."""
    constants = {
        "s": np.full(N, 1e-3, np.float32),
        "b": np.arange(N, dtype=np.int32) * 500,
        "yz": np.array(-5, np.int8),
    }
    model = node_model(constants, ["s", "b", "", "", "", "", "yz"], np.int8)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.INT8, shape))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.INT8, None))
    return model


def test_what_was_a_qgemm_is_one_again_where_nobody_says_the_rank() -> None:
    model = with_a_bias(None)
    x = {"x": integers(np.int8, (5, K), 2)}
    for rule, expected in (("qgemm_rule", True), ("gemm_qdq_rule", True), ("matmul_qdq_rule", False)):
        del model.graph.node[0].metadata_props[:]
        model.graph.node[0].metadata_props.add(key=RULE_KEY, value=rule)
        back, outcome = restored(model)
        assert outcome == [("restored", None)]
        assert ("QGemm" in {node.op_type for node in back.graph.node}) == expected
        assert_same_bytes(run(back, x), run(model, x))


@pytest.mark.parametrize(("shape", "code"), [((5, K), None), ((2, 5, K), ReasonCode.OPSET)])
def test_a_version_of_onnx_without_round(shape: tuple[int, ...], code: ReasonCode | None) -> None:
    """Requantisation beside a bias takes it where there are more dimensions than QGemm has."""
    model = with_a_bias(shape)
    model.opset_import[0].version = 10
    back, outcome = restored(model)
    assert outcome == [("kept" if code else "restored", code)]
    x = {"x": integers(np.int8, shape, 2)}
    assert_same_bytes(run(back, x), run(model, x))


def test_a_scale_that_two_weights_share_is_still_shared() -> None:
    """onnxruntime makes MatMulNBits of a float product only where the scale of the weight is nobody else's."""
    parameters = {"xs": np.float32(0.02), "xz": np.uint8(99), "ys": np.float32(0.001), "yz": np.int16(7)}
    weights = {"a": integers(np.int8, (K, N), 1), "b": integers(np.int8, (K, N), 2), "wz": np.int8(9)}
    scale = {"ws": np.float32(0.03), "shape": np.array([], np.int64)}
    nodes = [
        node("Reshape", "ws shape", "shared"),
        node("DequantizeLinear", "a shared", "a_wide"),
        node("QuantizeLinear", "x xs xz", "x_bytes"),
        node("DequantizeLinear", "x_bytes xs xz", "x_wide"),
        node("MatMul", "x_wide a_wide", "y"),
        node("QuantizeLinear", "x ys yz", "x_words"),
        node("DequantizeLinear", "x_words ys yz", "x_fine"),
        node("DequantizeLinear", "b shared wz", "b_wide"),
        node("MatMul", "x_fine b_wide", "z"),
    ]
    y = (np.float32, ("m", N))
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": y, "z": y}, {**parameters, **weights, **scale})
    model.graph.value_info.append(helper.make_tensor_value_info("shared", onnx.TensorProto.FLOAT, []))
    model.opset_import[0].version = 21
    lowered = lower(model).proto
    assert {each.op_type for each in lowered.graph.node if each.domain == "mcd"} >= {"MatmulCompressDequant"}
    x = {"x": floats((5, K), 2)}
    back, _ = restored(lowered)
    expected = run(model, x, optimize=True)
    assert_same_bytes(run(lowered, x, optimize=True), expected)
    assert_same_bytes(run(back, x, optimize=True), expected)


def test_what_cannot_be_restored_is_kept() -> None:
    scale_given = node_model({}, ["s"], np.float16)
    scale_given.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.UINT64, (1, N)))
    weight_given = node_model({}, [], np.int32)
    (stream,) = [tensor for tensor in weight_given.graph.initializer if tensor.name == "w.x2"]
    weight_given.graph.input.append(helper.make_tensor_value_info("w.x2", onnx.TensorProto.INT8, list(stream.dims)))
    for model, code in (
        (scale_given, ReasonCode.RUN_TIME_PARAMETER),
        (weight_given, ReasonCode.STREAM_NOT_CONSTANT),
        (node_model({}, [], np.int32, compress_info=[8, 8, K]), ReasonCode.STREAM_NOT_CONSTANT),
        (node_model({}, [], np.int32, compress_info="8"), ReasonCode.STREAM_NOT_CONSTANT),
    ):
        back, outcome = restored(model)
        assert outcome == [("kept", code)]
        assert back.graph.node[0].op_type == "MatmulCompressDequant"


def test_damaged_weight_is_an_error() -> None:
    model = node_model({}, [], np.int32)
    (stream,) = [tensor for tensor in model.graph.initializer if tensor.name == "w.x2"]
    damaged = numpy_helper.to_array(stream).copy()
    damaged[0] ^= 1
    stream.CopyFrom(numpy_helper.from_array(damaged, stream.name))
    with pytest.raises(ValueError, match=r"\w"):
        restored(model)


def test_shared_weight_is_restored_once_and_only_when_looked_at() -> None:
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], [f"y{i}"]) for i in range(2)]
    outputs = {f"y{i}": (np.int32, ("m", N)) for i in range(2)}
    original = make_model(nodes, {"x": (np.uint8, ("m", K))}, outputs, {"w": integers(np.int8, (K, N), 1)})
    model = ir.from_proto(lower(original).proto)
    assert plan_restoration(model).apply()
    assert list(model.graph.initializers) == ["w"]
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)
    back = ir.to_proto(model)
    assert numpy_helper.to_array(back.graph.initializer[0]).tobytes() == integers(np.int8, (K, N), 1).tobytes()
    assert [(node.op_type, list(node.input)) for node in back.graph.node] == [("MatMulInteger", ["x", "w"])] * 2
