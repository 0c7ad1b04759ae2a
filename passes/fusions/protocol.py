"""What a fusion is: a lowered node takes in what stands around it, and its inverse puts that back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from mcd_graph.passes.engine.emit import Names
    from mcd_graph.passes.engine.extent import Extent

__all__ = ["Fusion"]


class Fuse(Protocol):
    """Lets a node take in what stands around it."""

    def __call__(self, node: ir.Node, *, in_function: bool = False) -> list[ir.Node] | None:
        """Return the nodes that nobody reads any more, each before those that it read; ``None`` if nothing changed.

        ``in_function`` says that the node is inside a local function, whose values have no types.
        """


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Something around a MatmulCompressDequant that it does itself, to the same bits.

    Attributes:
        name: what it takes in.
        fuse: lets a node take it in.
        undo: puts back what a node took in; returns whether there was anything.
        extent: the least extent that takes it in.
        in_qdq: it is possible where the rule took in the quantisers itself (QDQ forms).
        in_pattern: what it takes in counts as part of the form that the report names.
    """

    name: str
    fuse: Fuse
    undo: Callable[[ir.Node, Names], bool]
    extent: Extent
    in_qdq: bool = True
    in_pattern: bool = False
