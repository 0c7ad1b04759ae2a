"""A node taken apart: what the strict form is made of."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import known_dtype
from mcd_graph.passes.legalize.limits import FLIP, K_ABOVE, K_STEP, MAX_ACCUMULATOR, MAX_FLOAT16, MIN_N, N_STEP

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = ["Parts", "is_half", "shrunk_scale"]


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


def is_half(value: ir.Value) -> bool:
    """Tell whether a value is known to be float16."""
    return known_dtype(value) == ir.DataType.FLOAT16


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
