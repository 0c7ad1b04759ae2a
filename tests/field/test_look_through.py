"""No-ops at every edge of every form, and constants behind operators: lowered, to the bytes that onnxruntime computes.

onnxruntime removes Identity, Dropout, Cast to the same type, x 1, + 0 and Transposes that cancel, and folds constants,
before it fuses. So does whoever plans, and the optimised model that onnxruntime saves decides.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering import Lowered, assert_same_bytes, floats, integers, lower, make_model, node, run, scales
from onnx import TensorProto, helper, numpy_helper

from mcd_graph import compress_model
from mcd_graph.inspection import inspect_model
from mcd_graph.passes import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

K, N = 52, 36
Nodes = list[onnx.NodeProto]


CONSTANTS = {
    "xs": scales((), 1, 0.1), "xz": np.array(117, np.uint8), "w": integers(np.int8, (K, N), 3), "ws": scales((), 4),
    "wz": np.zeros((), np.int8), "ys": scales((), 6, 4), "yz": np.array(120, np.uint8), "b": floats((N,), 8),
    "bq": np.random.default_rng(1).integers(-5000, 5000, N).astype(np.int32), "bz": np.zeros((), np.int32),
    "bs": np.asarray(scales((), 1, 0.1) * scales((), 4)), "one": np.array(1, np.float32),
    "ones": np.ones(1, np.float32), "none": np.array(0, np.float32), "ratio": np.array(0.5, np.float32),
    "no": np.array(False), "low": np.array(-9, np.int8), "high": np.array(7, np.int8), "first": np.array([0]),
    "matrix": np.array([K, -1]),
}  # fmt: skip

QUANTIZED = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd")]
WEIGHT = [node("DequantizeLinear", "w ws wz", "wd")]
REQUANTIZED = [node("QuantizeLinear", "h ys yz", "yq"), node("DequantizeLinear", "yq ys yz", "y")]
FORMS: dict[str, Nodes] = {
    "MatMul QDQ": [*QUANTIZED, *WEIGHT, node("MatMul", "xd wd", "h"), *REQUANTIZED],
    "MatMul QDQ to float": [*QUANTIZED, *WEIGHT, node("MatMul", "xd wd", "h"), node("Neg", "h", "y")],
    "Gemm QDQ": [
        *QUANTIZED, *WEIGHT, node("DequantizeLinear", "bq bs bz", "bd"), node("Gemm", "xd wd bd", "h"), *REQUANTIZED,
    ],
    "MatMul + bias QDQ": [
        *QUANTIZED, *WEIGHT, node("MatMul", "xd wd", "m"), node("Add", "m b", "h"), *REQUANTIZED,
    ],
    "MatMul, Relu QDQ": [
        *QUANTIZED, *WEIGHT, node("MatMul", "xd wd", "m"), node("Relu", "m", "h"),
        node("QuantizeLinear", "h ys -", "yq"), node("DequantizeLinear", "yq ys -", "y"),
    ],
    "MatMulInteger": [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", "q w z", "a"),
        node("Cast", "a", "f", to=TensorProto.FLOAT), node("Mul", "s ws", "m"), node("Mul", "f m", "p"),
        node("Add", "p b", "y"),
    ],
    "QLinearMatMul": [
        QUANTIZED[0], node("QLinearMatMul", "xq xs xz w ws wz ys yz", "yq"), REQUANTIZED[1],
    ],
}  # fmt: skip

#: Types of the values that are not float, and the values that are no matrix.
TYPES = {"xq": "uint8", "yq": "uint8", "w": "int8", "q": "uint8", "a": "int32", "z": "uint8"}
SCALARS = {"MatMulInteger": ("s", "z", "m")}

NO_OPS: dict[str, Callable[[str, str], Nodes]] = {
    "Identity": lambda a, b: [node("Identity", a, b)],
    "Dropout": lambda a, b: [node("Dropout", a, b)],
    "Dropout with a mode": lambda a, b: [node("Dropout", f"{a} ratio no", b)],
    "Mul": lambda a, b: [node("Mul", f"{a} one", b)],
    "Mul from the left": lambda a, b: [node("Mul", f"one {a}", b)],
    "Mul by a vector": lambda a, b: [node("Mul", f"{a} ones", b)],
    "Div": lambda a, b: [node("Div", f"{a} one", b)],
    "Add": lambda a, b: [node("Add", f"{a} none", b)],
    "Sub": lambda a, b: [node("Sub", f"{a} none", b)],
    "two": lambda a, b: [node("Identity", a, f"{b}_1"), node("Dropout", f"{b}_1", b)],
}


@dataclasses.dataclass(frozen=True)
class Edge:
    """A value of a form."""

    form: str
    name: str

    def __str__(self) -> str:
        return f"{self.form} {self.name}"

    @property
    def scalar(self) -> bool:
        return self.name in SCALARS.get(self.form, ()) or self.name == "bd"


EDGES = [
    Edge(form, name)
    for form, nodes in FORMS.items()
    for name in dict.fromkeys(["x", "w", *(name for each in nodes for name in each.output)])
]


def no_op(kind: str, edge: Edge, rank: int, source: str, target: str) -> Nodes:
    """Return nodes that hand on a value, or none where its type has no such operator."""
    dtype = TYPES.get(edge.name, "float")
    if kind == "Cast":
        return [node("Cast", source, target, to=TensorProto.DataType.Value(dtype.upper()))]
    if kind == "Transposes":
        swap = [1, 0] if rank == 2 or edge.name in ("w", "wd") else [0, 2, 1]
        first = node("Transpose", source, f"{target}_t", perm=swap)
        return [] if edge.scalar else [first, node("Transpose", f"{target}_t", target, perm=swap)]
    if dtype != "float" and kind != "Identity":
        return []
    return [] if edge.scalar and kind == "Mul by a vector" else NO_OPS[kind](source, target)


def insert(nodes: Sequence[onnx.NodeProto], name: str, added: Callable[[str, str], Nodes], target: str) -> Nodes:
    """Return ``nodes`` with others between a value and its readers."""
    extra = added(name, target)
    if not extra:
        return list(nodes)
    place = max((index + 1 for index, each in enumerate(nodes) if name in each.output), default=0)
    result = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    for each in result[place:]:
        each.input[:] = [target if one == name else one for one in each.input]
    return [*result[:place], *extra, *result[place:]]


def model_of(
    nodes: Nodes, rank: int, constants: dict[str, np.ndarray], outputs: Sequence[str] = ("y",)
) -> onnx.ModelProto:
    used = {name for each in nodes for name in each.input} - {name for each in nodes for name in each.output}
    lead = ("b", "m")[-(rank - 1) :]
    return make_model(
        nodes,
        {"x": (np.float32, (*lead, K))},
        dict.fromkeys(outputs, (np.float32, (*lead, N))),
        {name: constants[name] for name in sorted(used - {"x", ""})},
    )


def exact(model: onnx.ModelProto, rank: int) -> Lowered:
    """Lower a model and compare bytes at default settings and without optimisations."""
    lowered = lower(model)
    feeds = {"x": floats((5, K) if rank == 2 else (2, 5, K), 9)}
    expected = run(model, feeds, optimize=True)
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), expected)
    if not any(site.optimized for site in lowered.plan.sites):
        expected = run(model, feeds)
    if all(site.status == "lowered" for site in lowered.plan.sites):  # a QDQ form that is kept computes floats then
        assert_same_bytes(run(lowered.proto, feeds), expected)
    return lowered


@pytest.mark.parametrize("kind", [*NO_OPS, "Cast", "Transposes"])
@pytest.mark.parametrize("edge", EDGES, ids=str)
@pytest.mark.parametrize("rank", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_no_op(rank: int, edge: Edge, kind: str) -> None:
    if rank == 3 and edge.form == "Gemm QDQ":
        return  # which multiplies matrices alone
    output = "y0" if edge.name == "y" else "y"
    nodes = insert(FORMS[edge.form], edge.name, lambda a, b: no_op(kind, edge, rank, a, b), f"{edge.name}0")
    if len(nodes) == len(FORMS[edge.form]):
        return
    lowered = exact(model_of(nodes, rank, CONSTANTS, (output,)), rank)
    assert [site.status for site in lowered.plan.sites] == ["lowered"]


WEIGHTS: dict[str, tuple[Nodes, np.ndarray]] = {
    "Clip": ([node("Clip", "v low high", "w")], CONSTANTS["w"]),
    "Clip from below": ([node("Clip", "v low", "w")], CONSTANTS["w"]),
    "Clip from above": ([node("Clip", "v - high", "w")], CONSTANTS["w"]),
    "Cast": ([node("Cast", "v", "w", to=TensorProto.INT8)], CONSTANTS["w"].astype(np.int32)),
    "Cast that wraps": ([node("Cast", "v", "w", to=TensorProto.INT8)], integers(np.int16, (K, N), 5)),
    "Cast and back": (
        [node("Cast", "v", "u", to=TensorProto.INT32), node("Cast", "u", "w", to=TensorProto.INT8)], CONSTANTS["w"],
    ),
    "Transpose": ([node("Transpose", "v", "w")], np.ascontiguousarray(CONSTANTS["w"].T)),
    "Transpose of three": ([node("Transpose", "v", "w", perm=[0, 2, 1])], np.ascontiguousarray(CONSTANTS["w"].T)[None]),
    "Transpose, Clip": ([node("Transpose", "v", "u"), node("Clip", "u low high", "w")], integers(np.int8, (N, K), 3)),
    "Clip, Transpose": ([node("Clip", "v low high", "u"), node("Transpose", "u", "w")], integers(np.int8, (N, K), 3)),
    "Identity": ([node("Identity", "v", "u"), node("Identity", "u", "w")], CONSTANTS["w"]),
    "Reshape": ([node("Reshape", "v matrix", "w")], CONSTANTS["w"].reshape(-1)),
    "Squeeze": ([node("Squeeze", "v first", "w")], CONSTANTS["w"][None]),
    "Unsqueeze": ([node("Unsqueeze", "v first", "w")], CONSTANTS["w"]),
    "QuantizeLinear": ([node("QuantizeLinear", "v ws wz", "w")], floats((K, N), 7)),
    "three dimensions": ([node("Identity", "v", "w")], CONSTANTS["w"][None]),
}  # fmt: skip
WIDE = ("Transpose of three", "Unsqueeze", "three dimensions")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_constant_weight(kind: str, form: str) -> None:
    nodes, array = WEIGHTS[kind]
    if form == "Gemm QDQ" and kind in WIDE:
        pytest.skip("Gemm takes matrices")
    rank = 3 if kind in WIDE else 2
    lowered = exact(model_of([*nodes, *FORMS[form]], rank, CONSTANTS | {"v": array}), rank)
    assert [site.status for site in lowered.plan.sites] == ["lowered"]
    assert not {"v", "w"} & set(lowered.model.graph.initializers)


def test_a_weight_with_more_dimensions_than_the_activation() -> None:
    """Its result has three as well."""
    model = model_of(FORMS["MatMulInteger"], 2, CONSTANTS | {"w": CONSTANTS["w"][None]})
    assert lower(model).outcome == [("MatMulInteger", ReasonCode.WEIGHT_RANK)]


def test_a_weight_that_is_computed_of_constants_is_said_to_be() -> None:
    cut = [node("Slice", "v first last", "w")]
    constants = CONSTANTS | {"v": CONSTANTS["w"], "first": np.array([0]), "last": np.array([K])}
    (site,) = lower(model_of([*cut, *FORMS["MatMulInteger"]], 2, constants)).plan.sites
    assert (site.code, site.reason) == (ReasonCode.WEIGHT_COMPUTED, "weight w is computed of constants by Slice")


def test_one_constant_in_two_recipes() -> None:
    """What the operators make of it differs, so it is compressed twice."""
    second = [
        node("MatMulInteger", "q w2 z", "a2"), node("Cast", "a2", "f2", to=TensorProto.FLOAT),
        node("Mul", "f2 m", "p2"), node("Add", "p2 b", "y2"),
    ]  # fmt: skip
    nodes = [
        node("Clip", "v low high", "w"), node("Clip", "v - high", "w2"), *FORMS["MatMulInteger"], *second,
    ]  # fmt: skip
    lowered = exact(model_of(nodes, 2, CONSTANTS | {"v": CONSTANTS["w"]}, ("y", "y2")), 2)
    assert [site.status for site in lowered.plan.sites] == ["lowered"] * 2
    assert len(lowered.plan.weights) == 2


def test_bias_and_scales_behind_no_ops() -> None:
    nodes = [
        node("Identity", "ws", "ws1"), node("Cast", "b", "b1", to=TensorProto.FLOAT), *FORMS["MatMulInteger"],
    ]  # fmt: skip
    renamed = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    for each in renamed[2:]:
        each.input[:] = [{"ws": "ws1", "b": "b1"}.get(name, name) for name in each.input]
    lowered = exact(model_of(renamed, 2, CONSTANTS), 2)
    assert lowered.outcome == [("MatMulInteger+Cast+Mul+Add", None)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_no_ops(data: st.DataObject) -> None:
    """Several at once, an int8 activation, another reader of one of the values."""
    form = data.draw(st.sampled_from(sorted(FORMS)))
    rank = 2 if form == "Gemm QDQ" else data.draw(st.sampled_from((2, 3)))
    nodes = list(FORMS[form])
    edges = [edge for edge in EDGES if edge.form == form and edge.name != "y"]
    current = {edge.name: edge.name for edge in edges}
    for number in range(data.draw(st.integers(1, 4))):
        edge = data.draw(st.sampled_from(edges))
        kind = data.draw(st.sampled_from([*NO_OPS, "Cast", "Transposes"]))
        target = f"{edge.name}_{number}"
        grown = insert(nodes, current[edge.name], lambda a, b: no_op(kind, edge, rank, a, b), target)  # noqa: B023
        if len(grown) > len(nodes):
            nodes, current[edge.name] = grown, target
    constants = dict(CONSTANTS)
    if data.draw(st.booleans()) and form != "MatMulInteger":
        constants |= {"xz": np.array(3, np.int8)} | ({"yz": np.array(-5, np.int8)} if "yz" in constants else {})
        if any(each.op_type == "Cast" and "q" in each.output[0] for each in nodes) or form == "MatMul, Relu QDQ":
            constants = dict(CONSTANTS)
    outputs = ["y"]
    if data.draw(st.booleans()):
        wide = [
            name
            for name in ("h", "m", "p", "y")
            if any(name in each.output for each in nodes) and form != "MatMulInteger"
        ]
        read = data.draw(st.sampled_from(wide or ["y"]))
        nodes.append(node("Sigmoid", data.draw(st.sampled_from([read, current.get(read, read)])), "other"))
        outputs.append("other")
    exact(model_of(nodes, rank, constants, outputs), rank)


# ---------------------------------------------------------------------------------------------------------------------
# Weights that functions are given


def function_model(calls: int = 2, version: int = 18) -> onnx.ModelProto:
    body = FORMS["MatMulInteger"]
    function = helper.make_function(
        "local", "Linear", ["x", "w", "ws", "b"], ["y"], body, [helper.make_opsetid("", version)]
    )
    nodes = [
        helper.make_node("Linear", ["x", f"w{call}", "ws", "b"], [f"y{call}"], domain="local") for call in range(calls)
    ]
    constants = {f"w{call}": integers(np.int8, (K, N), call) for call in range(calls)}
    return make_model(
        nodes, {"x": (np.float32, ("m", K))}, {f"y{call}": (np.float32, ("m", N)) for call in range(calls)},
        {**constants, "ws": CONSTANTS["ws"], "b": CONSTANTS["b"]}, functions=[function],
    )  # fmt: skip


def test_a_function_that_is_given_its_weight_is_lowered_at_each_call(tmp_path: Path) -> None:
    model = function_model()
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(model.SerializeToString())
    assert [each.status for each in inspect_model(source).nodes] == ["lowerable"] * 2
    report = compress_model(source, target, min_saving=-9, force_larger=True, inline=True)
    assert [each.status for each in report.nodes] == ["lowered"] * 2
    feeds = {"x": floats((5, K), 9)}
    for optimize in (True, False):
        assert_same_bytes(run(onnx.load(target), feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_functions_that_hand_on_the_weight_that_they_are_given(tmp_path: Path) -> None:
    """Each call of the outermost one has constants of its own."""
    model = function_model()
    inner = model.functions[0]
    opsets = [*inner.opset_import, helper.make_opsetid("local", 1)]
    names = list(inner.input)
    for name, called in (("Middle", "Linear"), ("Outer", "Middle")):
        body = [helper.make_node(called, names, ["i"], domain="local"), helper.make_node("Relu", ["i"], ["y"])]
        model.functions.append(helper.make_function("local", name, names, ["y"], body, opsets))
    for call in model.graph.node:
        call.op_type = "Outer"
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(model.SerializeToString())
    report = compress_model(source, target, min_saving=-9, force_larger=True, inline=True)
    assert [each.status for each in report.nodes] == ["lowered"] * 2
    feeds = {"x": floats((5, K), 9)}
    for optimize in (True, False):
        assert_same_bytes(run(onnx.load(target), feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_a_function_of_another_version_is_left(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(function_model(version=17).SerializeToString())
    (site,) = inspect_model(source).nodes
    assert (site.status, site.code) == ("kept", ReasonCode.WEIGHT_IS_INPUT)


def test_a_function_that_nobody_calls_is_not_counted(tmp_path: Path) -> None:
    model = function_model()
    unused = onnx.FunctionProto.FromString(model.functions[0].SerializeToString())
    unused.name = "Unused"
    model.functions.append(unused)
    source = tmp_path / "model.onnx"
    source.write_bytes(model.SerializeToString())
    assert len(inspect_model(source).nodes) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Graphs within graphs


@pytest.mark.parametrize("outside", ["weight", "dequantised weight", "dequantised activation"])
def test_a_branch_reads_from_the_graph_around_it(outside: str) -> None:
    """A constant is one wherever it is read; a DequantizeLinear is fused with nodes of its own graph alone."""
    nodes = FORMS["MatMul QDQ"]
    moved = {"weight": [], "dequantised weight": nodes[2:3], "dequantised activation": nodes[:2]}[outside]
    inner = [each for each in nodes if each not in moved]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("m", N))
    other = helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, N))
    constant = helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.zeros((1, N), np.float32)))
    branches = {
        "then_branch": helper.make_graph(inner, "then", [], [result]),
        "else_branch": helper.make_graph([constant], "else", [], [other]),
    }
    used = {name for each in nodes for name in each.input} & set(CONSTANTS)
    model = make_model(
        [*moved, helper.make_node("If", ["flag"], ["r"], **branches)],
        {"x": (np.float32, ("m", K)), "flag": (np.bool_, ())}, {"r": (np.float32, ("k", N))},
        {name: CONSTANTS[name] for name in sorted(used)},
    )  # fmt: skip
    lowered = lower(model)
    feeds = {"x": floats((5, K), 9), "flag": np.array(True)}
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))
    (site,) = [each for each in lowered.plan.sites if each.op_type == "MatMul"]
    assert site.code == (None if outside == "weight" else ReasonCode.DEQUANTIZED_OUTSIDE)
