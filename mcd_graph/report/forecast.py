"""What compression would make of a model that was only looked at: the size of its files."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcd_graph.report.data import ConstantReport, Report

__all__ = ["Forecast", "forecast", "open_to_restoring"]

#: Stored bytes over order-0 entropy with the profile ``balanced``, of constants that were not compressed to see: 1.3 to
#: 3.9 % (code words of whole bits, tables, checksums, padding).
_OVER_THE_ENTROPY = 1.02

#: What the model file says of each weight.
_OF_EACH_WEIGHT = 300

#: What goes of each channel of a QDQ convolution that is quantised by channel: scale and zero point of its bias.
_OF_EACH_CHANNEL = 8

#: What a multiplication needs of a column that is quantised by itself: its scales, in one number.
_OF_EACH_COLUMN = 4

#: The readers that have the scales of activations, weight and result in one number, by the last part of their names.
_FOLDING = ("MatMul", "Gemm", "QLinearMatMul", "QGemm")

#: What a tile of a table says of itself: 17 to 67 bytes.
_OF_EACH_TILE = 27

#: What is kept below this share of saving, as ``--min-saving`` has it by default.
_LEAST_SAVING = 0.01

#: Reasons for which a constant stays with ``--at-open`` as well.
_NEVER_CODES = ("weight-is-input", "weight-overridable", "weight-empty", "not-included", "excluded", "small-saving")


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Sizes that a model's files would have, in bytes.

    Attributes:
        compressed: as ``mcd compress`` writes them.
        at_open: with ``--at-open``.
    """

    compressed: int
    at_open: int


def forecast(report: Report) -> Forecast:
    """Return what compression would bring, within 1 % for models that are mostly weights.

    Args:
        report: of a model that was only looked at.
    """
    saved = sum(map(_saved, (each for each in report.constants if each.status == "lowerable")))
    more = sum(map(_saved, open_to_restoring(report))) + sum(map(_saved_by_larger_tiles, report.constants))
    before = report.totals.file_bytes_before
    return Forecast(round(before - saved), round(before - saved - more))


def open_to_restoring(report: Report) -> list[ConstantReport]:
    """Return the constants that ``--at-open`` would compress and that are kept without it."""
    return [each for each in report.constants if each.status == "kept" and each.code not in _NEVER_CODES]


def _saved(constant: ConstantReport) -> float:
    stored = constant.bytes_after
    if stored is None:
        stored = round(constant.bytes_before * constant.entropy_bits / 8 * _OVER_THE_ENTROPY)
    elif constant.per_channel and len(constant.shape) > 2 and constant.read_by.startswith("DequantizeLinear"):
        stored -= _OF_EACH_CHANNEL * constant.shape[0]
    if constant.status == "lowerable" and constant.per_channel:
        folding = [each for each in constant.readers if each.op_type.rpartition("+")[2] in _FOLDING]
        columns = constant.shape[0 if constant.read_by.endswith("Gemm") else -1]
        stored += _more_scales(_OF_EACH_COLUMN * columns, len(folding))
    stored += _OF_EACH_WEIGHT
    saved = constant.bytes_before - stored
    return saved if saved >= _LEAST_SAVING * constant.bytes_before else 0.0


def _more_scales(nbytes: int, readers: int) -> int:
    """Return what readers store of scales that take ``nbytes`` for one, less those of the weight itself, which go."""
    from mcd_graph.passes.plan import bytes_of_scales  # noqa: PLC0415 - takes a moment, --help needs none of it

    return bytes_of_scales(nbytes, readers) - nbytes if readers > 1 else 0


def _saved_by_larger_tiles(constant: ConstantReport) -> float:
    """Return what a table takes less with ``--at-open``, where its tiles are not as low as its look-ups want them."""
    from mcd_graph.passes.plan import tiles_spared  # noqa: PLC0415 - takes a moment, --help needs none of it

    rows, *columns = constant.shape
    if constant.status != "lowerable" or not constant.read_by.startswith("Gather") or not columns:
        return 0.0
    return _OF_EACH_TILE * tiles_spared(rows, math.prod(columns))
