"""What onnxruntime answers when it is asked of lowered models, by site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mcd_graph.passes.engine.optimized import Optimized

__all__ = ["Answers"]


class Answers:
    """Asks onnxruntime what it makes of lowered models, and remembers why it does not load some.

    Args:
        ask: asks, and returns why onnxruntime does not load the model, if it does not.
        blame: tells beside which sites what it makes of one differs from the original; ``None`` if it is not known.
    """

    def __init__(self, ask: Callable[[Path], Optimized | str], blame: Callable[[Optimized], set[int] | None]) -> None:
        self._ask, self._blame = ask, blame
        self._lowered: frozenset[int] = frozenset()
        self._blamed: set[int] = set()
        self._complaints: dict[int, str] = {}

    def begin(self, extents: Sequence[Extent]) -> None:
        """Note how much the next model that is asked about takes in at each site."""
        self._lowered = frozenset(number for number, extent in enumerate(extents) if extent != Extent.NONE)

    def ask(self, path: Path) -> Optimized | str:
        """Ask about that model, and remember the answer."""
        answer = self._ask(path)
        if isinstance(answer, str):
            self._complaints |= dict.fromkeys(self._lowered, answer)
        return answer

    def blame(self, lowered: Optimized) -> set[int] | None:
        """Tell beside which sites that model differs from the original, and remember these."""
        numbers = self._blame(lowered)
        self._blamed |= self._lowered if numbers is None else numbers
        return numbers

    def complaint(self, number: int) -> str | None:
        """Return why a model that is lowered at a site was not loaded; ``None`` if one was that differed there."""
        return None if number in self._blamed else self._complaints.get(number)
