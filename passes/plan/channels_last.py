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
from mcd_graph.passes.rules.convolution import channels_last

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mcd_graph.passes.engine.optimized import Optimized
    from mcd_graph.passes.plan.site import Candidate

__all__ = ["turn_where_transposes_cancel"]

logger = logging.getLogger(__name__)


def turn_where_transposes_cancel(
    candidates: Sequence[Candidate],
    original: Path,
    lower: Callable[[Sequence[Candidate]], Path],
    ask: Callable[[Path], Optimized | str],
) -> list[Candidate]:
    """Return sites with all that can be turned, if Transposes cancel.

    Args:
        candidates: all sites, in the order of their numbers.
        original: a copy of the model without large tensors.
        lower: writes its lowered form.
        ask: tells what onnxruntime makes of a model when it brings channels last.
    """
    able = {number for number, candidate in enumerate(candidates) if _can_be_turned(candidate)}
    theirs = ask(original) if able else ""
    if isinstance(theirs, str):
        return list(candidates)

    turned, plain = ask(lower(_turned(candidates, able))), ask(lower(candidates))
    if isinstance(turned, str) or isinstance(plain, str) or _transposes(turned) > _transposes(theirs):
        return list(candidates)
    if _transposes(turned) >= _transposes(plain) + 2 * len(able) or computing(turned) != computing(plain):
        return list(candidates)
    logger.info("%d convolutions have their channels last", len(able))
    return [
        dataclasses.replace(each, match=channels_last(each.match) or each.match) if each.channels_last else each
        for each in _turned(candidates, able)
    ]


def _can_be_turned(candidate: Candidate) -> bool:
    in_graph = candidate.function is None and candidate.site.status == "lowered"
    return in_graph and candidate.extent != Extent.NONE and channels_last(candidate.match) is not None


def _turned(candidates: Sequence[Candidate], chosen: set[int]) -> list[Candidate]:
    return [dataclasses.replace(each, channels_last=number in chosen) for number, each in enumerate(candidates)]


def _transposes(optimized: Optimized) -> int:
    return sum(node.op_type == "Transpose" for node in nodes_of(optimized))
