"""A value between QuantizeLinear and DequantizeLinear, and whether onnxruntime makes uint8 of its int8."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import MS_DOMAIN, constant_array, get_input, is_op, known_dtype
from mcd_graph.passes.engine.noops import readers_of, source_of

__all__ = ["EIGHT_BIT", "Dequantized", "dequantized_at", "is_qdq", "is_signed_pair", "without_noops"]

EIGHT_BIT = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclasses.dataclass(frozen=True)
class Dequantized:
    """An input of the multiplication, taken apart at its DequantizeLinear, and what hands its result on."""

    node: ir.Node
    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    path: tuple[ir.Node, ...] = ()

    @property
    def dtype(self) -> ir.DataType | None:
        """Type of the quantised value, which its zero point has as well."""
        return known_dtype(self.value) or known_dtype(self.zero_point)


def is_qdq(node: ir.Node | None, op_type: str) -> bool:
    """Tell whether a node is that quantiser, or dequantiser, of ONNX or of onnxruntime."""
    return is_op(node, op_type) or is_op(node, op_type, MS_DOMAIN)


def dequantized_at(value: ir.Value | None, user: ir.Node) -> Dequantized | None:
    """Return the DequantizeLinear that computes ``value`` in the same graph, or ``None``."""
    if value is None:
        return None
    value, path = source_of(value)
    node = value.producer()
    if node is None or not is_qdq(node, "DequantizeLinear") or node.graph is not user.graph:
        return None
    quantized, scale = get_input(node, 0), get_input(node, 1)
    if quantized is None or scale is None:
        return None
    return Dequantized(node, source_of(quantized)[0], scale, get_input(node, 2), path)


def without_noops(value: ir.Value | None) -> ir.Value | None:
    """Return what is handed on as ``value``."""
    return None if value is None else source_of(value)[0]


def is_signed_pair(quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Tell whether onnxruntime for x86 would turn this int8 pair into a uint8 one (it has no fast int8 kernel).

    ``ort_behaviour.MAKES_INT8_PAIRS_UINT8``.
    """
    if not is_qdq(quantize, "QuantizeLinear") or not is_qdq(dequantize, "DequantizeLinear"):
        return False
    between, behind = readers_of(quantize.outputs[0]), readers_of(dequantize.outputs[0])
    if len(between.uses) != 1 or between.is_output or len(behind.uses) + behind.is_output != 1:
        return False
    if any(_same_parameters(quantize, other) for other in _siblings(quantize)):
        return False  # MERGES_EQUAL_NODES: onnxruntime makes one node of the two, and then it has two readers
    zero_points = [constant_array(get_input(node, 2)) for node in (quantize, dequantize)]
    return all(array is not None and array.size == 1 and array.dtype == np.int8 for array in zero_points) and (
        zero_points[0] == zero_points[1]
    )


def _siblings(node: ir.Node) -> list[ir.Node]:
    """Return the other nodes of the same operator that read the same first input."""
    value = get_input(node, 0)
    users = () if value is None else value.consumers()
    return [user for user in users if user is not node and is_op(user, node.op_type, node.domain)]


def _same_parameters(node: ir.Node, other: ir.Node) -> bool:
    """Tell whether the inputs behind the first are the same values or equal constants."""
    if len(node.inputs) != len(other.inputs):
        return False
    for left, right in zip(node.inputs[1:], other.inputs[1:], strict=True):
        a, b = constant_array(left), constant_array(right)
        if left is not right and (a is None or b is None or not np.array_equal(a, b)):
            return False
    return True
