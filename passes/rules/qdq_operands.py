"""What a QDQ multiplication multiplies: its activation and its weight, each behind a DequantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.passes.engine.facts import get_input, int_attribute, ints_attribute, is_op, known_rank, known_shape
from mcd_graph.passes.engine.noops import source_of
from mcd_graph.passes.engine.operands import find_weight
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.qdq_pairs import EIGHT_BIT, Dequantized, dequantized_at, is_qdq, is_signed_pair

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import (
        Weight,
    )

__all__ = ["check_activation", "find_operands"]


def find_operands(node: ir.Node, transpose_w: bool) -> tuple[Dequantized, Dequantized, Weight] | None:
    """Return activation and weight; ``None`` if the node is a float multiplication like any other."""
    x, value = dequantized_at(get_input(node, 0), node), get_input(node, 1)
    path: tuple[ir.Node, ...] = ()
    if value is not None:
        value, path = source_of(value)
    transpose = None if value is None else value.producer()
    if transpose is not None and is_op(transpose, "Transpose"):
        perm, rank = ints_attribute(transpose, "perm"), known_rank(get_input(transpose, 0))
        if perm == (1, 0) or (perm is None and rank in (2, None)) or (perm == (0, 2, 1) and rank == 3):
            transpose_w, value, path = not transpose_w, get_input(transpose, 0), (transpose, *path)
    w = dequantized_at(value, node)
    if w is None:
        _refuse_outside(value, node)
        producer = None if value is None else value.producer()
        between = producer if producer is not None and is_op(producer, "Reshape") else None
        if x is None or between is None or dequantized_at(get_input(between, 0), node) is None:
            return None
        raise Refusal(
            ReasonCode.WEIGHT_RESHAPED,
            "its weight is reshaped behind its DequantizeLinear, so onnxruntime computes in float",
        )
    weight = find_weight(w.value, transposed=transpose_w, path=(w.node, *w.path, *path))
    if x is None:
        _refuse_outside(get_input(node, 0), node)
        raise Refusal(
            ReasonCode.ACTIVATION_NOT_QUANTIZED, "its activation is not quantised, so onnxruntime computes in float"
        )
    if int_attribute(w.node, "block_size", 0):
        raise Refusal(ReasonCode.WEIGHT_BLOCKED, "its weight is quantised in blocks, so onnxruntime computes in float")
    if any(int_attribute(each.node, "output_dtype", 0) not in (0, ir.DataType.FLOAT) for each in (x, w)):
        raise Refusal(ReasonCode.SCALE_TYPE, "its operands are not dequantised to float32")
    columns = weight.leading + (0 if transpose_w else 1)
    shape = known_shape(w.scale)
    axis = int_attribute(w.node, "axis", 1)
    if shape not in ((), (1,)) and axis not in (columns, columns - weight.leading - 2):
        raise Refusal(
            ReasonCode.WEIGHT_SCALE_AXIS, "its weight's scale is not per column, so onnxruntime computes in float"
        )
    return x, w, weight


def _refuse_outside(value: ir.Value | None, user: ir.Node) -> None:
    """Refuse an operand whose DequantizeLinear stands in a graph around that of the multiplication."""
    producer = None if value is None else source_of(value)[0].producer()
    if producer is not None and is_qdq(producer, "DequantizeLinear") and producer.graph is not user.graph:
        what = "activation" if value is get_input(user, 0) else "weight"
        text = f"its {what} is dequantised in a graph around its own, so onnxruntime computes in float"
        raise Refusal(ReasonCode.DEQUANTIZED_OUTSIDE, text)


def check_activation(x: Dequantized) -> None:
    """Refuse an activation that onnxruntime would not multiply as integers.

    ``ort_behaviour.MERGES_DOUBLE_QUANTIZERS``, ``ort_behaviour.MAKES_INT8_PAIRS_UINT8``.
    """
    dtype = x.dtype
    if dtype is None:
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"the type of its activation {x.value.name} is not known")
    if dtype not in EIGHT_BIT:
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"its activation is {dtype.name.lower()}, not int8 or uint8")
    producer = x.value.producer()
    if producer is not None and is_qdq(producer, "QuantizeLinear"):
        before = get_input(producer, 0)
        if before is not None and is_qdq(source_of(before)[0].producer(), "DequantizeLinear"):
            raise Refusal(
                ReasonCode.QUANTIZED_TWICE, "its activation is quantised twice in a row, which onnxruntime merges"
            )
    if dtype == ir.DataType.INT8 and (producer is None or not is_signed_pair(producer, x.node)):
        raise Refusal(
            ReasonCode.INT8_SHARED,
            "its int8 activation is not between one QuantizeLinear and one DequantizeLinear of its own with the "
            "same constant zero point, so onnxruntime computes in float on x86",
        )
