"""The operator's schema, its shape inference, and its NumPy twin against the kernel."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import assert_same_bytes, run
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import mcd_graph
from mcd_graph.operators.matmul_compress_dequant import (
    INPUT_NAMES,
    OP_DOMAIN,
    OP_TYPE,
    OP_VERSION,
    MatmulCompressDequant,
    register_schema,
)

TYPES = {
    np.dtype(kind): helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for kind in (np.int8, np.uint8, np.int32, np.float32, np.uint64, np.float16)
}


def operator_model(
    w: np.ndarray,
    constants: dict[str, np.ndarray],
    x1: np.ndarray,
    output: int,
    *,
    shape: object = (),
    **attributes: int,
) -> onnx.ModelProto:
    """Return a model of one node; ``constants`` are its inputs by name, ``w`` is (n, k)."""
    packed = mcd_graph.pack_weight(w)
    tensors = {"x2": packed.x2, "compress_index": packed.compress_index, **constants}
    names = [name if name in tensors or name == "x1" else "" for name in INPUT_NAMES]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        OP_TYPE, names, ["y"], domain=OP_DOMAIN, compress_info=[int(i) for i in packed.compress_info], **attributes
    )
    dims = [f"d{i}" for i in range(x1.ndim - 1)]
    graph = helper.make_graph(
        [node],
        "operator",
        [helper.make_tensor_value_info("x1", TYPES[x1.dtype], [*dims, w.shape[1]])],
        [helper.make_tensor_value_info("y", output, [*dims, w.shape[0]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(OP_DOMAIN, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def twin(model: onnx.ModelProto, x1: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(model, new_ops=[MatmulCompressDequant]).run(None, {"x1": x1})


def random_matrix(kind: type, shape: tuple[int, ...], seed: int) -> np.ndarray:
    info = np.iinfo(kind)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(kind)


def test_registering_twice_changes_nothing() -> None:
    register_schema()
    schema = onnx.defs.get_schema(OP_TYPE, domain=OP_DOMAIN)
    assert schema.since_version == OP_VERSION
    assert tuple(parameter.name for parameter in schema.inputs) == INPUT_NAMES


@pytest.mark.parametrize("x_type", [np.int8, np.uint8])
@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
@pytest.mark.parametrize(
    "form", ["int32", "float", "addend", "gate", "strict", "int8", "uint8", "float_int8", "float_uint8"]
)
@pytest.mark.parametrize("per_column", [False, True], ids=["per_tensor", "per_column"])
def test_twin_and_kernel_agree(x_type: type, w_type: type, form: str, per_column: bool) -> None:
    k, n = 45, 21
    rng = np.random.default_rng(7)
    size = (n,) if per_column else (1,)
    scale = (rng.random(size) * 1e-3 + 1e-5).astype(np.float32)
    constants = {
        "x1_zero_point": np.array(5, x_type),
        "w_zero_point": random_matrix(w_type, size, 3),
        "bias": rng.integers(-1000, 1000, n).astype(np.int32),
    }
    output = TensorProto.FLOAT
    if form == "int32":
        output = TensorProto.INT32
    elif form == "strict":
        constants["deq_scale"] = scale.view(np.uint32).astype(np.uint64).reshape(1, -1)
        output = TensorProto.FLOAT16
    else:
        constants["deq_scale"] = scale
    if form == "addend":
        constants["addend"] = rng.standard_normal(n).astype(np.float32)
    if form == "gate":
        constants["gate"] = rng.standard_normal((2, 3, n)).astype(np.float32)
        constants["residual"] = rng.standard_normal((3, 1)).astype(np.float32)
    if form.endswith("int8") or form.startswith("float_"):
        kind = np.dtype(form.removeprefix("float_"))
        constants["y_zero_point"] = np.array(9, kind)
        constants["deq_scale"] = scale * 10
        output = TYPES[kind]
    if form.startswith("float_"):
        constants["y_scale"] = np.array(0.3, np.float32)
        output = TensorProto.FLOAT
    x1 = random_matrix(x_type, (2, 3, k), 1)
    model = operator_model(random_matrix(w_type, (n, k), 2), constants, x1, output)
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
    (y,) = expected = twin(model, x1)
    assert y.dtype == helper.tensor_dtype_to_np_dtype(output)
    assert y.shape == (2, 3, n)
    assert_same_bytes(run(model, {"x1": x1}, exact=True), expected)


def test_twin_against_plain_numbers() -> None:
    """One case by hand: ((7-3)*(2-1) + (1-3)*(-4-1)) + 10 = 24, times 0.5, plus 0.25."""
    constants = {
        "deq_scale": np.array([0.5], np.float32),
        "bias": np.array([10], np.int32),
        "x1_zero_point": np.array(3, np.uint8),
        "w_zero_point": np.array(1, np.int8),
        "addend": np.array(0.25, np.float32),
    }
    x1 = np.array([[7, 1]], np.uint8)
    model = operator_model(np.array([[2, -4]], np.int8), constants, x1, TensorProto.FLOAT)
    assert twin(model, x1)[0].tolist() == [[12.25]]
    assert run(model, {"x1": x1}, exact=True)[0].tolist() == [[12.25]]


@pytest.mark.parametrize(
    ("acc", "zero_point", "expected"),
    [
        (1, 0, 0),
        (3, 0, 2),
        (5, 0, 2),
        (-1, 0, 0),
        (-3, 0, -2),
        (1, 7, 7),
        (255, 0, 127),
        (-300, 0, -128),
        (20, 120, 127),
    ],
)
def test_requantization_rounds_half_to_even_and_saturates(acc: int, zero_point: int, expected: int) -> None:
    x1 = np.ones((1, 1), np.int8)
    constants = {
        "deq_scale": np.array([0.5], np.float32),
        "bias": np.array([acc], np.int32),
        "y_zero_point": np.array(zero_point, np.int8),
    }
    model = operator_model(np.zeros((1, 1), np.int8), constants, x1, TensorProto.INT8)
    assert twin(model, x1)[0].tolist() == [[expected]]
    assert run(model, {"x1": x1}, exact=True)[0].tolist() == [[expected]]


def test_accumulator_wraps_as_int32() -> None:
    x1 = np.ones((1, 1), np.int8)
    constants = {"bias": np.array([2**31 - 1], np.int32)}
    model = operator_model(np.ones((1, 1), np.int8), constants, x1, TensorProto.INT32)
    assert twin(model, x1)[0].tolist() == [[-(2**31)]]
    assert run(model, {"x1": x1}, exact=True)[0].tolist() == [[-(2**31)]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_twin_and_kernel_agree_on_any_shape(data: st.DataObject) -> None:
    m, k, n = (data.draw(st.integers(1, limit)) for limit in (20, 130, 70))
    x_type, w_type = (data.draw(st.sampled_from([np.int8, np.uint8])) for _ in range(2))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    if data.draw(st.booleans()):
        constants["x1_zero_point"] = random_matrix(x_type, (), seed)
    if data.draw(st.booleans()):
        constants["w_zero_point"] = random_matrix(w_type, data.draw(st.sampled_from([(), (1,), (n,)])), seed + 1)
    if data.draw(st.booleans()):
        constants["bias"] = rng.integers(-(2**31), 2**31, n).astype(np.int32)
    output = TensorProto.INT32
    if data.draw(st.booleans()):
        shape = data.draw(st.sampled_from([(), (1,), (n,), (1, n)]))
        constants["deq_scale"] = np.asarray(rng.standard_normal(shape), np.float32)
        output = TensorProto.FLOAT
        if data.draw(st.booleans()):
            constants["addend"] = rng.standard_normal(n).astype(np.float32)
        for name in ("gate", "residual"):
            if data.draw(st.booleans()):
                shape = data.draw(st.sampled_from([(m, n), (m, n), (1, n), (m, 1), (n,), (3, 1, 1), ()]))
                constants[name] = np.asarray(rng.standard_normal(shape), np.float32)
        if data.draw(st.booleans()):
            constants["x1_scale"] = np.asarray(rng.random(data.draw(st.sampled_from([(), (1,)]))), np.float32)
    x1 = random_matrix(x_type, (m, k), seed + 2)
    if "deq_scale" in constants and data.draw(st.booleans()):
        x1 = (rng.standard_normal((m, k)) * data.draw(st.sampled_from([0, 1e-44, 1, 1e30]))).astype(np.float32)
        constants = {name: array for name, array in constants.items() if name not in ("x1_scale", "x1_zero_point")}
    model = operator_model(random_matrix(w_type, (n, k), seed + 3), constants, x1, output)
    model.graph.output[0].type.tensor_type.ClearField("shape")  # it may be broadcast
    assert_same_bytes(run(model, {"x1": x1}, exact=True), twin(model, x1))


@pytest.mark.parametrize("values", [[np.nan, 1, -2], [np.inf, 1, 2], [-np.inf, 1, np.inf], [np.nan] * 3, [1e-45, 0, 0]])
def test_twin_and_kernel_agree_on_odd_activations(values: list[float]) -> None:
    x1 = np.array([values], np.float32)
    model = operator_model(
        random_matrix(np.int8, (4, 3), 1), {"deq_scale": np.ones(1, np.float32)}, x1, TensorProto.FLOAT
    )
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
    with np.errstate(all="ignore"):
        expected = twin(model, x1)
    np.testing.assert_array_equal(run(model, {"x1": x1}, exact=True), expected)


@pytest.mark.parametrize("name", ["x1_scale", "x1_zero_point"])
def test_a_float_activation_has_neither_scale_nor_zero_point(name: str) -> None:
    x1 = np.ones((1, 2), np.float32)
    constants = {"deq_scale": np.ones(1, np.float32), name: np.ones((), np.float32)}
    model = operator_model(np.ones((1, 2), np.int8), constants, x1, TensorProto.FLOAT)
    with pytest.raises(ValueError, match="a float32 x1 needs"):
        twin(model, x1)
    with pytest.raises(onnx.shape_inference.InferenceError, match=f"{name} must be absent"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize(("name", "value"), [("offset_w", np.zeros(1, np.int8)), ("offset_x", 1)])
def test_twin_refuses_what_the_operator_does_not_have(name: str, value: object) -> None:
    x1 = np.ones((1, 2), np.int8)
    constants = {name: value} if isinstance(value, np.ndarray) else {}
    attributes = {} if isinstance(value, np.ndarray) else {name: value}
    model = operator_model(np.ones((1, 2), np.int8), constants, x1, TensorProto.INT32, **attributes)
    with pytest.raises(ValueError, match="offset_w and offset_x are not supported"):
        twin(model, x1)


def test_twin_refuses_a_scale_of_the_result_without_a_zero_point() -> None:
    x1 = np.ones((1, 2), np.int8)
    constants = {"deq_scale": np.ones((), np.float32), "y_scale": np.ones((), np.float32)}
    with pytest.raises(ValueError, match="y_scale needs a y_zero_point"):
        twin(operator_model(np.ones((1, 2), np.int8), constants, x1, TensorProto.FLOAT), x1)


@pytest.mark.parametrize("name", ["gate", "residual"])
@pytest.mark.parametrize(
    ("constants", "shape", "message"),
    [
        ({}, (1, 1), "needs a float32 deq_scale"),
        ({"deq_scale": np.ones(1, np.uint64)}, (1, 1), "needs a float32 deq_scale"),
        ({"deq_scale": np.ones(1, np.float32), "y_zero_point": np.array(1, np.uint8)}, (1, 1), "neither y_zero_point"),
        ({"deq_scale": np.ones(1, np.float32)}, (2, 3), r"of shape \[2, 3\] does not broadcast|has shape \(2, 3\)"),
    ],
)
def test_twin_and_inference_refuse_a_gate_or_residual(
    name: str, constants: dict[str, np.ndarray], shape: tuple[int, ...], message: str
) -> None:
    x1 = np.ones((1, 2), np.int8)
    constants = {**constants, name: np.ones(shape, np.float32)}
    model = operator_model(np.ones((2, 2), np.int8), constants, x1, TensorProto.FLOAT)
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        twin(model, x1)
    if "deq_scale" not in constants:
        return  # as far as inference knows, it may have one whose type is not known
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info("y"))
    with pytest.raises(onnx.shape_inference.InferenceError, match=f"{name} .*{message}"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_twin_refuses_a_gate_that_is_not_float32() -> None:
    x1 = np.ones((1, 2), np.int8)
    constants = {"deq_scale": np.ones((), np.float32), "gate": np.ones((1, 1), np.float64)}
    with pytest.raises(ValueError, match="gate is float64, and the result float32"):
        twin(operator_model(np.ones((1, 2), np.int8), constants, x1, TensorProto.FLOAT), x1)


def test_twin_refuses_a_scale_of_x1_without_a_float_scale() -> None:
    x1 = np.ones((1, 2), np.int8)
    constants = {"x1_scale": np.ones((), np.float32)}
    with pytest.raises(ValueError, match="x1_scale needs a float32 deq_scale"):
        twin(operator_model(np.ones((1, 2), np.int8), constants, x1, TensorProto.INT32), x1)


# ---------------------------------------------------------------------------------------------------------------------
# Type and shape inference


def inferred(model: onnx.ModelProto) -> tuple[int, list[object]]:
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info("y"))
    result = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
    dims = [dim.dim_value or dim.dim_param for dim in result.shape.dim] if result.HasField("shape") else None
    return result.elem_type, dims


@pytest.mark.parametrize(
    ("constants", "attributes", "expected"),
    [
        ({}, {}, TensorProto.INT32),
        ({"deq_scale": np.ones(1, np.float32)}, {}, TensorProto.FLOAT),
        ({"deq_scale": np.ones(1, np.uint64)}, {}, TensorProto.FLOAT16),
        ({"deq_scale": np.ones(1, np.float32)}, {"output_type": TensorProto.FLOAT16}, TensorProto.FLOAT16),
        ({"deq_scale": np.ones(1, np.float32), "y_zero_point": np.array(1, np.uint8)}, {}, TensorProto.UINT8),
    ],
)
def test_inference_of_type_and_shape(
    constants: dict[str, np.ndarray], attributes: dict[str, int], expected: int
) -> None:
    x1 = np.zeros((2, 3, 4), np.int8)
    model = operator_model(np.ones((5, 4), np.int8), constants, x1, expected, **attributes)
    assert inferred(model) == (expected, ["d0", "d1", 5])


@pytest.mark.parametrize(
    ("gate", "residual", "expected"),
    [
        ((2, 3, 5), None, [2, 3, 5]),
        ((3, 1), None, ["d0", 3, 5]),
        ((1,), (4, 1, 1, 1), [4, "d0", "d1", 5]),
    ],
)
def test_inference_beside_other_shapes(
    gate: tuple[int, ...], residual: tuple[int, ...] | None, expected: list[object]
) -> None:
    constants = {"deq_scale": np.ones(1, np.float32), "gate": np.ones(gate, np.float32)}
    if residual is not None:
        constants["residual"] = np.ones(residual, np.float32)
    model = operator_model(np.ones((5, 4), np.int8), constants, np.zeros((2, 3, 4), np.int8), TensorProto.FLOAT)
    assert inferred(model) == (TensorProto.FLOAT, expected)


def test_inference_without_a_known_shape() -> None:
    model = operator_model(np.ones((5, 4), np.int8), {}, np.zeros((2, 4), np.int8), TensorProto.INT32)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert inferred(model) == (TensorProto.INT32, None)


@pytest.mark.parametrize(
    ("shape", "info", "message"),
    [
        ((2, 3), None, "the last dimension of x1 must be 4"),
        ((), None, "the last dimension of x1 must be 4"),
        ((2, 4), [8, 8, 4], "compress_info must hold 5 integers"),
    ],
)
def test_inference_refuses_what_cannot_be(shape: tuple[int, ...], info: list[int] | None, message: str) -> None:
    model = operator_model(np.ones((5, 4), np.int8), {}, np.zeros((2, 4), np.int8), TensorProto.INT32)
    dims = model.graph.input[0].type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size
    if info is not None:
        attribute = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == "compress_info")
        attribute.CopyFrom(helper.make_attribute("compress_info", info))
    with pytest.raises(onnx.shape_inference.InferenceError, match=message):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_checker_refuses_wrong_types() -> None:
    """A zero point of another type than the activation breaks a type constraint of the schema."""
    model = operator_model(
        np.ones((5, 4), np.int8), {"x1_zero_point": np.array(0, np.uint8)}, np.zeros((2, 4), np.int8), TensorProto.INT32
    )
    with pytest.raises(onnx.shape_inference.InferenceError, match="x1_zero_point"):
        onnx.checker.check_model(model, full_check=True)
