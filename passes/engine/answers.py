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
    """Asks onnxruntime what it makes of lowered models, and remembers at which sites it took none."""

    def __init__(self, ask: Callable[[Path], Optimized | str]) -> None:
        """Take the function that asks: it returns why onnxruntime does not take the model, if it does not."""
        self._ask = ask
        self._lowered: frozenset[int] = frozenset()
        self._taken: set[int] = set()
        self._complaints: dict[int, str] = {}

    def begin(self, extents: Sequence[Extent]) -> None:
        """Hear that the next model to be asked of has so much taken in at each site."""
        self._lowered = frozenset(number for number, extent in enumerate(extents) if extent != Extent.NONE)

    def ask(self, path: Path) -> Optimized | str:
        """Ask."""
        answer = self._ask(path)
        if isinstance(answer, str):
            self._complaints |= dict.fromkeys(self._lowered, answer)
        else:
            self._taken |= self._lowered
        return answer

    def complaint(self, number: int) -> str | None:
        """Return why onnxruntime took none of the models that were lowered at a site; ``None`` if it took one."""
        return None if number in self._taken else self._complaints.get(number)
