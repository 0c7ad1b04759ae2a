"""Every fusion, in the order in which a node takes in what stands around it; undoing goes the other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.fusions import dequantized_result, dynamic_quantizer, elementwise, layout

if TYPE_CHECKING:
    import onnx_ir as ir

    from mcd_graph.passes.engine.emit import Names
    from mcd_graph.passes.fusions.protocol import Fusion

__all__ = ["FUSIONS", "undo_fusions"]

FUSIONS: tuple[Fusion, ...] = (
    dynamic_quantizer.FUSION,
    dequantized_result.FUSION,
    layout.FUSION,
    elementwise.FUSION,
)


def undo_fusions(node: ir.Node, names: Names) -> bool:
    """Put back all that a MatmulCompressDequant took in; return whether there was anything."""
    undone = [fusion.undo(node, names) for fusion in reversed(FUSIONS)]
    return any(undone)
