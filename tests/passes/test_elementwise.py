"""Mul and Add behind a multiplication, which gate feed-forward layers and carry residual streams on."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import assert_same_bytes, check, floats, integers, legal, lower, make_model, run, scales
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, MatmulCompressDequant
from mcd_graph.passes import LegalizePass, ReasonCode, plan_restoration

K, N = 40, 48

#: Operators that onnx.reference computes to the same bits as onnxruntime.
EXACT = {"Add", "Mul", "Relu", "Reshape", "Transpose"}

#: Steps behind the product of x: operator, its two inputs, its output.
RESIDUAL = [("Add", "f", "r", "y")]
GATE = [("Mul", "f", "g", "y")]
BOTH = [("Mul", "f", "g", "p"), ("Add", "p", "r", "y")]
SWAPPED = [("Mul", "g", "f", "p"), ("Add", "r", "p", "y")]


def product(x: str, y: str, weight: str = "w") -> list[onnx.NodeProto]:
    """Return DynamicQuantizeLinear, MatMulInteger, Cast and the Mul of both scales."""
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [f"{y}.q", f"{y}.s", f"{y}.z"]),
        helper.make_node("MatMulInteger", [f"{y}.q", weight, f"{y}.z"], [f"{y}.acc"], name=f"{y}/matmul"),
        helper.make_node("Cast", [f"{y}.acc"], [f"{y}.c"], to=1),
        helper.make_node("Mul", [f"{y}.s", "ws"], [f"{y}.m"]),
        helper.make_node("Mul", [f"{y}.c", f"{y}.m"], [y]),
    ]


def model_of(
    steps: Sequence[tuple[str, ...]],
    *,
    outputs: Sequence[str] = ("y",),
    shape: Sequence[int | str] = ("b", "s", N),
    constants: dict[str, np.ndarray] | None = None,
    before: Sequence[onnx.NodeProto] = (),
    behind: Sequence[onnx.NodeProto] = (),
    rank: int = 3,
) -> onnx.ModelProto:
    """Return the product of x, and behind it some steps with r and g, which are inputs unless they are constants."""
    nodes = [*product("x", "f"), *before]
    nodes += [helper.make_node(op_type, inputs, [output]) for op_type, *inputs, output in steps]
    nodes += behind
    constants = {"w": integers(np.int8, (K, N), 1), "ws": scales((N,), 2), **(constants or {})}
    made = {output for node in nodes for output in node.output}
    read = {name for node in nodes for name in node.input}
    inputs = {"x": (np.float32, ("b", "s", K))}
    inputs |= {name: (np.float32, shape) for name in ("g", "r") if name in read - made - constants.keys()}
    return make_model(nodes, inputs, dict.fromkeys(outputs, (np.float32, [None] * rank)), constants)


def feeds_of(model: onnx.ModelProto, *leading: int) -> dict[str, np.ndarray]:
    sizes = {"x": K}
    return {
        value.name: floats((*leading, sizes.get(value.name, N)), seed) for seed, value in enumerate(model.graph.input)
    }


def elementwise(model: onnx.ModelProto) -> list[set[str]]:
    """Return which of gate and residual each MatmulCompressDequant has."""
    return [
        {name for name, value in zip(INPUT_NAMES, node.input, strict=False) if value} & {"gate", "residual"}
        for node in model.graph.node
        if node.op_type == "MatmulCompressDequant"
    ]


def assert_equal_everywhere(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The lowered model, which is returned, and the restored one compute the original's bytes."""
    lowered = lower(model)
    assert {site.status for site in lowered.plan.sites} == {"lowered"}
    back = ir.from_proto(lowered.proto)
    assert plan_restoration(back).apply()
    restored = ir.to_proto(back)
    for each in (model, lowered.proto, restored):
        check(each)
    for optimize in (False, True):
        expected = run(model, feeds, optimize=optimize)
        assert_same_bytes(run(lowered.proto, feeds, optimize=optimize), expected)
        assert_same_bytes(run(restored, feeds, optimize=optimize), expected)
    if {node.op_type for node in lowered.proto.graph.node} <= {*EXACT, "MatmulCompressDequant"}:
        twin = ReferenceEvaluator(lowered.proto, new_ops=[MatmulCompressDequant])
        assert_same_bytes(twin.run(None, feeds), run(lowered.proto, feeds, exact=True))
    return lowered.proto


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("shape", [("b", "s", N), None], ids=["known", "unknown"])
@pytest.mark.parametrize("steps", [RESIDUAL, GATE, BOTH, SWAPPED], ids=["residual", "gate", "both", "swapped"])
def test_they_go_into_the_node(
    steps: Sequence[tuple[str, ...]], shape: Sequence[int | str] | None, length: int
) -> None:
    model = model_of(steps, shape=("b", "s", N))
    if shape is None:
        # What the model says of the shapes goes with the values that it says them of.
        for name in [value.name for value in model.graph.input[1:]]:
            for node in model.graph.node:
                node.input[:] = [f"{name}.relu" if read == name else read for read in node.input]
            model.graph.node.insert(0, helper.make_node("Relu", [name], [f"{name}.relu"]))
    feeds = feeds_of(model, 2, length)
    lowered = assert_equal_everywhere(model, feeds)
    assert [node.op_type for node in lowered.graph.node if node.op_type != "Relu"] == ["MatmulCompressDequant"]
    wanted = {"gate" if step[0] == "Mul" else "residual" for step in steps}
    assert elementwise(lowered) == [wanted]


def test_they_come_back_in_their_order() -> None:
    back = ir.from_proto(lower(model_of(BOTH)).proto)
    assert plan_restoration(back).apply()
    restored = ir.to_proto(back)
    assert [(node.op_type, node.input[-1]) for node in restored.graph.node][-2:] == [("Mul", "g"), ("Add", "r")]
    assert restored.graph.node[-1].output[0] == "y"


def test_the_other_tensor_may_be_computed_later() -> None:
    """The node moves behind what it reads; a gate is made by an activation function of another projection."""
    before = [
        *product("x", "u", "w2"),
        helper.make_node("Sigmoid", ["u"], ["a"]),
        helper.make_node("Mul", ["u", "a"], ["g"]),
    ]
    model = model_of(BOTH, before=before, constants={"w2": integers(np.int8, (K, N), 5)})
    assert elementwise(assert_equal_everywhere(model, feeds_of(model, 2, 9))) == [set(), {"gate", "residual"}]


def test_two_products_of_one_sum() -> None:
    model = model_of(
        [("Add", "f", "r", "y")], before=product("x", "r", "w2"), constants={"w2": integers(np.int8, (K, N), 5)}
    )
    assert sorted(map(len, elementwise(assert_equal_everywhere(model, feeds_of(model, 2, 9))))) == [0, 1]


def test_a_shape_that_turns_out_to_be_another() -> None:
    """What is not known may be broadcast: the bytes are right all the same."""
    model = model_of(BOTH, shape=("gb", "gs", N))
    lowered = assert_equal_everywhere(model, feeds_of(model, 2, 5))
    assert elementwise(lowered) == [{"gate", "residual"}]
    feeds = feeds_of(model, 2, 5) | {"g": floats((1, 5, N), 7), "r": floats((2, 1, N), 8)}
    for optimize in (False, True):
        assert_same_bytes(run(lowered, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_layers_of_a_stream() -> None:
    """Two layers: normalisation, gated feed-forward, sum; the stream goes on, and ends in a normalisation."""
    nodes, stream = [], "x"
    for layer in (1, 2):
        a = f"l{layer}"
        nodes += [
            helper.make_node("LayerNormalization", [stream, "scale", "shift"], [f"{a}.n"]),
            *product(f"{a}.n", f"{a}.f"),
            *product(f"{a}.n", f"{a}.u", "w2"),
            helper.make_node("Sigmoid", [f"{a}.u"], [f"{a}.a"]),
            helper.make_node("Mul", [f"{a}.a", f"{a}.f"], [f"{a}.g"]),
            *product(f"{a}.g", f"{a}.o"),
            helper.make_node("Add", [stream, f"{a}.o"], [f"{a}.y"]),
        ]
        stream = f"{a}.y"
    nodes.append(helper.make_node("LayerNormalization", [stream, "scale", "shift"], ["y"]))
    constants = {
        "w": integers(np.int8, (N, N), 1),
        "w2": integers(np.int8, (N, N), 5),
        "ws": scales((N,), 2),
        "scale": floats((N,), 3),
        "shift": floats((N,), 4),
    }
    model = make_model(nodes, {"x": (np.float32, ("b", 6, N))}, {"y": (np.float32, [None] * 3)}, constants)
    lowered = assert_equal_everywhere(model, {"x": floats((2, 6, N), 9)})
    # The last sum is joined with the normalisation behind it by onnxruntime.
    assert elementwise(lowered) == [set(), {"gate"}, {"residual"}, set(), {"gate"}, set()]


def normalized(decomposed: bool) -> list[onnx.NodeProto]:
    if not decomposed:
        return [helper.make_node("LayerNormalization", ["y", "scale", "shift"], ["n"], axis=-1)]
    return [
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[-1], keepdims=1),
        helper.make_node("Sub", ["y", "mean"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["d2"]),
        helper.make_node("ReduceMean", ["d2"], ["variance"], axes=[-1], keepdims=1),
        helper.make_node("Add", ["variance", "epsilon"], ["v"]),
        helper.make_node("Sqrt", ["v"], ["deviation"]),
        helper.make_node("Div", ["d", "deviation"], ["q"]),
        helper.make_node("Mul", ["q", "scale"], ["qs"]),
        helper.make_node("Add", ["qs", "shift"], ["n"]),
    ]


@pytest.mark.parametrize("another_reader", [False, True], ids=["alone", "goes on"])
@pytest.mark.parametrize("decomposed", [False, True], ids=["operator", "steps"])
def test_a_sum_that_onnxruntime_joins_with_its_normalization(decomposed: bool, another_reader: bool) -> None:
    constants = {"scale": floats((N,), 3), "shift": floats((N,), 4)}
    constants |= {"two": np.array(2, np.float32), "epsilon": np.array(1e-5, np.float32)}
    behind = normalized(decomposed)
    if another_reader:
        behind.append(helper.make_node("Add", ["y", "n"], ["z"]))
    outputs = ("z",) if another_reader else ("n",)
    model = model_of(RESIDUAL, outputs=outputs, shape=("b", 6, N), constants=constants, behind=behind)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("b", 6, K)))
    model.opset_import[0].version = 17
    lowered = assert_equal_everywhere(model, feeds_of(model, 2, 6))
    assert elementwise(lowered) == [{"residual"} if another_reader else set()]


def test_a_normalization_without_a_mean_is_no_obstacle() -> None:
    constants = {"two": np.array(2, np.float32), "epsilon": np.array(1e-5, np.float32), "scale": floats((N,), 3)}
    behind = [
        helper.make_node("Pow", ["y", "two"], ["y2"]),
        helper.make_node("GlobalAveragePool", ["y2"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["v"]),
        helper.make_node("Sqrt", ["v"], ["deviation"]),
        helper.make_node("Div", ["y", "deviation"], ["q"]),
        helper.make_node("Mul", ["q", "scale"], ["n"]),
    ]
    model = model_of(RESIDUAL, outputs=("n",), constants=constants, behind=behind)
    assert elementwise(assert_equal_everywhere(model, feeds_of(model, 2, 6))) == [{"residual"}]


def another_reader(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["f"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None))


def an_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, None))


def itself(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[:] = ["f", "f"]


def another_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Sub"


def a_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(floats((2, 5, N), 1), "constant"))
    model.graph.node[-1].input[1] = "constant"


def computed_of_constants(model: onnx.ModelProto) -> None:
    a_constant(model)
    exp = helper.make_node("Exp", ["constant"], ["e"])
    model.graph.node.insert(0, exp)
    model.graph.node[-1].input[1] = "e"


def computed_of_a_shape(model: onnx.ModelProto) -> None:
    last = model.graph.node.pop()
    last.input[1] = "zeros"
    model.graph.node.extend([
        helper.make_node("Shape", ["f"], ["dims"]),
        helper.make_node("ConstantOfShape", ["dims"], ["zeros"]),
        last,
    ])  # fmt: skip


def of_shape(*shape: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (value,) = (value for value in model.graph.input if value.name != "x")
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))

    change.__name__ = f"of_shape_{len(shape)}"
    return change


def of_a_division(model: onnx.ModelProto) -> None:
    """1 / x * y is y / x to onnxruntime."""
    name = model.graph.node[-1].input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "one"))
    model.graph.node.insert(0, helper.make_node("Div", ["one", name], ["inverse"]))
    model.graph.node[-1].input[1] = "inverse"


def of_a_multiplication(model: onnx.ModelProto) -> None:
    """A product of floats and the sum with it are a Gemm to onnxruntime, for matrices."""
    name = model.graph.node[-1].input[1]
    model.graph.initializer.append(numpy_helper.from_array(floats((N, N), 1), "floats"))
    model.graph.node.insert(0, helper.make_node("MatMul", [name, "floats"], ["p"]))
    model.graph.node[-1].input[1] = "p"


STAYS = [another_reader, an_output, itself, another_operator, a_constant, computed_of_constants, computed_of_a_shape]
STAYS += [of_shape(N), of_shape(1, 1), of_shape("b", "s", 1), of_shape(1, "b", "s", N)]


@pytest.mark.parametrize("steps", [RESIDUAL, GATE], ids=["residual", "gate"])
@pytest.mark.parametrize("change", [*STAYS, of_a_division, of_a_multiplication])
def test_what_stays(change: Callable[[onnx.ModelProto], None], steps: Sequence[tuple[str, ...]]) -> None:
    model = model_of(steps)
    of_x = helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, ("b", "s", N))
    model.graph.value_info.append(of_x)
    change(model)
    feeds = feeds_of(model, 2, 5)
    for value in model.graph.input:
        if value.name != "x" and change.__name__.startswith("of_shape"):
            dims = [dim.dim_value or {"b": 2, "s": 5}[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
            feeds[value.name] = floats(tuple(dims), 3)
    feeds = {name: array for name, array in feeds.items() if name in {value.name for value in model.graph.input}}
    lowered = lower(model)
    joined = {of_a_division: GATE, of_a_multiplication: RESIDUAL}
    assert elementwise(lowered.proto) == [
        {"gate" if steps is GATE else "residual"} if joined.get(change, steps) is not steps else set()
    ]
    for optimize in (False, True):
        assert_same_bytes(run(lowered.proto, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


@pytest.mark.parametrize(
    ("steps", "absorbed"),
    [
        ([("Add", "f", "r", "p"), ("Mul", "p", "g", "y")], {"residual"}),
        ([("Mul", "f", "g", "p"), ("Mul", "p", "r", "y")], {"gate"}),
        ([("Add", "f", "r", "p"), ("Add", "p", "g", "y")], {"residual"}),
    ],
    ids=["Add, Mul", "Mul, Mul", "Add, Add"],
)
def test_no_other_order(steps: Sequence[tuple[str, ...]], absorbed: set[str]) -> None:
    model = model_of(steps)
    lowered = assert_equal_everywhere(model, feeds_of(model, 2, 5))
    assert elementwise(lowered) == [absorbed]
    assert len(lowered.graph.node) == 2


def test_heads_and_a_gate_do_not_mix() -> None:
    behind = [
        helper.make_node("Reshape", ["f", "shape"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["t", "g"], ["y"]),
    ]
    model = model_of([], behind=behind, constants={"shape": np.array([0, 0, 3, 16])}, shape=("b", 3, "s", 16), rank=4)
    feeds = {"x": floats((2, 5, K), 1), "g": floats((2, 3, 5, 16), 2)}
    lowered = assert_equal_everywhere(model, feeds)
    assert [node.op_type for node in lowered.graph.node] == ["MatmulCompressDequant", "Mul"]


def test_a_subgraph_keeps_to_itself() -> None:
    """The Add of a branch is not the reader that a node of the graph around it may take; one beside it is."""
    inner = [*product("x", "p"), helper.make_node("Add", ["p", "r"], ["q"])]
    other = [helper.make_node("Add", ["f", "r"], ["q"])]
    branches = {
        f"{name}_branch": helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, [None] * 3)]
        )
        for name, nodes in (("then", inner), ("else", other))
    }
    model = model_of([], behind=[helper.make_node("If", ["flag"], ["y"], **branches)])
    model.graph.input.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ("b", "s", N)))
    model.graph.input.append(helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    lowered = lower(model).proto
    assert elementwise(lowered) == [set()]
    then = next(a.g for a in lowered.graph.node[-1].attribute if a.name == "then_branch")
    assert [node.op_type for node in then.node] == ["MatmulCompressDequant"]
    for flag in (False, True):
        feeds = {"x": floats((2, 5, K), 1), "r": floats((2, 5, N), 2), "flag": np.array(flag)}
        for optimize in (False, True):
            assert_same_bytes(run(lowered, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_legalizing_puts_them_back() -> None:
    model = model_of(BOTH)
    lowered = lower(model).proto
    strict = legal(lowered)
    assert elementwise(strict) == [set()]
    assert [(node.op_type, node.input[-1]) for node in strict.graph.node][-2:] == [("Mul", "g"), ("Add", "r")]
    feeds = feeds_of(model, 1, 5)
    (found,), (expected,) = (run(each, feeds, exact=True) for each in (strict, lowered))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-2)  # noqa: TID251 - it went through float16


def test_nothing_comes_back_without_operators_to_come_back_as() -> None:
    model = lower(model_of(BOTH)).proto
    (opset,) = (opset for opset in model.opset_import if not opset.domain)
    model.opset_import.remove(opset)
    loaded = ir.from_proto(model)
    legalize = LegalizePass()
    assert not legalize(loaded).modified
    assert legalize.sites[0].code is not None
    assert legalize.sites[0].code == ReasonCode.OPSET
    assert [node.op_type for node in loaded.graph] == ["MatmulCompressDequant"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"deq_scale": np.ones(N, np.float16)}, ReasonCode.INPUTS_CONTRADICT),
        ({"gate": np.ones((1, N), np.float16)}, ReasonCode.TYPE_MISMATCH),
        ({"y_shape": np.array([0, 0, 3, 16])}, ReasonCode.INPUTS_CONTRADICT),
        ({"y_zero_point": np.array(1, np.uint8)}, ReasonCode.INPUTS_CONTRADICT),
    ],
)
def test_contradictions_are_kept(changes: dict[str, np.ndarray], code: ReasonCode) -> None:
    model = model_of(GATE)
    lowered = lower(model).proto
    (node,) = lowered.graph.node
    for name, array in changes.items():
        if name == "gate":
            lowered.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
            continue
        lowered.graph.initializer.append(numpy_helper.from_array(array, f"other.{name}"))
        node.input[INPUT_NAMES.index(name)] = f"other.{name}"
        if name == "y_shape":
            node.attribute.append(helper.make_attribute("y_perm", [0, 2, 1, 3]))
        if name == "y_zero_point":
            node.attribute.remove(next(a for a in node.attribute if a.name == "output_type"))
    plan = plan_restoration(ir.from_proto(lowered))
    assert [site.code for site in plan.sites] == [code]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_chain_of_steps(data: st.DataObject) -> None:
    """Whatever stands behind, in whatever shapes: the bytes are the original's, lowered and restored."""
    steps, before = [], "f"
    constants: dict[str, np.ndarray] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    for position in range(data.draw(st.integers(1, 3))):
        name = f"t{position}"
        shape = data.draw(st.sampled_from([(2, 5, N), (2, 5, N), (1, 5, N), (2, 1, 1), (5, N), (N,), (3, 1, 1, 1)]))
        if data.draw(st.integers(0, 4)) == 0:
            constants[name] = floats(shape, position)
        else:
            inputs[name] = shape
        pair = [before, name] if data.draw(st.booleans()) else [name, before]
        before = f"s{position}"
        steps.append((data.draw(st.sampled_from(["Add", "Mul"])), *pair, before))
    outputs = [before, *(name for name in ("f", "s0") if name != before and data.draw(st.integers(0, 3)) == 0)]
    model = model_of(steps, outputs=outputs, constants=constants)
    known = data.draw(st.booleans())
    model.graph.input.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape if known else [None] * len(shape))
        for name, shape in inputs.items()
    )
    for output in model.graph.output:  # of a rank that only the run tells
        model.graph.node.append(helper.make_node("Reshape", [output.name, "flat"], [f"{output.name}.flat"]))
        output.CopyFrom(helper.make_tensor_value_info(f"{output.name}.flat", onnx.TensorProto.FLOAT, [None]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "flat"))
    feeds = {"x": floats((2, 5, K), 9)} | {
        name: floats(shape, 10 + i) for i, (name, shape) in enumerate(inputs.items())
    }
    assert_equal_everywhere(model, feeds)
