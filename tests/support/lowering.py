"""Helpers for the tests of the passes: small models, and the proof that a lowered model computes the same bytes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from sessions import session

import mcd_graph
from mcd_graph.passes import (
    LegalizePass,
    LoweringPlan,
    ReasonCode,
    plan_lowering,
    plan_restoration,
    reproduces_optimized,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MS_DOMAIN = "com.microsoft"


def floats(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return float32 numbers of a normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(kind: type, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return integers from the whole range of a type."""
    info = np.iinfo(kind)
    return np.asarray(np.random.default_rng(seed).integers(info.min, info.max + 1, shape), kind)


def scales(shape: tuple[int, ...], seed: int, size: float = 0.02) -> np.ndarray:
    """Return positive float32 numbers around ``size`` / 2."""
    return np.asarray((np.random.default_rng(seed).random(shape) + 0.1) * size, np.float32)


def node(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """Return a node; ``inputs`` are separated by blanks, ``-`` is an absent one."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op_type, names, [output], **attributes)


def constant_nodes(constants: Mapping[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Return Constant nodes that give the arrays, for the body of a function, which has no initializers."""
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))
        for name, array in constants.items()
    ]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[type[np.generic], Sequence[int | str | None] | None]],
    outputs: Mapping[str, tuple[type[np.generic], Sequence[int | str | None] | None]],
    constants: Mapping[str, np.ndarray],
    *,
    opset: int = 18,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return a model; inputs and outputs are given as dtype and shape, constants become initialisers."""

    def values(table: Mapping[str, tuple[type[np.generic], Sequence[int | str | None] | None]]) -> list:
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in table.items()
        ]

    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "test", values(inputs), values(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS_DOMAIN, 1)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted({function.domain for function in functions})]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


def run(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, optimize: bool = False, exact: bool = False
) -> list[np.ndarray]:
    """Run a model under onnxruntime's CPU provider with the custom operator registered.

    Args:
        model: any model.
        feeds: its inputs.
        optimize: with graph optimisations.
        exact: compressed products are those of the operator's formula on processors without VNNI as well.
    """
    config = {"mcd.products": "exact"} if exact else None
    return list(session(model, config=config, optimized=optimize).run(None, dict(feeds)))


@dataclasses.dataclass
class Lowered:
    """A lowered model with the plan that made it."""

    model: ir.Model
    plan: LoweringPlan
    modified: bool

    @property
    def proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.model)

    @property
    def op_types(self) -> list[str]:
        """Operators of the main graph, Constant nodes left out."""
        return [node.op_type for node in self.model.graph if node.op_type != "Constant"]

    @property
    def outcome(self) -> list[tuple[str, ReasonCode | None]]:
        """Pattern and code of every multiplication and look-up; the code is ``None`` for a lowered one.

        Constants that are decoded for other readers are left out; those of a kept multiplication may be.
        """
        return [(site.pattern, site.code) for site in self.plan.sites if site.op_type != "DequantizeLinear"]


def pack_all(plan: LoweringPlan) -> dict[str, mcd_graph.CompressedWeight]:
    return {key: mcd_graph.pack_weight(job.array(), tiling=job.tiling) for key, job in plan.weights.items()}


def lower(model: onnx.ModelProto, **options: object) -> Lowered:
    """Lower a model; planning must not change it, and a second time must change nothing."""
    loaded = ir.from_proto(model)
    before = ir.to_proto(loaded).SerializeToString(deterministic=True)
    plan = plan_lowering(loaded, **options)
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == before, "planning changed the model"
    modified = plan.apply(pack_all(plan))
    after = ir.to_proto(loaded).SerializeToString(deterministic=True)
    assert modified == (after != before), "modified does not tell the truth"
    again = plan_lowering(loaded, **options)
    assert not again.weights
    assert not again.apply(pack_all(again))
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == after, "a second run changed something"
    return Lowered(loaded, plan, modified)


def legal(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with one lowered node in the strict form, which there is no more to be done for."""
    loaded = ir.from_proto(model)
    legalize = LegalizePass()
    assert legalize(loaded).modified
    assert [site.reason for site in legalize.sites] == [None]
    strict = ir.to_proto(loaded)
    onnx.checker.check_model(strict, full_check=True)
    assert not legalize(loaded).modified
    return strict


def check(model: onnx.ModelProto) -> str | None:
    """Hold a model to onnx's checker and strict shape inference, as far as onnx knows its operators.

    Returns:
        What was not checked, and why; ``None`` if everything was.
    """
    unknown = sorted({node.domain for node in model.graph.node} - {"", "mcd"})
    full = not model.functions and not unknown
    onnx.checker.check_model(model, full_check=full, check_custom_domain=not unknown)
    if unknown:
        return f"nodes of {', '.join(unknown)}, and shapes: onnx has no schemas of that domain"
    return None if full else "shapes: strict inference does not go into functions"


def assert_same_bytes(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes(), f"{np.count_nonzero(ours != theirs)} of {ours.size} differ"


def assert_exact(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    optimized: bool = False,
    alone: bool = True,
    **options: object,
) -> Lowered:
    """Lower a model, restore that again, and hold both to the original's bytes.

    Args:
        model: the original.
        feeds: its inputs.
        optimized: the original is run with onnxruntime's graph optimisations (QDQ forms), not without.
        alone: nothing else in the model depends on optimisations, so the lowered one gives the bytes without as well.
        options: for ``plan_lowering``.
    """
    check(model)
    expected = run(model, feeds, optimize=optimized)
    lowered = lower(model, **options)
    check(lowered.proto)
    ways = [way for way, wanted in ((True, optimized), (False, alone)) if wanted]
    for way in ways:
        assert_same_bytes(run(lowered.proto, feeds, optimize=way), expected)
    copy = ir.from_proto(lowered.proto)
    plan = plan_restoration(copy)
    assert plan.apply() == lowered.modified, ([site.reason for site in plan.sites], lowered.outcome, lowered.op_types)
    assert not plan.apply()
    restored = ir.to_proto(copy)
    check(restored)
    assert "mcd" not in {opset.domain for opset in restored.opset_import}
    assert not any(node.domain == "mcd" for node in copy.graph.all_nodes())
    for way in ways:
        assert_same_bytes(run(restored, feeds, optimize=way), expected)
    assert (
        reproduces_optimized(copy)
        == reproduces_optimized(lowered.model)
        == any(site.optimized and site.status == "lowered" for site in lowered.plan.sites)
    )
    return lowered


def dynamic_nodes() -> list[onnx.NodeProto]:
    """Return x -> DynamicQuantizeLinear, MatMulInteger with w and wz, Cast, Mul by s * ws, Add of b -> y."""
    return [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["acc"], name="matmul"),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
