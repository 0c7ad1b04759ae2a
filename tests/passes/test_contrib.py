"""onnxruntime's own multiplications: MatMulIntegerToFloat, DynamicQuantizeMatMul, QGemm."""

import numpy as np
import onnx
import pytest
from lowering import (
    MS_DOMAIN,
    assert_exact,
    assert_same_bytes,
    floats,
    integers,
    lower,
    make_model,
    node,
    run,
    scales,
)
from onnx import helper

from mcd_graph.passes import ReasonCode

K, N = 45, 35


def model_of(
    op_type: str,
    inputs: list[str],
    constants: dict[str, np.ndarray],
    x: tuple[type, tuple[int | str, ...]],
    y: type,
    **attributes: object,
) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x", *inputs], ["y"], domain=MS_DOMAIN, name="matmul", **attributes)
    kind, shape = x
    return make_model(
        [node], {"x": (kind, shape)}, {"y": (y, (*shape[:-1], N))},
        {name: constants[name] for name in inputs if name},
    )  # fmt: skip


@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("per_column", [False, True], ids=["per_tensor", "per_column"])
@pytest.mark.parametrize(
    "optional", [[], ["xz"], ["", "wz"], ["xz", "wz"], ["", "", "b"], ["xz", "wz", "b"]], ids="+".join
)
def test_matmul_integer_to_float(x_type: type, w_type: type, per_column: bool, optional: list[str]) -> None:
    size = (N,) if per_column else (1,)
    constants = {
        "w": integers(w_type, (K, N), 1), "xs": scales((), 2), "ws": scales(size, 3), "xz": integers(x_type, (), 4),
        "wz": integers(w_type, size, 5), "b": floats((N,), 6),
    }  # fmt: skip
    model = model_of(
        "MatMulIntegerToFloat", ["w", "xs", "ws", *optional], constants, (x_type, ("b", "m", K)), np.float32
    )
    lowered = assert_exact(model, {"x": integers(x_type, (2, 9, K), 7)})
    assert lowered.outcome == [("MatMulIntegerToFloat", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]


@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
@pytest.mark.parametrize("per_column", [False, True], ids=["per_tensor", "per_column"])
@pytest.mark.parametrize("optional", [[], ["wz"], ["", "b"], ["wz", "b"]], ids="+".join)
def test_dynamic_quantize_matmul(w_type: type, per_column: bool, optional: list[str]) -> None:
    size = (N,) if per_column else ()
    constants = {
        "w": integers(w_type, (K, N), 1), "ws": scales(size, 3), "wz": integers(w_type, size, 5), "b": floats((N,), 6),
    }  # fmt: skip
    model = model_of(
        "DynamicQuantizeMatMul", ["w", "ws", *optional], constants, (np.float32, ("b", "m", K)), np.float32
    )
    lowered = assert_exact(model, {"x": floats((2, 9, K), 7)})
    assert lowered.outcome == [("DynamicQuantizeMatMul", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]


@pytest.mark.parametrize("types", [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("bias", [None, (N,), (1, N), (1,)], ids=str)
@pytest.mark.parametrize("output", ["float", "quantised"])
def test_qgemm(
    types: tuple[type, type], transposed: tuple[int, int], alpha: float, bias: tuple[int, ...] | None, output: str
) -> None:
    (x_type, w_type), (trans_a, trans_b) = types, transposed
    size = (N,) if trans_b else ()
    constants = {
        "xs": scales((), 1), "xz": integers(x_type, (), 2), "w": integers(w_type, (N, K) if trans_b else (K, N), 3),
        "ws": scales(size, 4), "wz": integers(w_type, size, 5), "ys": scales((), 6, 20), "yz": integers(x_type, (), 7),
    }  # fmt: skip
    if bias is not None:
        constants["c"] = np.random.default_rng(8).integers(-5000, 5000, bias).astype(np.int32)
    inputs = ["xs", "xz", "w", "ws", "wz", "c" if bias is not None else ""]
    inputs += ["ys", "yz"] if output == "quantised" else []
    node = helper.make_node(
        "QGemm", ["x", *inputs], ["y"], domain=MS_DOMAIN, name="gemm", alpha=alpha, transA=trans_a, transB=trans_b
    )
    shape = (K, 6) if trans_a else (6, K)
    model = make_model(
        [node], {"x": (x_type, shape)}, {"y": (np.float32 if output == "float" else x_type, (6, N))},
        {name: constants[name] for name in inputs if name},
    )  # fmt: skip
    lowered = assert_exact(model, {"x": integers(x_type, shape, 9)})
    assert lowered.outcome == [("QGemm", None)]
    assert lowered.op_types == ["Transpose"] * trans_a + ["MatmulCompressDequant"]


@pytest.mark.parametrize(
    ("op_type", "inputs", "constants", "code"),
    [
        ("MatMulIntegerToFloat", ["w", "xs", "ws"], {"xs": scales((4,), 1)}, ReasonCode.PARAMETER_SHAPE),
        (
            "MatMulIntegerToFloat", ["w", "xs", "ws", "xz"], {"xz": integers(np.uint8, (4,), 1)},
            ReasonCode.PARAMETER_SHAPE,
        ),
        (
            "MatMulIntegerToFloat", ["w", "xs", "ws", "", "", "b"], {"b": floats((4, N), 1)},
            ReasonCode.PARAMETER_SHAPE,
        ),
        (
            "DynamicQuantizeMatMul", ["w", "ws"], {"ws": scales((K, 1), 1)},
            ReasonCode.PARAMETER_SHAPE,
        ),
        (
            "DynamicQuantizeMatMul", ["w", "ws"], {"w": integers(np.int8, (2, K, N), 1)},
            ReasonCode.WEIGHT_RANK,
        ),
        (
            "QGemm", ["xs", "xz", "w", "ws", "wz", "c"], {"c": np.zeros((4, N), np.int32)},
            ReasonCode.PARAMETER_SHAPE,
        ),
        (
            "QGemm", ["xs", "xz", "w", "ws", "wz", "", "ys"], {},
            ReasonCode.INPUT_MISSING,
        ),
    ],
)  # fmt: skip
def test_refusals(op_type: str, inputs: list[str], constants: dict[str, np.ndarray], code: ReasonCode) -> None:
    table = {
        "xs": scales((), 1), "xz": np.array(3, np.uint8), "w": integers(np.int8, (K, N), 2), "ws": scales((), 3),
        "wz": np.array(0, np.int8), "ys": scales((), 4), "b": floats((N,), 5), **constants,
    }  # fmt: skip
    kind = np.float32 if op_type == "DynamicQuantizeMatMul" else np.uint8
    lowered = lower(model_of(op_type, inputs, table, (kind, (4, K)), np.float32))
    assert lowered.outcome == [(op_type, code)]
    assert not lowered.modified


def _with_more_dimensions(form: str, *, bias: bool) -> list[onnx.NodeProto]:
    """A multiplication by w, (1, k, n), of floats, in one form or another."""
    last = ["b"] if bias else []
    dynamic = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"])
    if form == "DynamicQuantizeMatMul":
        return [helper.make_node(form, ["x", "w", "s", "", *last], ["y"], domain=MS_DOMAIN)]
    if form == "MatMulIntegerToFloat":
        return [dynamic, helper.make_node(form, ["q", "w", "xs", "s", "xz", "", *last], ["y"], domain=MS_DOMAIN)]
    product = "p" if bias else "y"
    nodes = [node("MatMulInteger", "q w xz", "i"), node("Cast", "i", "f", to=onnx.TensorProto.FLOAT)]
    nodes += [node("Mul", "xs s", "m"), node("Mul", "f m", product)]
    return [dynamic, *nodes, *([node("Add", "p b", "y")] if bias else [])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_a_weight_of_more_dimensions_with_a_scale_for_each_column_is_kept(form: str, *, bias: bool) -> None:
    """onnxruntime's fused operators leave out the bias of such a multiplication, and round otherwise."""
    nodes, feeds = _with_more_dimensions(form, bias=bias), {"x": floats((2, 5, K), 4)}
    constants = {"w": integers(np.int8, (1, K, N), 1), "s": scales((N,), 2), "b": floats((N,), 3)}
    used = {name for each in nodes for name in each.input}
    inputs, outputs = {"x": (np.float32, ["a", "m", K])}, {"y": (np.float32, ["a", "m", N])}
    model = make_model(nodes, inputs, outputs, {name: constants[name] for name in used & set(constants)})
    lowered = lower(model)
    assert [code for _, code in lowered.outcome] == [ReasonCode.WEIGHT_RANK]
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))
    # With one scale they do as with a matrix.
    constants["s"] = np.array(0.01, np.float32)
    single = make_model(nodes, inputs, outputs, {name: constants[name] for name in used & set(constants)})
    assert [code for _, code in assert_exact(single, feeds, optimized=True).outcome] == [None]
