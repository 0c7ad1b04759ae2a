"""Every fusion, in the order in which a node takes in what stands around it; undoing goes the other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.emit import remove_dead
from mcd_graph.passes.fusions import dequantized_result, dynamic_quantizer, elementwise, layout

if TYPE_CHECKING:
    import onnx_ir as ir

    from mcd_graph.passes.engine.emit import Names
    from mcd_graph.passes.engine.extent import Extent
    from mcd_graph.passes.fusions.protocol import Fusion

__all__ = ["FUSIONS", "fuse_surroundings", "undo_fusions"]

FUSIONS: tuple[Fusion, ...] = (
    dynamic_quantizer.FUSION,
    dequantized_result.FUSION,
    layout.FUSION,
    elementwise.FUSION,
)


def fuse_surroundings(node: ir.Node, extent: Extent, *, in_function: bool, qdq: bool) -> list[Fusion]:
    """Let a MatmulCompressDequant take in what stands around it; return what it took in.

    Args:
        node: the node; nodes that nobody reads any more are removed.
        extent: how much it may take in.
        in_function: it is inside a local function.
        qdq: its rule took in quantisers itself.
    """
    taken = []
    for fusion in FUSIONS:
        if extent > fusion.extent or (qdq and not fusion.in_qdq):
            continue
        dead = fusion.fuse(node, in_function=in_function)
        if dead is not None:
            remove_dead(dead)
            taken.append(fusion)
    return taken


def undo_fusions(node: ir.Node, names: Names) -> bool:
    """Put back all that a MatmulCompressDequant took in; return whether there was anything."""
    undone = [fusion.undo(node, names) for fusion in reversed(FUSIONS)]
    return any(undone)
