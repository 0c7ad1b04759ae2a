"""QDQ models: the lowered model gives the bytes that onnxruntime gives when it optimises the original."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import Lowered, assert_exact, floats, integers, lower, make_model, scales
from onnx import helper, numpy_helper

import mcd_graph
from mcd_graph.passes import ReasonCode

K, N = 52, 36


def quantize(source: str, target: str, name: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [source, f"{name}s", f"{name}z"], [target])


def dequantize(source: str, target: str, name: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [source, f"{name}s", f"{name}z"], [target], **attributes)


PRODUCT = helper.make_node("MatMul", ["xd", "wd"], ["r"], name="matmul")
QUANTIZED = [quantize("r", "yq", "y"), dequantize("yq", "y", "y")]


def parameters(x_type: type = np.uint8, w_type: type = np.int8, size: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    return {
        "xs": scales((), 1, 0.1), "xz": integers(x_type, (), 2), "w": integers(w_type, (K, N), 3),
        "ws": scales(size, 4), "wz": integers(w_type, size, 5), "ys": scales((), 6, 4), "yz": integers(x_type, (), 7),
    }  # fmt: skip


def qdq_model(
    constants: dict[str, np.ndarray],
    middle: list[onnx.NodeProto],
    *,
    shape: tuple[int | str, ...] = ("m", K),
    output: tuple[int | str, ...] = ("m", N),
    axis: int | None = 1,
    opset: int = 18,
) -> onnx.ModelProto:
    """Return x -> Q -> DQ -> xd, and DQ(w) -> wd, and then the given nodes from there to y."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        quantize("x", "xq", "x"), dequantize("xq", "xd", "x"), dequantize("w", "wd", "w", **attributes), *middle,
    ]  # fmt: skip
    used = {name for node in nodes for name in node.input}
    table = {name: array for name, array in constants.items() if name in used}
    return make_model(nodes, {"x": (np.float32, shape)}, {"y": (np.float32, output)}, table, opset=opset)


def exact(model: onnx.ModelProto, shape: tuple[int, ...] = (9, K)) -> Lowered:
    return assert_exact(model, {"x": floats(shape, 11) * 3}, optimized=True)


TYPES = [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8), (np.int8, np.uint8)]
SIZES = pytest.mark.parametrize("size", [(), (N,)], ids=["per_tensor", "per_column"])


@pytest.mark.parametrize(("x_type", "w_type"), TYPES)
@SIZES
@pytest.mark.parametrize("shape", [(9, K), (2, 3, K), (K,)], ids=str)
def test_requantized_matmul(x_type: type, w_type: type, size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    model = qdq_model(parameters(x_type, w_type, size), [PRODUCT, *QUANTIZED], shape=shape, output=(*shape[:-1], N))
    lowered = exact(model, shape)
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear", None)]
    assert lowered.op_types == ["QuantizeLinear", "MatmulCompressDequant", "DequantizeLinear"]
    assert all(site.optimized for site in lowered.plan.sites)


@pytest.mark.parametrize(("x_type", "w_type"), TYPES)
@SIZES
@pytest.mark.parametrize("shape", [(9, K), (2, 3, K), (K,)], ids=str)
def test_float_matmul(x_type: type, w_type: type, size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    middle = [PRODUCT, helper.make_node("Neg", ["r"], ["y"])]
    lowered = exact(qdq_model(parameters(x_type, w_type, size), middle, shape=shape, output=(*shape[:-1], N)), shape)
    assert lowered.outcome == [("DequantizeLinear+MatMul", None)]
    assert lowered.op_types == ["QuantizeLinear", "MatmulCompressDequant", "Neg"]


@pytest.mark.parametrize("types", TYPES)
@SIZES
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", ["none", "int32", "float"])
@pytest.mark.parametrize("requantized", [True, False], ids=["quantised", "float"])
def test_gemm(types: tuple[type, type], size: tuple[int, ...], trans_b: int, bias: str, requantized: bool) -> None:
    x_type, w_type = types
    constants = parameters(x_type, w_type, size)
    if trans_b:
        constants["w"] = np.ascontiguousarray(constants["w"].T)
    constants |= {
        "c": floats((N,), 8), "cq": np.random.default_rng(9).integers(-3000, 3000, N).astype(np.int32),
        "cs": constants["xs"] * constants["ws"], "cz": np.zeros(size, np.int32),
    }  # fmt: skip
    names = {"none": [], "int32": ["cd"], "float": ["c"]}[bias]
    middle = [helper.make_node("Gemm", ["xd", "wd", *names], ["r"], transB=trans_b, name="gemm")]
    if bias == "int32":
        middle.insert(0, dequantize("cq", "cd", "c", axis=0))
    middle += QUANTIZED if requantized else [helper.make_node("Neg", ["r"], ["y"])]
    lowered = exact(qdq_model(constants, middle, axis=0 if trans_b else 1))
    pattern = "DequantizeLinear+Gemm" + "+QuantizeLinear" * requantized
    if bias == "float" and not requantized:
        assert lowered.outcome == [("Gemm", ReasonCode.BIAS_NOT_INT32)]
    else:
        assert lowered.outcome == [(pattern, None)]


@pytest.mark.parametrize("alpha", [0.25, 3.7])
@pytest.mark.parametrize("requantized", [True, False], ids=["quantised", "float"])
def test_gemm_with_alpha_and_transposed_activation(alpha: float, requantized: bool) -> None:
    middle = [helper.make_node("Gemm", ["xd", "wd"], ["r"], transA=1, alpha=alpha, beta=1.0, transB=0)]
    middle += QUANTIZED if requantized else [helper.make_node("Neg", ["r"], ["y"])]
    lowered = exact(qdq_model(parameters(), middle, shape=(K, "m")), (K, 7))
    assert lowered.outcome[0][1] is None
    assert lowered.op_types[:3] == ["QuantizeLinear", "Transpose", "MatmulCompressDequant"]


@SIZES
@pytest.mark.parametrize("requantized", [True, False], ids=["quantised", "float"])
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_transposed_weight(size: tuple[int, ...], requantized: bool, op_type: str) -> None:
    constants = parameters(size=size)
    constants["w"] = np.ascontiguousarray(constants["w"].T)
    middle = [
        helper.make_node("Transpose", ["wd"], ["wt"], perm=[1, 0]),
        helper.make_node(op_type, ["xd", "wt"], ["r"]),
        *(QUANTIZED if requantized else [helper.make_node("Neg", ["r"], ["y"])]),
    ]
    lowered = exact(qdq_model(constants, middle, axis=0))
    assert lowered.outcome[0][1] is None
    assert "Transpose" not in lowered.op_types


def test_relu_that_saturation_makes_superfluous() -> None:
    constants = {**parameters(), "yz": np.array(0, np.uint8)}
    middle = [PRODUCT, helper.make_node("Relu", ["r"], ["s"]), quantize("s", "yq", "y"), dequantize("yq", "y", "y")]
    lowered = exact(qdq_model(constants, middle))
    assert lowered.outcome == [("DequantizeLinear+MatMul+Relu+QuantizeLinear", None)]


@SIZES
@pytest.mark.parametrize("order", [["r", "c"], ["c", "r"]], ids=["behind", "before"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
def test_add_between_matrix_product_and_quantization(
    size: tuple[int, ...], order: list[str], relu: bool, x_type: type
) -> None:
    """onnxruntime makes a Gemm of MatMul and Add, quantises its bias to int32, and multiplies in integers."""
    constants = parameters(x_type, size=size) | {"c": floats((N,), 8), "yz": np.array(np.iinfo(x_type).min, x_type)}
    middle = [
        PRODUCT, helper.make_node("Add", order, ["a"]),
        *([helper.make_node("Relu", ["a"], ["b"])] if relu else []),
        quantize("b" if relu else "a", "yq", "y"), dequantize("yq", "y", "y"),
    ]  # fmt: skip
    lowered = exact(qdq_model(constants, middle))
    pattern = "DequantizeLinear+MatMul+Add" + "+Relu" * relu + "+QuantizeLinear"
    assert lowered.outcome == [(pattern, None)]


def test_add_of_one_value_to_one_column() -> None:
    """With one column, a bias of one element is one per column, and makes a float Gemm of it all."""
    constants = parameters() | {"w": integers(np.int8, (K, 1), 3), "b": floats((1,), 1)}
    lowered = exact(qdq_model(constants, [PRODUCT, helper.make_node("Add", ["r", "b"], ["y"])], output=("m", 1)))
    assert lowered.outcome[0][1] == ReasonCode.FUSED_FIRST


def test_add_of_one_value_to_several_columns() -> None:
    constants = parameters() | {"b": floats((1,), 1)}
    lowered = exact(qdq_model(constants, [PRODUCT, helper.make_node("Add", ["r", "b"], ["y"])]))
    assert lowered.outcome == [("DequantizeLinear+MatMul", None)]


@pytest.mark.parametrize("shift", ["Reshape", "Transpose"])
def test_quantization_that_is_moved_up(shift: str) -> None:
    """onnxruntime quantises in front of the Reshape as well, so what the Reshape sees is rounded already."""
    node = {
        "Reshape": helper.make_node("Reshape", ["r", "to"], ["s"]),
        "Transpose": helper.make_node("Transpose", ["r"], ["s"], perm=[1, 0]),
    }[shift]
    middle = [PRODUCT, node, quantize("s", "yq", "y"), dequantize("yq", "y", "y")]
    output = ("a", 2, N // 2) if shift == "Reshape" else (N, "m")
    lowered = exact(qdq_model({**parameters(), "to": np.array([-1, 2, N // 2])}, middle, output=output))
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear+DequantizeLinear", None)]


def test_a_constant_node_that_stands_further_on() -> None:
    """What is quantised in front of the Reshape has the parameters of behind it; nodes come after what they read."""
    zero = helper.make_node("Constant", [], ["yz"], value=numpy_helper.from_array(np.array(77, np.uint8)))
    middle = [
        PRODUCT, helper.make_node("Reshape", ["r", "to"], ["s"]), zero, quantize("s", "yq", "y"),
        dequantize("yq", "y", "y"),
    ]  # fmt: skip
    constants = {name: array for name, array in parameters().items() if name != "yz"}
    lowered = exact(qdq_model({**constants, "to": np.array([-1, 2, N // 2])}, middle, output=("a", 2, N // 2)))
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear+DequantizeLinear", None)]
    order = {name: at for at, each in enumerate(lowered.proto.graph.node) for name in each.output}
    assert all(order.get(name, -1) < at for at, each in enumerate(lowered.proto.graph.node) for name in each.input)


def test_shared_activation_and_shared_weight() -> None:
    middle = [
        PRODUCT, helper.make_node("MatMul", ["xd", "wd"], ["r2"]), helper.make_node("Neg", ["r2"], ["s"]),
        quantize("r", "yq", "y"), dequantize("yq", "t", "y"), helper.make_node("Add", ["s", "t"], ["y"]),
    ]  # fmt: skip
    lowered = exact(qdq_model(parameters(), middle))
    assert [code for _, code in lowered.outcome] == [None, None]
    assert list(lowered.plan.weights) == ["w"]


@pytest.mark.parametrize(("x_type", "w_type"), TYPES)
def test_multiplications_in_a_row(x_type: type, w_type: type) -> None:
    constants = parameters(x_type, w_type) | {
        "v": integers(w_type, (N, 24), 20), "vs": scales((24,), 21), "vz": integers(w_type, (24,), 22),
        "zs": scales((), 23, 8), "zz": integers(x_type, (), 24),
    }  # fmt: skip
    middle = [
        PRODUCT, quantize("r", "yq", "y"), dequantize("yq", "yd", "y"), dequantize("v", "vd", "v", axis=1),
        helper.make_node("MatMul", ["yd", "vd"], ["q"]), quantize("q", "zq", "z"), dequantize("zq", "y", "z"),
    ]  # fmt: skip
    lowered = exact(qdq_model(constants, middle, output=("m", 24)))
    assert [code for _, code in lowered.outcome] == [None, None]


@pytest.mark.parametrize(("x_type", "y_type"), [(np.uint8, np.int8), (np.int8, np.uint8)])
def test_types_that_differ_until_both_are_uint8(x_type: type, y_type: type) -> None:
    constants = {**parameters(x_type), "yz": np.array(3, y_type)}
    lowered = exact(qdq_model(constants, [PRODUCT, *QUANTIZED]))
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear", None)]


def test_int8_result_read_by_something_else_stays_exact() -> None:
    """onnxruntime adds and multiplies in integers behind it, but only when the int8 pairs have become uint8."""
    constants = parameters(np.int8) | {"zs": scales((), 23, 8), "zz": np.array(3, np.int8)}
    middle = [
        PRODUCT, quantize("r", "yq", "y"), dequantize("yq", "yd", "y"), helper.make_node("Sigmoid", ["yd"], ["q"]),
        quantize("q", "zq", "z"), dequantize("zq", "y", "z"),
    ]  # fmt: skip
    lowered = exact(qdq_model(constants, middle))
    assert lowered.outcome[0][1] is None


@pytest.mark.parametrize("missing", ["x", "w", "y", "xwy"])
def test_absent_zero_points(missing: str) -> None:
    constants = {**parameters(), "xz": np.array(0, np.uint8), "wz": np.array(0, np.int8), "yz": np.array(0, np.uint8)}
    model = qdq_model(constants, [PRODUCT, *QUANTIZED])
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "QuantizeLinear") and node.input[2][0] in missing:
            del node.input[2]
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    assert exact(model).outcome == [("DequantizeLinear+MatMul+QuantizeLinear", None)]


NEG = helper.make_node("Neg", ["r"], ["y"])


@pytest.mark.parametrize(
    ("middle", "constants", "code"),
    [
        (
            [PRODUCT, quantize("r", "yq", "y"), dequantize("yq", "t", "y"), helper.make_node("Add", ["r", "t"], ["y"])],
            {}, ReasonCode.RESULT_READ_ELSEWHERE,
        ),
        (
            [PRODUCT, helper.make_node("Relu", ["r"], ["s"]), helper.make_node("Neg", ["s"], ["y"])],
            {}, ReasonCode.ACTIVATION_FUNCTION_BEHIND,
        ),
        (
            [PRODUCT, helper.make_node("Relu", ["r"], ["s"]), quantize("s", "yq", "y"), dequantize("yq", "y", "y")],
            {}, ReasonCode.ACTIVATION_FUNCTION_BEHIND,
        ),
        (
            [PRODUCT, helper.make_node("Add", ["r", "b"], ["y"])],
            {"b": floats((N,), 1)},
            ReasonCode.FUSED_FIRST,
        ),
        (
            [PRODUCT, quantize("r", "yq", "y"), dequantize("yq", "t", "y"), quantize("t", "zq", "z"),
             dequantize("zq", "y", "z")], {"zs": scales((), 9, 5), "zz": np.array(9, np.uint8)},
            ReasonCode.QUANTIZED_TWICE,
        ),
        (
            [quantize("xd", "vq", "v"), dequantize("vq", "vd", "v"), helper.make_node("MatMul", ["vd", "wd"], ["r"]),
             NEG], {"vs": scales((), 9, 5), "vz": np.array(9, np.uint8)},
            ReasonCode.QUANTIZED_TWICE,
        ),
        (
            [PRODUCT, quantize("r", "yq", "y"), dequantize("yq", "t", "y"), helper.make_node("Mul", ["t", "t"], ["y"])],
            {"yz": np.array(3, np.int8)},
            ReasonCode.INT8_SHARED,
        ),
        (
            [PRODUCT, *QUANTIZED], {"yz": np.array(3, np.int16)},
            ReasonCode.RESULT_TYPE,
        ),
        (
            [helper.make_node("Reshape", ["wd", "to"], ["wr"]), helper.make_node("MatMul", ["xd", "wr"], ["r"]), NEG],
            {"w": integers(np.int8, (K * N,), 1), "to": np.array([K, N])},
            ReasonCode.WEIGHT_RESHAPED,
        ),
        (
            [PRODUCT, NEG], {"ws": scales((K,), 1), "wz": np.zeros(K, np.int8)},
            ReasonCode.WEIGHT_SCALE_AXIS,
        ),
        (
            [helper.make_node("Gemm", ["xd", "wd", "b"], ["r"], alpha=0.5), *QUANTIZED], {"b": floats((N,), 1)},
            ReasonCode.BIAS_SCALED,
        ),
        (
            [helper.make_node("Gemm", ["xd", "wd", "b"], ["r"]), *QUANTIZED], {"b": floats((N,), 1) * 1e9},
            ReasonCode.BIAS_RANGE,
        ),
        (
            [helper.make_node("MatMul", ["x", "wd"], ["r"]), NEG], {},
            ReasonCode.ACTIVATION_NOT_QUANTIZED,
        ),
        (
            [helper.make_node("Gemm", ["xd", "wd"], ["r"]), helper.make_node("Transpose", ["r"], ["y"])], {},
            ReasonCode.FUSED_FIRST,
        ),
    ],
)  # fmt: skip
def test_refusals(middle: list[onnx.NodeProto], constants: dict[str, np.ndarray], code: ReasonCode) -> None:
    axis = 0 if constants.get("ws", np.zeros(())).shape == (K,) else None
    output = (N, "m") if middle[-1].op_type == "Transpose" else ("m", N)
    opset = 21 if constants.get("yz", np.zeros(())).dtype == np.int16 else 18
    model = qdq_model(parameters() | constants, middle, axis=axis, output=output, opset=opset)
    lowered = lower(model)
    assert [code for _, code in lowered.outcome] == [code]
    assert "MatmulCompressDequant" not in lowered.op_types


def test_int8_activation_that_is_shared_is_kept() -> None:
    middle = [PRODUCT, helper.make_node("Neg", ["r"], ["s"]), helper.make_node("Neg", ["xd"], ["t"]),
              helper.make_node("Concat", ["s", "t"], ["y"], axis=1)]  # fmt: skip
    lowered = exact(qdq_model(parameters(np.int8), middle, output=("m", N + K)))
    assert lowered.outcome[0][1] == ReasonCode.INT8_SHARED


@pytest.mark.parametrize("shape", [("b", "m", K), (2, 3, K)], ids=str)
@pytest.mark.parametrize("shapes_said", [True, False])
def test_add_behind_activations_of_higher_rank(shape: tuple[int | str, ...], shapes_said: bool) -> None:
    """With sizes known, newer releases fuse the Add; with sizes open they do not. They infer shapes, and so do we."""
    middle = [PRODUCT, helper.make_node("Add", ["r", "b"], ["y"])]
    model = qdq_model(parameters() | {"b": floats((N,), 1)}, middle, shape=shape, output=(*shape[:-1], N))
    if shapes_said:
        model = onnx.shape_inference.infer_shapes(model)
    lowered = exact(model, (2, 3, K))
    assert (lowered.outcome[0][1] is None) == ("b" in shape)


def test_plain_float_multiplications_are_not_reported() -> None:
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Gemm", ["t", "v"], ["y"])],
        {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, {"w": floats((K, N), 1), "v": floats((N, K), 2)},
    )  # fmt: skip
    assert lower(model).outcome == []


def test_files_are_verified_against_the_optimized_original(tmp_path: Path) -> None:
    """Without optimisation the original multiplies floats, so comparing with that would find differences."""
    constants = parameters()
    constants["w"] = np.clip(np.rint(floats((K, N), 3) * 12), -127, 127).astype(np.int8)
    source, target, back = (tmp_path / f"{name}.onnx" for name in ("source", "target", "back"))
    source.write_bytes(qdq_model(constants, [PRODUCT, *QUANTIZED]).SerializeToString())
    report = mcd_graph.compress_model(source, target, min_saving=-10, force_larger=True)
    assert [node.status for node in report.nodes] == ["lowered"]
    mcd_graph.restore_model(target, back)
    for other in (target, back):
        assert mcd_graph.verify_model(source, other).identical
