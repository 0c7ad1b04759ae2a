"""What is left when all rules have been asked: constants that are decoded when the model runs, for any reader.

A table (:mod:`mcd_graph.passes.ways`) says for which readers that costs nothing. For the others, and where onnxruntime
would lose an optimisation, the reason is noted; ``--at-open`` takes those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime as ort

from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.passes.engine.facts import all_nodes, called_functions, get_input, is_op
from mcd_graph.passes.engine.optimized import instance_of, nodes_of, readers_of
from mcd_graph.passes.plan.agreement import agree_with_onnxruntime
from mcd_graph.passes.plan.site import Candidate, Site
from mcd_graph.passes.plan.weights import keep_weights_used_elsewhere
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.dequantize import dequantize_rule
from mcd_graph.passes.ways import LEAST_FLOATS, why_not_at_run

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    import onnx_ir as ir

    from mcd_graph.passes.engine.optimized import Optimized
    from mcd_graph.passes.plan.selection import Selection

__all__ = ["decoded_at_run"]


def decoded_at_run(
    model: ir.Model,
    taken: Collection[ir.Value],
    *,
    selection: Selection,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> tuple[list[Candidate], dict[ir.Value, Refusal]]:
    """Find the constants that can be decoded at run time in the place of their DequantizeLinear.

    Args:
        model: the model.
        taken: the constants that other sites compress.
        selection: what is to be compressed, going by the names of constants and of their readers.
        custom_ops: libraries of other operators that the model needs.

    Returns:
        A candidate for each DequantizeLinear, and why the other constants stay.
    """
    constants = [each for each in eight_bit_constants(model) if each.value not in taken]
    refused = {each.value: why_not_at_run(each.value) for each in constants}
    called = called_functions(model)
    found = []
    for node, function in all_nodes(model):
        value = get_input(node, 0)
        if value not in refused or not is_op(node, "DequantizeLinear"):
            continue
        if function is not None and function.identifier() not in called:
            continue  # nobody sees it
        names = {node.name or "", value.name or "", node.outputs[0].name or ""}
        names.update(reader.name or "" for reader in node.outputs[0].consumers())
        site = Site(node.name or node.outputs[0].name or "", node.op_type, node.op_type, "lowered")
        try:
            match = dequantize_rule.match(node)
            if match is None:
                continue
            selection.check(names)
            if match.output.is_graph_output():
                raise Refusal(ReasonCode.OPERATOR_NOT_COMPRESSED, "its floats are an output of the graph")
            if (size := match.weight.tensor.nbytes) < LEAST_FLOATS:
                text = f"it has {size} bytes; with less than {LEAST_FLOATS}, its node takes about what is saved"
                raise Refusal(ReasonCode.SMALL_SAVING, text)
        except Refusal as refusal:
            refused[value] = refusal
            continue
        site.k, site.n = match.weight.k, match.weight.n
        found.append(Candidate(site, match, dequantize_rule, function))
    found = _agreed(model, _whole(found), refused, custom_ops)
    decoded = {candidate.match.weight.value for candidate in found}
    return found, {value: refusal for value, refusal in refused.items() if value not in decoded}


def _whole(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those of constants that no other operator reads."""
    keep_weights_used_elsewhere(candidates)
    return [each for each in candidates if each.site.status == "lowered"]


def _agreed(
    model: ir.Model,
    candidates: Sequence[Candidate],
    refused: dict[ir.Value, Refusal],
    custom_ops: Sequence[str | os.PathLike[str]],
) -> list[Candidate]:
    """Return the candidates whose DequantizeLinear the installed onnxruntime runs, and does the rest as before."""

    def keep(asked: Sequence[Candidate], answer: Optimized | str, calls: Mapping[ir.OperatorIdentifier, int]) -> None:
        for number, candidate in enumerate(asked):
            if isinstance(answer, str):
                text = f"onnxruntime cannot be asked what it makes of it: {answer}"
                candidate.site.keep(Refusal(ReasonCode.CANNOT_ASK, text))
                continue
            # It makes one for each reader of those that several read, so places count, and not nodes.
            places = {instance_of(node) for node in nodes_of(answer) if node.op_type == "DequantizeLinear"}
            found = [place for place in places if place is not None and place.site == number]
            function = candidate.function
            if len(found) != (1 if function is None else calls.get(function.identifier(), 0)):
                candidate.site.keep(_folded(candidate, answer))

    settled = agree_with_onnxruntime(model, candidates, keep=keep, custom_ops=custom_ops)
    for candidate in candidates:
        site = candidate.site
        if site.code is not None and site.reason is not None:
            refused[candidate.match.weight.value] = Refusal(site.code, site.reason)
    return _whole(settled)


def _folded(candidate: Candidate, answer: Optimized) -> Refusal:
    """Say what onnxruntime makes of a DequantizeLinear and its constant instead of running it."""
    name = candidate.match.weight.value.name or ""
    made = sorted({node.op_type for node in readers_of(answer, name)})
    text = f"onnxruntime {ort.__version__} runs no DequantizeLinear for it, but " + (
        f"{' and '.join(made)}, which prepares the weight when the session is created"
        if made
        else "folds its floats when the session is created"
    )
    return Refusal(ReasonCode.PREPARED_AT_OPENING, text)
