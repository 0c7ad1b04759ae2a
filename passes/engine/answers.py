"""What onnxruntime answers when it is asked of lowered models, by site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcd_graph.passes.engine.optimized import Optimized

__all__ = ["Answers"]


class Answers:
    """Asks onnxruntime what it makes of lowered models, and remembers why it does not load some.

    Args:
        ask: asks about the model that takes in so much at each site, and returns why onnxruntime does not load it, if
            it does not.
        blame: tells beside which sites what it makes of one differs from the original; ``None`` if it is not known.
    """

    def __init__(
        self, ask: Callable[[Sequence[Extent]], Optimized | str], blame: Callable[[Optimized], set[int] | None]
    ) -> None:
        self._ask, self._blame = ask, blame
        self._blamed: set[int] = set()
        self._complaints: dict[int, str] = {}

    def ask(self, extents: Sequence[Extent]) -> Optimized | str:
        """Ask about the model that takes in so much at each site, and remember the answer."""
        answer = self._ask(extents)
        if isinstance(answer, str):
            self._complaints |= dict.fromkeys(_lowered(extents), answer)
        return answer

    def blame(self, extents: Sequence[Extent], answer: Optimized) -> set[int] | None:
        """Tell beside which sites the answer about that model differs from the original, and remember these."""
        numbers = self._blame(answer)
        self._blamed |= _lowered(extents) if numbers is None else numbers
        return numbers

    def complaint(self, number: int) -> str | None:
        """Return why a model that is lowered at a site was not loaded; ``None`` if one was that differed there."""
        return None if number in self._blamed else self._complaints.get(number)


def _lowered(extents: Sequence[Extent]) -> set[int]:
    """Return the sites that are lowered at all."""
    return {number for number, extent in enumerate(extents) if extent != Extent.NONE}
