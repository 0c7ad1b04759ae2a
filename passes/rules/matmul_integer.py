"""MatMulInteger and what follows it, as onnxruntime's quantize_dynamic writes it.

::

    x1, x1_scale, x1_zp = DynamicQuantizeLinear(x)
    acc = MatMulInteger(x1, W, x1_zp, w_zp)           MatmulCompressDequant(
    y = Cast<float>(acc) * (x1_scale * w_scale)   ->      x1, W', w_scale, x1_zp, w_zp, bias, x1_scale
    z = y + bias                                      )

========================================  ====================================================================
what follows the MatMulInteger            what the new node computes
========================================  ====================================================================
Cast to float, Mul, Add                   all of it, when the Add's other side is a vector over the columns
Cast to float, Mul                        up to the Mul, when the other side is one scale or one per column
Cast to float16, Mul (, Add)              the same in float, and a Cast of the result to float16
anything else, or several consumers       the int32 result; what follows stays as it is
========================================  ====================================================================

Where the scale is the product of one number and a constant (x1_scale * w_scale), the new node takes the two and
multiplies them itself, with the same rounding; another Mul that computes a scale stays. Operands of Mul and Add may
stand in either order. onnxruntime's CPU computes float16 in float and rounds once, where the result is used as float16;
so does what is made of it, since it has a Cast in the same place.

The multiplication stays as it was when the weight is not a constant int8 or uint8 matrix, or when a zero point is
neither one value nor, for the weight, one per column.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import (
    constant_array,
    get_input,
    int_attribute,
    is_op,
    known_rank,
    known_shape,
    only_consumer,
)
from mcd_graph.passes.engine.match import Family, Fused, Match, NewConstant, NewNode, NewOutput, Operand, Result, Rule
from mcd_graph.passes.engine.operands import find_weight, quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import Scale, other_side, require_matrix, split_product

__all__ = ["FAMILY"]


def _match_alone(node: ir.Node) -> Match:
    return _match(node, alone=True)


def _match(node: ir.Node, *, alone: bool = False) -> Match:
    weight = find_weight(get_input(node, 1))
    x1 = get_input(node, 0)
    if x1 is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no activation input")
    x1_zero_point = get_input(node, 2)
    shape = known_shape(x1_zero_point)
    if shape is not None and shape not in ((), (1,)):
        # ONNX allows a zero point for each row; onnxruntime refuses such a model.
        raise Refusal(
            ReasonCode.PARAMETER_SHAPE,
            f"zero point {x1_zero_point.name if x1_zero_point else ''} of the activation is not one value",
        )
    w_zero_point = quantization_vector(get_input(node, 3), weight.n)

    def match(
        pattern: str, output_of: ir.Node, *nodes: ir.Node, scale: Operand = None, addend: Operand = None
    ) -> Match:
        split = split_product(scale, weight.n, rank) if isinstance(scale, ir.Value) else None
        factors = split or Scale(scale)
        fused = Fused(
            x1, deq_scale=factors.deq_scale, x1_zero_point=x1_zero_point, w_zero_point=w_zero_point, addend=addend,
            x1_scale=factors.x1_scale,
            output_type=ir.DataType.INT32 if scale is None else ir.DataType.FLOAT,
        )  # fmt: skip
        result: NewOutput | Result = Result()
        if to == ir.DataType.FLOAT16 and scale is not None:
            result = NewOutput(NewNode("Cast", (result,), {"to": int(to)}))
        return Match(pattern, weight, fused, output_of.outputs[0], (node, *nodes), result)

    rank = known_rank(x1)
    cast = only_consumer(node.outputs[0], node.graph)
    to = int_attribute(cast, "to", 0) if cast is not None and is_op(cast, "Cast") else 0
    if cast is None or to not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return match("MatMulInteger", node)
    mul = only_consumer(cast.outputs[0], node.graph)
    scale = _other_vector(mul, "Mul", cast.outputs[0], weight.n, rank)
    if scale is not None:
        require_matrix(weight, scale)
    if alone or mul is None or scale is None:
        return match("MatMulInteger", node)
    add = only_consumer(mul.outputs[0], node.graph)
    addend = _other_vector(add, "Add", mul.outputs[0], weight.n, rank)
    if to == ir.DataType.FLOAT16:
        scale, addend = _widened(scale), _widened(addend)
    if add is None or addend is None:
        return match("MatMulInteger+Cast+Mul", mul, cast, mul, scale=scale)
    return match("MatMulInteger+Cast+Mul+Add", add, cast, mul, add, scale=scale, addend=addend)


def _widened(operand: Operand) -> Operand:
    """Return a float16 vector as float32, which holds the same numbers."""
    array = operand.array if isinstance(operand, NewConstant) else None
    if isinstance(operand, ir.Value):
        array = constant_array(operand)
    if array is not None:
        name = operand.hint if isinstance(operand, NewConstant) else operand.name  # type: ignore[union-attr]
        return NewConstant(array.astype(np.float32), f"{name}.float")
    return None if operand is None else NewOutput(NewNode("Cast", (operand,), {"to": int(ir.DataType.FLOAT)}))


def _other_vector(node: ir.Node | None, op_type: str, value: ir.Value, n: int, rank: int | None) -> Operand:
    """Return the side of a two-sided ``op_type`` node that is not ``value``, if it is a vector over the columns."""
    try:
        return quantization_vector(other_side(node, op_type, value), n, rank)
    except Refusal:
        return None


matmul_integer_rule = Rule("matmul_integer_rule", "", "MatMulInteger", _match, alone=_match_alone)

FAMILY = Family(
    "MatMulInteger",
    "MatMulInteger, with Cast, Mul and Add behind it",
    "[`DynamicQuantizeLinear`] `MatMulInteger` [`Cast` `Mul` [`Add`]]",
    "up to the last operator that fits, the int32 result at least; with the quantiser where nobody else reads that, "
    "and the product of the scales",
    (matmul_integer_rule,),
)
