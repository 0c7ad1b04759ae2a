"""Legalisation: each case of passes/legalize/, and that the strict model computes what it should to the bit."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_same_bytes, check, integers, lower, make_model, run, scales
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import mcd_graph
from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, MatmulCompressDequant
from mcd_graph.passes import ReasonCode
from mcd_graph.passes.legalize import MAX_ROWS, LegalizePass

Inputs = dict[str, np.ndarray]


def one_node(
    w: np.ndarray,
    inputs: Inputs,
    *,
    fed: tuple[str, ...] = ("x1",),
    output: type[np.generic] = np.float32,
    opset: int = 18,
    x1_shape: Any = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one MatmulCompressDequant; ``w`` is (n, k), ``fed`` inputs come at run time."""
    x2, index, info = _native.encode(w)
    tensors = {"x2": x2, "compress_index": index, **inputs}
    names = [name if name in tensors else "" for name in INPUT_NAMES]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        "MatmulCompressDequant", names, ["y"], name="layer", domain="mcd",
        compress_info=[int(number) for number in info], **attributes,
    )  # fmt: skip
    shapes = {name: tensors[name].shape for name in fed}
    shapes["x1"] = shapes["x1"] if x1_shape is None else x1_shape
    model = make_model(
        [node],
        {name: (tensors[name].dtype.type, shapes[name]) for name in fed},
        {"y": (output, [*(None for _ in tensors["x1"].shape[:-1]), w.shape[0]])},
        {name: array for name, array in tensors.items() if name not in fed},
        opset=opset,
    )
    model.opset_import.append(helper.make_opsetid("mcd", 1))
    return model


def legalize(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, LegalizePass]:
    """Legalise a copy; ``modified`` must be the truth, and a second run must change nothing."""
    loaded = ir.from_proto(model)
    before = ir.to_proto(loaded).SerializeToString(deterministic=True)
    pass_ = LegalizePass(**options)
    modified = pass_(loaded).modified
    proto = ir.to_proto(loaded)
    assert modified == (proto.SerializeToString(deterministic=True) != before)
    if "pack" not in options:
        assert not LegalizePass(**options)(loaded).modified
        assert ir.to_proto(loaded).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    check(proto)
    return proto, pass_


def strict_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the MatmulCompressDequant nodes after holding each to the strict form and the document's limits."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "MatmulCompressDequant"]
    for node in nodes:
        assert len(node.input) == 5
        assert all(node.input)
        assert [attribute.name for attribute in node.attribute] == ["compress_info"]
        tiling_k, tiling_n, k, n, direction = node.attribute[0].ints
        assert (tiling_k, tiling_n, direction) == (8, 8, 1)
        assert n % 64 == 0
        assert n >= 128
        assert k % 64 == 0
        assert k > 256
        x2, index, deq_scale = (constants[name] for name in node.input[1:4])
        assert index.size == 8 * -(-k // 256) * -(-n // 128)
        assert (deq_scale.dtype, deq_scale.shape) == (np.uint64, (1, n))
        scale = deq_scale.astype(np.uint32).view(np.float32)
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        weight = _native.decode(x2, index, list(node.attribute[0].ints))
        assert (weight.dtype, weight.shape) == (np.int8, (n, k))
    return nodes


def strict_scale(model: onnx.ModelProto) -> np.ndarray:
    """Return the scale of the first strict node."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return constants[strict_nodes(model)[0].input[3]].astype(np.uint32).view(np.float32).reshape(-1)


def accumulator(w: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Return the exact int32 sums (…, n), as the operator defines them."""
    x_zero = int(inputs.get("x1_zero_point", np.array(0)).reshape(()))
    w_zero = np.asarray(inputs.get("w_zero_point", 0), np.int64).reshape(-1, 1)
    total = (inputs["x1"].astype(np.int64) - x_zero) @ (w.astype(np.int64) - w_zero).T
    return (total + inputs.get("bias", np.zeros(1, np.int32)).reshape(-1).astype(np.int64)).astype(np.int32)


def numpy_result(w: np.ndarray, inputs: Inputs, strict: onnx.ModelProto, output: type[np.generic]) -> np.ndarray:
    """Return the result from NumPy's float16: the strict node's, and then float32 arithmetic step by step."""
    n = w.shape[0]
    node_scale = strict_scale(strict)[:n]
    half = (accumulator(w, inputs).astype(np.float32) * node_scale).astype(np.float16)
    if output is np.float16 and "addend" not in inputs:
        return half
    y = half.astype(np.float32)
    scale = inputs["deq_scale"].reshape(-1).astype(np.float32)
    scale = inputs.get("x1_scale", np.ones((), np.float32)) * scale
    # What the node leaves out: a scale computed at run time, and the power of two that keeps float16 in range.
    left = scale / node_scale
    y = y * (left if "deq_scale" in inputs and (left != 1).any() else np.float32(1))
    if "y_zero_point" in inputs:
        limits = np.iinfo(inputs["y_zero_point"].dtype)
        y = np.clip(np.rint(y) + np.float32(inputs["y_zero_point"]), limits.min, limits.max)
        return y.astype(inputs["y_zero_point"].dtype)
    if "addend" in inputs:
        y = y + inputs["addend"].reshape(-1).astype(np.float32)
    return y.astype(output)


def assert_strict(
    w: np.ndarray,
    inputs: Inputs,
    *,
    fed: tuple[str, ...] = ("x1",),
    output: type[np.generic] = np.float32,
    **options: Any,
) -> onnx.ModelProto:
    """Legalise one node and hold it, in onnxruntime and in the NumPy twin, to :func:`numpy_result`."""
    strict, pass_ = legalize(one_node(w, inputs, fed=fed, output=output, **options))
    assert [(site.status, site.code, site.k, site.n) for site in pass_.sites] == [("strict", None, *w.shape[::-1])]
    expected = numpy_result(w, inputs, strict, output)
    feeds = {name: inputs[name] for name in fed}
    for optimize in (False, True):
        (y,) = run(strict, feeds, optimize=optimize)
        assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(y, expected)
    (twin,) = ReferenceEvaluator(strict, new_ops=[MatmulCompressDequant]).run(None, feeds)
    assert np.array_equal(twin, expected)
    return strict


def weight(n: int, k: int, seed: int = 0, kind: type[np.generic] = np.int8) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20, 21, (n, k)).astype(np.int8).astype(kind)


STRICT = {
    "x1": integers(np.int8, (5, 320), 1),
    "deq_scale": scales((1, 128), 2).view(np.uint32).astype(np.uint64),
    "bias": integers(np.int32, (128,), 3) >> 16,
}


def test_a_strict_node_stays_as_it_is() -> None:
    model = one_node(weight(128, 320), STRICT, output=np.float16)
    strict, _ = legalize(model)
    assert [node.op_type for node in strict.graph.node] == ["MatmulCompressDequant"]
    assert len(strict_nodes(strict)) == 1


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("zero_point", ["absent", "constant", "run time"])
@pytest.mark.parametrize("bias", ["absent", "constant", "run time"])
def test_activations_zero_points_and_biases(kind: type[np.generic], zero_point: str, bias: str) -> None:
    inputs = {"x1": integers(kind, (7, 100), 1), "deq_scale": scales((30,), 2, 1e-4)}
    if zero_point != "absent":
        inputs["x1_zero_point"] = np.array(77, kind)
    if bias != "absent":
        inputs["bias"] = integers(np.int32, (30,), 3) >> 12
    fed = {"x1_zero_point": zero_point, "bias": bias}
    assert_strict(weight(30, 100), inputs, fed=("x1", *(name for name, how in fed.items() if how == "run time")))


@pytest.mark.parametrize(
    "zero_point", [np.array(3, np.int8), np.arange(-8, 8, dtype=np.int8), None], ids=["one", "each", "none"]
)
def test_zero_points_of_int8_weights(zero_point: np.ndarray | None) -> None:
    inputs = {"x1": integers(np.uint8, (2, 40), 1), "deq_scale": np.array(1e-3, np.float32)}
    if zero_point is not None:
        inputs["w_zero_point"] = zero_point
    assert_strict(weight(16, 40), inputs)


@pytest.mark.parametrize("zero_point", [np.array([128], np.uint8), np.arange(120, 136, dtype=np.uint8)])
def test_uint8_weights(zero_point: np.ndarray) -> None:
    w = (weight(16, 40).astype(np.int16) + 128).astype(np.uint8)
    inputs = {"x1": integers(np.int8, (2, 40), 1), "deq_scale": np.array(1e-3, np.float32), "w_zero_point": zero_point}
    assert_strict(w, inputs)


@pytest.mark.parametrize("scale", [np.array(0.01, np.float32), np.array([0.01], np.float32), scales((1, 20), 1)])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_constant_scales(scale: np.ndarray, kind: type[np.generic]) -> None:
    inputs = {"x1": integers(np.int8, (3, 64), 1), "deq_scale": scale.astype(kind)}
    assert_strict(weight(20, 64), inputs, output=kind)


@pytest.mark.parametrize("shape", [(), (1,), (20,)])
@pytest.mark.parametrize("addend", [None, (20,), ()])
def test_scales_computed_at_run_time(shape: tuple[int, ...], addend: tuple[int, ...] | None) -> None:
    inputs = {"x1": integers(np.uint8, (3, 300), 1), "deq_scale": scales(shape, 2)}
    if addend is not None:
        inputs["addend"] = scales(addend, 3)
    strict = assert_strict(weight(20, 300), inputs, fed=("x1", "deq_scale"))
    assert strict_scale(strict)[0] < 1, "the sum of 300 products does not fit float16"


@pytest.mark.parametrize("fed", [("x1",), ("x1", "x1_scale")], ids=["constant", "computed"])
@pytest.mark.parametrize("shape", [(), (100,)], ids=str)
def test_the_scale_of_x1(fed: tuple[str, ...], shape: tuple[int, ...]) -> None:
    w = integers(np.int8, (100, 300), 21)
    inputs = {
        "x1": integers(np.uint8, (5, 300), 22), "deq_scale": scales(shape, 23), "x1_scale": np.array(0.37, np.float32),
    }  # fmt: skip
    assert_strict(w, inputs, fed=fed)


def test_float_activations() -> None:
    w = integers(np.int8, (100, 300), 24)
    x = np.random.default_rng(25).standard_normal((2, 5, 300)).astype(np.float32)
    inputs = {"x1": x, "deq_scale": scales((100,), 26)}
    strict, _ = legalize(one_node(w, inputs))
    assert len(strict_nodes(strict)) == 1
    quantizer = helper.make_node("DynamicQuantizeLinear", ["x1"], ["q", "s", "z"])
    model = make_model(
        [quantizer], {"x1": (np.float32, x.shape)},
        {"q": (np.uint8, x.shape), "s": (np.float32, ()), "z": (np.uint8, ())}, {},
    )  # fmt: skip
    q, s, z = run(model, {"x1": x})
    quantized = {"x1": q, "x1_scale": s, "x1_zero_point": z, "deq_scale": inputs["deq_scale"]}
    expected, _ = legalize(one_node(w, quantized, fed=tuple(quantized)[:3]))
    assert_same_bytes(run(strict, {"x1": x}), run(expected, {name: quantized[name] for name in tuple(quantized)[:3]}))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_quantized_results(kind: type[np.generic]) -> None:
    inputs = {
        "x1": integers(np.uint8, (9, 64), 1),
        "deq_scale": scales((20,), 2, 5e-3),
        "y_zero_point": np.array(11, kind),
    }
    assert_strict(weight(20, 64), inputs, output=kind)


@pytest.mark.parametrize(
    ("shape", "declared"),
    [
        ((64,), None),
        ((2, 3, 64), None),
        ((2, 3, 64), ("batch", 3, 64)),
        ((2, 3, 64), ("batch", "length", 64)),
        ((2, 0, 64), None),
        ((0, 64), ("m", 64)),
    ],
)
def test_any_number_of_dimensions(shape: tuple[int, ...], declared: Any) -> None:
    inputs = {"x1": integers(np.int8, shape, 1), "deq_scale": scales((20,), 2), "addend": scales((20,), 3)}
    assert_strict(weight(20, 64), inputs, x1_shape=declared)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (127, 255), (128, 256), (129, 257), (128, 320), (192, 321), (64, 1000)])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_padding(n: int, k: int, opset: int) -> None:
    inputs = {"x1": integers(np.int8, (4, k), n), "deq_scale": scales((n,), 2)}
    assert_strict(weight(n, k), inputs, opset=opset)


@pytest.mark.parametrize("rows", [0, 1, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS, 3 * MAX_ROWS + 5])
def test_rows_in_chunks(rows: int) -> None:
    w, inputs = weight(128, 320), {**STRICT, "x1": integers(np.int8, (rows, 320), 4)}
    strict, _ = legalize(one_node(w, inputs, output=np.float16), max_rows=MAX_ROWS)
    assert len(strict_nodes(strict)) == max(1, -(-rows // MAX_ROWS))
    scale = inputs["deq_scale"].astype(np.uint32).view(np.float32)
    expected = (accumulator(w, inputs).astype(np.float32) * scale).astype(np.float16)
    assert np.array_equal(run(strict, {"x1": inputs["x1"]})[0], expected)
    assert len({node.name for node in strict.graph.node}) == len(strict.graph.node)


def test_every_result_is_within_half_a_float16_step_of_the_exact_product() -> None:
    w, inputs = weight(70, 500), {"x1": integers(np.uint8, (40, 500), 1), "deq_scale": scales((70,), 2)}
    strict, _ = legalize(one_node(w, inputs))
    (y,) = run(strict, {"x1": inputs["x1"]})
    exact = accumulator(w, inputs).astype(np.longdouble) * inputs["deq_scale"].astype(np.longdouble)
    factor = np.float32(inputs["deq_scale"][0] / strict_scale(strict)[0])
    step = np.spacing((np.abs(exact) / factor).astype(np.float16)).astype(np.longdouble) * factor
    # The int32 and the product are rounded to float32 first, which may push a value over the middle by 2**-12 steps.
    assert (np.abs(y - exact) <= step * (0.5 + 2.0**-12)).all()
    assert np.isfinite(y).all()


def test_weights_and_activations_are_shared() -> None:
    """Two nodes of one weight and one activation, as after a tied embedding, get one of each."""
    model = one_node(weight(20, 64), {"x1": integers(np.uint8, (3, 64), 1), "deq_scale": scales((20,), 2)})
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.output[0] = "again", "z"
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 20]))
    strict, _ = legalize(model)
    first, again = strict_nodes(strict)
    assert list(first.input[:3]) == list(again.input[:3])
    assert len([tensor for tensor in strict.graph.initializer if tensor.name.endswith("x2")]) == 1
    assert [node.op_type for node in strict.graph.node].count("Pad") == 1
    y, z = run(strict, {"x1": integers(np.uint8, (3, 64), 1)})
    assert np.array_equal(y, z)


def test_a_model_from_quantize_dynamic() -> None:
    """Scale and zero point come from DynamicQuantizeLinear, in the main graph and in a branch of an If."""
    constants = {"w": weight(48, 96).T.copy(), "w_scale": np.array(0.01, np.float32)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["acc"], name="matmul"),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "w_scale"], ["scale"]),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    model = make_model(nodes, {"x": (np.float32, ("b", "l", 96))}, {"y": (np.float32, ("b", "l", 48))}, constants)
    strict, pass_ = legalize(lower(model).proto)
    assert [(site.name, site.status) for site in pass_.sites] == [("matmul", "strict")]
    assert "matmul" in {node.name for node in strict_nodes(strict)}
    x = np.random.default_rng(5).standard_normal((2, 5, 96)).astype(np.float32)
    (original,), (y,) = run(model, {"x": x}), run(strict, {"x": x})
    # One rounding to float16's 11 bits, and three to float32's 24.
    assert (np.abs(y - original) <= np.abs(original) * 2.0**-11 * (1 + 2.0**-9)).all()


def test_a_packer_gets_every_weight_padded() -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def pack(name: str, w: np.ndarray) -> Any:
        seen.append((name, w.shape))
        return _native.encode(w, "small")

    legalize(one_node(weight(128, 320), STRICT, output=np.float16), pack=pack)
    legalize(one_node(weight(10, 30), {"x1": integers(np.int8, (1, 30), 1), "deq_scale": scales((), 1)}), pack=pack)
    assert seen == [("x2", (128, 320)), ("x2", (128, 320))]


RUN_TIME = np.array(1, np.float32)


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({"deq_scale": None}, {"output": np.int32}, ReasonCode.INT32_RESULT),
        ({"deq_scale": np.array([np.inf], np.float32)}, {}, ReasonCode.SCALE_NOT_POSITIVE),
        ({"deq_scale": np.array([0.0], np.float32)}, {}, ReasonCode.SCALE_NOT_POSITIVE),
        ({"deq_scale": -scales((20,), 1)}, {}, ReasonCode.SCALE_NOT_POSITIVE),
        ({"deq_scale": np.array([np.nan], np.float32)}, {}, ReasonCode.SCALE_NOT_POSITIVE),
        (
            {"deq_scale": np.array([3e38], np.float32)},
            {},
            ReasonCode.SCALE_NOT_NORMAL,
        ),
        (
            {"deq_scale": np.array([1e30], np.float32), "x1_scale": np.array(1e30, np.float32)},
            {},
            ReasonCode.SCALE_NOT_POSITIVE,
        ),
        ({"deq_scale": np.array([1 << 46 | 0x3F800000], np.uint64)}, {"output": np.float16}, ReasonCode.SCALE_WORD),
        (
            {"deq_scale": STRICT["deq_scale"][:, :20]},
            {"fed": ("x1", "deq_scale"), "output": np.float16},
            ReasonCode.RUN_TIME_PARAMETER,
        ),
        ({"w_zero_point": np.array(-120, np.int8)}, {}, ReasonCode.WEIGHT_RANGE),
        (
            {"w_zero_point": np.array(1, np.int8)},
            {"fed": ("x1", "w_zero_point")},
            ReasonCode.RUN_TIME_PARAMETER,
        ),
        ({}, {"fed": ("x1", "x2")}, ReasonCode.STREAM_NOT_CONSTANT),
        ({}, {"opset": 10}, ReasonCode.OPSET),
        ({}, {"x1_shape": ("m", 64), "max_rows": 256}, ReasonCode.ROWS_UNKNOWN),
        ({"deq_scale": np.array([1e-38], np.float32), "addend": RUN_TIME}, {}, None),
    ],
)
def test_what_stays_and_why(changes: dict[str, Any], options: dict[str, Any], code: ReasonCode | None) -> None:
    inputs = {"x1": integers(np.int8, (3, 64), 1), "deq_scale": scales((20,), 2)}
    inputs = {name: array for name, array in {**inputs, **changes}.items() if array is not None}
    max_rows = options.pop("max_rows", None)
    w = weight(20, 64)
    if "x2" in options.get("fed", ()):
        inputs["x2"] = _native.encode(w)[0]
    model = one_node(w, inputs, **options)
    strict, pass_ = legalize(model, max_rows=max_rows)
    (site,) = pass_.sites
    if code is None:
        assert site.status == "strict"
        return
    assert site.status == "kept"
    assert site.code == code
    assert strict.graph.node == model.graph.node


def test_nodes_in_functions_stay() -> None:
    model = one_node(weight(128, 320), STRICT, output=np.float16)
    function = helper.make_function(
        "local", "F", ["x1"], ["y"],
        [
            *(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer),
            *model.graph.node,
        ],
        [helper.make_opsetid("", 18), helper.make_opsetid("mcd", 1)],
    )  # fmt: skip
    outer = make_model(
        [helper.make_node("F", ["x1"], ["y"], domain="local")],
        {"x1": (np.int8, (5, 320))}, {"y": (np.float16, (5, 128))}, {}, functions=[function],
    )  # fmt: skip
    _, pass_ = legalize(outer)
    assert [site.code for site in pass_.sites] == [ReasonCode.IN_FUNCTION]


def test_a_damaged_weight_is_an_error_that_names_the_node() -> None:
    model = one_node(weight(128, 320), STRICT, output=np.float16)
    (x2,) = (tensor for tensor in model.graph.initializer if tensor.name == "x2")
    x2.raw_data = x2.raw_data[:200] + bytes([x2.raw_data[200] ^ 1]) + x2.raw_data[201:]
    with pytest.raises(_native.FormatError, match="node layer: tile 0 is damaged"):
        LegalizePass().call(ir.from_proto(model))


def test_max_rows_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_rows must be at least 1, not 0"):
        LegalizePass(max_rows=0)


def test_the_pass_is_public() -> None:
    assert mcd_graph.passes.LegalizePass is LegalizePass
