"""Which way a constant of bytes goes, by what reads it: a table of measurements.

- *run*: decoded when the model runs, by a fused operator or in the place of its DequantizeLinear; the default.
- *open*: stored compressed and restored when a session is created (``--at-open``), so that onnxruntime packs, folds and
  fuses it as ever.
- *plain*: not compressed.

A constant goes the way *run* where that changes no bit and makes its reader slower by 2 % at most. What the figures
mean and how they are measured again on another onnxruntime: ``benchmarks/consumers.py``, whose ratios these are: the
time of the reader with its constant decoded in front of it over that with an initializer.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGE", "LEAST_REUSE", "TABLE", "Row", "Way", "row_of", "why_not_at_run"]

#: Bytes from which on the threads of a session share the decoding of a constant. Smaller ones are decoded on one.
LARGE = 256 << 10

#: How often a run has to use each element of a smaller one, so that decoding it takes no more than 2 % of that time.
LEAST_REUSE = 256

_MS = "com.microsoft"


class Way(enum.StrEnum):
    """How a compressed constant comes back."""

    RUN = "run"
    OPEN = "open"
    PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one reader of constants.

    Attributes:
        operator: as onnxruntime runs it, with its domain; behind ``DequantizeLinear`` where it reads floats.
        way: the way of its constant.
        why: the reason, in words that follow the operator's name.
        cost: what was measured, on one thread unless it says otherwise.
        measured: when, and with which onnxruntime.
    """

    operator: str
    way: Way
    why: str
    cost: str
    measured: str = "2026-11-27, onnxruntime 1.32, Xeon with AMX"


TABLE: tuple[Row, ...] = (
    Row(
        "DequantizeLinear", Way.RUN, "is decoded and computed in one step, on all threads", "0.7 to 1.3 of its own time"
    ),
    Row("QLinearConv", Way.OPEN, "packs its weight when the session is created", "1.05 to 7.0 without that"),
    Row("MatMulInteger", Way.OPEN, "packs its weight when the session is created", "1.7 to 4.3 without that"),
    Row("QLinearMatMul", Way.OPEN, "packs its weight when the session is created", "1.5 to 4.0 without that"),
    Row(f"{_MS}::QGemm", Way.OPEN, "packs its weight when the session is created", "1.5 to 4.4 without that"),
    Row(f"{_MS}::DynamicQuantizeMatMul", Way.OPEN, "packs its weight when the session is created", "1.4 to 4.6"),
    Row(f"{_MS}::MatMulIntegerToFloat", Way.OPEN, "packs its weight when the session is created", "as MatMulInteger"),
    Row(f"{_MS}::DynamicQuantizeLSTM", Way.OPEN, "packs its weights when the session is created", "3.0 to 4.0"),
    Row(f"{_MS}::QAttention", Way.OPEN, "packs its weight when the session is created", "1.03 to 5.3 without that"),
    Row("ConvInteger", Way.OPEN, "reads a weight too few times for what decoding it takes", "1.01 to 1.14"),
    Row(
        f"{_MS}::MatMulNBits", Way.OPEN, "packs its weight when the session is created", "1.0 to 1.1; 4 bits: 1.5 to 20"
    ),
    Row(f"{_MS}::QEmbedLayerNormalization", Way.OPEN, "reads a few rows of the table", "1.4 to 11 to decode all"),
    Row(f"{_MS}::GatherBlockQuantized", Way.OPEN, "reads a few rows of the table", "2 to 15 to decode all"),
)

_BY_OPERATOR = {row.operator: row for row in TABLE}


def row_of(node: ir.Node) -> Row | None:
    """Return the row of a node that reads the bytes of a constant, if there is one."""
    return _BY_OPERATOR.get(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)


def why_not_at_run(value: ir.Value) -> Refusal:
    """Say why a constant stays that no rule took, going by the nodes that read its bytes."""
    readers = value.consumers()
    for node in readers:
        row = row_of(node)
        if row is not None and row.way is not Way.RUN:
            return Refusal(ReasonCode.DECODING_COSTS, f"{node.op_type} {row.why} ({row.cost})")
    names = " and ".join(sorted({node.op_type for node in readers}))
    reason = f"{names} is not compressed" if names else "no node reads it"
    return Refusal(ReasonCode.OPERATOR_NOT_COMPRESSED, reason)
