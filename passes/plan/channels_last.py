"""Settles the layout around lowered convolutions: which have their channels last, and which stay as they were.

onnxruntime computes its own convolutions of uint8 with channels last, and cancels Transposes that meet. It turns images
twice around a lowered one between those, unless that has its channels last as well: then the Transposes around it meet
those of its neighbours. Whether they do is asked: convolutions are turned if onnxruntime's graph then has no more
Transposes than that of the original, fewer than with channels second, where each lowered convolution turns its image
twice itself, and if it computes the rest as it does there.

Small kernels, or such as do little, are compressed only if they are turned: onnxruntime is faster with them otherwise.

Transposes are moved past other nodes on their way to one another. A mean over the last dimension is one over another
then, and adds up in another order: convolutions stay whose lowering changes that.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import onnxruntime as ort

from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.layouts import computing, summing
from mcd_graph.passes.engine.optimized import nodes_of
from mcd_graph.passes.engine.settle import culprits_in
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.convolution import Convolution, channels_last

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from mcd_graph.passes.engine.optimized import Optimized
    from mcd_graph.passes.plan.site import Candidate

__all__ = ["settle_layout", "small_unless_turned"]

logger = logging.getLogger(__name__)


def settle_layout(
    candidates: Sequence[Candidate],
    original: Path,
    lower: Callable[[Sequence[Candidate]], Path],
    ask: Callable[[Path], Optimized | str],
) -> tuple[list[Candidate], dict[int, Refusal]]:
    """Return sites with all that can be turned, if Transposes cancel; and why some convolutions stay, by their numbers.

    Args:
        candidates: all sites, in the order of their numbers.
        original: a copy of the model without large tensors.
        lower: writes its lowered form.
        ask: tells what onnxruntime makes of a model when it brings channels last.
    """
    requantising = [
        number for number, candidate in enumerate(candidates) if _is_lowered(candidate) and _changes_layouts(candidate)
    ]
    theirs = ask(original) if requantising else ""
    if isinstance(theirs, str):
        return list(candidates), small_unless_turned(candidates)
    chosen, ours = _turned_where_transposes_cancel(candidates, theirs, lambda each: ask(lower(each)))

    def wrong(numbers: AbstractSet[int]) -> bool:
        left_out = set(requantising) - numbers
        some = [
            dataclasses.replace(each, extent=Extent.NONE) if number in left_out else each
            for number, each in enumerate(chosen)
        ]
        lowered = ask(lower(some))
        return isinstance(lowered, str) or not summing(lowered) <= summing(theirs)

    small = small_unless_turned(chosen)
    if small or isinstance(ours, str) or summing(ours) <= summing(theirs) or wrong(set()):
        return chosen, small
    text = f"without it onnxruntime {ort.__version__} would move Transposes, and add up in another order"
    return chosen, dict.fromkeys(culprits_in(requantising, wrong), Refusal(ReasonCode.FUSES_OTHERWISE, text))


def small_unless_turned(candidates: Sequence[Candidate]) -> dict[int, Refusal]:
    """Return why some stay, by their numbers: those that onnxruntime is faster with unless their channels come last."""
    small: dict[int, Refusal] = {}
    for number, candidate in enumerate(candidates):
        fused = candidate.match.fused
        refusal = fused.unless_turned if isinstance(fused, Convolution) else None
        if refusal is not None and _is_lowered(candidate) and not candidate.channels_last:
            small[number] = refusal
    return small


def _turned_where_transposes_cancel(
    candidates: Sequence[Candidate], theirs: Optimized, ask: Callable[[Sequence[Candidate]], Optimized | str]
) -> tuple[list[Candidate], Optimized | str]:
    """Return sites with all turned that can be, if Transposes cancel; and what onnxruntime makes of them."""
    able = {number for number, candidate in enumerate(candidates) if _can_be_turned(candidate)}
    plain = ask(candidates)
    turned = ask(_turned(candidates, able)) if able else plain
    if not able or isinstance(turned, str) or isinstance(plain, str) or _transposes(turned) > _transposes(theirs):
        return list(candidates), plain
    if _transposes(turned) >= _transposes(plain) + 2 * len(able) or computing(turned) != computing(plain):
        return list(candidates), plain
    logger.info("%d convolutions have their channels last", len(able))
    chosen = [
        dataclasses.replace(each, match=channels_last(each.match) or each.match) if each.channels_last else each
        for each in _turned(candidates, able)
    ]
    return chosen, turned


def _changes_layouts(candidate: Candidate) -> bool:
    """Tell whether a site is one of those convolutions that onnxruntime computes with channels last."""
    fused = candidate.match.fused
    return isinstance(fused, Convolution) and fused.y_zero_point is not None


def _is_lowered(candidate: Candidate) -> bool:
    return candidate.site.status == "lowered" and candidate.extent != Extent.NONE


def _can_be_turned(candidate: Candidate) -> bool:
    return candidate.function is None and _is_lowered(candidate) and channels_last(candidate.match) is not None


def _turned(candidates: Sequence[Candidate], chosen: set[int]) -> list[Candidate]:
    return [dataclasses.replace(each, channels_last=number in chosen) for number, each in enumerate(candidates)]


def _transposes(optimized: Optimized) -> int:
    return sum(node.op_type == "Transpose" for node in nodes_of(optimized))
