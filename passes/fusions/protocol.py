"""What a fusion is: a lowered node takes in what stands around it, and its inverse puts that back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from mcd_graph.passes.engine.emit import Names

__all__ = ["Fusion"]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Something around a MatmulCompressDequant that it does itself, to the same bits.

    Attributes:
        name: what it takes in.
        fuse: lets a node take it in. Returns the nodes that nobody reads any more, each before those that it read, or
            ``None`` if nothing was changed.
        undo: puts back what a node took in; returns whether there was anything.
        in_functions: it is possible within local functions, whose values have no types.
    """

    name: str
    fuse: Callable[[ir.Node], list[ir.Node] | None]
    undo: Callable[[ir.Node, Names], bool]
    in_functions: bool = False
