"""How onnxruntime folds scales: the arithmetic that every form but plain MatMulInteger shares.

Whatever the original says with separate scales, onnxruntime multiplies the int32 sum with one float32 number a
column. To give the same bits, that number has to be rounded the same way:

* dequantised to float: ``w_scale * x1_scale`` (times alpha first, where there is one);
* quantised again: that product divided by ``y_scale``.

Each step is rounded to float32. Constant scales are folded while planning. Of a product that is not constant the new
node takes both factors and multiplies them itself; what else there is are Mul and Div nodes, which round in the same
way.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import constant_array, is_op, known_dtype, known_shape
from mcd_graph.passes.engine.match import Fused, NewConstant, NewNode, NewOutput, Operand, Weight
from mcd_graph.passes.engine.operands import quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal

__all__ = [
    "FoldedScale",
    "Scale",
    "fold_scales",
    "fuse",
    "other_side",
    "require_matrix",
    "require_one_value",
    "split_product",
]

_QUANTIZED = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclasses.dataclass(frozen=True, eq=False)
class FoldedScale(NewConstant):
    """Constant scales in one number for each column.

    Attributes:
        column: the weight's own scale, which the model has.
        computed: the same numbers as nodes that compute them of what the model has; onnxruntime folds these.
    """

    column: ir.Value
    computed: NewOutput


@dataclasses.dataclass(frozen=True)
class Scale:
    """The factor of the int32 sum: ``x1_scale * deq_scale``, or ``deq_scale`` alone."""

    deq_scale: Operand
    x1_scale: Operand = None


def require_one_value(value: ir.Value | None, what: str) -> None:
    """Refuse if ``value`` is known to hold several numbers, where onnxruntime takes only one."""
    shape = known_shape(value)
    if value is not None and shape is not None and shape not in ((), (1,)):
        raise Refusal(ReasonCode.PARAMETER_SHAPE, f"{what} {value.name} is not one value")


def require_matrix(weight: Weight, w_scale: Operand) -> None:
    """Refuse a weight of more dimensions with a scale for each column, where the result is a float.

    Of such a weight, onnxruntime's DynamicQuantizeMatMul and MatMulIntegerToFloat scale all sums otherwise, and leave
    out the bias (1.32).
    """
    shape = w_scale.array.shape if isinstance(w_scale, NewConstant) else None
    if isinstance(w_scale, ir.Value):
        shape = known_shape(w_scale)
    if weight.leading and (shape is None or any(size != 1 for size in shape)):
        raise Refusal(
            ReasonCode.WEIGHT_RANK,
            f"weight {weight.value.name} has {weight.leading + 2} dimensions and a scale for each column: of such a "
            "multiplication onnxruntime's fused operators leave out the bias, or round otherwise",
        )


def fold_scales(
    x1_scale: ir.Value,
    w_scale: ir.Value,
    y_scale: ir.Value | None = None,
    *,
    n: int,
    alpha: float = 1.0,
    float16: bool = False,
) -> Scale:
    """Return the factor of the int32 sum: a constant where all scales are constant, else what computes it.

    Args:
        x1_scale: float32, one value.
        w_scale: float32, one value or one per column.
        y_scale: float32, one value; ``None`` if the result is not quantised again.
        n: number of columns.
        alpha: Gemm's factor.
        float16: constant scales may be float16 as well; onnxruntime widens them before it folds them.
    """
    for value, what in ((x1_scale, "scale"), (y_scale, "output scale")):
        require_one_value(value, what)
    scales = [value for value in (x1_scale, w_scale, y_scale) if value is not None]
    halves = {known_dtype(value) for value in scales} == {ir.DataType.FLOAT16}
    for value in scales:
        if known_dtype(value) not in (ir.DataType.FLOAT, None) and not (float16 and halves):
            raise Refusal(ReasonCode.SCALE_TYPE, f"scale {value.name} is not float32")
    column = quantization_vector(w_scale, n)
    x1_array, y_array = constant_array(x1_scale), constant_array(y_scale)
    w_array = column.array if isinstance(column, NewConstant) else constant_array(w_scale)
    if x1_array is not None and w_array is not None and (y_scale is None or y_array is not None):
        with np.errstate(all="ignore"):  # zero, infinity and NaN give what they give onnxruntime
            folded = np.float32(alpha) * x1_array.astype(np.float32).reshape(()) * w_array.astype(np.float32)
            if y_array is not None:
                folded = folded / y_array.astype(np.float32).reshape(())
        folded, name = np.asarray(folded, np.float32), f"{w_scale.name}.folded"
        if halves or not isinstance(column, ir.Value):
            return Scale(NewConstant(folded, name))
        factors = _divided(_product(_scaled(x1_scale, alpha), column), y_scale)
        return Scale(FoldedScale(folded, name, column, factors))
    if halves:
        raise Refusal(ReasonCode.SCALE_TYPE, f"scale {w_scale.name} is float16, and not all scales are constant")
    left = _scaled(x1_scale, alpha)
    if y_scale is None:
        return Scale(column, left)
    return Scale(_divided(_product(left, column), y_scale))


def _scaled(scale: ir.Value, alpha: float) -> Operand:
    return scale if alpha == 1 else _product(NewConstant(np.array(alpha, np.float32), "alpha"), scale)


def _product(one: Operand, other: Operand) -> NewOutput:
    return NewOutput(NewNode("Mul", (one, other)))


def _divided(product: NewOutput, y_scale: ir.Value | None) -> NewOutput:
    return product if y_scale is None else NewOutput(NewNode("Div", (product, y_scale)))


def other_side(node: ir.Node | None, op_type: str, value: ir.Value) -> ir.Value | None:
    """Return the side of a two-sided ``op_type`` node that is not ``value``; ``None`` if it is no such node."""
    if node is None or not is_op(node, op_type) or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    other = right if left is value else left
    return None if other is value else other


def split_product(value: ir.Value, n: int, rank: int | None) -> Scale | None:
    """Return the factors of a scale that is the product of one number, as a rule x1's scale, and a constant.

    ``None`` unless ``value`` is the output of a Mul, the constant is float32 with one number or one per column, and so
    the other side is float32 as well. NaN in the constant stays outside: of two NaN, a processor keeps one.
    """
    node = value.producer()
    if node is None or not is_op(node, "Mul") or len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, reversed(node.inputs)):
        array = constant_array(other)
        if one is None or other is None or known_shape(one) not in ((), (1,)):
            continue
        if array is None or array.dtype != np.float32 or np.isnan(array).any():
            continue
        with contextlib.suppress(Refusal):
            return Scale(quantization_vector(other, n, rank), one)
    return None


def fuse(
    x1: Operand,
    x1_zero_point: Operand,
    weight: Weight,
    w_zero_point: ir.Value | None,
    scale: Scale,
    *,
    bias: Operand = None,
    addend: ir.Value | None = None,
    y_zero_point: ir.Value | None = None,
    rank: int | None = 2,
) -> Fused:
    """Return the new node's inputs, or refuse.

    Args:
        x1: activation.
        x1_zero_point: its zero point, if it has one.
        weight: the weight.
        w_zero_point: its zero point, if it has one, one value or one per column.
        scale: what :func:`fold_scales` gave.
        bias: int32, one per column, added to the sum.
        addend: float, added behind the scale.
        y_zero_point: int8 or uint8: the result is quantised again.
        rank: of the result, if it is known.
    """
    if isinstance(x1_zero_point, ir.Value):
        require_one_value(x1_zero_point, "zero point")
    w_vector = quantization_vector(w_zero_point, weight.n)
    output_type: ir.DataType | None = ir.DataType.FLOAT
    if y_zero_point is not None:
        require_one_value(y_zero_point, "output zero point")
        output_type = known_dtype(y_zero_point)
        if output_type not in (*_QUANTIZED, None):
            raise Refusal(ReasonCode.RESULT_TYPE, f"its output is {output_type.name.lower()}, not int8 or uint8")
    addend_vector = quantization_vector(addend, weight.n, rank)
    return Fused(
        x1,
        deq_scale=scale.deq_scale,
        bias=bias,
        x1_zero_point=x1_zero_point,
        w_zero_point=w_vector,
        addend=addend_vector,
        y_zero_point=y_zero_point,
        x1_scale=scale.x1_scale,
        output_type=output_type,
    )
