"""Asks the installed onnxruntime what it makes of a model; each site takes in what leaves the rest as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.passes.engine.answers import Answers
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.facts import all_nodes, calls_of
from mcd_graph.passes.engine.inlined import RETURNED, Names, returning
from mcd_graph.passes.engine.match import Fused
from mcd_graph.passes.engine.optimized import SITE, Optimized, emptied_copy, instance_of, nodes_of, optimize
from mcd_graph.passes.engine.settle import settle
from mcd_graph.passes.engine.stand_in import StandIn, make_small, zeros
from mcd_graph.passes.engine.surroundings import sites_to_blame
from mcd_graph.passes.fusions.registry import FUSIONS
from mcd_graph.passes.plan.channels_last import settle_layout, small_unless_turned
from mcd_graph.passes.plan.integers import keep_where_onnxruntime_does_otherwise
from mcd_graph.passes.plan.lowering import LoweringPlan
from mcd_graph.passes.plan.shapes import infer_shapes_where_needed
from mcd_graph.passes.plan.site import Candidate, Site
from mcd_graph.passes.plan.weights import weights_of
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.convolution import channels_last

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mcd_graph.passes.engine.match import Match, Rule

__all__ = ["agree_with_onnxruntime"]

Keep: TypeAlias = "Callable[[Sequence[Candidate], Optimized | str, Mapping[ir.OperatorIdentifier, int]], None]"
"""Keeps sites, in the order of their numbers, given what onnxruntime makes of the model and how often it calls each
function."""


def agree_with_onnxruntime(
    model: ir.Model,
    candidates: Sequence[Candidate],
    *,
    keep: Keep | None = None,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> list[Candidate]:
    """Return the sites that can be lowered so that the installed onnxruntime, when it optimises, does all as before.

    Args:
        model: the model.
        candidates: what could be lowered.
        keep: keeps those of which onnxruntime makes something else than is expected.
        custom_ops: libraries of other operators that the model needs.
    """
    if not candidates:
        return []
    ask, sites = functools.partial(optimize, custom_ops=custom_ops), [each.match.nodes[0] for each in candidates]
    with emptied_copy(model, sites) as copy:
        answer = copy if isinstance(copy, str) else ask(copy)
        (keep or keep_where_onnxruntime_does_otherwise)(candidates, answer, calls_of(model))
        if not isinstance(answer, str) and not isinstance(copy, str):
            inlined = ask(copy, inline_only=True) if model.functions else answer
            candidates = _settle_all(candidates, answer, _names(model, sites, inlined), copy, ask)
    for number, refusal in small_unless_turned(candidates).items():
        candidates[number].site.keep(refusal)  # onnxruntime was not asked for its layout, or did not tell
    return [candidate for candidate in candidates if candidate.site.status == "lowered"]


def _names(model: ir.Model, sites: Sequence[ir.Node], inlined: Optimized | str) -> Names:
    """Return what values are called in a copy of a model, given its nodes with functions in place of their calls."""
    marks = {node: f"{RETURNED}{number}" for number, node in enumerate(returning(model))}
    marks |= {node: f"{SITE}{number}" for number, node in enumerate(sites)}
    return Names(marks, () if isinstance(inlined, str) else nodes_of(inlined))


def _settle_all(
    candidates: Sequence[Candidate],
    original: Optimized,
    names: Names,
    copy: Path,
    ask: Callable[..., Optimized | str],
) -> list[Candidate]:
    """Return the sites with what leaves onnxruntime's fusions, and the layouts it chooses, what they are."""
    lower = functools.partial(_lower_settled, copy)
    ask_of_layout = functools.partial(ask, channels_last=True)
    while True:
        settled, to_keep = settle_layout(_settle(candidates, original, names, copy, ask), copy, lower, ask_of_layout)
        for number, refusal in to_keep.items():
            candidates[number].site.keep(refusal)
        if not to_keep:
            return settled


def _settle(
    candidates: Sequence[Candidate],
    original: Optimized,
    names: Names,
    copy: Path,
    ask: Callable[[Path], Optimized | str],
) -> list[Candidate]:
    """Return the sites with as much taken in as leaves onnxruntime's fusions around them what they are.

    Args:
        candidates: sites in the order of their numbers.
        original: what onnxruntime makes of the original.
        names: what it calls the values of functions.
        copy: a copy of the model without large tensors, with the numbers in the names of the sites.
        ask: tells what onnxruntime makes of a model.
    """
    taken_in: dict[int, tuple[str, ...]] = {}

    def narrower(number: int, extent: Extent) -> Extent:
        absorbed, match = taken_in.get(number, ()), candidates[number].match
        needed = [fusion.extent for fusion in FUSIONS if fusion.name in absorbed and fusion.extent >= extent]
        if needed:
            return Extent(min(needed) + 1)
        alone = extent < Extent.MULTIPLICATION and candidates[number].rule.alone is not None and len(match.nodes) > 1
        return Extent.MULTIPLICATION if alone else Extent.NONE

    def ask_of_lowered(extents: Sequence[Extent]) -> Optimized | str:
        numbered = [dataclasses.replace(each, extent=extent) for each, extent in zip(candidates, extents, strict=True)]
        path, absorbed = _lower_copy(copy, numbered)
        taken_in.update(absorbed)
        return ask(path)

    extents = [Extent.ALL if each.site.status == "lowered" else Extent.NONE for each in candidates]
    quantized = frozenset(number for number, candidate in enumerate(candidates) if candidate.match.optimized)

    def blame(lowered: Optimized) -> set[int] | None:
        placed = [(at, candidates[at.site].match) for at in map(instance_of, nodes_of(lowered)) if at is not None]
        outputs = {at: names.name_of(match.output, at.prefix) for at, match in placed}
        within = frozenset(
            names.name_of(value, at.prefix)
            for at, match in placed
            if not match.optimized
            for node in match.nodes
            for value in node.outputs
        )
        return sites_to_blame(original, lowered, outputs, within, quantized)

    answers = Answers(ask_of_lowered, blame)
    settled_extents = settle(answers.ask, answers.blame, extents, narrower)
    settled = []
    for number, (candidate, extent) in enumerate(zip(candidates, settled_extents, strict=True)):
        changed = dataclasses.replace(candidate, extent=extent)
        if extent == Extent.NONE and candidate.site.status == "lowered":
            candidate.site.keep(_why_not(answers.complaint(number)))
        elif extent == Extent.MULTIPLICATION and (match := _match(candidate.rule, candidate.match.nodes[0], extent)):
            changed = dataclasses.replace(changed, match=match)
            candidate.site.pattern = match.pattern
        settled.append(changed)
    return settled


def _why_not(complaint: str | None) -> Refusal:
    """Return why a site is not lowered, given what onnxruntime says of models that are lowered there."""
    if complaint is not None:
        text = f"onnxruntime cannot be asked what it makes of the lowered node: {complaint}"
        return Refusal(ReasonCode.CANNOT_ASK, text)
    text = f"onnxruntime {ort.__version__} would fuse nodes beside it otherwise than in the original"
    return Refusal(ReasonCode.FUSES_OTHERWISE, text)


def _match(rule: Rule, node: ir.Node, extent: Extent) -> Match | None:
    """Return what a rule finds at a node, with no more of its surroundings than the extent says."""
    if extent == Extent.NONE:
        return None
    return rule.alone(node) if extent == Extent.MULTIPLICATION and rule.alone is not None else rule.match(node)


def _lower_settled(path: Path, candidates: Sequence[Candidate]) -> Path:
    return _lower_copy(path, candidates)[0]


def _lower_copy(path: Path, candidates: Sequence[Candidate]) -> tuple[Path, dict[int, tuple[str, ...]]]:
    """Lower a copy of the model, with zeros for weights; return it and, by number, what each site takes in."""
    model = ir.load(path)  # noqa: TID251 - written here, of a model that was checked
    infer_shapes_where_needed(model)
    numbers = {f"{SITE}{number}": number for number in range(len(candidates))}
    copies: dict[int, Candidate] = {}
    nodes = [(node, function) for node, function in all_nodes(model) if node.name in numbers]
    for node, function in nodes:
        number = numbers[node.name or ""]
        rule, extent = candidates[number].rule, candidates[number].extent
        with contextlib.suppress(Refusal):
            match = _match(rule, node, extent)
            if match is not None and candidates[number].channels_last:
                match = channels_last(match)
            if match is not None:
                site = Site(node.name or "", node.op_type, match.pattern, "lowered")
                copies[number] = Candidate(site, match, rule, function, extent)
    plan = LoweringPlan(model, [], list(copies.values()), weights_of(list(copies.values())))
    whole = {each.site.weight for each in copies.values() if not isinstance(each.match.fused, Fused)}
    stand_ins = {
        key: (zeros(job.n, job.k, job.dtype, job.tiling) if key in whole else StandIn(job.k, job.n, job.dtype))
        for key, job in plan.weights.items()
    }
    plan.apply(stand_ins)
    small = {f"{SITE}{number}" for number, each in copies.items() if each.site.weight not in whole}
    make_small(node for node, _ in all_nodes(model) if node.name in small)
    lowered = path.with_name("lowered.onnx")
    lowered.write_bytes(ir.to_proto(model).SerializeToString())
    return lowered, {number: candidate.site.absorbed for number, candidate in copies.items()}
