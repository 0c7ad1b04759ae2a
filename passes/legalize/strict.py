"""Pieces of the strict form: its bias, its rows, and what stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes.engine.facts import get_input
from mcd_graph.passes.engine.match import NewConstant, NewNode, NewOutput
from mcd_graph.passes.legalize.limits import ALLOW_ZERO_OPSET, FLIP
from mcd_graph.passes.legalize.parts import is_half

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand
    from mcd_graph.passes.legalize.parts import Parts

__all__ = ["as_tensor", "cut", "finish", "joined", "pad", "rows_of", "strict_bias", "strict_tail"]


def strict_bias(parts: Parts, base: str) -> Operand:
    """Return the int32 bias (n,), padded, with the zero point of x1 folded in."""
    n = parts.padded[0]
    sums = parts.weight.sum(axis=1, dtype=np.int64)
    constant = parts.bias.astype(np.int64) - parts.zero_point * sums
    bias: Operand = NewConstant(pad(constant.astype(np.int32), n, 0), f"{base}.bias")
    if parts.run_time_zero_point is not None:
        zero = NewOutput(NewNode("Cast", (parts.run_time_zero_point,), {"to": int(ir.DataType.INT32)}))
        if parts.unsigned:
            zero = NewOutput(NewNode("Sub", (zero, NewConstant(np.array(FLIP, np.int32), f"{base}.flip"))))
        columns = NewConstant(pad(sums.astype(np.int32), n, 0), f"{base}.column_sums")
        bias = NewOutput(NewNode("Sub", (bias, NewOutput(NewNode("Mul", (zero, columns))))))
    if parts.run_time_bias is not None:
        vector = NewConstant(np.array([-1]), f"{base}.vector")
        given = NewOutput(NewNode("Reshape", (parts.run_time_bias, vector)))
        if n > parts.n:
            given = NewOutput(NewNode("Pad", (given, NewConstant(np.array([0, n - parts.n]), f"{base}.pads"))))
        bias = NewOutput(NewNode("Add", (bias, given)))
    return bias


def strict_tail(parts: Parts, results: list[ir.Value], factor: float, base: str, opset: int) -> Operand:
    """Return what takes the place of the node's result, made from the float16 that strict nodes give."""
    y = cut(parts, joined(results), base, opset)
    if parts.plain_float16:
        return y
    y = NewOutput(NewNode("Cast", (y,), {"to": int(ir.DataType.FLOAT)}))
    times: Operand = NewConstant(np.array(factor, np.float32), f"{base}.factor") if factor > 1 else None
    if parts.run_time_scale is not None:
        scale = parts.run_time_scale
        times = scale if times is None else NewOutput(NewNode("Mul", (scale, times)))
    if times is not None:
        y = NewOutput(NewNode("Mul", (y, times)))
    return finish(parts, y, base)


def joined(results: list[ir.Value]) -> Operand:
    """Return the results of chunks of rows, one behind another."""
    return results[0] if len(results) == 1 else NewOutput(NewNode("Concat", tuple(results), {"axis": 0}))


def cut(parts: Parts, y: Operand, base: str, opset: int) -> Operand:
    """Return a strict result (m, padded n) in the shape of the original's."""
    if parts.padded[0] > parts.n:
        bounds = (
            NewConstant(np.array([number]), f"{base}.{what}")
            for what, number in (("start", 0), ("end", parts.n), ("axis", 1))
        )
        y = NewOutput(NewNode("Slice", (y, *bounds)))
    if parts.dims is None or len(parts.dims) != 2:
        # Before opset 14 a 0 in a shape always means "as it was", so that empty batches may be refused there.
        attributes = {"allowzero": 1} if opset >= ALLOW_ZERO_OPSET else {}
        y = NewOutput(NewNode("Reshape", (y, _result_shape(parts, base)), attributes))
    return y


def finish(parts: Parts, y: Operand, base: str) -> Operand:
    """Return the result, from the scaled product in float32: quantised, with the addend, in the type it had."""
    if parts.y_zero_point is not None:
        one = NewConstant(np.array(1, np.float32), f"{base}.one")
        y = NewOutput(NewNode("QuantizeLinear", (y, one, parts.y_zero_point)))
        y_scale = get_input(parts.node, INPUT_NAMES.index("y_scale"))
        return y if y_scale is None else NewOutput(NewNode("DequantizeLinear", (y, y_scale, parts.y_zero_point)))
    if parts.addend is not None:
        addend: Operand = parts.addend
        if is_half(parts.addend):
            addend = NewOutput(NewNode("Cast", (addend,), {"to": int(ir.DataType.FLOAT)}))
        y = NewOutput(NewNode("Add", (y, addend)))
    if parts.output_type == ir.DataType.FLOAT16:
        y = NewOutput(NewNode("Cast", (y,), {"to": int(ir.DataType.FLOAT16)}))
    return y


def _result_shape(parts: Parts, base: str) -> Operand:
    """Return the shape (..., n) of the original result."""
    leading = None if parts.dims is None else parts.dims[:-1]
    if leading is not None and sum(size is None for size in leading) <= 1 and 0 not in leading:
        sizes = [-1 if size is None else size for size in leading]
        return NewConstant(np.array([*sizes, parts.n]), f"{base}.shape")
    all_sizes = NewOutput(NewNode("Shape", (parts.x1,)))
    bounds = (NewConstant(np.array([number]), f"{base}.{what}") for what, number in (("start", 0), ("end", -1)))
    sizes_of_rows = NewOutput(NewNode("Slice", (all_sizes, *bounds)))
    columns = NewConstant(np.array([parts.n]), f"{base}.columns")
    return NewOutput(NewNode("Concat", (sizes_of_rows, columns), {"axis": 0}))


def rows_of(activation: ir.Value, start: int, end: int, base: str) -> Operand:
    """Return the rows of an activation from ``start`` up to ``end``."""
    bounds = (
        NewConstant(np.array([number]), f"{base}.{what}")
        for what, number in (("start", start), ("end", end), ("axis", 0))
    )
    return NewOutput(NewNode("Slice", (activation, *bounds)))


def as_tensor(data: np.ndarray | ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Return an array as a tensor called ``name``; a tensor as it is."""
    return ir.tensor(data, name=name) if isinstance(data, np.ndarray) else data


def pad(vector: np.ndarray, length: int, value: float) -> np.ndarray:
    """Return ``vector`` with ``value`` behind it up to ``length``."""
    return np.concatenate([vector, np.full(length - vector.size, value, vector.dtype)])
