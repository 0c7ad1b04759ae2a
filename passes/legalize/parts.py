"""A node taken apart: what the strict form is made of. Nothing is changed here."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.operators.view import CompressedNode, CompressedNodeError, WeightNotConstantError
from mcd_graph.passes.engine.facts import constant_array, known_dtype
from mcd_graph.passes.engine.match import NewNode, NewOutput
from mcd_graph.passes.legalize.limits import FLIP, K_ABOVE, K_STEP, MAX_ACCUMULATOR, MAX_FLOAT16, MIN_N, N_STEP
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = [
    "Parts",
    "absent_flip",
    "constant_scale",
    "is_half",
    "output_type_of",
    "run_time_scale_of",
    "shrunk_scale",
    "stored_weight",
    "without_zero_point",
]

_INT8 = np.iinfo(np.int8)


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A node that can be made strict, taken apart.

    Attributes:
        node: the node.
        x1: its activations.
        unsigned: they are uint8.
        dims: their shape as far as it is known; ``None`` if not even the rank is.
        weight: int8 (n, k), its zero point subtracted.
        changed: ``weight`` is not what the stream holds.
        scale: constant scale, float32 (n,); ``None`` when it is computed at run time.
        run_time_scale: that one, float32.
        bias: constant bias, int32 (n,).
        run_time_bias: one that is computed at run time.
        zero_point: constant zero point of x1, after the flip.
        run_time_zero_point: one that is computed at run time.
        addend: float bias.
        y_zero_point: of a quantised result.
        output_type: of the result.
        quantiser: what quantises ``x1``, which is float then, and gives its scale and zero point.
    """

    node: ir.Node
    x1: ir.Value
    unsigned: bool
    dims: tuple[int | None, ...] | None
    weight: np.ndarray
    changed: bool
    scale: np.ndarray | None
    run_time_scale: Operand
    bias: np.ndarray
    run_time_bias: ir.Value | None
    zero_point: int
    run_time_zero_point: ir.Value | None
    addend: ir.Value | None
    y_zero_point: ir.Value | None
    output_type: ir.DataType
    quantiser: NewNode | None

    @property
    def n(self) -> int:
        """Columns."""
        return int(self.weight.shape[0])

    @property
    def k(self) -> int:
        """Length of the dot products."""
        return int(self.weight.shape[1])

    @property
    def padded(self) -> tuple[int, int]:
        """(n, k) within the limits."""
        n = max(MIN_N, _round_up(self.n, N_STEP))
        return n, max(K_ABOVE + K_STEP, _round_up(self.k, K_STEP))

    @property
    def plain_float16(self) -> bool:
        """The node's float16 is the result as it is, so its overflow is the original's as well."""
        return (
            self.output_type == ir.DataType.FLOAT16
            and self.scale is not None
            and self.addend is None
            and self.y_zero_point is None
        )

    @property
    def rows(self) -> int | None:
        """Number of rows of the activations, if it is known."""
        if self.dims is None:
            return None
        rows = 1
        for size in self.dims[:-1]:
            if size is None:
                return None
            rows *= size
        return rows

    def bound(self) -> np.ndarray:
        """Return the largest magnitude that each column's accumulator can reach, float64 (n,)."""
        signed_only = not self.unsigned and self.run_time_zero_point is None and not self.zero_point
        largest = FLIP if signed_only else 2 * FLIP - 1
        bound = np.abs(self.weight.astype(np.int64)).sum(axis=1) * float(largest)
        bound += np.abs(self.bias.astype(np.float64))
        if self.run_time_bias is not None:
            bound += MAX_ACCUMULATOR
        limited: np.ndarray = np.minimum(bound, MAX_ACCUMULATOR)
        return limited


def stored_weight(node: ir.Node) -> np.ndarray:
    """Return the weight (n, k) as its stream holds it."""
    try:
        return CompressedNode.of(node).decode()
    except WeightNotConstantError as error:
        raise Refusal(ReasonCode.STREAM_NOT_CONSTANT, error.reason) from None
    except CompressedNodeError as error:
        raise _native.FormatError(str(error)) from None


def without_zero_point(stored: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """Return the weight as int8 with its zero point subtracted; ``stored`` itself if that changes nothing."""
    if stored.dtype == np.int8 and (zero_point is None or not zero_point.any()):
        return stored
    offset = np.zeros(1, np.int16) if zero_point is None else zero_point.reshape(-1).astype(np.int16)
    shifted = stored.astype(np.int16) - offset[:, np.newaxis]
    outside = (shifted < _INT8.min) | (shifted > _INT8.max)
    if outside.any():
        column = int(np.flatnonzero(outside.any(axis=1))[0])
        raise Refusal(ReasonCode.WEIGHT_RANGE, f"its weight less its zero point does not fit int8 in column {column}")
    return shifted.astype(np.int8)


def constant_scale(value: ir.Value, x1_scale: ir.Value | None, n: int) -> np.ndarray | None:
    """Return a constant scale, multiplied by x1's, as float32 (n,); ``None`` if it is computed at run time."""
    scale = constant_array(value)
    factor = np.ones((), np.float32) if x1_scale is None else constant_array(x1_scale)
    if scale is None or factor is None:
        if known_dtype(value) == ir.DataType.UINT64:
            raise Refusal(ReasonCode.RUN_TIME_PARAMETER, "its uint64 deq_scale is computed at run time")
        return None
    if scale.dtype == np.uint64:
        if (scale >> np.uint64(32)).any():
            raise Refusal(ReasonCode.SCALE_WORD, "a deq_scale word has bits above the 32 of a float")
        scale = np.asarray(scale.astype(np.uint32)).view(np.float32)
    with np.errstate(over="ignore"):  # that is infinity, and refused below
        product = factor.reshape(()) * scale.reshape(-1).astype(np.float32)
    scale = np.broadcast_to(product, (n,))
    bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if bad.size:
        raise Refusal(
            ReasonCode.SCALE_NOT_POSITIVE, f"its scale is {scale[bad[0]]} in column {bad[0]}, not finite and above zero"
        )
    return scale


def run_time_scale_of(value: ir.Value, x1_scale: ir.Value | None) -> Operand:
    """Return a scale that is computed at run time, as float32."""
    if x1_scale is not None:
        return NewOutput(NewNode("Mul", (x1_scale, value)))
    return NewOutput(NewNode("Cast", (value,), {"to": int(ir.DataType.FLOAT)})) if is_half(value) else value


def is_half(value: ir.Value) -> bool:
    """Tell whether a value is known to be float16."""
    return known_dtype(value) == ir.DataType.FLOAT16


def absent_flip(unsigned: bool, value: dict[str, ir.Value | None]) -> int:
    """Return what flipping the top bit of x1 adds to a zero point that is constant or absent."""
    run_time = value["x1_zero_point"] is not None and constant_array(value["x1_zero_point"]) is None
    return FLIP if unsigned and not run_time else 0


def output_type_of(node: ir.Node, scale: ir.Value, y_zero_point: ir.Value | None) -> ir.DataType:
    """Return the type of a node's result."""
    attribute = node.attributes.get("output_type")
    if attribute is not None:
        return ir.DataType(attribute.as_int())
    if y_zero_point is not None:
        return known_dtype(y_zero_point) or ir.DataType.UINT8
    return ir.DataType.FLOAT if known_dtype(scale) in (None, ir.DataType.FLOAT) else ir.DataType.FLOAT16


def shrunk_scale(parts: Parts) -> tuple[np.ndarray, float] | None:
    """Return the strict node's scale, float32 (n,), and the power of two that it was divided by.

    ``None`` if that power, or the scale once it is divided, is no normal number.
    """
    scale = np.ones(parts.n, np.float32) if parts.scale is None else parts.scale
    factor = 1.0
    if not parts.plain_float16:
        largest = float((parts.bound() * scale.astype(np.float64)).max())
        if largest > MAX_FLOAT16:
            factor = 2.0 ** math.ceil(math.log2(largest / MAX_FLOAT16))
    if factor > float(np.finfo(np.float32).max):
        return None
    shrunk = (scale / np.float32(factor)).astype(np.float32)
    return None if factor > 1 and float(shrunk.min()) < np.finfo(np.float32).tiny else (shrunk, factor)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
