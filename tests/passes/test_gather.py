"""Gather from an int8 table: what of it becomes a GatherCompressDequant, to the byte, and what stays."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import (
    assert_exact,
    assert_same_bytes,
    dynamic_nodes,
    floats,
    integers,
    lower,
    make_model,
    node,
    run,
    scales,
)
from onnx import TensorProto, helper

from mcd_graph.operators.view import CompressedNode
from mcd_graph.passes import ReasonCode, plan_lowering, plan_restoration

if TYPE_CHECKING:
    from collections.abc import Mapping

N, K = 70, 40
"""Rows and columns of the tables; neither fills a tile."""

INDICES = np.array([[0, 69, -70, 3], [-1, 5, 5, 40]])


def table(kind: type = np.int8, seed: int = 1) -> np.ndarray:
    return integers(kind, (N, K), seed)


def model_of(
    nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], out: type = np.float32, index: type = np.int64
) -> onnx.ModelProto:
    """Return a model of indices ``i``, (batch, tokens), to ``y``."""
    constants = {"t": table(), **constants}
    return make_model(nodes, {"i": (index, ("b", "l"))}, {"y": (out, ("b", "l", K))}, constants, opset=19)


def gather(source: str = "t", output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Gather", [source, "i"], [output], name="embed", **attributes)


def widen(form: str, source: str, output: str, *, zero: bool) -> list[onnx.NodeProto]:
    """Return the nodes that make floats ``output`` of ``source``, with the constants s and z."""
    if form == "DequantizeLinear":
        return [node(form, f"{source} s z" if zero else f"{source} s", output)]
    cast = helper.make_node("Cast", [source], ["f"], to=TensorProto.FLOAT)
    return [cast, *([node("Sub", "f z", "d")] if zero else []), node("Mul", "d s" if zero else "s f", output)]


def zero_of(form: str, kind: type, value: int) -> np.ndarray:
    return np.array(value, kind if form == "DequantizeLinear" else np.float32)


FORMS = ("DequantizeLinear", "Cast and Mul")


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_as_they_are(kind: type, index: type) -> None:
    model = model_of([gather()], {"t": table(kind)}, kind, index)
    lowered = assert_exact(model, {"i": INDICES.astype(index)}, optimized=True)
    assert lowered.outcome == [("Gather", None)]
    assert lowered.op_types == ["GatherCompressDequant"]


@pytest.mark.parametrize(
    ("form", "kind", "behind", "zero"), list(itertools.product(FORMS, (np.int8, np.uint8), (True, False), (0, 7, None)))
)
def test_rows_that_are_widened(form: str, kind: type, behind: bool, zero: int | None) -> None:
    widening = widen(form, "r" if behind else "t", "y" if behind else "r", zero=zero is not None)
    nodes = [gather(output="r"), *widening] if behind else [*widening, gather("r")]
    constants = {"t": table(kind), "s": np.float32(0.037)}
    if zero is not None:
        constants["z"] = zero_of(form, kind, zero)
    lowered = assert_exact(model_of(nodes, constants), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]
    assert [site.code for site in lowered.plan.sites] == [None]


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_of_the_columns_in_front(axis: int) -> None:
    constants = {"s": scales((K,), 3), "z": integers(np.int8, (K,), 4)}
    nodes = [helper.make_node("DequantizeLinear", ["t", "s", "z"], ["f"], axis=axis), gather("f")]
    lowered = assert_exact(model_of(nodes, constants), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]


def test_scales_of_the_rows_in_front() -> None:
    constants = {"s": scales((N,), 3), "z": integers(np.int8, (N,), 4)}
    nodes = [helper.make_node("DequantizeLinear", ["t", "s", "z"], ["f"], axis=0), gather("f")]
    lowered = assert_exact(model_of(nodes, constants), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]
    assert next(iter(lowered.model.graph)).attributes["axis"].as_int() == 0


@pytest.mark.parametrize("shape", [(N, 1), (1, K), (K,), (1, 1)])
def test_scales_that_mul_broadcasts(shape: tuple[int, ...]) -> None:
    nodes = [*widen("Cast and Mul", "t", "f2", zero=False), gather("f2")]
    lowered = assert_exact(model_of(nodes, {"s": scales(shape, 3)}), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]


@pytest.mark.parametrize("axis", [2, -1])
def test_scales_of_the_columns_behind(axis: int) -> None:
    constants = {"s": scales((K,), 3), "z": integers(np.int8, (K,), 4)}
    nodes = [gather(output="r"), helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"], axis=axis)]
    lowered = assert_exact(model_of(nodes, constants), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]


def test_scales_along_the_indices_stay_behind() -> None:
    nodes = [gather(output="r"), helper.make_node("DequantizeLinear", ["r", "s"], ["y"], axis=1)]
    model = model_of(nodes, {"s": scales((INDICES.shape[1],), 3)})
    lowered = assert_exact(model, {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant", "DequantizeLinear"]
    assert lowered.outcome == [("Gather", None)]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_quantizer_that_undoes_it(kind: type) -> None:
    constants = {"t": table(kind), "s": np.float32(0.02), "z": np.array(5, kind)}
    nodes = [node("DequantizeLinear", "t s z", "f"), gather("f", "g"), node("QuantizeLinear", "g s z", "y")]
    lowered = assert_exact(model_of(nodes, constants, kind), {"i": INDICES}, optimized=True)
    assert lowered.op_types == ["GatherCompressDequant"]
    assert lowered.outcome == [("DequantizeLinear+Gather+QuantizeLinear", None)]


def test_another_quantizer_stays() -> None:
    constants = {"s": np.float32(0.02), "z": np.array(5, np.int8), "s2": np.float32(0.03)}
    nodes = [node("DequantizeLinear", "t s z", "f"), gather("f", "g"), node("QuantizeLinear", "g s2 z", "y")]
    lowered = assert_exact(model_of(nodes, constants, np.int8), {"i": INDICES}, optimized=True)
    assert lowered.op_types[-1] == "QuantizeLinear"


def test_rows_that_others_read_as_well() -> None:
    nodes = [gather(output="r"), node("DequantizeLinear", "r s", "y"), node("Identity", "r", "rows")]
    model = make_model(
        nodes, {"i": (np.int64, ("b", "l"))}, {"y": (np.float32, ("b", "l", K)), "rows": (np.int8, ("b", "l", K))},
        {"t": table(), "s": np.float32(0.1)}, opset=19,
    )  # fmt: skip
    lowered = assert_exact(model, {"i": INDICES}, optimized=True)
    assert lowered.outcome == [("Gather", None)]


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Gather", ["t", "i"], ["y"], axis=1)],
        [helper.make_node("Gather", ["x", "i"], ["y"])],
        [helper.make_node("Gather", ["small", "i"], ["y"])],
        [helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT), helper.make_node("Gather", ["f", "i"], ["y"])],
    ],
    ids=["columns", "floats", "small", "no scale"],
)
def test_what_is_no_table_of_weights(nodes: list[onnx.NodeProto]) -> None:
    constants = {"t": table(), "x": floats((N, K), 1), "small": table()[:10, :8]}
    read = {name for each in nodes for name in each.input}
    model = make_model(
        nodes, {"i": (np.int64, ("b", "l"))}, {"y": (np.float32 if "f" in read or "x" in read else np.int8, None)},
        {name: array for name, array in constants.items() if name in read},
    )  # fmt: skip
    assert lower(model).outcome == []


def test_scales_of_neither_rows_nor_columns() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["t", "s"], ["f"], axis=1, block_size=4), gather("f")]
    model = model_of(nodes, {"s": scales((N, K // 4), 2)})
    model.opset_import[0].version = 21
    assert lower(model).outcome == []  # a blocked scale is no form of ours


def tied() -> onnx.ModelProto:
    """Return a model whose table is looked up, and multiplied with behind a Transpose, as tied embeddings are."""
    nodes = [
        gather(output="r"),
        node("DequantizeLinear", "r es ez", "x"),
        helper.make_node("Transpose", ["t"], ["w"], perm=[1, 0]),
        *dynamic_nodes(),
    ]
    constants = {
        "t": table(), "es": np.float32(0.05), "ez": np.int8(0), "wz": np.int8(0), "ws": np.float32(0.01),
        "b": floats((N,), 6),
    }  # fmt: skip
    return make_model(nodes, {"i": (np.int64, ("b", "l"))}, {"y": (np.float32, ("b", "l", N))}, constants)


def test_a_tied_table_is_stored_once() -> None:
    lowered = assert_exact(tied(), {"i": INDICES})
    assert lowered.op_types == ["GatherCompressDequant", "MatmulCompressDequant"]
    assert len(lowered.plan.weights) == 1
    (job,) = lowered.plan.weights.values()
    assert job.tiling is None, "the tiles are those of the multiplication"
    views = [CompressedNode.of(each) for each in lowered.model.graph if each.domain == "mcd"]
    assert len({view.key for view in views}) == 1


def test_a_table_alone_has_tiles_as_wide_as_it_is() -> None:
    (job,) = plan_lowering(ir.from_proto(model_of([gather()], {}, np.int8))).weights.values()
    assert job.tiling == (2, 1)


def test_a_table_of_uint8_without_scale_beside_one_with() -> None:
    nodes = [
        gather(output="y"),
        helper.make_node("Gather", ["t", "i"], ["r"], name="second"),
        node("DequantizeLinear", "r s", "x"),
    ]
    model = make_model(
        nodes, {"i": (np.int64, ("b", "l"))}, {"y": (np.uint8, ("b", "l", K)), "x": (np.float32, ("b", "l", K))},
        {"t": table(np.uint8), "s": np.float32(0.1)},
    )  # fmt: skip
    lowered = assert_exact(model, {"i": INDICES}, optimized=True)
    assert [site.code for site in lowered.plan.sites] == [None, None]
    assert len(lowered.plan.weights) == 1


def test_in_a_function() -> None:
    opsets = [helper.make_opsetid("", 18)]
    body = [
        helper.make_node("Constant", [], ["t"], value=onnx.numpy_helper.from_array(table(), "t")),
        gather(output="r"),
        helper.make_node("Constant", [], ["s"], value=onnx.numpy_helper.from_array(np.float32(0.1), "s")),
        node("DequantizeLinear", "r s", "y"),
    ]
    function = helper.make_function("local", "Embed", ["i"], ["y"], body, opsets)
    call = helper.make_node("Embed", ["i"], ["y"], domain="local")
    model = make_model(
        [call], {"i": (np.int64, ("b", "l"))}, {"y": (np.float32, ("b", "l", K))}, {}, functions=[function]
    )
    lowered = assert_exact(model, {"i": INDICES}, optimized=True)
    assert [site.code for site in lowered.plan.sites] == [None]


@pytest.mark.parametrize("name", ["embed", "other"])
def test_names_that_are_excluded(name: str) -> None:
    lowered = lower(model_of([gather()], {}, np.int8), exclude=name)
    assert lowered.outcome == [("Gather", ReasonCode.EXCLUDED if name == "embed" else None)]


def test_what_onnxruntime_joins_with_the_dequantizer_stays_joined() -> None:
    """A quantised Add has its two DequantizeLinear: taking one away would make it a float Add."""
    constants = {
        "s": np.float32(0.02), "z": np.array(3, np.uint8), "t": table(np.uint8), "s2": np.float32(0.05),
        "c": integers(np.uint8, (K,), 8),
    }  # fmt: skip
    nodes = [
        gather(output="r"),
        node("DequantizeLinear", "r s z", "a"),
        node("DequantizeLinear", "c s2 z", "b"),
        node("Add", "a b", "sum"),
        node("QuantizeLinear", "sum s2 z", "q"),
        node("DequantizeLinear", "q s2 z", "y"),
    ]
    lowered = assert_exact(model_of(nodes, constants), {"i": INDICES}, optimized=True, alone=False)
    assert lowered.outcome[0][1] is None


@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("behind", [False, True])
def test_a_dequantizer_comes_back_where_it_stood(behind: bool, zero_point: int) -> None:
    """Of a Mul with one scale, which it is not, onnxruntime makes a factor of the product behind it."""
    constants = {
        "w": integers(np.int8, (60, 32), 1), "s": np.array(0.0123, np.float32), "z": np.array(zero_point, np.int8),
        "v": floats((32, 24), 2),
    }  # fmt: skip
    if behind:
        nodes = [node("Gather", "w i", "g", axis=0), node("DequantizeLinear", "g s z", "d")]
    else:
        nodes = [node("DequantizeLinear", "w s z", "g"), node("Gather", "g i", "d", axis=0)]
    inputs, outputs = {"i": (np.int64, ("b", "m"))}, {"y": (np.float32, ("b", "m", 24))}
    model = make_model([*nodes, node("MatMul", "d v", "y")], inputs, outputs, constants)
    lowered = assert_exact(model, {"i": np.arange(14).reshape(2, 7) * 4}, optimized=True)
    assert [code for _, code in lowered.outcome] == [None]
    restored = ir.from_proto(lowered.proto)
    plan_restoration(restored).apply()
    assert [each.op_type for each in restored.graph if each.op_type != "Constant"] == [
        *(each.op_type for each in nodes), "MatMul"
    ]  # fmt: skip


@pytest.mark.parametrize("handed_on", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_a_dequantizer_with_a_zero_point_that_is_no_initializer_comes_back(behind: bool, handed_on: bool) -> None:
    """Handed on by an Identity, or an input of the model."""
    constants = {"w": integers(np.int8, (60, 32), 1), "s": np.array(0.0123, np.float32), "v": floats((32, 24), 2)}
    feeds = {"i": np.arange(14).reshape(2, 7) * 4}
    inputs: dict[str, tuple[type, tuple[int | str, ...]]] = {"i": (np.int64, ("b", "m"))}
    if handed_on:
        nodes, constants["z0"] = [node("Identity", "z0", "z")], np.array(3, np.int8)
    else:
        nodes, inputs["z"], feeds["z"] = [], (np.int8, ()), np.array(3, np.int8)
    if behind:
        nodes += [node("Gather", "w i", "g", axis=0), node("DequantizeLinear", "g s z", "d")]
    else:
        nodes += [node("DequantizeLinear", "w s z", "g"), node("Gather", "g i", "d", axis=0)]
    outputs = {"y": (np.float32, ("b", "m", 24))}
    model = make_model([*nodes, node("MatMul", "d v", "p"), node("Mul", "p s", "y")], inputs, outputs, constants)
    lowered = assert_exact(model, feeds, optimized=True)
    assert [code for _, code in lowered.outcome] == [None]
    restored = ir.from_proto(lowered.proto)
    plan_restoration(restored).apply()
    assert [each.op_type for each in restored.graph].count("DequantizeLinear") == 1
    assert_same_bytes(run(ir.to_proto(restored), feeds, optimize=True), run(model, feeds, optimize=True))


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("zero_point", [None, 3])
def test_a_table_that_a_mul_widened_as_a_whole_comes_back_so(zero_point: float | None, per_row: bool) -> None:
    """Behind the Gather, onnxruntime would make a factor of the Mul."""
    constants = {
        "w": integers(np.int8, (60, 32), 1), "s": scales((60, 1) if per_row else (), 3), "v": floats((32, 24), 2),
        "z": np.array(zero_point or 0, np.float32),
    }  # fmt: skip
    centred = [] if zero_point is None else [node("Sub", "c z", "m")]
    nodes = [
        node("Cast", "w", "c", to=TensorProto.FLOAT), *centred, node("Mul", f"{'m' if centred else 'c'} s", "t"),
        node("Gather", "t i", "d", axis=0), node("MatMul", "d v", "y"),
    ]  # fmt: skip
    constants = {name: array for name, array in constants.items() if any(name in each.input for each in nodes)}
    inputs, outputs = {"i": (np.int64, ("b", "m"))}, {"y": (np.float32, ("b", "m", 24))}
    model = make_model(nodes, inputs, outputs, constants)
    feeds = {"i": np.arange(14).reshape(2, 7) * 4}
    lowered = assert_exact(model, feeds)
    assert [code for _, code in lowered.outcome] == [None]
    restored = ir.from_proto(lowered.proto)
    plan_restoration(restored).apply()
    assert_same_bytes(run(ir.to_proto(restored), feeds, optimize=True), run(model, feeds, optimize=True))
