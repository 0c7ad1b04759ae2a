"""Shapes that a plan needs and a model may not say: with a bias behind, and of what a Scan collects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.passes.engine.facts import all_nodes, get_input, is_op
from mcd_graph.passes.engine.shapes import infer_shapes, inferred_shape, shapes_inferred

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["declare_outputs_of_scans", "infer_shapes_where_needed"]


def infer_shapes_where_needed(model: ir.Model) -> None:
    """Infer the shapes of a model in which a multiplication of a QDQ form says none.

    By them onnxruntime decides what it fuses behind it: an Add makes a Gemm of it, or is fused with what follows.
    """
    if any(_lacks_its_shape(node) for node in model.graph):
        infer_shapes(model)


def _lacks_its_shape(node: ir.Node) -> bool:
    value = get_input(node, 0) if is_op(node, "MatMul") and node.outputs else None
    producer = None if value is None or value.shape is not None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    return any(is_op(user, op_type) for user in node.outputs[0].consumers() for op_type in ("Add", "QuantizeLinear"))


def declare_outputs_of_scans(model: ir.Model) -> None:
    """Say the shapes of what the bodies of Scan return, where they can be inferred and the model does not say them.

    Without any, onnxruntime does not run a Scan. It infers them of the operators that are replaced; of the library's
    it does from version 1.24 on. Called before nodes are replaced.
    """
    silent = [output for body in _bodies_of_scans(model) for output in body.outputs if output.shape is None]
    if not silent:
        return
    with shapes_inferred(model):
        for output in silent:
            output.shape = inferred_shape(output)


def _bodies_of_scans(model: ir.Model) -> Iterator[ir.Graph]:
    for node, _ in all_nodes(model):
        body = node.attributes.get("body") if is_op(node, "Scan") else None
        if body is not None and body.type == ir.AttributeType.GRAPH:
            yield body.as_graph()
