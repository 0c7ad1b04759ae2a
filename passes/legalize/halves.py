"""Activations in an upper and a lower half, so that float16 rounds less of their products.

The operator's result is float16, which keeps 11 bits. An int8 activation is 16 times its upper half plus its lower
half; a product with one of them is that much smaller, and exact up to 2048. The halves of all rows are one matrix, the
upper ones first, so that each weight is still on the device once; float32 adds them up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.match import NewConstant, NewNode, NewOutput
from mcd_graph.passes.legalize.limits import FLIP, MAX_FLOAT16, SPLIT_OUTPUTS_OPSET
from mcd_graph.passes.legalize.strict import cut, finish, joined

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand
    from mcd_graph.passes.legalize.parts import Parts

__all__ = ["halves_factor", "halves_of", "halves_tail"]

_STEP = 16  # 8 and 32 were worse on real models
_FLOAT, _INT8 = int(ir.DataType.FLOAT), int(ir.DataType.INT8)


def halves_of(parts: Parts, activation: ir.Value, base: str) -> Operand:
    """Return the halves of activations int8 (m, k), their zero point subtracted, as int8 (2 m, k)."""
    x: Operand = NewOutput(NewNode("Cast", (activation,), {"to": _FLOAT}))
    zero = _zero_point(parts, base)
    if zero is not None:
        x = NewOutput(NewNode("Sub", (x, zero)))
    per_step = NewConstant(np.array(1 / _STEP, np.float32), f"{base}.per_step")
    high = NewOutput(NewNode("Round", (NewOutput(NewNode("Mul", (x, per_step))),)))
    step = NewConstant(np.array(_STEP, np.float32), f"{base}.step")
    low = NewOutput(NewNode("Sub", (x, NewOutput(NewNode("Mul", (high, step))))))
    both = NewOutput(NewNode("Concat", (high, low), {"axis": 0}))
    return NewOutput(NewNode("Cast", (both,), {"to": _INT8}))


def _zero_point(parts: Parts, base: str) -> Operand:
    """Return the zero point of the activations after the flip, float32; ``None`` for 0."""
    if parts.run_time_zero_point is None:
        constant = np.array(parts.zero_point, np.float32)
        return NewConstant(constant, f"{base}.zero_point") if parts.zero_point else None
    zero = NewOutput(NewNode("Cast", (parts.run_time_zero_point,), {"to": _FLOAT}))
    if parts.unsigned:
        zero = NewOutput(NewNode("Sub", (zero, NewConstant(np.array(FLIP, np.float32), f"{base}.flip"))))
    return zero


def halves_factor(parts: Parts) -> float:
    """Return the power of two that products of a half are divided by, so that they fit float16."""
    # Less its zero point an activation lies in -255 to 255, and its upper half in -16 to 16.
    largest = float(np.abs(parts.weight.astype(np.int64)).sum(axis=1).max()) * _STEP
    return 2.0 ** math.ceil(math.log2(largest / MAX_FLOAT16)) if largest > MAX_FLOAT16 else 1.0


def halves_tail(parts: Parts, results: list[ir.Value], factor: float, base: str, opset: int) -> Operand:
    """Return what takes the place of the node's result, made from the float16 products of both halves."""
    attributes = {"axis": 0, **({"num_outputs": 2} if opset >= SPLIT_OUTPUTS_OPSET else {})}
    split = NewNode("Split", (joined(results),), attributes, num_outputs=2)
    high, low = (NewOutput(NewNode("Cast", (NewOutput(split, index),), {"to": _FLOAT})) for index in range(2))
    steps = NewConstant(np.array(_STEP * factor, np.float32), f"{base}.steps")
    if factor > 1:
        low = NewOutput(NewNode("Mul", (low, NewConstant(np.array(factor, np.float32), f"{base}.factor"))))
    y: Operand = NewOutput(NewNode("Add", (NewOutput(NewNode("Mul", (high, steps))), low)))
    y = cut(parts, y, base, opset)
    if parts.bias.any():
        y = NewOutput(NewNode("Add", (y, NewConstant(parts.bias.astype(np.float32), f"{base}.bias"))))
    if parts.run_time_bias is not None:
        vector = NewConstant(np.array([-1]), f"{base}.vector")
        bias = NewOutput(NewNode("Cast", (parts.run_time_bias,), {"to": _FLOAT}))
        y = NewOutput(NewNode("Add", (y, NewOutput(NewNode("Reshape", (bias, vector))))))
    scale = parts.run_time_scale if parts.scale is None else NewConstant(parts.scale, f"{base}.scale")
    return finish(parts, NewOutput(NewNode("Mul", (y, scale))), base)
