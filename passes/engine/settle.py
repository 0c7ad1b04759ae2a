"""Settles how much of its surroundings each lowered node takes in, so that onnxruntime fuses the rest as before.

A copy of the model without its large tensors is lowered and given to onnxruntime, and compared with what that makes of
the original. Where nodes outside differ, the lowered node beside them takes in less, step by step: no Mul and Add
behind it, then nothing around it, then the multiplication alone; and where that does not help, it stays as it was.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.optimized import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from mcd_graph.passes.engine.optimized import Optimized

__all__ = ["culprits_in", "settle"]

logger = logging.getLogger(__name__)

#: More than any site has steps to take; every round asks onnxruntime once.
_ROUNDS = 8


def settle(
    ask: Callable[[Sequence[Extent]], Optimized | str],
    blame: Callable[[Sequence[Extent], Optimized], set[int] | None],
    extents: Sequence[Extent],
    narrower: Callable[[int, Extent], Extent],
) -> list[Extent]:
    """Return how much each site may take in so that onnxruntime computes all the rest as in the original.

    Args:
        ask: asks onnxruntime what it makes of the model that takes in so much at each site; returns why it does not
            load it, if it does not.
        blame: tells, of what it makes of that model, the sites beside which it differs from the original; ``None`` if
            it differs beside none of them. They are searched for then.
        extents: what to begin with.
        narrower: tells the next extent of a site, by its number, at which it takes in less than it did.
    """
    chosen = list(extents)
    steps: list[list[Extent]] = []

    def blamed(tried: Sequence[Extent]) -> set[int]:
        if all(extent == Extent.NONE for extent in tried):
            return set()
        answer = ask(tried)
        if isinstance(answer, str):
            logger.info("onnxruntime does not take the lowered model: %s", answer)
            return set() if answer == TOO_LONG else searched(tried)
        numbers = blame(tried, answer)
        return searched(tried) if numbers is None else {each for each in numbers if tried[each] != Extent.NONE}

    def searched(tried: Sequence[Extent]) -> set[int]:
        def wrong(numbers: AbstractSet[int]) -> bool:
            some = [extent if at in numbers else Extent.NONE for at, extent in enumerate(tried)]
            answer = ask(some)
            return answer != TOO_LONG if isinstance(answer, str) else blame(some, answer) != set()

        return culprits_in([number for number, extent in enumerate(tried) if extent != Extent.NONE], wrong)

    while numbers := blamed(chosen):
        steps.append(chosen.copy())
        for number in sorted(numbers):
            chosen[number] = Extent.NONE if len(steps) == _ROUNDS else narrower(number, chosen[number])
            logger.info("site %d takes in less: %s", number, chosen[number].name)
    return _undone(chosen, steps, blamed)


def culprits_in(
    numbers: Sequence[int], wrong: Callable[[AbstractSet[int]], bool], beside: AbstractSet[int] = frozenset()
) -> set[int]:
    """Return those of some sites that make a model wrong, by themselves or together, with those ``beside`` lowered too.

    By halves, and where neither does alone, each half beside the other (delta debugging: Zeller and Hildebrandt,
    "Simplifying and isolating failure-inducing input", 2002).
    """
    if len(numbers) <= 1:
        return set(numbers)
    halves = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    if alone := [half for half in halves if wrong(beside | set(half))]:
        return set().union(*(culprits_in(half, wrong, beside) for half in alone))
    pairs = (halves, halves[::-1])
    return set().union(*(culprits_in(half, wrong, beside | set(other)) for half, other in pairs))


def _undone(
    chosen: list[Extent], steps: Sequence[list[Extent]], blamed: Callable[[Sequence[Extent]], set[int]]
) -> list[Extent]:
    """Return the extents without those steps, before the last, that turn out not to have been needed."""
    for before, after in itertools.pairwise(steps):
        wider = [old if old != new == now else now for old, new, now in zip(before, after, chosen, strict=True)]
        if wider != chosen and not blamed(wider):
            chosen = wider
    return chosen
