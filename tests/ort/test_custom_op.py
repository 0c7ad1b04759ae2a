"""The custom op in real onnxruntime sessions, against a NumPy formula, byte for byte, and everything it refuses."""

import dataclasses
import functools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sessions import save_unaligned, session, session_options

import mcd_graph
from mcd_graph import _native

ORT_VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])
NAMES = [
    *("x1", "x2", "compress_index", "deq_scale", "bias", "offset_w"),
    *("x1_zero_point", "w_zero_point", "addend", "y_zero_point", "x1_scale", "y_scale"),
    *("x1_shape", "y_shape", "gate", "residual"),
]
#: Form of the operator -> type of the output.
FORMS = {
    "raw": np.int32,
    "float": np.float32,
    "strict": np.float16,
    "half": np.float16,
    "requant_u8": np.uint8,
    "requant_i8": np.int8,
    "dequantised_u8": np.float32,
    "dequantised_i8": np.float32,
}
#: Forms with a float scale that they can have of x1, too.
SCALED = {"float", "requant_u8", "requant_i8", "dequantised_u8", "dequantised_i8"}
OUT_OF_MEMORY_BAIT = 1 << 40


@dataclasses.dataclass
class Node:
    """One node: its weight (n, k), the other inputs by name, and which of them are fed at run time."""

    w: np.ndarray
    inputs: dict[str, np.ndarray]
    computed: tuple[str, ...] = ()
    output: Any = np.float32
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    profile: str = "balanced"

    def model(self, *, shapes: dict[str, list[int | str | None] | None] | None = None) -> onnx.ModelProto:
        """Return the model; ``shapes`` overrides those that the graph's inputs declare."""
        x2, index, info = _native.encode(self.w, self.profile)
        tensors = {"x2": x2, "compress_index": index, **self.inputs}
        fed = ["x1", *self.computed]
        names = [name if name in tensors else "" for name in NAMES]
        while not names[-1]:
            names.pop()
        attributes = {"compress_info": [int(number) for number in info], **self.attributes}
        node = helper.make_node(
            "MatmulCompressDequant",
            names,
            ["y"],
            name="layer/query",
            domain="mcd",
            **{key: value for key, value in attributes.items() if value is not None},
        )
        declared = {name: [f"{name}_{i}" for i in range(tensors[name].ndim)] for name in fed} | (shapes or {})
        graph = helper.make_graph(
            [node],
            "one_node",
            [helper.make_tensor_value_info(name, onnx_type(tensors[name].dtype), declared[name]) for name in fed],
            [helper.make_tensor_value_info("y", onnx_type(self.output), None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items() if name not in fed],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mcd", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def feeds(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(self.inputs[name]) for name in ("x1", *self.computed)}

    def run(self, threads: int = 1, config: dict[str, str] | None = None) -> np.ndarray:
        return session(self.model(), threads, config).run(None, self.feeds())[0]


def onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def accumulate(x: np.ndarray, w: np.ndarray, x_zero: Any = 0, w_zero: Any = 0, bias: Any = 0) -> np.ndarray:
    """Return the int32 sums, which wrap; x (..., k), w (n, k), w_zero one value or (n,)."""
    w_zero = np.asarray(w_zero, dtype=np.int64).reshape(-1, 1)
    wide = (x.astype(np.int64) - np.int64(x_zero)) @ (w.astype(np.int64) - w_zero).T + np.asarray(bias, np.int64)
    return wide.astype(np.int32)


@functools.cache
def quantizer() -> ort.InferenceSession:
    """Return onnxruntime's DynamicQuantizeLinear, on one thread."""
    values = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "s")]
    bytes_ = [helper.make_tensor_value_info(name, 2, None) for name in ("q", "z")]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    graph = helper.make_graph([node], "quantiser", values[:1], [bytes_[0], values[1], bytes_[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])


def expected(node: Node, form: str) -> np.ndarray:
    """Return the operator's formula, each step one NumPy operation in fp32; onnxruntime quantises a float x1."""
    inputs = dict(node.inputs)
    if inputs["x1"].dtype == np.float32:
        inputs["x1"], inputs["x1_scale"], inputs["x1_zero_point"] = quantizer().run(None, {"x": inputs["x1"]})
    get = lambda name: inputs[name].reshape(-1) if name in inputs else 0  # noqa: E731
    x_zero = inputs["x1_zero_point"].item() if "x1_zero_point" in inputs else 0
    acc = accumulate(inputs["x1"], node.w, x_zero, get("w_zero_point"), get("bias"))
    if form == "raw":
        return acc
    scale = inputs["deq_scale"].reshape(-1)
    scale = scale.astype(np.uint32).view(np.float32) if form == "strict" else scale.astype(np.float32)
    with np.errstate(over="ignore"):
        if "x1_scale" in inputs:
            scale = inputs["x1_scale"].reshape(()) * scale
        y = acc.astype(np.float32) * scale
        if form.startswith("requant"):
            return requantized(y, inputs["y_zero_point"])
        if form.startswith("dequantised"):
            q = requantized(y, inputs["y_zero_point"]).astype(np.int32) - int(inputs["y_zero_point"].item())
            return q.astype(np.float32) * inputs["y_scale"].reshape(())
        if "addend" in inputs:
            y = y + inputs["addend"].reshape(-1).astype(np.float32)
        y = y * inputs.get("gate", np.float32(1))
        y = y + inputs.get("residual", np.float32(-0.0))
        return y.astype(node.output)


def requantized(y: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    limits = np.iinfo(zero_point.dtype)
    wide = np.rint(y).astype(np.float64) + float(zero_point.item())
    return np.clip(wide, limits.min, limits.max).astype(zero_point.dtype)


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


def integers(rng: np.random.Generator, dtype: Any, shape: Any) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def weights(rng: np.random.Generator, dtype: Any, n: int, k: int) -> np.ndarray:
    """Return weights as real ones are: a bell around the middle of the type, so that they compress."""
    limits = np.iinfo(dtype)
    middle = (limits.min + limits.max + 1) // 2
    return np.clip(np.rint(rng.normal(middle, 12, (n, k))), limits.min, limits.max).astype(dtype)


def scales(rng: np.random.Generator, form: str, shape: Any) -> np.ndarray:
    # Small, so that float16 overflows now and then but not always, and a requantised output is not all saturated.
    values = (rng.uniform(-1, 4, shape) * 10.0 ** rng.integers(-5, 0)).astype(np.float32)
    if form == "strict":
        return values.view(np.uint32).astype(np.uint64)
    return values.astype(np.float16) if form == "half" else values


#: Kinds of float activations: where they lie, and how far apart.
SPREADS = ["around zero", "above zero", "below zero", "zero", "tiny", "huge"]


def activations(rng: np.random.Generator, shape: Any, spread: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    by_spread = {
        "above zero": np.abs(x) + 1,
        "below zero": -np.abs(x),
        "zero": x * 0,
        "tiny": x * 1e-40,
        "huge": x * 3e37,
    }
    return by_spread.get(spread, x).astype(np.float32)


def result_type(form: str) -> Any:
    return np.uint8 if form.endswith("u8") else np.int8


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Node, str, int]:
    """A node with any combination of types, shapes, and absent, constant and computed inputs; form; threads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    form = draw(st.sampled_from(list(FORMS)))
    x_type, w_type = (draw(st.sampled_from([np.uint8, np.int8])) for _ in range(2))
    k, n = draw(st.integers(1, 130)), draw(st.integers(1, 70))
    leading = draw(st.lists(st.integers(1, 5), max_size=3))
    one_or_each = st.sampled_from([(), (1,), (1, 1), (n,), (1, n)])
    inputs = {"x1": integers(rng, x_type, (*leading, k))}
    dynamic = form in SCALED and draw(st.booleans())
    if dynamic:
        inputs["x1"] = activations(rng, (*leading, k), draw(st.sampled_from(SPREADS)))
    if form != "raw":
        inputs["deq_scale"] = scales(rng, form, draw(one_or_each))
    if draw(st.booleans()):
        inputs["bias"] = integers(rng, np.int32, draw(st.sampled_from([(n,), (1, n)])))
    if not dynamic and draw(st.booleans()):
        inputs["x1_zero_point"] = integers(rng, x_type, draw(st.sampled_from([(), (1,)])))
    if draw(st.booleans()):
        inputs["w_zero_point"] = integers(rng, w_type, draw(one_or_each))
    if form in {"float", "strict", "half"} and draw(st.booleans()):
        dtype = draw(st.sampled_from([np.float32, np.float16]))
        inputs["addend"] = rng.normal(0, 100, draw(one_or_each)).astype(dtype)
    if form == "float":
        # As the result is, or of any shape that is broadcast with it.
        full, other = (*leading, n), (2, *[1] * len(leading), 1)
        shapes = st.sampled_from([full, full, full, (1, *leading, 1), (n,), (), other])
        for name in ("gate", "residual"):
            if draw(st.booleans()):
                inputs[name] = rng.normal(0, 100, draw(shapes)).astype(np.float32)
    if "quant" in form:
        inputs["y_zero_point"] = integers(rng, result_type(form), draw(st.sampled_from([(), (1,)])))
    if form.startswith("dequantised"):
        inputs["y_scale"] = np.asarray(rng.uniform(-1, 2, draw(st.sampled_from([(), (1,)]))), np.float32)
    if form in SCALED and not dynamic and draw(st.booleans()):
        inputs["x1_scale"] = np.asarray(rng.uniform(-1, 2, draw(st.sampled_from([(), (1,)]))), np.float32)
    computed = tuple(name for name in inputs if name != "x1" and draw(st.booleans()))
    node = Node(weights(rng, w_type, n, k), inputs, computed, FORMS[form])
    return node, form, draw(st.sampled_from([1, 2]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(nodes())
def test_every_combination_of_inputs(case: tuple[Node, str, int]) -> None:
    node, form, threads = case
    assert_same(node.run(threads), expected(node, form))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 40, 700])
def test_float_activations_are_quantized_as_onnxruntime_does(threads: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    node = Node(weights(rng, np.int8, 20, 131), {"deq_scale": scales(rng, "float", (20,))})
    node.inputs["x1"] = activations(rng, (rows, 131), "around zero")
    opened = session(node.model(), threads)
    for spread in SPREADS:
        node.inputs["x1"] = activations(rng, (rows, 131), spread)
        assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


@pytest.mark.parametrize(
    "values", [[np.inf], [-np.inf], [np.inf, -np.inf], [3.4e38, -3.4e38], [1e-45], [1e-45, -1e-45]], ids=str
)
def test_float_activations_without_a_proper_range(values: list[float]) -> None:
    rng = np.random.default_rng(1)
    x1 = rng.standard_normal((2, 40)).astype(np.float32)
    x1.flat[: len(values)] = values
    if max(np.abs(values)) < 1:
        x1.flat[len(values) :] = 0
    scale = np.array([0.5], np.float32)
    node = Node(
        weights(rng, np.int8, 20, 40),
        {"x1": x1, "deq_scale": scale, "y_zero_point": np.array(3, np.uint8)},
        (),
        np.uint8,
    )
    quantized, x1_scale, zero_point = quantizer().run(None, {"x": x1})
    other = {"x1": quantized, "x1_scale": x1_scale, "x1_zero_point": zero_point}
    for form in ("float", "requant_u8"):
        if form == "float":
            node = dataclasses.replace(
                node, inputs={k: v for k, v in node.inputs.items() if k != "y_zero_point"}, output=np.float32
            )
        assert_same(node.run(), dataclasses.replace(node, inputs={**node.inputs, **other}).run())


def test_not_a_number_is_the_lowest_value_and_outside_of_the_range() -> None:
    rng = np.random.default_rng(2)
    x1 = rng.standard_normal((3, 40)).astype(np.float32)
    node = Node(weights(rng, np.int8, 20, 40), {"x1": x1, "deq_scale": scales(rng, "float", ())})
    x1[1, 7] = x1.min()
    wanted = node.run()
    x1[1, 7] = np.nan
    assert np.isfinite(wanted).all()
    assert_same(node.run(), wanted)


def plain(form: str = "float", *, n: int = 40, k: int = 70, m: int = 3, seed: int = 0) -> Node:
    """Return an ordinary node of a form, everything constant but x1."""
    rng = np.random.default_rng(seed)
    inputs = {"x1": integers(rng, np.uint8, (m, k)), "x1_zero_point": np.array(121, np.uint8)}
    if form != "raw":
        inputs["deq_scale"] = scales(rng, form, (n,))
    if "quant" in form:
        inputs["y_zero_point"] = integers(rng, result_type(form), ())
    if form.startswith("dequantised"):
        inputs["y_scale"] = np.array(0.3, np.float32)
    return Node(weights(rng, np.int8, n, k), inputs, (), FORMS[form])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 2])
def test_forms_over_rows(form: str, threads: int) -> None:
    node = plain(form, n=300, k=520)
    rng = np.random.default_rng(1)
    opened = session(node.model(), threads)
    for m in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130):
        node.inputs["x1"] = integers(rng, np.uint8, (m, 520))
        (y,) = opened.run(None, node.feeds())
        assert_same(y, expected(node, form))
        assert_same(opened.run(None, node.feeds())[0], y)


@pytest.mark.parametrize("dynamic", [False, True], ids=["quantised", "float"])
@pytest.mark.parametrize("names", [("gate",), ("residual",), ("gate", "residual")], ids="+".join)
@pytest.mark.parametrize("threads", [1, 2])
def test_gates_and_residuals(threads: int, names: tuple[str, ...], dynamic: bool) -> None:
    """As the formula, and as Mul and Add nodes behind."""
    rng = np.random.default_rng(5)
    n, k = 200, 520
    node = plain(n=n, k=k)
    if dynamic:
        del node.inputs["x1_zero_point"]
    for name in names:
        node.inputs[name] = np.zeros((1, n), np.float32)
    node.inputs["x1"] = np.zeros((1, k), np.float32 if dynamic else np.uint8)
    node.computed = names
    model = node.model(shapes={name: ["m", n] for name in names})
    separate = onnx.ModelProto()
    separate.CopyFrom(model)
    (lowered,) = separate.graph.node
    del lowered.input[NAMES.index("gate") :]
    while not lowered.input[-1]:
        lowered.input.pop()
    lowered.output[0] = "product"
    steps = [("Mul" if name == "gate" else "Add", name) for name in names]
    for position, (op_type, name) in enumerate(steps):
        inputs = ["product" if position == 0 else "first", name]
        output = "y" if position == len(steps) - 1 else "first"
        separate.graph.node.append(helper.make_node(op_type, inputs, [output]))
    fused, unfused = session(model, threads), session(separate, threads)
    for m in (1, 8, 13, 64, 200):
        node.inputs["x1"] = activations(rng, (m, k), "around zero") if dynamic else integers(rng, np.uint8, (m, k))
        for name in names:
            node.inputs[name] = rng.normal(0, 3, (m, n)).astype(np.float32)
        (y,) = fused.run(None, node.feeds())
        assert_same(y, expected(node, "float"))
        assert_same(y, unfused.run(None, node.feeds())[0])


@pytest.mark.parametrize(
    ("gate", "residual"),
    [
        ((), ()),
        ((40,), (2, 3, 1)),
        ((3, 1), (1, 40)),
        ((2, 1, 40), (1, 1, 2, 3, 40)),
        ((4, 2, 3, 40), (4, 1, 1, 1)),
        ((1, 1, 1, 1), None),
        (None, (5, 1, 1, 1)),
        ((1, 2, 3, 40), (2, 3, 40)),
        ((0, 1, 1, 1), (1,)),
    ],
)
def test_gates_and_residuals_are_broadcast(gate: tuple[int, ...] | None, residual: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(3)
    node = plain()
    node.inputs["x1"] = integers(rng, np.uint8, (2, 3, 70))
    for name, shape in (("gate", gate), ("residual", residual)):
        if shape is not None:
            node.inputs[name] = np.asarray(rng.normal(0, 3, shape), np.float32)
    assert_same(node.run(), expected(node, "float"))


@pytest.mark.parametrize(("shape", "of_y"), [((1, 40), (0, 40)), ((0, 40), (0, 40)), ((3, 1, 1), (3, 0, 40))])
def test_gates_and_residuals_of_nothing(shape: tuple[int, ...], of_y: tuple[int, ...]) -> None:
    node = plain(m=0)
    node.inputs |= dict.fromkeys(("gate", "residual"), np.ones(shape, np.float32))
    assert node.run().shape == of_y


@pytest.mark.parametrize("name", ["gate", "residual"])
@pytest.mark.parametrize("shape", [(4, 40), (3, 39), (39,), (3, 40, 1), (0, 40), (2, 1, 3, 41), (40, 3)])
def test_gates_and_residuals_that_do_not_fit(name: str, shape: tuple[int, ...]) -> None:
    node = plain()
    node.inputs[name] = np.ones(shape, np.float32)
    node.computed = (name,)
    with pytest.raises(Exception, match="layer/query") as caught:
        session(node.model(shapes={name: None, "x1": None})).run(None, node.feeds())
    assert f"{name}: has shape {list(shape)}, which does not broadcast with [3, 40]" in str(caught.value)


@pytest.mark.parametrize("kernel", _native.kernels())
def test_every_kernel_gates_and_adds(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    rng = np.random.default_rng(4)
    for m in (1, 5, 40):
        node = plain(n=200, k=300, m=m)
        node.inputs |= {name: rng.normal(0, 3, (m, 200)).astype(np.float32) for name in ("gate", "residual")}
        assert_same(node.run(), expected(node, "float"))


@pytest.mark.parametrize("leading", [(), (1,), (0,), (2, 3), (2, 0, 3), (1, 2, 1, 3), (1, 1, 2, 1, 1, 2, 1, 1, 1, 3)])
def test_output_keeps_the_leading_dimensions(leading: tuple[int, ...]) -> None:
    node = plain()
    node.inputs["x1"] = integers(np.random.default_rng(2), np.uint8, (*leading, 70))
    y = node.run()
    assert y.shape == (*leading, 40)
    assert_same(y, expected(node, "float"))


def test_sums_wrap_around_like_int32() -> None:
    node = plain("raw")
    node.inputs["bias"] = np.full(40, np.iinfo(np.int32).max, np.int32)
    y = node.run()
    assert (y < 0).any()
    assert_same(y, expected(node, "raw"))


def test_addend_is_rounded_separately() -> None:
    # A fused multiply-add would keep the product's low bits, which are all that is left after the addition.
    node = plain(m=50)
    scale = node.inputs["deq_scale"]
    acc = accumulate(node.inputs["x1"], node.w, 121)
    node.inputs["addend"] = -(acc[0].astype(np.float32) * scale)
    y = node.run()
    assert not y[0].any()
    assert_same(y, expected(node, "float"))


@pytest.mark.parametrize("kernel", _native.kernels())
@pytest.mark.parametrize("residency", ["auto", "compressed", "decoded"])
def test_every_kernel_and_residency(kernel: str, residency: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    for form in FORMS:
        for m in (1, 20):
            node = plain(form, n=129, k=257, m=m)
            assert_same(node.run(2, {"mcd.residency": residency}), expected(node, form))


@pytest.mark.parametrize("profile", ["fast", "balanced", "small"])
def test_every_profile(profile: str) -> None:
    node = dataclasses.replace(plain(n=100, k=300), profile=profile)
    assert_same(node.run(), expected(node, "float"))


def test_runs_at_the_same_time_share_a_session() -> None:
    node = plain(n=200, k=300, m=5)
    node.computed = ("deq_scale", "x1_zero_point")
    opened = session(node.model(), threads=2)
    rng = np.random.default_rng(3)
    batches = [integers(rng, np.uint8, (1 + i % 7, 300)) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: opened.run(None, {**node.feeds(), "x1": x})[0], batches))
    for x, y in zip(batches, found, strict=True):
        node.inputs["x1"] = x
        assert_same(y, expected(node, "float"))


def test_several_sessions_of_one_set_of_options() -> None:
    node = plain()
    options = session_options()
    options.register_custom_ops_library(mcd_graph.get_library_path())
    blob = node.model().SerializeToString()
    sessions = [ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"]) for _ in range(3)]
    del options
    for opened in sessions:
        assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


def test_the_library_may_be_registered_again() -> None:
    node = plain()
    options = session_options()
    for _ in range(3):
        options.register_custom_ops_library(mcd_graph.get_library_path())
    opened = ort.InferenceSession(node.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="onnxruntime before 1.24 tells kernels no session config entries")
def test_entries_that_change_between_two_registrations_hold() -> None:
    node = plain()
    options = session_options()
    options.register_custom_ops_library(mcd_graph.get_library_path())
    options.add_session_config_entry("mcd.residency", "decoded")
    options.register_custom_ops_library(mcd_graph.get_library_path())
    opened = ort.InferenceSession(node.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


@pytest.mark.skipif(ORT_VERSION >= (1, 24), reason="onnxruntime 1.24 tells kernels the session config entries")
def test_entries_that_change_between_two_registrations_are_refused() -> None:
    options = session_options()
    options.register_custom_ops_library(mcd_graph.get_library_path())
    options.add_session_config_entry("mcd.residency", "decoded")
    with pytest.raises(Exception, match="registered with these session options already"):
        options.register_custom_ops_library(mcd_graph.get_library_path())


def test_constants_in_a_file_may_begin_anywhere(tmp_path: Path) -> None:
    node = plain()
    node.inputs["bias"] = np.arange(40, dtype=np.int32)
    model = node.model()
    path = save_unaligned(model, tmp_path)
    assert_same(session(path).run(None, node.feeds())[0], expected(node, "float"))


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="onnxruntime before 1.24 cannot infer past an absent input")
@pytest.mark.parametrize(
    ("declared", "inferred"),
    [
        (["batch", "length", 70], ["batch", "length", 40]),
        ([2, 70], [2, 40]),
        ([70], [40]),
        (["rows", "columns"], ["rows", 40]),
    ],
)
def test_output_shape_is_inferred(declared: list[int | str | None], inferred: list[int | str]) -> None:
    assert session(plain().model(shapes={"x1": declared})).get_outputs()[0].shape == inferred


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="onnxruntime before 1.24 cannot infer past an absent input")
@pytest.mark.parametrize(
    ("gate", "residual", "inferred"),
    [
        (["batch", "length", 40], ["batch", "length", 40], ["batch", "length", 40]),
        (["batch", 1, 40], [4, 1, 1, 40], [4, "batch", "length", 40]),
        (["batch", 7, 40], [1], ["batch", 7, 40]),
        (["batch", "else", 40], [1], []),
        (None, [1], []),
    ],
)
def test_output_shape_is_inferred_beside_other_shapes(
    gate: list[int | str] | None, residual: list[int | str], inferred: list[int | str]
) -> None:
    node = plain()
    node.inputs |= dict.fromkeys(("gate", "residual"), np.ones((1, 1, 40), np.float32))
    node.computed = ("gate", "residual")
    model = node.model(shapes={"x1": ["batch", "length", 70], "gate": gate, "residual": residual})
    assert session(model).get_outputs()[0].shape == inferred


@pytest.mark.parametrize("declared", [None, ["batch", None, 70]])
def test_an_unknown_shape_stays_unknown(declared: list[int | str | None] | None) -> None:
    node = plain()
    model = node.model(shapes={"x1": declared})
    model.graph.node.append(helper.make_node("Add", ["y", "one"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((5, 1, 1), np.float32), "one"))
    model.graph.output[0].name = "z"
    node.inputs["x1"] = node.inputs["x1"].reshape(1, 3, 70)
    assert_same(session(model).run(None, node.feeds())[0], expected(node, "float") + np.ones((5, 1, 1), np.float32))


def branches(node: Node) -> onnx.ModelProto:
    """Return a model with the node in both branches of an If, the weight in the graph around it."""
    inner = node.model()
    outer = onnx.ModelProto.FromString(inner.SerializeToString())
    branch = onnx.GraphProto(name="branch", node=inner.graph.node, output=inner.graph.output)
    del outer.graph.node[:]
    outer.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    outer.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    outer.graph.output[0].name = "z"
    return outer


def test_a_weight_of_an_outer_graph() -> None:
    node = plain(m=2)
    opened = session(branches(node))
    for flag in (True, False, True):
        (y,) = opened.run(None, {**node.feeds(), "flag": np.array(flag)})
        assert_same(y, expected(node, "float"))


def test_a_corrupt_weight_of_an_outer_graph() -> None:
    node = plain(n=64, k=200)
    model = branches(node)
    tensor = initializer(model, "x2")
    tensor.raw_data = tensor.raw_data[:100] + bytes([tensor.raw_data[100] ^ 1]) + tensor.raw_data[101:]
    # Where onnxruntime does not show the weight to the kernel beforehand, the first run stops.
    with pytest.raises(Exception, match=r'layer/query.*weight \\?"x2'):
        session(model).run(None, {**node.feeds(), "flag": np.array(True)})


@pytest.mark.skipif(ORT_VERSION >= (1, 29), reason="refused when the session is created")
def test_a_computed_weight_may_not_change() -> None:
    node = plain()
    model = node.model()
    tensors = {name: initializer(model, name) for name in ("x2", "compress_index")}
    for name, tensor in tensors.items():
        model.graph.initializer.remove(tensor)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT8, ["bytes_of_" + name]))
    feeds = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    opened = session(model)
    assert_same(opened.run(None, {**node.feeds(), **feeds})[0], expected(node, "float"))
    other, *_ = _native.encode(weights(np.random.default_rng(9), np.int8, 40, 70))
    for x2 in (other, feeds["x2"][:-1], feeds["x2"][:0]):
        with pytest.raises(Exception, match=r"layer/query.*x2: has changed since the first run"):
            opened.run(None, {**node.feeds(), **feeds, "x2": x2})
    assert_same(opened.run(None, {**node.feeds(), **feeds})[0], expected(node, "float"))


def test_threads_are_the_sessions_own() -> None:
    node = plain(n=1024, k=1024, m=70)
    opened = session(node.model(), threads=2)
    before = len(list(Path("/proc/self/task").iterdir()))
    for m in (1, 8, 70):
        opened.run(None, {"x1": node.inputs["x1"][:m]})
    assert len(list(Path("/proc/self/task").iterdir())) == before


# What is refused when the session is created, by an error that names the node.


def refusal(model: onnx.ModelProto, config: dict[str, str] | None = None) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (onnxruntime's exceptions share no base class)
        session(model, config=config)
    message = str(caught.value)
    assert "layer/query" in message
    return message


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
def test_a_corrupt_byte_anywhere_is_found(tensor: str) -> None:
    pristine = plain(n=64, k=200).model()
    data = initializer(pristine, tensor).raw_data
    rng = np.random.default_rng(4)
    positions = {0, 4, 5, 6, 7, len(data) - 1, *rng.integers(0, len(data), 60).tolist()}
    for position in sorted(position for position in positions if position < len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        model = onnx.ModelProto.FromString(pristine.SerializeToString())
        initializer(model, tensor).raw_data = bytes(damaged)
        assert 'weight "x2"' in refusal(model, {"mcd.verify": "load"}), position
        with pytest.raises(Exception, match=r'layer/query.*weight \\?"x2\\?"'):
            session(model).run(None, plain(n=64, k=200).feeds())


@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
@pytest.mark.parametrize("keep", [0, 1, 8, 63, 64, -64, -1])
def test_a_truncated_weight_is_found(tensor: str, keep: int) -> None:
    model = plain(n=64, k=200).model()
    proto = initializer(model, tensor)
    data = proto.raw_data[: min(keep, len(proto.raw_data) - 1) if keep >= 0 else keep]
    proto.raw_data, proto.dims[:] = data, [len(data)]
    assert 'weight "x2"' in refusal(model)


@pytest.mark.parametrize(
    "info",
    [
        [8, 8, 70, 40],
        [8, 8, 40, 70, 1],
        [8, 8, 70, 40, 0],
        [8, 8, 71, 40, 1],
        [8, 8, 70, -40, 1],
        [0, 8, 70, 40, 1],
        [8, 8, OUT_OF_MEMORY_BAIT, OUT_OF_MEMORY_BAIT, 1],
    ],
)
def test_compress_info_must_fit_the_weight(info: list[int]) -> None:
    node = plain()
    node.attributes["compress_info"] = info
    assert 'weight "x2"' in refusal(node.model())


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"compress_info": None}, "compress_info"),
        ({"compress_info": 5}, "compress_info"),
        ({"offset_x": 1}, "offset_x is 1 instead of 0"),
        ({"offset_x": 0.5}, "offset_x"),
        ({"offset_x": [0]}, "offset_x"),
        ({"offset_x": [0.5]}, "offset_x"),
        ({"offset_x": "0"}, "offset_x"),
        ({"output_type": TensorProto.FLOAT16}, "output_type is 10"),
    ],
)
def test_attributes_are_checked(attributes: dict[str, Any], reason: str) -> None:
    node = plain()
    node.attributes |= attributes
    assert reason in refusal(node.model())


def test_attributes_with_their_only_value() -> None:
    node = plain()
    node.attributes |= {"offset_x": 0, "output_type": TensorProto.FLOAT}
    assert_same(node.run(), expected(node, "float"))


@pytest.mark.skipif(ORT_VERSION < (1, 29), reason="onnxruntime before 1.29 cannot tell it from one of an outer graph")
@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
def test_a_weight_must_be_an_initializer(tensor: str) -> None:
    model = plain().model()
    proto = initializer(model, tensor)
    model.graph.input.append(helper.make_tensor_value_info(tensor, proto.data_type, list(proto.dims)))
    model.graph.initializer.remove(proto)
    assert f"{tensor}: must be an initializer" in refusal(model)


def test_a_weight_has_one_dimension() -> None:
    model = plain().model()
    initializer(model, "x2").dims.insert(0, 1)
    assert "instead of one dimension" in refusal(model)


@pytest.mark.parametrize(
    ("form", "inputs", "reason"),
    [
        ("float", {"x1": np.zeros((3, 70), np.int32)}, "x1: is int32 instead of uint8, int8 or float"),
        ("float", {"x1": np.zeros((3, 70), np.float32)}, "x1_zero_point: must be absent where x1 is float"),
        (
            "float",
            {"x1": np.zeros((3, 70), np.float32), "x1_zero_point": None, "x1_scale": np.ones((), np.float32)},
            "x1_scale: must be absent where x1 is float",
        ),
        ("raw", {"x1": np.zeros((3, 70), np.float32), "x1_zero_point": None}, "a float x1 needs a float deq_scale"),
        ("half", {"x1": np.zeros((3, 70), np.float32), "x1_zero_point": None}, "a float x1 needs a float deq_scale"),
        ("float", {"offset_w": np.zeros(40, np.int8)}, "offset_w must be absent"),
        ("float", {"deq_scale": np.ones(39, np.float32)}, "deq_scale: has shape [39] instead of one value or 40"),
        ("float", {"deq_scale": np.ones((40, 1), np.float32)}, "deq_scale: has shape [40, 1]"),
        ("float", {"deq_scale": np.ones(0, np.float32)}, "deq_scale: has shape [0]"),
        ("raw", {"deq_scale": np.ones(40, np.bool_)}, "deq_scale: is bool"),
        ("strict", {"deq_scale": np.full(40, 1 << 32, np.uint64)}, "deq_scale: has bits above the low 32"),
        ("float", {"bias": np.zeros(1, np.int32)}, "bias: has shape [1] instead of 40 values"),
        ("float", {"bias": np.zeros((), np.int32)}, "bias: has shape [] instead of 40 values"),
        ("float", {"x1_zero_point": np.zeros((), np.int8)}, "x1_zero_point: is int8 instead of uint8"),
        ("float", {"x1_zero_point": np.zeros(2, np.uint8)}, "x1_zero_point: has shape [2] instead of one value"),
        ("float", {"w_zero_point": np.zeros((), np.uint8)}, "w_zero_point: is uint8 instead of int8"),
        ("float", {"w_zero_point": np.zeros(3, np.int8)}, "w_zero_point: has shape [3]"),
        ("float", {"addend": np.zeros(3, np.float32)}, "addend: has shape [3]"),
        ("float", {"addend": np.zeros(40, np.float64)}, "addend: is double instead of float or float16"),
        ("raw", {"addend": np.zeros(40, np.float32)}, "addend needs a deq_scale"),
        ("requant_u8", {"addend": np.zeros(40, np.float32)}, "addend needs a deq_scale, and no y_zero_point"),
        ("requant_u8", {"y_zero_point": np.zeros(2, np.uint8)}, "y_zero_point: has shape [2]"),
        ("requant_u8", {"deq_scale": None}, "y_zero_point needs a deq_scale"),
        ("float", {"y_scale": np.ones((), np.float32)}, "y_scale needs a y_zero_point"),
        ("dequantised_u8", {"y_scale": np.ones(2, np.float32)}, "y_scale: has shape [2] instead of one value"),
        ("dequantised_u8", {"addend": np.zeros(40, np.float32)}, "addend needs a deq_scale, and no y_zero_point"),
        ("float", {"x1_scale": np.ones(2, np.float32)}, "x1_scale: has shape [2] instead of one value"),
        ("raw", {"x1_scale": np.ones((), np.float32)}, "x1_scale needs a float deq_scale"),
        ("strict", {"x1_scale": np.ones((), np.float32)}, "x1_scale needs a float deq_scale"),
        ("half", {"x1_scale": np.ones((), np.float32)}, "x1_scale needs a float deq_scale"),
        *(
            (form, {name: np.ones((3, 40), np.float32)}, f"{name}: needs a float deq_scale, and no y_zero_point")
            for form in FORMS
            for name in ("gate", "residual")
            if form != "float"
        ),
        ("float", {"gate": np.ones((3, 40), np.float16)}, "gate: is float16 instead of float"),
        ("float", {"residual": np.ones((3, 40), np.float64)}, "residual: is double instead of float"),
    ],
)
def test_inputs_are_checked(form: str, inputs: dict[str, np.ndarray | None], reason: str) -> None:
    node = plain(form)
    node.inputs |= inputs
    node.inputs = {name: array for name, array in node.inputs.items() if array is not None}
    assert reason in refusal(node.model())


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("deq_scale", np.ones(40, np.float64)),
        ("bias", np.zeros(40, np.float32)),
        ("y_zero_point", np.zeros((), np.int32)),
        ("x1_scale", np.ones((), np.float16)),
    ],
)
def test_types_that_no_form_has_are_onnxruntimes_to_refuse(name: str, array: np.ndarray) -> None:
    node = plain()
    node.inputs[name] = array
    assert "MatmulCompressDequant" in refusal(node.model())


def test_an_output_of_another_type_is_refused() -> None:
    node = dataclasses.replace(plain(), output=np.int32)
    assert "tensor(int32)" in refusal(node.model())


def test_an_unknown_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", "abacus")
    assert "abacus" in refusal(plain().model())


@pytest.mark.parametrize("value", ["-1", "4G", ""])
def test_the_decoded_limit_is_a_number_of_bytes(value: str) -> None:
    with pytest.raises(Exception, match=r'mcd\.decoded_limit is ".*", not a number of bytes'):
        session(plain().model(), config={"mcd.decoded_limit": value})


@pytest.mark.parametrize("residency", ["auto", "decoded"])
@pytest.mark.parametrize("limit", ["0", "1000", "1000000000"])
def test_a_limit_changes_no_bit(limit: str, residency: str) -> None:
    node = plain(n=129, k=257, m=2)
    opened = session(node.model(), config={"mcd.residency": residency, "mcd.decoded_limit": limit})
    for _ in range(2):  # the first run decides
        assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


@pytest.mark.parametrize("value", ["Compressed", "", "both"])
def test_residency_is_one_of_three(value: str) -> None:
    with pytest.raises(Exception, match=r'mcd\.residency is ".*", not "auto", "compressed" or "decoded"'):
        session(plain().model(), config={"mcd.residency": value})


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="onnxruntime before 1.24 shows a kernel no config entries")
def test_config_entries_may_follow_the_registration() -> None:
    options = session_options()
    options.register_custom_ops_library(mcd_graph.get_library_path())
    options.add_session_config_entry("mcd.residency", "nowhere")
    with pytest.raises(Exception, match=r"mcd\.residency is \"nowhere\""):
        ort.InferenceSession(plain().model().SerializeToString(), options, providers=["CPUExecutionProvider"])


# What is refused by a run. The session goes on working.


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("x1", np.zeros((3, 71), np.uint8), "x1: has shape [3, 71] instead of (..., 70)"),
        ("x1", np.zeros((), np.uint8), "x1: has shape [] instead of (..., 70)"),
        ("deq_scale", np.ones(41, np.float32), "deq_scale: has shape [41] instead of one value or 40"),
        ("x1_zero_point", np.zeros(2, np.uint8), "x1_zero_point: has shape [2] instead of one value"),
        ("w_zero_point", np.zeros(0, np.int8), "w_zero_point: has shape [0]"),
        ("bias", np.zeros((40, 1), np.int32), "bias: has shape [40, 1]"),
        ("addend", np.zeros((2, 40), np.float32), "addend: has shape [2, 40]"),
    ],
)
def test_a_run_with_a_wrong_shape(name: str, array: np.ndarray, reason: str) -> None:
    node = plain()
    node.inputs |= {
        "w_zero_point": np.zeros((), np.int8),
        "bias": np.zeros(40, np.int32),
        "addend": np.zeros(40, np.float32),
    }
    node.computed = ("deq_scale", "x1_zero_point", "w_zero_point", "bias", "addend")
    opened = session(node.model(shapes=dict.fromkeys(["x1", *node.computed])), threads=2)
    with pytest.raises(Exception, match="layer/query") as caught:
        opened.run(None, {**node.feeds(), name: array})
    assert reason in str(caught.value)
    assert_same(opened.run(None, node.feeds())[0], expected(node, "float"))


def test_a_run_with_a_scale_that_is_no_float() -> None:
    node = plain("strict")
    node.computed = ("deq_scale",)
    opened = session(node.model())
    with pytest.raises(Exception, match=r"layer/query.*deq_scale: has bits above the low 32"):
        opened.run(None, {**node.feeds(), "deq_scale": np.full(40, 1 << 63, np.uint64)})
    assert_same(opened.run(None, node.feeds())[0], expected(node, "strict"))


# The library itself.


def symbols(*arguments: str) -> list[str]:
    nm = shutil.which("nm")
    assert nm is not None, "binutils come with the C toolchain that Rust needs"
    listing = subprocess.run([nm, "-D", *arguments, mcd_graph.get_library_path()], capture_output=True, check=True)
    return [line.split()[-1] for line in listing.stdout.decode().splitlines()]


def test_what_the_library_exports() -> None:
    assert symbols("--defined-only") == ["RegisterCustomOps", "mcd_drop_pages"]


def test_the_library_needs_neither_python_nor_onnxruntime() -> None:
    needed = symbols("--undefined-only")
    assert needed
    assert not [name for name in needed if name.startswith(("Py", "_Py", "Ort"))]


def test_the_library_loads_without_python(tmp_path: Path) -> None:
    cc = shutil.which("cc")
    assert cc is not None, "Rust links with it"
    program = tmp_path / "loads"
    code = (
        "#include <dlfcn.h>\n"
        "int main(int n, char **v) { void *l = dlopen(v[1], RTLD_NOW | RTLD_LOCAL);"
        ' return !(n == 2 && l && dlsym(l, "RegisterCustomOps")); }'
    )
    subprocess.run([cc, "-x", "c", "-", "-o", program, "-ldl"], input=code.encode(), check=True)
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    subprocess.run([program, mcd_graph.get_library_path()], check=True, env=environment)
