"""Keeps the multiplications that the installed onnxruntime does not compute in the integers that a rule expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.passes.engine.facts import constant_array
from mcd_graph.passes.engine.match import NewConstant
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcd_graph.passes.engine.match import Match, Operand
    from mcd_graph.passes.engine.optimized import IntegerNode, Optimized
    from mcd_graph.passes.plan.site import Candidate

__all__ = ["keep_where_onnxruntime_does_otherwise"]


def keep_where_onnxruntime_does_otherwise(
    candidates: Sequence[Candidate], answer: Optimized | str, calls: Mapping[ir.OperatorIdentifier, int]
) -> None:
    """Keep the sites of which onnxruntime's optimiser makes something else than the rule expects.

    Args:
        candidates: sites in the order of their numbers.
        answer: what onnxruntime makes of the model, or why it cannot be asked.
        calls: how often it puts each local function in place of a call.
    """
    unsure = [(number, candidate) for number, candidate in enumerate(candidates) if candidate.match.optimized]
    if isinstance(answer, str):
        for _, candidate in unsure:
            candidate.site.keep(
                Refusal(ReasonCode.CANNOT_ASK, f"onnxruntime cannot be asked how it computes it: {answer}")
            )
        return
    for number, candidate in unsure:
        match, function = candidate.match, candidate.function
        nodes = _became(number, candidate, answer.integer_nodes)
        if len(nodes) != (1 if function is None else calls.get(function.identifier(), 0)):
            text = f"onnxruntime {ort.__version__} does not compute this result in integers when it optimises"
            candidate.site.keep(Refusal(ReasonCode.NOT_AN_INTEGER_MULTIPLICATION, text))
        elif not all(_same_parameters(node, match) for node in nodes):
            text = f"onnxruntime {ort.__version__} takes other scales or zero points for it when it optimises"
            candidate.site.keep(Refusal(ReasonCode.FUSES_OTHERWISE, text))


def _became(number: int, candidate: Candidate, nodes: Sequence[IntegerNode]) -> list[IntegerNode]:
    """Return what onnxruntime makes of a site; of one in a function, at each call of that."""
    match = candidate.match
    requantizes = match.fused.inputs().get("y_zero_point") is not None
    named = [node for node in nodes if node.instance is not None and node.instance.site == number]
    if candidate.function is not None:
        return [node for node in named if node.requantizes == requantizes]
    found = [node for node in nodes if match.output.name in node.outputs]
    # An int8 result becomes uint8, and one whose quantisation is moved up is new: both have other names.
    return found or [node for node in named if node.requantizes and requantizes][-1:]


def _same_parameters(node: IntegerNode, match: Match) -> bool:
    """Tell whether a multiplication has the scales and zero points that were expected, as far as they are constant."""
    inputs = match.fused.inputs()
    ours = _array(inputs.get("deq_scale")) if inputs.get("x1_scale") is None else None
    if ours is not None and node.scale is not None:
        theirs, ours = np.broadcast_arrays(node.scale.reshape(-1), ours.reshape(-1))
        if theirs.tobytes() != ours.tobytes():
            return False
    expected = (inputs.get("x1_zero_point"), inputs.get("y_zero_point"))
    for array, zero_point in zip(node.zero_points, map(_array, expected), strict=True):
        if array is None or zero_point is None:
            continue
        # int8 becomes uint8 on x86, which moves the zero point.
        moved = 128 * ((array.dtype == np.uint8) - int(zero_point.dtype == np.uint8))
        if array.size != 1 or zero_point.size != 1 or array.item() != zero_point.item() + moved:
            return False
    return True


def _array(operand: Operand) -> np.ndarray | None:
    """Return the numbers of an operand that is constant."""
    if isinstance(operand, NewConstant):
        return operand.array
    return constant_array(operand) if isinstance(operand, ir.Value) else None
