"""Scales of a weight that several multiplications read: the weight's own is stored once, not a folded one for each.

Each reader folds the weight's scales with those of its own activation and result, so that a scale for each column is
stored as often as the weight is read. Where that takes more bytes than nodes that compute the same, such nodes stand in
the model: of constants alone, so that onnxruntime computes them once, when it creates a session.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from mcd_graph.passes.rules.scales import FoldedScale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcd_graph.passes.engine.match import Match, NewCompressed

__all__ = ["bytes_of_scales", "share_scales"]

#: What a model file says of the two nodes that compute a scale, about so many bytes: names most of all.
_OF_THE_NODES = 450


def share_scales(matches: Sequence[Match]) -> list[Match]:
    """Return matches whose scales are computed of those that they share, where that is smaller.

    Args:
        matches: what is lowered outside of functions.
    """
    folded = [_folded(match.fused) for match in matches]
    readers = Counter(scale.column for scale in folded if scale is not None)
    return [
        match if scale is None or not _is_shared(scale, readers[scale.column]) else _computed(match, scale)
        for match, scale in zip(matches, folded, strict=True)
    ]


def bytes_of_scales(nbytes: int, readers: int) -> int:
    """Return what is stored of scales that take ``nbytes`` for one reader."""
    return min(readers * nbytes, nbytes + readers * _OF_THE_NODES)


def _folded(fused: NewCompressed) -> FoldedScale | None:
    scale = fused.inputs().get("deq_scale")
    return scale if isinstance(scale, FoldedScale) else None


def _is_shared(scale: FoldedScale, readers: int) -> bool:
    return bytes_of_scales(scale.array.nbytes, readers) < readers * scale.array.nbytes


def _computed(match: Match, scale: FoldedScale) -> Match:
    fused = dataclasses.replace(match.fused, deq_scale=scale.computed)  # type: ignore[type-var]
    return dataclasses.replace(match, fused=fused)
