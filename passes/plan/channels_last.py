"""Lets lowered convolutions keep their channels last, where onnxruntime cancels the Transposes that this takes.

onnxruntime computes its own convolutions of uint8 with channels last, and cancels Transposes that meet. It turns images
twice around a lowered one between those, unless that has its channels last as well: then the Transposes around it meet
those of its neighbours. Whether they do is asked: convolutions are turned if onnxruntime's graph then has no more
Transposes than that of the original, fewer than with channels second, where each lowered convolution turns its image
twice itself, and if it computes the rest as it does there.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.optimized import nodes_of
from mcd_graph.passes.engine.surroundings import computing
from mcd_graph.passes.rules.convolution import Convolution, channels_last

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from mcd_graph.passes.engine.optimized import Optimized
    from mcd_graph.passes.plan.site import Candidate
    from mcd_graph.passes.refusal import Refusal

__all__ = ["keep_unless_last", "turn_where_transposes_cancel"]

logger = logging.getLogger(__name__)


def turn_where_transposes_cancel(
    candidates: Sequence[Candidate],
    original: Path,
    lower: Callable[[Sequence[Candidate]], Path],
    ask: Callable[[Path], Optimized | str],
) -> list[Candidate]:
    """Return sites with all that can be turned, or else those of them that are lowered anyway, if Transposes cancel.

    Args:
        candidates: all sites, in the order of their numbers.
        original: a copy of the model without large tensors.
        lower: writes its lowered form.
        ask: tells what onnxruntime makes of a model when it brings channels last.
    """
    able = {number for number, candidate in enumerate(candidates) if _can_be_turned(candidate)}
    anyway = {number for number in able if _refusal(candidates[number]) is None}
    theirs = ask(original) if able else ""
    if isinstance(theirs, str):
        return list(candidates)

    def cancel(chosen: set[int]) -> bool:
        """Tell whether Transposes cancel where these are turned, and all else stays as it is with channels second."""
        lowered = _without(candidates, able - chosen)
        turned = ask(lower(_turned(lowered, chosen)))
        if isinstance(turned, str) or _transposes(turned) > _transposes(theirs):
            return False
        plain = ask(lower(lowered))
        if isinstance(plain, str) or _transposes(turned) >= _transposes(plain) + 2 * len(chosen):
            return False
        return computing(turned) == computing(plain)

    for chosen in (able, anyway) if anyway != able else (able,):
        if chosen and cancel(chosen):
            logger.info("%d convolutions have their channels last", len(chosen))
            return [
                dataclasses.replace(each, match=channels_last(each.match) or each.match) if each.channels_last else each
                for each in _turned(candidates, chosen)
            ]
    return list(candidates)


def keep_unless_last(candidates: Iterable[Candidate]) -> None:
    """Keep the sites that are lowered only with their channels last, and are not."""
    for candidate in candidates:
        refusal = _refusal(candidate)
        if refusal is not None and candidate.site.status == "lowered":
            candidate.site.keep(refusal)


def _refusal(candidate: Candidate) -> Refusal | None:
    fused = candidate.match.fused
    return fused.unless_last if isinstance(fused, Convolution) else None


def _can_be_turned(candidate: Candidate) -> bool:
    in_graph = candidate.function is None and candidate.site.status == "lowered"
    return in_graph and candidate.extent != Extent.NONE and channels_last(candidate.match) is not None


def _turned(candidates: Sequence[Candidate], chosen: set[int]) -> list[Candidate]:
    return [dataclasses.replace(each, channels_last=number in chosen) for number, each in enumerate(candidates)]


def _without(candidates: Sequence[Candidate], left_out: set[int]) -> list[Candidate]:
    return [
        dataclasses.replace(each, extent=Extent.NONE) if number in left_out else each
        for number, each in enumerate(candidates)
    ]


def _transposes(optimized: Optimized) -> int:
    return sum(node.op_type == "Transpose" for node in nodes_of(optimized))
