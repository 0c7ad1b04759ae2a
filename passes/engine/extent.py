"""How much of what stands around it a lowered node takes in."""

from __future__ import annotations

import enum

__all__ = ["Extent"]


class Extent(enum.IntEnum):
    """How much of what stands around it a lowered node takes in; each takes in less than the one before."""

    ALL = 0
    NO_ELEMENTWISE = 1
    MATCHED = 2
    MULTIPLICATION = 3
    NONE = 4
