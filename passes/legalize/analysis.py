"""Looks whether a node can be made strict, and takes it apart. Nothing is changed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.operators.view import CompressedNode, CompressedNodeError, WeightNotConstantError
from mcd_graph.passes.engine.constants import folded_scale
from mcd_graph.passes.engine.facts import constant_array, get_input, known_dtype, known_shape
from mcd_graph.passes.engine.match import NewNode, NewOutput
from mcd_graph.passes.engine.validate import check_node
from mcd_graph.passes.fusions.dynamic_quantizer import quantizes_itself
from mcd_graph.passes.legalize.limits import FLIP, MIN_OPSET
from mcd_graph.passes.legalize.parts import Parts, is_half, shrunk_scale
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = ["parts_of", "take_apart"]

_INT8 = np.iinfo(np.int8)


def take_apart(node: ir.Node, *, opset: int, max_rows: int | None) -> Parts:
    """Return a node's parts; refuse if it cannot be made strict.

    Args:
        node: a MatmulCompressDequant, with whatever it took in of what stands around it.
        opset: the version of ONNX's operators that the model imports.
        max_rows: more rows have to be cut into chunks.
    """
    if opset < MIN_OPSET:
        raise Refusal(ReasonCode.OPSET, f"the model's opset is {opset}; the strict form requires {MIN_OPSET} or later")
    value = _inputs(node)
    x1 = value["x1"]
    if value["deq_scale"] is None:
        raise Refusal(ReasonCode.INT32_RESULT, "its result is int32; the strict form's is float16")
    known = (ir.DataType.INT8, ir.DataType.UINT8)
    if x1 is None or not (quantizes_itself(node) or _activation_type(value) in known):
        raise Refusal(ReasonCode.ACTIVATION_TYPE, "its x1 is not known to be int8, uint8 or float")
    w_zero_point = value["w_zero_point"]
    if w_zero_point is not None and constant_array(w_zero_point) is None:
        text = f"zero point {w_zero_point.name} of its weight is computed at run time"
        raise Refusal(ReasonCode.RUN_TIME_PARAMETER, text)
    stored = _stored_weight(node)
    check_node(node, k=stored.shape[1], n=stored.shape[0], weight_type=ir.DataType.from_numpy(stored.dtype))
    weight = _without_zero_point(stored, constant_array(w_zero_point))
    parts = parts_of(node, weight, changed=weight is not stored)
    if max_rows is not None and parts.rows is None:
        raise Refusal(ReasonCode.ROWS_UNKNOWN, "its number of rows is not known, so it cannot be cut into chunks")
    if shrunk_scale(parts) is None:
        raise Refusal(ReasonCode.SCALE_NOT_NORMAL, "its scale is no normal float32 once its result fits float16")
    return parts


def parts_of(node: ir.Node, weight: np.ndarray, *, changed: bool) -> Parts:
    """Return the parts of a node that can be made strict.

    Args:
        node: the node.
        weight: its weight, int8 (n, k), with its zero point subtracted.
        changed: that is not what the stream holds.
    """
    value = _inputs(node)
    x1, scale_value, x1_scale = value["x1"], value["deq_scale"], value["x1_scale"]
    if x1 is None or scale_value is None:
        raise AssertionError("a node without activation or scale is refused")
    floats = quantizes_itself(node)
    scale = None if floats else _constant_scale(scale_value, x1_scale, weight.shape[0])
    unsigned = floats or _activation_type(value) == ir.DataType.UINT8
    bias, zero_point = constant_array(value["bias"]), constant_array(value["x1_zero_point"])
    return Parts(
        node=node,
        x1=x1,
        unsigned=unsigned,
        dims=known_shape(x1) if value["x1_shape"] is None else None,
        weight=weight,
        changed=changed,
        scale=scale,
        run_time_scale=_run_time_scale(scale_value, x1_scale) if scale is None else None,
        bias=np.zeros(weight.shape[0], np.int32) if bias is None else bias.reshape(-1),
        run_time_bias=value["bias"] if bias is None else None,
        zero_point=(0 if zero_point is None else int(zero_point.reshape(()))) - _absent_flip(unsigned, value),
        run_time_zero_point=value["x1_zero_point"] if zero_point is None else None,
        addend=value["addend"],
        y_zero_point=value["y_zero_point"],
        output_type=_output_type(node, scale_value, value["y_zero_point"]),
    )


def _inputs(node: ir.Node) -> dict[str, ir.Value | None]:
    return {name: get_input(node, index) for index, name in enumerate(INPUT_NAMES)}


def _activation_type(value: dict[str, ir.Value | None]) -> ir.DataType | None:
    return known_dtype(value["x1"]) or known_dtype(value["x1_zero_point"])


def _stored_weight(node: ir.Node) -> np.ndarray:
    """Return the weight (n, k) as its stream holds it."""
    try:
        return CompressedNode.of(node).decode()
    except WeightNotConstantError as error:
        raise Refusal(ReasonCode.STREAM_NOT_CONSTANT, error.reason) from None
    except CompressedNodeError as error:
        raise _native.FormatError(str(error)) from None


def _without_zero_point(stored: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
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


def _constant_scale(value: ir.Value, x1_scale: ir.Value | None, n: int) -> np.ndarray | None:
    """Return a constant scale, multiplied by x1's, as float32 (n,); ``None`` if it is computed at run time."""
    scale = folded_scale(value)
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


def _run_time_scale(value: ir.Value, x1_scale: ir.Value | None) -> Operand:
    """Return a scale that is computed at run time, as float32."""
    if x1_scale is not None:
        return NewOutput(NewNode("Mul", (x1_scale, value)))
    return NewOutput(NewNode("Cast", (value,), {"to": int(ir.DataType.FLOAT)})) if is_half(value) else value


def _absent_flip(unsigned: bool, value: dict[str, ir.Value | None]) -> int:
    """Return what flipping the top bit of x1 adds to a zero point that is constant or absent."""
    run_time = value["x1_zero_point"] is not None and constant_array(value["x1_zero_point"]) is None
    return FLIP if unsigned and not run_time else 0


def _output_type(node: ir.Node, scale: ir.Value, y_zero_point: ir.Value | None) -> ir.DataType:
    """Return the type of a node's result."""
    attribute = node.attributes.get("output_type")
    if attribute is not None:
        return ir.DataType(attribute.as_int())
    if y_zero_point is not None:
        return known_dtype(y_zero_point) or ir.DataType.UINT8
    return ir.DataType.FLOAT if known_dtype(scale) in (None, ir.DataType.FLOAT) else ir.DataType.FLOAT16
