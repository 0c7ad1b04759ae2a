"""Which nodes and constants are to be lowered, going by their names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Selection"]


class Selection:
    """What ``--include`` and ``--exclude`` leave.

    Args:
        include: regular expression; only what has a name in which it is found.
        exclude: regular expression; nothing that has a name in which it is found.

    Raises:
        re.error: one of them is not a regular expression.
    """

    def __init__(self, include: str | None = None, exclude: str | None = None) -> None:
        self._wanted = re.compile(include) if include is not None else None
        self._unwanted = re.compile(exclude) if exclude is not None else None

    def check(self, names: Iterable[str]) -> None:
        """Refuse what is called by these names, if it is not to be lowered."""
        names = list(names)
        if self._wanted is not None and not any(map(self._wanted.search, names)):
            raise Refusal(ReasonCode.NOT_INCLUDED, "its name does not match --include")
        if self._unwanted is not None and any(map(self._unwanted.search, names)):
            raise Refusal(ReasonCode.EXCLUDED, "its name matches --exclude")
