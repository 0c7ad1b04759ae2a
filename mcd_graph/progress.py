"""How far a long task has come."""

import dataclasses

__all__ = ["Progress"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a compression or a restoration has come.

    Attributes:
        weight: name of the weight that was just finished; empty at the start.
        weights_done: weights finished.
        weights_total: weights in all.
        bytes_done: their size before compression.
        bytes_total: of all weights.
    """

    weight: str
    weights_done: int
    weights_total: int
    bytes_done: int
    bytes_total: int
