"""Lowered convolutions among onnxruntime's own: they have their channels last where the Transposes of that cancel."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import Lowered, assert_exact, constant_nodes, floats, integers, lower, make_model, run, scales
from onnx import helper, numpy_helper

import mcd_graph
from mcd_graph.integrity import check_model
from mcd_graph.passes import ReasonCode, plan_restoration
from mcd_graph.passes.engine.optimized import Optimized, nodes_of, optimize
from mcd_graph.passes.rules import convolution

C = 48
"""Channels of all images."""


def small_integers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return weights of seven bits: sums of two products with uint8 fit into 16, where onnxruntime adds them so."""
    return integers(np.int8, shape, seed) // 2


TURNED = ["Transpose", "ConvCompressDequant", "Transpose"]


@pytest.fixture(autouse=True)
def kernels_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small kernels compressed too, so that the tests are quick."""
    monkeypatch.setattr(convolution, "SMALL", 0)
    monkeypatch.setattr(convolution, "WORK", 0)
    monkeypatch.setattr(convolution, "SMALL_TURNED", 1 << 40)


def network(kinds: str, dtype: type = np.uint8, rank: int = 2) -> onnx.ModelProto:
    """Return convolutions behind each other: ``d`` is dense, ``w`` depthwise; QLinearConv of any type."""
    nodes, constants, last = [], {}, "x"
    for i, kind in enumerate(kinds):
        shape = (C, 1 if kind == "w" else C, *(3,) * rank)
        own = {
            "xs": np.float32(0.02), "xz": np.array(7, dtype), "w": small_integers(shape, i),
            "ws": scales((C,), i, 0.01), "wz": np.zeros(C, np.int8), "ys": np.float32(0.5 if kind == "w" else 2),
            "yz": np.array(99, dtype),
        }  # fmt: skip
        constants |= {f"{name}{i}": np.asarray(array) for name, array in own.items()}
        inputs = [last, *(f"{name}{i}" for name in own)]
        last = "y" if i == len(kinds) - 1 else f"t{i}"
        group = C if kind == "w" else 1
        nodes.append(
            helper.make_node("QLinearConv", inputs, [last], name=f"{kind}{i}", group=group, pads=[1] * 2 * rank)
        )
    image = ("b", C, *(9, 7)[:rank])
    return make_model(nodes, {"x": (dtype, image)}, {"y": (dtype, image)}, constants)


def feed(dtype: type = np.uint8, rank: int = 2) -> dict[str, np.ndarray]:
    return {"x": integers(dtype, (2, C, *(9, 7)[:rank]), 9)}


def transposes(model: onnx.ModelProto, folder: Path) -> int:
    """Count what onnxruntime leaves of them."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    made = optimize(folder / "model.onnx", channels_last=True)
    assert isinstance(made, Optimized), made
    return sum(node.op_type == "Transpose" for node in nodes_of(made))


def restored(lowered: Lowered) -> onnx.ModelProto:
    copy = ir.from_proto(lowered.proto)
    assert plan_restoration(copy).apply()
    return ir.to_proto(copy)


@pytest.mark.parametrize("kinds", ["wdw", "dwd", "ddd", "wddwdw"])
@pytest.mark.parametrize("rank", [1, 2])
def test_between_convolutions_of_uint8_they_are_turned(tmp_path: Path, kinds: str, rank: int) -> None:
    model = network(kinds, rank=rank)
    lowered = assert_exact(model, feed(rank=rank), optimized=True)
    assert lowered.op_types == [each for kind in kinds for each in (TURNED if kind == "d" else ["QLinearConv"])]
    assert transposes(lowered.proto, tmp_path) <= transposes(model, tmp_path)


@pytest.mark.parametrize("kinds", ["wdw", "ddd"])
def test_restoring_leaves_no_transposes(kinds: str) -> None:
    model = network(kinds)
    back = restored(lower(model))
    assert [node.op_type for node in back.graph.node] == ["QLinearConv"] * len(kinds)
    assert [node.name for node in back.graph.node] == [node.name for node in model.graph.node]
    assert [node.output for node in back.graph.node] == [node.output for node in model.graph.node]


def test_commands_take_turned_nodes(tmp_path: Path) -> None:
    source, target, back = (tmp_path / f"{name}.onnx" for name in ("source", "target", "back"))
    source.write_bytes(network("wdw").SerializeToString())
    report = mcd_graph.compress_model(source, target, force_larger=True, min_saving=-1.0)
    assert report.proof.proved
    (turned,) = (each for each in onnx.load(target).graph.node if each.op_type == "ConvCompressDequant")
    assert [each.i for each in turned.attribute if each.name == "channels_last"] == [1]
    assert check_model(target).intact
    assert mcd_graph.verify_model(source, target, precise=True).identical
    mcd_graph.restore_model(target, back)
    assert [each.op_type for each in onnx.load(back).graph.node] == ["QLinearConv"] * 3
    assert mcd_graph.verify_model(source, back, precise=True).identical


def test_a_transpose_that_others_read_stays_when_the_node_is_restored() -> None:
    """What was turned may be changed: then all that is around it stays."""
    lowered = lower(network("dd"))
    proto = lowered.proto
    inner = proto.graph.node[1].output[0]
    proto.graph.output.append(helper.make_tensor_value_info(inner, onnx.TensorProto.UINT8, [None] * 4))
    expected = run(proto, feed())
    copy = ir.from_proto(proto)
    assert plan_restoration(copy).apply()
    found = run(ir.to_proto(copy), feed())
    assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]


@pytest.mark.parametrize(("kinds", "dtype"), [("d", np.uint8), ("wdw", np.int8)])
def test_where_that_brings_nothing_channels_stay_second(kinds: str, dtype: type) -> None:
    """One alone would be turned by onnxruntime instead of by itself; int8 stays as it was."""
    lowered = assert_exact(network(kinds, dtype), feed(dtype), optimized=True)
    assert "Transpose" not in lowered.op_types
    assert lowered.op_types.count("ConvCompressDequant") == kinds.count("d")


def test_a_value_that_onnxruntime_rounds_is_rounded_with_channels_last() -> None:
    """It moves a quantiser in front of a Transpose, and of an output that is what that reads."""
    model = network("d", rank=1)
    steps = [
        helper.make_node("Abs", ["image"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("QuantizeLinear", ["turned", "xs0", "xz0"], ["x"]),
    ]
    behind = [
        helper.make_node("DequantizeLinear", ["y", "ys0", "yz0"], ["wide"]),
        helper.make_node("Transpose", ["wide"], ["last"], perm=[0, 2, 1]),
        helper.make_node("Tanh", ["last"], ["result"]),
    ]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    turned = ("b", 9, C)
    model = make_model(
        [*steps, *model.graph.node, *behind],
        {"image": (np.float32, turned)},
        {"result": (np.float32, turned), "rounded": (np.float32, turned)},
        constants,
    )
    feeds = {"image": floats((2, 9, C), 1)}
    lowered = assert_exact(model, feeds, optimized=True, alone=False)
    assert lowered.op_types.count("ConvCompressDequant") == 1
    plain, rounded = (run(model, feeds, optimize=optimize)[1] for optimize in (False, True))
    assert not np.array_equal(plain, rounded), "onnxruntime rounds it no more"


@pytest.mark.parametrize("in_function", [False, True])
def test_a_mean_that_would_add_up_in_another_order_keeps_the_convolution(in_function: bool) -> None:
    """onnxruntime moves a Transpose past the mean where that meets another, so that it is over another dimension."""
    model = network("d", np.int8, rank=1)
    steps = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("QuantizeLinear", ["turned", "xs0", "xz0"], ["x"]),
    ]
    behind = [
        helper.make_node("DequantizeLinear", ["y", "ys0", "yz0"], ["wide"]),
        helper.make_node("Transpose", ["wide"], ["last"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["last"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["last", "mean"], ["result"]),
        helper.make_node("QuantizeLinear", ["last", "ys0", "yz0"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "ys0", "yz0"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["second"], perm=[0, 2, 1]),
        helper.make_node("Tanh", ["second"], ["other"]),
    ]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants["ys0"] = np.float32(0.37)  # sums of its multiples are rounded
    nodes, functions = list(model.graph.node), []
    if in_function:
        inner = [*constant_nodes({name: constants[name] for name in nodes[0].input[1:]}), *nodes]
        functions = [helper.make_function("own", "Inner", ["x"], ["y"], inner, [helper.make_opsetid("", 13)])]
        nodes = [helper.make_node("Inner", ["x"], ["y"], domain="own")]
    inputs = {"image": (np.float32, ("b", 9, C))}
    outputs = {"result": (np.float32, ("b", 9, C)), "other": (np.float32, ("b", C, 9))}
    model = make_model([*steps, *nodes, *behind], inputs, outputs, constants)
    model.opset_import[0].version = 13
    if functions:
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.functions.extend(functions)
    lowered = assert_exact(model, {"image": floats((2, 9, C), 1)}, optimized=True, alone=False)
    assert lowered.outcome == [("QLinearConv", ReasonCode.FUSES_OTHERWISE)]


@pytest.mark.parametrize(("kinds", "asked"), [("ddd", 1), ("wdw", 1.5)])
def test_among_depthwise_convolutions_half_as_much_work_again_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, kinds: str, asked: float
) -> None:
    work = C * C * 9 // (C + C)
    for least, expected in ((int(work / asked), None), (int(work / asked) + 1, ReasonCode.CONVOLUTION_SMALL)):
        monkeypatch.setattr(convolution, "WORK", least)
        codes = {code for _, code in lower(network(kinds)).outcome if code != ReasonCode.CONVOLUTION_GROUPS}
        assert codes == {expected}


@pytest.mark.parametrize("least", ["SMALL", "WORK"])
@pytest.mark.parametrize(("kinds", "turned"), [("wdw", True), ("ddd", True), ("d", False)])
def test_small_kernels_are_compressed_if_their_channels_come_last(
    monkeypatch: pytest.MonkeyPatch, least: str, kinds: str, turned: bool
) -> None:
    monkeypatch.setattr(convolution, least, 1 << 40)
    monkeypatch.setattr(convolution, "SMALL_TURNED", C * C * 9)
    model = network(kinds)
    if not turned:  # what would be turned back behind it is the result, and what is in front of it an addition
        image = model.graph.input[0]
        model.graph.input.remove(image)
        model.graph.input.append(helper.make_tensor_value_info("floats", onnx.TensorProto.FLOAT, ["b", C, 9, 7]))
        model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["floats", "xs0", "xz0"], ["x"]))
    feeds = {"floats": floats((2, C, 9, 7), 3)} if not turned else feed()
    dense = [code for name, code in assert_exact(model, feeds).outcome if code != ReasonCode.CONVOLUTION_GROUPS]
    assert set(dense) == {None if turned else ReasonCode.CONVOLUTION_SMALL}
    monkeypatch.setattr(convolution, "SMALL_TURNED", C * C * 9 + 1)
    codes = {code for _, code in lower(model).outcome if code != ReasonCode.CONVOLUTION_GROUPS}
    assert codes == {ReasonCode.CONVOLUTION_SMALL}


def test_a_network_of_quantizers_is_turned(tmp_path: Path) -> None:
    """QDQ: with a Relu, an addition and an upsampling of floats between."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {"s": np.float32(0.05), "z": np.uint8(100)}

    def quantized(value: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [value, "s", "z"], [f"{value}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{value}.q", "s", "z"], [f"{value}.d"]))
        return f"{value}.d"

    def convolved(value: str, name: str, group: int) -> str:
        constants[f"{name}.w"] = small_integers((C, C // group, 3, 3), len(name))
        constants[f"{name}.s"] = scales((C,), 3, 0.004)
        constants[f"{name}.z"] = np.zeros(C, np.int8)
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.w", f"{name}.s", f"{name}.z"], [f"{name}.dw"], axis=0)
        )
        nodes.append(helper.make_node("Conv", [value, f"{name}.dw"], [name], name=name, group=group, pads=[1] * 4))
        return quantized(name)

    first = convolved(convolved(quantized("x"), "first", C), "dense", 1)
    nodes.append(helper.make_node("HardSigmoid", [first], ["gate"]))
    nodes.append(helper.make_node("Mul", [first, quantized("gate")], ["gated"]))
    second = convolved(convolved(quantized("gated"), "second", C), "denser", 1)
    nodes.append(helper.make_node("Identity", [second], ["y"]))
    image = ("b", C, 9, 7)
    model = make_model(nodes, {"x": (np.float32, image)}, {"y": (np.float32, image)}, constants)
    lowered = assert_exact(model, {"x": floats((2, C, 9, 7), 3)}, optimized=True, alone=False)
    assert lowered.op_types.count("ConvCompressDequant") == 2
    assert transposes(lowered.proto, tmp_path) <= transposes(model, tmp_path)
    weight = [numpy_helper.to_array(each) for each in restored(lowered).graph.initializer if each.data_type == 3]
    assert sum(array.shape == (C, C, 3, 3) for array in weight) == 2
    assert "Transpose" not in {node.op_type for node in restored(lowered).graph.node}
