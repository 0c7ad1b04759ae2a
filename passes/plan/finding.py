"""Finds every quantised matrix multiplication and look-up of a model; the rules say which can be lowered."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.passes.engine.facts import all_nodes, called_functions, get_input, known_dtype
from mcd_graph.passes.engine.match import Fused
from mcd_graph.passes.engine.operands import check_rank
from mcd_graph.passes.engine.validate import check_compatibility, check_opset
from mcd_graph.passes.plan.agreement import agree_with_onnxruntime
from mcd_graph.passes.plan.constants import decoded_at_run
from mcd_graph.passes.plan.lowering import LoweringPlan
from mcd_graph.passes.plan.selection import Selection
from mcd_graph.passes.plan.shapes import infer_shapes_where_needed
from mcd_graph.passes.plan.site import Candidate, Site
from mcd_graph.passes.plan.weights import keep_weights_used_elsewhere, weights_of
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.registry import ALL_RULES, RULES_ON_REQUEST

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from mcd_graph.passes.engine.match import Rule, Weight

__all__ = ["plan_lowering"]


def plan_lowering(
    model: ir.Model,
    *,
    include: str | None = None,
    exclude: str | None = None,
    convolutions: bool = False,
    rules: Sequence[Rule] = ALL_RULES,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> LoweringPlan:
    """Look for quantised multiplications and look-ups in a model, its subgraphs and its functions; change nothing.

    Args:
        model: the model.
        include: regular expression; only nodes in whose name it is found are lowered.
        exclude: regular expression; nodes in whose name it is found are kept.
        convolutions: look for QLinearConv with a 1x1 kernel as multiplications first.
        rules: the families to look for. With all of them, other constants that can be decoded when the model runs are
            looked for as well.
        custom_ops: libraries of other operators that the model needs, for onnxruntime is asked about it.

    Raises:
        re.error: ``include`` or ``exclude`` is not a regular expression.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import plan_lowering
        >>> plan = plan_lowering(load_model("model.onnx"), exclude="second")
        >>> [(site.name, site.status) for site in plan.sites]
        [('/first/MatMul', 'lowered'), ('/second/MatMul', 'kept'), ('/y/MatMul', 'lowered')]
    """
    selection = Selection(include, exclude)
    infer_shapes_where_needed(model)
    sites, candidates = _matches(model, rules, selection, convolutions=convolutions)
    keep_weights_used_elsewhere(candidates)
    candidates = [each for each in candidates if each.site.status == "lowered"]
    candidates = agree_with_onnxruntime(model, candidates, custom_ops=custom_ops)
    keep_weights_used_elsewhere(candidates)
    candidates = [candidate for candidate in candidates if candidate.site.status == "lowered"]
    refused: dict[ir.Value, Refusal] = {}
    if tuple(rules) == ALL_RULES:
        taken = {candidate.match.weight.value for candidate in candidates}
        others, refused = decoded_at_run(model, taken, selection=selection, custom_ops=custom_ops)
        candidates += others
        sites += [candidate.site for candidate in others]
    return LoweringPlan(model, sites, candidates, weights_of(candidates), refused)


def _matches(
    model: ir.Model, rules: Sequence[Rule], selection: Selection, *, convolutions: bool
) -> tuple[list[Site], list[Candidate]]:
    """Return every node that a rule looks at, and those of them that can be lowered, going by the rules alone."""
    asked, usual = _by_operator(RULES_ON_REQUEST if convolutions else ()), _by_operator(rules)
    sites: list[Site] = []
    candidates: list[Candidate] = []
    results: set[ir.Value] = set()
    called = called_functions(model)
    for node, function in all_nodes(model):
        if function is not None and function.identifier() not in called:
            continue  # nobody sees it
        rule = _rule_for(node, asked, usual)
        if rule is None or (node.domain, node.op_type, node.overload) in model.functions or not node.outputs:
            continue
        name = node.name or next((output.name for output in node.outputs if output.name), "")
        site = Site(name, node.op_type, node.op_type, "lowered")
        try:
            match = rule.match(node)
            if match is None:
                continue
            check_opset(model if function is None else function)
            if isinstance(match.fused, Fused):
                check_rank(match.weight, get_input(node, 0))
                _check_inputs(match.fused, match.weight)
            site.describe(match)
            if match.output in results:
                text = f"{match.output.name} is another multiplication's result already"
                raise Refusal(ReasonCode.RESULT_TAKEN, text)
            selection.check([name])
        except Refusal as refusal:
            site.keep(refusal)
        else:
            candidates.append(Candidate(site, match, rule, function))
            results.add(match.output)
        sites.append(site)
    return sites, candidates


def _by_operator(rules: Sequence[Rule]) -> dict[tuple[str, str], Rule]:
    return {(rule.domain, rule.op_type): rule for rule in rules}


def _rule_for(
    node: ir.Node, asked: Mapping[tuple[str, str], Rule], usual: Mapping[tuple[str, str], Rule]
) -> Rule | None:
    """Return the rule that looks at a node: one that was asked for, unless it refuses and the usual one has a say."""
    key = node.domain, node.op_type
    first, other = asked.get(key), usual.get(key)
    if first is None or other is None:
        return first or other
    with contextlib.suppress(Refusal):
        first.match(node)
        return first
    with contextlib.suppress(Refusal):
        return first if other.match(node) is None else other
    return other


def _check_inputs(fused: Fused, weight: Weight) -> None:
    """Refuse if what the new node would read is known not to fit it."""
    if isinstance(fused.x1, ir.Value) and known_dtype(fused.x1) == ir.DataType.FLOAT:
        raise Refusal(ReasonCode.ACTIVATION_NOT_QUANTIZED, f"its activation {fused.x1.name} is not quantised")
    check_compatibility(fused.inputs(), k=weight.k, n=weight.n, weight_type=weight.tensor.dtype)
