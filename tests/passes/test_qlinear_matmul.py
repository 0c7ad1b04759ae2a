"""QLinearMatMul: requantisation to the byte, refusals with their reasons."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from lowering import assert_exact, assert_same_bytes, check, integers, lower, make_model, run, scales
from onnx import TensorProto, helper, numpy_helper

from mcd_graph.passes import ReasonCode

K, N = 50, 36


def qlinear_model(
    x_type: type = np.uint8, w_type: type = np.int8, y_type: type | None = None, **constants: np.ndarray
) -> object:
    y_type = y_type or x_type
    table = {
        "xs": scales((), 1), "xz": integers(x_type, (), 2), "w": integers(w_type, (K, N), 3), "ws": scales((), 4),
        "wz": integers(w_type, (), 5), "ys": scales((), 6, 20), "yz": integers(y_type, (), 7), **constants,
    }  # fmt: skip
    node = helper.make_node("QLinearMatMul", ["x", *table], ["y"], name="matmul")
    return make_model([node], {"x": (x_type, ("m", table["w"].shape[0]))}, {"y": (y_type, ("m", N))}, table)


@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("per_column", [False, True], ids=["per_tensor", "per_column"])
@pytest.mark.parametrize("seed", range(6))
def test_requantization(x_type: type, w_type: type, per_column: bool, seed: int) -> None:
    size = (N,) if per_column else ()
    constants = {
        "w": integers(w_type, (K, N), 10 + seed), "ws": scales(size, 20 + seed),
        "wz": integers(w_type, size, 30 + seed),
        "ys": scales((), seed, 20),
        "yz": integers(x_type, (), 40 + seed),
    }  # fmt: skip
    model = qlinear_model(x_type, w_type, **constants)
    lowered = assert_exact(model, {"x": integers(x_type, (9, K), 50 + seed)})
    assert lowered.outcome == [("QLinearMatMul", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30], ids=str)
def test_extreme_scales_saturate_alike(scale: float) -> None:
    model = qlinear_model(ys=np.array(scale, np.float32))
    assert_exact(model, {"x": integers(np.uint8, (5, K), 1)})


def test_halves_round_to_even() -> None:
    """Sums of 1 ... 300 times one half: every other result is a tie."""
    constants = {
        "w": np.ones((1, N), np.int8), "xs": np.array(0.5, np.float32), "ws": np.array(1, np.float32),
        "ys": np.array(1, np.float32), "xz": np.array(0, np.uint8), "wz": np.array(0, np.int8),
        "yz": np.array(3, np.uint8),
    }  # fmt: skip
    lowered = assert_exact(qlinear_model(**constants), {"x": np.arange(256, dtype=np.uint8).reshape(-1, 1)})
    assert lowered.outcome == [("QLinearMatMul", None)]


def dequantized(
    model: onnx.ModelProto, inputs: tuple[str, ...] = ("y", "ds", "yz"), *more: onnx.NodeProto, **constants: np.ndarray
) -> onnx.ModelProto:
    """Return the model with a DequantizeLinear from y to f behind it, and ``more`` nodes."""
    model.graph.node.extend([helper.make_node("DequantizeLinear", inputs, ["f"]), *more])
    table = {"ds": np.array(0.37, np.float32), **constants}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in table.items())
    del model.graph.output[:]
    end = model.graph.node[-1].output[0]
    model.graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, None]))
    return model


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("inputs", "constants"),
    [
        (("y", "ds", "yz"), {}),
        (("y", "ys", "yz"), {}),
        (("y", "ds", "other"), {}),
        (("y", "ds", "yz"), {"ds": np.array([1e-42], np.float32)}),
    ],
    ids=["same zero point", "same scale", "equal zero point", "tiny scale"],
)
def test_a_dequantized_result(kind: type, inputs: tuple[str, ...], constants: dict[str, np.ndarray]) -> None:
    zero = integers(kind, (), 7)
    model = dequantized(qlinear_model(kind, yz=zero), inputs, **{"other": np.asarray(zero), **constants})
    x = integers(kind, (9, K), 5)
    lowered = assert_exact(model, {"x": x})
    assert lowered.outcome == [("QLinearMatMul+DequantizeLinear", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]
    assert_same_bytes(run(lowered.proto, {"x": x}, optimize=True), run(model, {"x": x}, optimize=True))


def test_a_zero_point_may_be_left_out_where_it_is_zero() -> None:
    model = dequantized(qlinear_model(yz=np.array(0, np.uint8)), ("y", "ds"))
    assert assert_exact(model, {"x": integers(np.uint8, (9, K), 5)}).op_types == ["MatmulCompressDequant"]


@pytest.mark.parametrize(
    ("inputs", "constants", "more"),
    [
        (("y", "ds", "other"), {"other": np.array(77, np.uint8)}, []),
        (("y", "ds"), {}, []),
        (("y", "ds", "yz"), {}, [helper.make_node("Transpose", ["f"], ["t"])]),
        (
            ("y", "ds", "yz"), {},
            [helper.make_node("Sigmoid", ["f"], ["g"]), helper.make_node("QuantizeLinear", ["g", "ds", "yz"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "ds", "yz"], ["h"])],
        ),
    ],
    ids=["other zero point", "no zero point", "moved", "joined"],
)  # fmt: skip
def test_a_dequantizer_that_stays(
    inputs: tuple[str, ...], constants: dict[str, np.ndarray], more: list[onnx.NodeProto]
) -> None:
    model = dequantized(qlinear_model(yz=np.array(3, np.uint8)), inputs, *more, **constants)
    x = integers(np.uint8, (9, K), 5)
    lowered = assert_exact(model, {"x": x})
    assert lowered.op_types[:2] == ["MatmulCompressDequant", "DequantizeLinear"]
    assert_same_bytes(run(lowered.proto, {"x": x}, optimize=True), run(model, {"x": x}, optimize=True))


def test_a_result_that_is_read_twice_is_dequantized_outside() -> None:
    model = dequantized(qlinear_model())
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.UINT8, ["m", N]))
    lowered = assert_exact(model, {"x": integers(np.uint8, (9, K), 5)})
    assert lowered.op_types == ["MatmulCompressDequant", "DequantizeLinear"]


@pytest.mark.parametrize("shape", [(K,), (2, 3, K)], ids=str)
def test_activations_of_other_ranks(shape: tuple[int, ...]) -> None:
    model = qlinear_model()
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.UINT8, shape))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.UINT8, (*shape[:-1], N)))
    assert_exact(model, {"x": integers(np.uint8, shape, 8)})


@pytest.mark.parametrize("at_run_time", [{"xs"}, {"ys"}, {"xz", "yz"}, {"ws"}, {"wz"}, {"xs", "ws", "ys"}], ids=sorted)
def test_parameters_computed_at_run_time(at_run_time: set[str]) -> None:
    model = qlinear_model(ws=scales((N,), 4), wz=integers(np.int8, (N,), 5))
    feeds = {"x": integers(np.uint8, (4, K), 1)}
    for name in at_run_time:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        feeds[name] = numpy_helper.to_array(tensor)
        model.graph.initializer.remove(tensor)
    lowered = assert_exact(model, feeds)
    assert lowered.outcome == [("QLinearMatMul", None)]
    expected = ["Mul", "Div"] if at_run_time & {"xs", "ws", "ys"} else []
    assert lowered.op_types == [*expected, "MatmulCompressDequant"]


def test_int8_activation_with_uint8_weight_against_exact_sums() -> None:
    """onnxruntime has no kernel for the pair, the operator has."""
    model = qlinear_model(np.int8, np.uint8)
    x = integers(np.int8, (4, K), 1)
    lowered = lower(model)
    check(lowered.proto)
    table = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    acc = (x.astype(np.int64) - table["xz"]) @ (table["w"].astype(np.int64) - table["wz"])
    factor = table["xs"] * table["ws"] / table["ys"]
    y = np.rint(acc.astype(np.float32) * factor) + table["yz"]
    assert_same_bytes(run(lowered.proto, {"x": x}), [np.clip(y, -128, 127).astype(np.int8)])


@pytest.mark.parametrize(
    ("constants", "code"),
    [
        ({"xs": scales((4,), 1)}, ReasonCode.PARAMETER_SHAPE),
        ({"xz": integers(np.uint8, (4,), 1)}, ReasonCode.PARAMETER_SHAPE),
        ({"ys": scales((4,), 1)}, ReasonCode.PARAMETER_SHAPE),
        ({"yz": integers(np.uint8, (4,), 1)}, ReasonCode.PARAMETER_SHAPE),
        ({"ws": scales((K, 1), 1)}, ReasonCode.PARAMETER_SHAPE),
        (
            {"wz": integers(np.int8, (K, 1), 1)},
            ReasonCode.PARAMETER_SHAPE,
        ),
        ({"w": integers(np.int8, (2, K, N), 1)}, ReasonCode.WEIGHT_RANK),
        ({"xs": scales((), 1).astype(np.float16)}, ReasonCode.SCALE_TYPE),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_refusals(constants: dict[str, np.ndarray], code: ReasonCode) -> None:
    lowered = lower(qlinear_model(**constants))
    assert lowered.outcome == [("QLinearMatMul", code)]
    assert not lowered.modified


def test_eight_bit_floats_are_kept() -> None:
    model = qlinear_model(w=np.zeros((K, N), ml_dtypes.float8_e4m3fn))
    assert lower(model).outcome == [("QLinearMatMul", ReasonCode.WEIGHT_TYPE)]


def test_two_multiplications_in_a_row() -> None:
    """The first one's quantised result is the second one's activation."""
    first, second = integers(np.int8, (K, N), 1), integers(np.uint8, (N, K), 2)
    constants = {
        "xs": scales((), 1), "xz": np.array(7, np.uint8), "w1": first, "s1": scales((N,), 2),
        "z1": integers(np.int8, (N,), 3), "ys": scales((), 4, 20), "yz": np.array(99, np.uint8), "w2": second,
        "s2": scales((), 5), "z2": np.array(130, np.uint8), "rs": scales((), 6, 20), "rz": np.array(0, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w1", "s1", "z1", "ys", "yz"], ["y"]),
        helper.make_node("QLinearMatMul", ["y", "ys", "yz", "w2", "s2", "z2", "rs", "rz"], ["r"]),
    ]
    model = make_model(nodes, {"x": (np.uint8, ("m", K))}, {"r": (np.uint8, ("m", K))}, constants)
    lowered = assert_exact(model, {"x": integers(np.uint8, (6, K), 1)})
    assert lowered.op_types == ["MatmulCompressDequant"] * 2
