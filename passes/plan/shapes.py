"""Shapes that a plan needs and a model may not say: those of multiplications with a bias behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import get_input, is_op
from mcd_graph.passes.engine.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["infer_shapes_where_needed"]


def infer_shapes_where_needed(model: ir.Model) -> None:
    """Infer the shapes of a model in which a multiplication behind DequantizeLinear and before an Add says none."""
    if any(_lacks_its_shape(node) for node in model.graph):
        infer_shapes(model)


def _lacks_its_shape(node: ir.Node) -> bool:
    value = get_input(node, 0) if is_op(node, "MatMul") and node.outputs else None
    producer = None if value is None or value.shape is not None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    return any(is_op(user, "Add") for user in node.outputs[0].consumers())
