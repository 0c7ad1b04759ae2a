"""ConvCompressDequant restored: where channels are last, without the Transposes around the node, if these are its own.

A node was given them when it was lowered; with others around it, it comes back between two of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.operators.conv_compress_dequant import restoration
from mcd_graph.passes.engine.emit import remove_dead, take_over
from mcd_graph.passes.engine.facts import graph_of, ints_attribute, is_op, only_consumer
from mcd_graph.passes.engine.restorer import Restorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from mcd_graph.operators.view import CompressedNode
    from mcd_graph.passes.engine.emit import Names

__all__ = ["RESTORER"]


def _expose(view: CompressedNode, names: Names) -> None:  # noqa: ARG001  (as others are called)
    """Take the Transposes around a node away, and let it have its channels second."""
    node, window = view.node, restoration.window_of(view)
    x1, y = view.input("x1"), node.outputs[0]
    before, behind = None if x1 is None else x1.producer(), only_consumer(y, node.graph)
    if (
        not window.channels_last
        or before is None
        or behind is None
        or not _turns(before, window.to_last)
        or not _turns(behind, window.to_second)
    ):
        return
    del node.attributes["channels_last"]
    node.replace_input_with(0, before.inputs[0])
    take_over(behind.outputs[0], y)
    graph_of(behind).remove(behind, safe=True)
    remove_dead([before])


def _turns(node: ir.Node, order: Sequence[int]) -> bool:
    return is_op(node, "Transpose") and list(ints_attribute(node, "perm") or ()) == list(order)


RESTORER = Restorer(restoration.restore, expose=_expose)
