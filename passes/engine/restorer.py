"""How the nodes of one operator become standard operators again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode
    from mcd_graph.passes.engine.emit import Names

__all__ = ["Restorer"]


@dataclasses.dataclass(frozen=True)
class Restorer:
    """How the nodes of one operator are restored.

    Attributes:
        standard_form: returns what takes the place of the node's result, given its uncompressed weight.
        check: raises Refusal if a node cannot be restored where it stands, in a model's graphs or a function.
        expose: puts what the node took in back around it, first of all.
    """

    standard_form: Callable[[CompressedNode, ir.Value], Operand]
    check: Callable[[CompressedNode, ir.Model | ir.Function], None] = lambda _view, _owner: None
    expose: Callable[[CompressedNode, Names], None] = lambda _view, _names: None
