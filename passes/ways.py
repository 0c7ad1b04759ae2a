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

__all__ = ["LEAST_FLOATS", "LEAST_MULTIPLIED", "TABLE", "Row", "Way", "row_of", "why_not_at_run"]

#: Bytes of a weight below which onnxruntime's multiplication is faster with some rows; its file saves a KiB or two.
LEAST_MULTIPLIED = 4 << 10

#: Bytes of a constant behind a DequantizeLinear below which the node that decodes it takes about what is saved: 480
#: bytes of the model file.
LEAST_FLOATS = 4 << 10

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
        "DequantizeLinear",
        Way.RUN,
        "is decoded once, and made floats of at every run; of more than 4 MiB decoded and dequantised in one step, by "
        "all threads of a session",
        "with what reads the floats: 0.76 to 1.02 (1.03 where it has 1 KiB); decoded at every run 0.69 to 1.03 at "
        "default settings on two cores, 1.00 to 1.14 on one thread (Xeon with AMX)",
        "2026-11-29, onnxruntime 1.32, EPYC with AVX2",
    ),
    Row("Gather", Way.RUN, "decodes the rows that are asked for itself", "5 to 13 to decode all of the table"),
    Row("MatMulInteger", Way.RUN, "is computed from the compressed weight", "1.1 to 6.2 to decode it in front"),
    Row("QLinearMatMul", Way.RUN, "is computed from the compressed weight", "1.4 to 5.6 to decode it in front"),
    Row(f"{_MS}::QGemm", Way.RUN, "is computed from the compressed weight", "1.4 to 6.2 to decode it in front"),
    Row(
        f"{_MS}::DynamicQuantizeMatMul",
        Way.RUN,
        "is computed from the compressed weight",
        "1.3 to 5.7 to decode in front",
    ),
    Row(f"{_MS}::MatMulIntegerToFloat", Way.RUN, "is computed from the compressed weight", "as MatMulInteger"),
    Row(
        "QLinearConv",
        Way.RUN,
        "is computed from the compressed kernel, where activations are int8, or that has 16 KiB or more and its "
        "channels last, or 32 KiB or more and does 200 multiply-adds or more for each byte of image that goes in or "
        "comes out, 300 beside depthwise convolutions",
        "1.1 to 8.3 to decode it in front, the most where the image is small",
    ),
    Row(
        "ConvInteger",
        Way.RUN,
        "is computed from the compressed kernel, in groups of fewer than 16 output channels, or of 16, 32, …",
        "1.01 to 1.12 to decode it in front",
    ),
    Row(f"{_MS}::DynamicQuantizeLSTM", Way.OPEN, "packs its weights when the session is created", "2.2 to 4.3"),
    Row(f"{_MS}::QAttention", Way.OPEN, "packs its weight when the session is created", "0.99 to 5.6"),
    Row(
        f"{_MS}::MatMulNBits",
        Way.OPEN,
        "packs its weight when the session is created, and computes other bytes of one of 4 bits that is not packed",
        "8 bits: 0.86 to 1.19; 4 bits: 0.4 to 20",
    ),
    Row(f"{_MS}::QEmbedLayerNormalization", Way.OPEN, "looks up a few rows of its tables", "1.4 to 11"),
    Row(f"{_MS}::GatherBlockQuantized", Way.OPEN, "looks up a few rows of its table", "1.9 to 14"),
    Row("Cast", Way.OPEN, "is folded into floats when the session is created", "1.1 to 4.9, and other bytes"),
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
            return Refusal(ReasonCode.DECODING_COSTS, f"{node.op_type} {row.why} (time with it decoded: {row.cost})")
    names = " and ".join(sorted({node.op_type for node in readers}))
    reason = f"{names} is not compressed" if names else "no node reads it"
    return Refusal(ReasonCode.OPERATOR_NOT_COMPRESSED, reason)
