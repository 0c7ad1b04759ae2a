"""Convolutions with compressed kernels: to the byte, with everything that onnxruntime's convolutions take."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import random_graphs
from lowering import assert_exact, floats, integers, lower, make_model, scales
from onnx import helper

import mcd_graph
from mcd_graph.passes import ReasonCode
from mcd_graph.passes.rules import convolution

C, N = 24, 40
"""Channels in and out."""

LEAST = convolution.SMALL


@pytest.fixture(autouse=True)
def kernels_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small kernels compressed too, so that the tests are quick."""
    monkeypatch.setattr(convolution, "SMALL", 0)
    monkeypatch.setattr(convolution, "WORK", 0)
    monkeypatch.setattr(convolution, "SMALL_TURNED", 1 << 40)


IMAGES = {1: (29,), 2: (11, 9), 3: (5, 6, 7)}
KERNELS = {1: (5,), 2: (3, 3), 3: (2, 3, 2)}


def conv_integer(
    rank: int = 2,
    x_type: type = np.uint8,
    w_type: type = np.int8,
    *,
    zero_points: int = 2,
    image: tuple[int | str, ...] | None = None,
    kernel: tuple[int, ...] | None = None,
    channels: int = C,
    **attributes: object,
) -> onnx.ModelProto:
    constants = {
        "w": integers(w_type, (N, channels, *(kernel or KERNELS[rank])), 1),
        "xz": np.array(-7 if x_type is np.int8 else 120, x_type),
        "wz": integers(w_type, (), 2),
    }
    names = ["w", "xz", "wz"][: 1 + zero_points]
    node = helper.make_node("ConvInteger", ["x", *names], ["y"], name="conv", **attributes)
    return make_model(
        [node],
        {"x": (x_type, ("b", C, *(image or IMAGES[rank])))},
        {"y": (np.int32, ("b", N, *(None,) * len(kernel or KERNELS[rank])))},
        {name: constants[name] for name in names},
    )


def qlinear_conv(
    rank: int = 2,
    x_type: type = np.uint8,
    w_type: type = np.int8,
    size: tuple[int, ...] = (),
    *,
    bias: bool = True,
    **attributes: object,
) -> onnx.ModelProto:
    constants = {
        "xs": scales((), 1), "xz": integers(x_type, (), 2), "w": integers(w_type, (N, C, *KERNELS[rank]), 3),
        "ws": scales(size, 4), "wz": np.full(size, 3, w_type), "ys": scales((), 6, 20), "yz": integers(x_type, (), 7),
    }  # fmt: skip
    if bias:
        constants["b"] = np.random.default_rng(8).integers(-50000, 50000, N).astype(np.int32)
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv", **attributes)
    return make_model(
        [node], {"x": (x_type, ("b", C, *IMAGES[rank]))}, {"y": (x_type, ("b", N, *(None,) * rank))}, constants
    )


def feed(rank: int, x_type: type, batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": integers(x_type, (batch, C, *IMAGES[rank]), 9)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
@pytest.mark.parametrize("zero_points", [0, 1, 2])
def test_conv_integer(rank: int, x_type: type, zero_points: int) -> None:
    model = conv_integer(rank, x_type, zero_points=zero_points, pads=[1] * 2 * rank)
    lowered = assert_exact(model, feed(rank, x_type))
    assert lowered.outcome == [("ConvInteger", None)]
    assert lowered.op_types == ["ConvCompressDequant"]
    assert (lowered.plan.sites[0].k, lowered.plan.sites[0].n) == (C * int(np.prod(KERNELS[rank])), N)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("size", [(), (N,)], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_qlinear_conv(rank: int, x_type: type, w_type: type, size: tuple[int, ...], bias: bool) -> None:
    model = qlinear_conv(rank, x_type, w_type, size, bias=bias, pads=[1] * rank + [0] * rank)
    lowered = assert_exact(model, feed(rank, x_type))
    assert lowered.outcome == [("QLinearConv", None)]
    assert lowered.op_types == ["ConvCompressDequant"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 3]},
        {"dilations": [3, 2], "pads": [4, 0, 1, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [1, 2]},
        {"auto_pad": "VALID"},
        {"pads": [2, 2, 2, 2], "kernel_shape": [3, 3], "strides": [4, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [conv_integer, qlinear_conv])
def test_attributes(make: object, attributes: dict[str, object]) -> None:
    lowered = assert_exact(make(**attributes), feed(2, np.uint8))
    assert [code for _, code in lowered.outcome] == [None]


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (conv_integer(channels=C // 2, group=2), ReasonCode.CONVOLUTION_GROUPS),
        (conv_integer(channels=C, group=0), ReasonCode.CONVOLUTION_GROUPS),
        (conv_integer(strides=[0, 1]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(dilations=[-1, 1]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(pads=[-1, 0, 0, 0]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(pads=[0, 0, 0]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(kernel_shape=[3, 1]), ReasonCode.SHAPE_MISMATCH),
        (conv_integer(channels=C + 1), ReasonCode.SHAPE_MISMATCH),
        (conv_integer(rank=2, kernel=(2, 2, 2, 2)), ReasonCode.CONVOLUTION_RANK),
        (conv_integer(x_type=np.int8, w_type=np.uint8), ReasonCode.CONVOLUTION_TYPES),
    ],
)
def test_refusals(model: onnx.ModelProto, code: ReasonCode) -> None:
    assert lower(model).outcome == [("ConvInteger", code)]


def test_small_kernels_are_not_looked_at() -> None:
    assert lower(conv_integer(kernel=(1, 1))).outcome == []


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("batch", [1, 2])
def test_groups(group: int, batch: int) -> None:
    n = 48 * group
    constants = {"w": integers(np.int8, (n, C // group, 3, 3), 1), "xz": np.array(7, np.uint8)}
    node = helper.make_node("ConvInteger", ["x", *constants], ["y"], name="conv", group=group, pads=[1] * 4)
    model = make_model(
        [node], {"x": (np.uint8, ("b", C, *IMAGES[2]))}, {"y": (np.int32, ("b", n, *IMAGES[2]))}, constants
    )
    lowered = assert_exact(model, feed(2, np.uint8, batch))
    assert lowered.outcome == [("ConvInteger", None)]
    _, panels, k, columns, _ = next(iter(lowered.model.graph)).attributes["compress_info"].as_ints()
    assert (panels, k, columns) == (3, 9 * C // group, n)


DEQUANTIZED = {
    "one scale": ({"s": scales((), 4)}, {}, "ConvInteger+Cast+Mul"),
    "a scale per channel": ({"s": scales((1, N, 1, 1), 4)}, {}, "ConvInteger+Cast+Mul"),
    "a scale per column": ({"s": scales((IMAGES[2][1],), 4)}, {}, "ConvInteger"),
    "a bias": ({"s": scales((1,), 4)}, {"b": floats((1, N, 1, 1), 5)}, "ConvInteger+Cast+Mul+Add"),
    "one addend": ({"s": scales((1, 1, 1, 1), 4)}, {"b": floats((1, 1), 5)}, "ConvInteger+Cast+Mul+Add"),
    "a bias of few dimensions": ({"s": scales((N, 1, 1), 4)}, {"b": floats((N, 1, 1), 5)}, "ConvInteger+Cast+Mul+Add"),
    "an addend per line": ({"s": scales((), 4)}, {"b": floats((IMAGES[2][0], 1), 5)}, "ConvInteger+Cast+Mul"),
    "more dimensions": ({"s": scales((), 4)}, {"b": floats((1, 1, 1, 1, 1), 5)}, "ConvInteger+Cast+Mul"),
}


@pytest.mark.parametrize(("scale", "addend", "pattern"), DEQUANTIZED.values(), ids=DEQUANTIZED)
@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
def test_what_follows_conv_integer(
    scale: dict[str, np.ndarray], addend: dict[str, np.ndarray], pattern: str, swapped: bool
) -> None:
    constants = {"w": integers(np.uint8, (N, C, 3, 3), 1), "xz": np.uint8(120), "wz": np.uint8(131), **scale, **addend}
    sides = [["f", "s"], ["m", "b"]]
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["acc"], name="conv", pads=[1] * 4),
        helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", sides[0][::-1] if swapped else sides[0], ["m"]),
    ]
    if addend:
        nodes.append(helper.make_node("Add", sides[1][::-1] if swapped else sides[1], ["a"]))
    nodes[-1].output[0] = "y"
    rank = max([4, *(value.ndim for value in addend.values())])
    y = {"y": (np.float32, (None,) * rank)}
    model = make_model(nodes, {"x": (np.uint8, ("b", C, *IMAGES[2]))}, y, constants)
    lowered = assert_exact(model, feed(2, np.uint8))
    assert [site.pattern for site in lowered.plan.sites] == [pattern]
    assert len(lowered.op_types) == len(nodes) - pattern.count("+")


def test_conv_integer_as_it_is_quantized_dynamically() -> None:
    constants = {
        "w": integers(np.uint8, (N, C, 3, 3), 1), "wz": np.uint8(131), "ws": scales((), 4), "b": floats((N,), 5),
        "shape": np.array([1, -1, 1, 1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        helper.make_node("ConvInteger", ["q", "w", "xz", "wz"], ["acc"], name="conv", pads=[1] * 4),
        helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["m"]),
        helper.make_node("Reshape", ["b", "shape"], ["bs"]),
        helper.make_node("Add", ["m", "bs"], ["y"]),
    ]
    model = make_model(
        nodes, {"x": (np.float32, ("b", C, *IMAGES[2]))}, {"y": (np.float32, ("b", N, None, None))}, constants
    )
    lowered = assert_exact(model, {"x": floats((2, C, *IMAGES[2]), 9)})
    assert lowered.op_types == ["DynamicQuantizeLinear", "ConvCompressDequant"]
    assert next(iter(lowered.model.graph)).outputs[1] in list(lowered.model.graph)[1].inputs, "the scale of the image"


def test_results_that_others_read_stay() -> None:
    constants = {"w": integers(np.int8, (N, C, 3, 3), 1), "s": scales((), 4), "b": floats((N, 1, 1), 5)}
    nodes = [
        helper.make_node("ConvInteger", ["x", "w"], ["acc"], name="conv"),
        helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    for read, pattern in (("m", "ConvInteger+Cast+Mul"), ("f", "ConvInteger"), ("acc", "ConvInteger")):
        read_type = np.int32 if read == "acc" else np.float32
        outputs = {name: (dtype, ("b", N, None, None)) for name, dtype in (("y", np.float32), (read, read_type))}
        model = make_model(nodes, {"x": (np.uint8, ("b", C, *IMAGES[2]))}, outputs, constants)
        assert [site.pattern for site in assert_exact(model, feed(2, np.uint8)).plan.sites] == [pattern]


NARROW = {
    "depthwise": (144, C * 6, {}),
    "depthwise, strides": (144, C * 6, {"strides": [2, 1]}),
    "depthwise, strides and dilations": (144, C * 6, {"strides": [3, 2], "dilations": [2, 3], "pads": [4, 0, 1, 3]}),
    "depthwise, SAME_LOWER": (144, C * 6, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "several outputs": (72, 360, {"pads": [1] * 4}),
    "several of both": (16, 48, {"pads": [0, 2, 1, 0]}),
    "15 outputs": (8, 120, {"pads": [1] * 4}),
}


@pytest.mark.parametrize(("group", "n", "attributes"), NARROW.values(), ids=NARROW)
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_groups_of_few_outputs(
    group: int, n: int, attributes: dict[str, object], x_type: type, w_type: type, scaled: bool
) -> None:
    channels = group if group > C else C * 2
    constants = {
        "w": integers(w_type, (n, channels // group, 3, 3), 1), "xz": integers(x_type, (), 2),
        "wz": integers(w_type, (), 3),
    }  # fmt: skip
    nodes = [helper.make_node("ConvInteger", ["x", *constants], ["acc"], name="conv", group=group, **attributes)]
    if scaled:
        constants |= {"s": scales((1, n, 1, 1), 4), "b": floats((n, 1, 1), 5)}
        nodes += [
            helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "s"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["y"]),
        ]
    else:
        nodes[0].output[0] = "y"
    y_type = np.float32 if scaled else np.int32
    x = {"x": (x_type, ("b", channels, *IMAGES[2]))}
    model = make_model(nodes, x, {"y": (y_type, ("b", n, None, None))}, constants)
    lowered = assert_exact(model, {"x": integers(x_type, (2, channels, *IMAGES[2]), 9)})
    assert [code for _, code in lowered.outcome] == [None]
    assert lowered.op_types[0] == "ConvCompressDequant"


@pytest.mark.parametrize(("reach", "code"), [((1 << 15) - 1, None), (1 << 15, ReasonCode.CONVOLUTION_GROUPS)])
def test_depthwise_that_sees_far_beside_the_image_stays(reach: int, code: ReasonCode | None) -> None:
    channels = C * 36
    constants = {"w": integers(np.int8, (channels, 1, 2), 1), "xz": np.array(99, np.uint8)}
    node = helper.make_node(
        "ConvInteger", ["x", *constants], ["y"], name="conv", group=channels, dilations=[reach], pads=[reach, 0]
    )
    x = {"x": (np.uint8, ("b", channels, 5))}
    model = make_model([node], x, {"y": (np.int32, ("b", channels, None))}, constants)
    lowered = assert_exact(model, {"x": integers(np.uint8, (1, channels, 5), 9)})
    assert lowered.outcome == [("ConvInteger", code)]


@pytest.mark.parametrize("rank", [1, 3])
def test_depthwise_in_other_dimensions(rank: int) -> None:
    constants = {"w": integers(np.int8, (C * 9, 1, *KERNELS[rank]), 1), "xz": np.array(99, np.uint8)}
    node = helper.make_node("ConvInteger", ["x", *constants], ["y"], name="conv", group=C * 9, pads=[1] * 2 * rank)
    x = {"x": (np.uint8, ("b", C * 9, *IMAGES[rank]))}
    model = make_model([node], x, {"y": (np.int32, ("b", C * 9, *(None,) * rank))}, constants)
    lowered = assert_exact(model, {"x": integers(np.uint8, (2, C * 9, *IMAGES[rank]), 9)})
    assert lowered.op_types == ["ConvCompressDequant"]


def test_in_a_function_it_stays_if_a_scale_behind_it_would_go_elsewhere() -> None:
    """onnxruntime makes a factor of a product of a scale, if it knows that what is scaled has dimensions enough."""
    made = onnx.numpy_helper.from_array
    body = [
        helper.make_node("Constant", [], ["w"], value=made(integers(np.uint8, (16, 4, 5), 1))),
        helper.make_node("Constant", [], ["s"], value=made(np.float32(0.00046))),
        helper.make_node("Constant", [], ["xs"], value=made(np.float32(0.02))),
        helper.make_node("Transpose", ["x"], ["second"], perm=[0, 2, 1]),
        helper.make_node("QuantizeLinear", ["second", "xs"], ["q"]),
        helper.make_node("ConvInteger", ["q", "w"], ["acc"], name="conv", group=4, pads=[2, 2]),
        helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["y"], perm=[0, 2, 1]),
    ]
    function = helper.make_function("local", "Scaled", ["x"], ["y"], body, [helper.make_opsetid("", 13)])
    nodes = [
        helper.make_node("Scaled", ["x"], ["scaled"], domain="local"),
        helper.make_node("DequantizeLinear", ["m", "ms"], ["floats"]),
        helper.make_node("FusedMatMul", ["scaled", "floats"], ["y"], domain="com.microsoft", transB=1),
    ]
    constants = {"m": integers(np.int8, (33, 16), 2), "ms": np.float32(0.0147)}
    x, y = {"x": (np.float32, ("b", "m", 16))}, {"y": (np.float32, ("b", "m", 33))}
    model = make_model(nodes, x, y, constants, opset=13, functions=[function])
    case = random_graphs.Case(model, [{"x": floats((2, 3, 16), 3)}], [])
    expected = random_graphs.expect(case)
    assert expected is not None
    random_graphs.check(case, expected)


@pytest.mark.parametrize("size", [(), (96,)], ids=["per_tensor", "per_channel"])
def test_groups_with_scales_and_bias(size: tuple[int, ...]) -> None:
    constants = {
        "xs": scales((), 1), "xz": np.uint8(9), "w": integers(np.int8, (96, C // 2, 3, 3), 3), "ws": scales(size, 4),
        "wz": np.zeros(size, np.int8), "ys": scales((), 6, 20), "yz": np.uint8(99),
        "b": np.random.default_rng(8).integers(-50000, 50000, 96).astype(np.int32),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv", group=2)
    model = make_model(
        [node], {"x": (np.uint8, ("b", C, *IMAGES[2]))}, {"y": (np.uint8, ("b", 96, None, None))}, constants
    )
    assert assert_exact(model, feed(2, np.uint8)).outcome == [("QLinearConv", None)]


def qdq_conv(
    x_type: type = np.uint8,
    *,
    relu: bool = False,
    bias: str = "int32",
    size: tuple[int, ...] = (),
    **attributes: object,
) -> onnx.ModelProto:
    """Return QuantizeLinear, DequantizeLinear, Conv [Relu], QuantizeLinear, DequantizeLinear."""
    low = np.iinfo(x_type).min
    constants = {
        "xs": np.float32(0.03), "xz": np.array(low + 100, x_type), "w": integers(np.int8, (N, C, 3, 3), 3),
        "ws": scales(size, 4), "wz": np.zeros(size, np.int8), "ys": np.float32(0.4),
        "yz": np.array(low if relu else low + 90, x_type),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0),
    ]
    if bias == "int32":
        constants["b"] = np.random.default_rng(8).integers(-9000, 9000, N).astype(np.int32)
        constants["bs"] = np.asarray(constants["xs"] * constants["ws"], np.float32)
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs"], ["c"], axis=0))
    elif bias == "float":
        constants["c"] = np.random.default_rng(8).standard_normal(N).astype(np.float32)
    conv = ["d", "dw", *(["c"] if bias else [])]
    nodes.append(helper.make_node("Conv", conv, ["z"], name="conv", **attributes))
    if relu:
        nodes.append(helper.make_node("Relu", ["z"], ["r"]))
    nodes += [
        helper.make_node("QuantizeLinear", ["r" if relu else "z", "ys", "yz"], ["qy"]),
        helper.make_node("DequantizeLinear", ["qy", "ys", "yz"], ["y"]),
    ]
    return make_model(
        nodes, {"x": (np.float32, ("b", C, *IMAGES[2]))}, {"y": (np.float32, ("b", N, None, None))}, constants
    )


@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("bias", ["", "int32", "float"])
@pytest.mark.parametrize("size", [(), (N,)], ids=["per_tensor", "per_channel"])
def test_qdq_conv(x_type: type, relu: bool, bias: str, size: tuple[int, ...]) -> None:
    model = qdq_conv(x_type, relu=relu, bias=bias, size=size, pads=[1] * 4, strides=[2, 1])
    lowered = assert_exact(model, {"x": floats((2, C, *IMAGES[2]), 5)}, optimized=True)
    middle = "+Relu" if relu else ""
    assert lowered.outcome == [(f"DequantizeLinear+Conv{middle}+QuantizeLinear", None)]
    assert lowered.op_types == ["QuantizeLinear", "ConvCompressDequant", "DequantizeLinear"]


def test_a_qdq_conv_whose_result_stays_float_is_left() -> None:
    model = qdq_conv()
    del model.graph.node[-2:]
    model.graph.output[0].name = "z"
    lowered = assert_exact(model, {"x": floats((1, C, *IMAGES[2]), 5)}, optimized=True)
    assert "ConvCompressDequant" not in lowered.op_types


def test_a_chain_of_convolutions_and_a_pooling_between_stays_in_integers() -> None:
    first = qdq_conv(pads=[1] * 4)
    model = onnx.ModelProto()
    model.CopyFrom(first)
    parts = [
        helper.make_node("MaxPool", ["y"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("QuantizeLinear", ["p", "ys", "yz"], ["pq"]),
        helper.make_node("DequantizeLinear", ["pq", "ys", "yz"], ["pd"]),
        helper.make_node("DequantizeLinear", ["w2", "ws", "wz"], ["dw2"]),
        helper.make_node("Conv", ["pd", "dw2"], ["z2"], name="second"),
        helper.make_node("QuantizeLinear", ["z2", "ys", "yz"], ["qy2"]),
        helper.make_node("DequantizeLinear", ["qy2", "ys", "yz"], ["y2"]),
    ]
    model.graph.node.extend(parts)
    model.graph.initializer.append(onnx.numpy_helper.from_array(integers(np.int8, (32, N, 3, 3), 11), "w2"))
    model.graph.output[0].name = "y2"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 32
    lowered = assert_exact(model, {"x": floats((1, C, *IMAGES[2]), 5)}, optimized=True)
    assert [code for _, code in lowered.outcome] == [None, None]


def test_compress_proves_and_restores(tmp_path: Path) -> None:
    source, target, back = (tmp_path / f"{name}.onnx" for name in ("source", "target", "back"))
    model = qdq_conv(size=(N,), pads=[1] * 4)
    weight = np.clip(np.rint(floats((N, C, 3, 3), 3) * 12), -127, 127).astype(np.int8)
    next(each for each in model.graph.initializer if each.name == "w").CopyFrom(
        onnx.numpy_helper.from_array(weight, "w")
    )
    source.write_bytes(model.SerializeToString())
    report = mcd_graph.compress_model(source, target, force_larger=True)
    assert [(node.status, node.pattern) for node in report.nodes] == [
        ("lowered", "DequantizeLinear+Conv+QuantizeLinear")
    ]
    assert report.proof.proved
    assert [(each.status, each.name) for each in report.constants] == [("lowered", "w")]
    assert mcd_graph.verify_model(source, target).identical
    mcd_graph.restore_model(target, back)
    restored = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(back).graph.initializer}
    assert any(array.dtype == np.int8 and np.array_equal(array, weight) for array in restored.values())


@pytest.mark.parametrize(("x_type", "small"), [(np.uint8, True), (np.int8, False)])
def test_small_kernels_stay_where_onnxruntime_is_faster(
    monkeypatch: pytest.MonkeyPatch, x_type: type, small: bool
) -> None:
    monkeypatch.setattr(convolution, "SMALL", LEAST)
    expected = [("QLinearConv", ReasonCode.CONVOLUTION_SMALL if small else None)]
    assert lower(qlinear_conv(x_type=x_type)).outcome == expected
    assert lower(conv_integer(x_type=x_type)).outcome == [("ConvInteger", None)]
    monkeypatch.setattr(convolution, "SMALL", N * C * 9)
    assert lower(qlinear_conv(x_type=x_type)).outcome == [("QLinearConv", None)]
    work = N * C * 9 // (N + C)
    monkeypatch.setattr(convolution, "WORK", work)
    assert lower(qlinear_conv(x_type=x_type)).outcome == [("QLinearConv", None)]
    monkeypatch.setattr(convolution, "WORK", work + 1)
    assert lower(qlinear_conv(x_type=x_type)).outcome == expected
    assert lower(conv_integer(x_type=x_type)).outcome == [("ConvInteger", None)]


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("quantized", ["QDQ", "QLinearConv"])
def test_among_depthwise_convolutions_a_kernel_has_to_do_half_as_much_again(
    monkeypatch: pytest.MonkeyPatch, depthwise: bool, quantized: str
) -> None:
    """onnxruntime keeps images with their channels last between those, and turns them around a compressed kernel."""
    model = qdq_conv() if quantized == "QDQ" else qlinear_conv(bias=False)
    groups = C if depthwise else 1
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(integers(np.int8, (C, C // groups, 1, 1), 5), "beside_w")
    )
    for name, array in {"one": np.float32(1), "zu": np.uint8(0), "zi": np.int8(0)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    if quantized == "QDQ":
        model.graph.node.append(helper.make_node("DequantizeLinear", ["beside_w", "one", "zi"], ["beside_d"]))
        beside = helper.make_node("Conv", ["d", "beside_d"], ["beside"], group=groups)
    else:
        # Of another image: the Transposes of neighbours would cancel.
        other = onnx.ValueInfoProto()
        other.CopyFrom(model.graph.input[0])
        other.name = "other"
        model.graph.input.append(other)
        inputs = ["other", "one", "zu", "beside_w", "one", "zi", "one", "zu"]
        beside = helper.make_node("QLinearConv", inputs, ["beside"], group=groups)
    model.graph.node.append(beside)
    dtype = onnx.TensorProto.FLOAT if quantized == "QDQ" else onnx.TensorProto.UINT8
    model.graph.output.append(helper.make_tensor_value_info("beside", dtype, None))

    def reason() -> ReasonCode | None:
        ((_, code),) = lower(model).outcome
        return code

    work = N * C * 9 // (N + C)
    monkeypatch.setattr(convolution, "WORK", work * 2 // 3 + 1)
    assert reason() == (ReasonCode.CONVOLUTION_SMALL if depthwise else None)
    monkeypatch.setattr(convolution, "WORK", work * 2 // 3)
    assert reason() is None


def test_how_many_dimensions_a_result_has_stays_known() -> None:
    """onnxruntime makes a Gemm of MatMul and Add where it knows that, and it infers none of sizes without names."""
    constants = {
        "w": integers(np.int8, (N, C, 3, 3), 1), "s": np.float32(1e-4), "z": np.uint8(3), "b": floats((9,), 3),
        "v": integers(np.int8, (N, 9), 2), "vz": np.int8(0), "o": np.float32(0.02),
    }  # fmt: skip
    convolve = helper.make_node("ConvInteger", ["x", "w"], ["i"], name="conv", strides=[2, 2])
    steps = [
        ("Cast", "i", "f"), ("Mul", "f s", "m"), ("GlobalAveragePool", "m", "g"), ("Flatten", "g", "h"),
        ("QuantizeLinear", "h o z", "q"), ("DequantizeLinear", "q o z", "d"), ("DequantizeLinear", "v o vz", "e"),
        ("MatMul", "d e", "p"), ("Add", "p b", "a"),
        ("QuantizeLinear", "a o z", "r"), ("DequantizeLinear", "r o z", "y"),
    ]  # fmt: skip
    nodes = [
        helper.make_node(op_type, inputs.split(), [output], **({"to": 1} if op_type == "Cast" else {}))
        for op_type, inputs, output in steps
    ]
    model = make_model(
        [convolve, *nodes], {"x": (np.uint8, ("b", C, None, None))}, {"y": (np.float32, ("b", 9))}, constants
    )
    lowered = assert_exact(model, feed(2, np.uint8), optimized=True, alone=False)
    assert [code for _, code in lowered.outcome] == [None, None]
    (shape,) = (value.type.tensor_type.shape for value in lowered.proto.graph.value_info if value.name == "m")
    assert [dim.dim_value for dim in shape.dim] == [0, N, 0, 0]
