"""float16 models: onnxruntime's CPU computes them in float and rounds where the numbers leave; so must we."""

import numpy as np
import pytest
from lowering import assert_exact, floats, integers, lower, make_model
from onnx import TensorProto, helper

from mcd_graph.passes import ReasonCode

K, N = 64, 30


@pytest.mark.parametrize(
    ("scale_shape", "scale_at_run_time"),
    [((), False), ((), True), ((N,), False), ((N,), True), ((1, 1, N), False)],
    ids=["scalar", "scalar_at_run_time", "vector", "vector_at_run_time", "leading_ones"],
)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("behind", ["nothing", "Sigmoid", "chain"])
def test_dequantization_to_float16(
    scale_shape: tuple[int, ...], scale_at_run_time: bool, bias: bool, behind: str
) -> None:
    """Sums beyond 65504 would be infinite in float16; the scale brings them back, since nothing rounds in between."""
    scale = np.asarray(np.abs(floats(scale_shape, 1)) * 1e-3 + 1e-4, np.float16)
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "xz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["f", "s"], ["t"]),
    ]
    last = "t"
    if bias:
        nodes.append(helper.make_node("Add", [last, "b"], ["u"]))
        last = "u"
    if behind == "Sigmoid":
        nodes.append(helper.make_node("Sigmoid", [last], ["v"]))
    elif behind == "chain":
        nodes += [helper.make_node("Mul", [last, last], ["a"]), helper.make_node("Add", ["a", last], ["v"])]
    nodes[-1].output[0] = "y"
    constants = {
        "w": integers(np.int8, (K, N), 1), "xz": np.array(3, np.uint8), "b": floats((N,), 3).astype(np.float16),
    }  # fmt: skip
    if not bias:
        del constants["b"]
    inputs = {"x": (np.uint8, (2, "m", K))}
    feeds = {"x": integers(np.uint8, (2, 5, K), 2)}
    if scale_at_run_time:
        inputs["s"], feeds["s"] = (np.float16, scale_shape), scale
    else:
        constants["s"] = scale
    model = make_model(nodes, inputs, {"y": (np.float16, (2, "m", N))}, constants)
    lowered = assert_exact(model, feeds)
    assert lowered.outcome == [("MatMulInteger+Cast+Mul" + "+Add" * bias, None)]


def test_float32_scale_with_a_float16_result() -> None:
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT16),
    ]
    constants = {"w": integers(np.int8, (K, N), 1), "s": np.abs(floats((N,), 1)) * 1e-3}
    model = make_model(nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.float16, ("m", N))}, constants)
    lowered = assert_exact(model, {"x": integers(np.uint8, (5, K), 2)})
    assert lowered.op_types == ["MatmulCompressDequant", "Cast"]


def qlinear_constants() -> dict[str, np.ndarray]:
    return {
        "xs": np.array(0.02, np.float16), "xz": np.array(100, np.uint8), "w": integers(np.int8, (K, N), 1),
        "ws": np.abs(floats((N,), 2)).astype(np.float16), "wz": np.zeros(N, np.int8),
        "ys": np.array(3, np.float16), "yz": np.array(9, np.uint8),
    }  # fmt: skip


def test_qlinear_matmul_with_float16_scales() -> None:
    constants = qlinear_constants()
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"])
    model = make_model(
        [node], {"x": (np.uint8, ("m", K))}, {"y": (np.uint8, ("m", N))}, constants, opset=21, ir_version=10
    )
    assert assert_exact(model, {"x": integers(np.uint8, (5, K), 3)}).outcome == [("QLinearMatMul", None)]


def test_float16_scales_that_are_not_constant_are_kept() -> None:
    constants = qlinear_constants()
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"])
    del constants["xs"]
    model = make_model(
        [node], {"x": (np.uint8, ("m", K)), "xs": (np.float16, ())}, {"y": (np.uint8, ("m", N))}, constants,
        opset=21, ir_version=10,
    )  # fmt: skip
    assert lower(model).outcome == [("QLinearMatMul", ReasonCode.SCALE_TYPE)]


def test_qdq_in_float16_is_kept() -> None:
    """onnxruntime multiplies it in float, optimised or not."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    constants = {name: array for name, array in qlinear_constants().items() if name[0] != "y"}
    model = make_model(
        nodes, {"x": (np.float16, ("m", K))}, {"y": (np.float16, ("m", N))}, constants, opset=21, ir_version=10
    )
    code = ReasonCode.SCALE_TYPE
    lowered = assert_exact(model, {"x": floats((4, K), 1).astype(np.float16)}, optimized=True)
    assert lowered.outcome == [("MatMul", code)]
