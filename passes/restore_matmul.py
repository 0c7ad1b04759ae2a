"""MatmulCompressDequant restored: the standard operators that compute what a node does.

========================================  ====================================================================
what the node has                         what it becomes
========================================  ====================================================================
no deq_scale                              MatMulInteger (+ Add of the int32 bias)
float deq_scale                           MatMulInteger (+ Add), Cast to float, Mul (+ Add of the addend)
uint64 deq_scale (Ascend's form)          the same with a float32 constant, and a Cast to float16 behind
x1_scale                                  Mul of it and deq_scale in front, or what takes both
float x1                                  DynamicQuantizeLinear in front
made of one operator that gives floats    com.microsoft's MatMulIntegerToFloat or DynamicQuantizeMatMul, or QGemm for
                                          an int32 bias, where nodes behind it could fuse with a Mul
y_zero_point                              QLinearMatMul
y_zero_point, y_scale                     the same, and DequantizeLinear behind
y_zero_point of another type than x1      the operators that a QLinearMatMul consists of
y_zero_point, int32 bias                  com.microsoft's QGemm for matrices; for other ranks the operators that it
                                          consists of
x1_shape, y_shape                         Transpose and Reshape in front, Reshape and Transpose behind
gate, residual                            Mul and Add behind
========================================  ====================================================================

The result computes the same bits as the node did. It need not be the graph that was compressed: a QLinearMatMul comes
back with its three scales folded into one, for instance.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.operators.nodes import NewConstant, NewNode, NewOutput
from mcd_graph.operators.spec import DOMAIN
from mcd_graph.passes.engine.emit import RULE_KEY
from mcd_graph.passes.engine.facts import (
    MS_DOMAIN,
    constant_array,
    int_attribute,
    is_op,
    known_dtype,
    known_rank,
    known_shape,
)
from mcd_graph.passes.engine.restorer import Restorer
from mcd_graph.passes.engine.validate import check_node, check_opset
from mcd_graph.passes.fusions.dynamic_quantizer import quantizes_itself
from mcd_graph.passes.fusions.registry import undo_fusions
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode
    from mcd_graph.passes.engine.emit import Names

__all__ = ["RESTORER"]


def _check(view: CompressedNode, owner: ir.Model | ir.Function) -> None:
    """Raise Refusal if a node cannot be restored where it stands, in a model's graphs or a function."""
    in_steps = view.input("y_zero_point") is not None and _Multiplication(view).quantizes_in_steps()
    check_opset(owner, "DynamicQuantizeLinear" if quantizes_itself(view.node) else "Round" if in_steps else None)
    scale = view.input("deq_scale")
    if known_dtype(scale) == ir.DataType.UINT64 and constant_array(scale) is None:
        raise Refusal(ReasonCode.RUN_TIME_PARAMETER, "its uint64 deq_scale is computed at run time")
    check_node(view.node, k=view.k, n=view.n, weight_type=view.dtype)


def _expose(view: CompressedNode, names: Names) -> None:
    """Put the operators that a node took in back around it."""
    undo_fusions(view.node, names)


def _standard_form(view: CompressedNode, weight: ir.Value) -> Operand:
    """Return what computes a node's result from its uncompressed weight (k, n)."""
    return NewOutput(_form(_Multiplication(view), weight))


#: Rules whose node was one operator with a float result when onnxruntime had optimised the original.
_STATIC, _DYNAMIC = "matmul_integer_to_float_rule", "dynamic_quantize_matmul_rule"
_WHOLE = frozenset(("matmul_qdq_rule", "gemm_qdq_rule", "qgemm_rule", _STATIC, _DYNAMIC))

#: Rules of operators that multiply matrices alone.
_OF_MATRICES = frozenset(("gemm_qdq_rule", "qgemm_rule"))

_OF_MICROSOFT = frozenset(("qgemm_rule", _STATIC, _DYNAMIC))

#: Readers that onnxruntime fuses with no Mul in front of them.
_NEVER_FUSED = frozenset(("DynamicQuantizeLinear", "QuantizeLinear"))

_GEMM = {"alpha": 1.0, "transA": 0, "transB": 0}


@dataclasses.dataclass(frozen=True)
class _Multiplication:
    """A node that can be restored, taken apart."""

    view: CompressedNode

    def input(self, name: str) -> ir.Value | None:
        """Return the input called ``name``, if there is one."""
        return self.view.input(name)

    def scale(self) -> Operand:
        """Return ``deq_scale``, multiplied by the scale of x1 if there is one.

        Where the model has that product, the factors come in the same order: onnxruntime makes one of equal nodes then,
        and does not fuse a multiplication whose scale another one shares.
        """
        deq_scale, x1_scale = self.input("deq_scale"), self.input("x1_scale")
        if x1_scale is None:
            return deq_scale
        turned = (deq_scale, x1_scale)
        there = any(is_op(each, "Mul") and tuple(each.inputs) == turned for each in x1_scale.consumers())
        return NewOutput(NewNode("Mul", turned if there else turned[::-1]))

    @property
    def rule(self) -> str:
        """The name of the rule that made it, if it says so."""
        return self.view.node.metadata_props.get(RULE_KEY, "")

    def is_whole(self) -> bool:
        """Tell whether it has to be one operator again, for what onnxruntime fuses behind it, or beside it.

        Of the steps, the Mul would be taken into a product behind it, or keep a GELU from being fused. And where it
        is folded, a scale that two weights share becomes one weight's alone: MatMulNBits is made of that one then.
        """
        scale = self.input("deq_scale")
        if self.rule not in _WHOLE or known_dtype(scale) not in (ir.DataType.FLOAT, None):
            return False
        if scale is not None and self.input("x1_scale") is not None and len(scale.uses()) > 1:
            return True
        readers = {node.op_type for node in self.view.node.outputs[0].consumers() if node.domain != DOMAIN}
        return self.rule in _OF_MICROSOFT or not readers <= _NEVER_FUSED

    def multiplies_matrices(self) -> bool:
        """Tell whether x1 is known to have two dimensions, as QGemm wants it."""
        rank = known_rank(self.input("x1"))
        shown = rank is not None and self.input("x1_shape") is None
        return rank == 2 if shown else self.rule in _OF_MATRICES

    def quantizes_in_steps(self) -> bool:
        """Tell whether no single operator quantises its result as it does."""
        x1_dtype = known_dtype(self.input("x1")) or known_dtype(self.input("x1_zero_point"))
        mixed = len({known_dtype(self.input("y_zero_point")), x1_dtype} - {None}) == 2
        # onnxruntime has no kernel for types that are mixed, nor for a bias beside more dimensions.
        return mixed or (self.input("bias") is not None and not self.multiplies_matrices())

    def quantized_value(self) -> ir.Value | None:
        """Return what a DynamicQuantizeLinear quantises for this node, if there is one."""
        x1, x1_scale = self.input("x1"), self.input("x1_scale")
        quantizer = None if x1 is None else x1.producer()
        if quantizer is None or x1_scale is None or not is_op(quantizer, "DynamicQuantizeLinear"):
            return None
        return quantizer.inputs[0] if x1_scale is quantizer.outputs[1] else None


def _form(node: _Multiplication, weight: ir.Value) -> NewNode:
    """Return the node, with those in front of it, that computes what the lowered one did."""
    y_zero_point = node.input("y_zero_point")
    if y_zero_point is not None:
        return _requantized(node, weight, y_zero_point)
    result = _scaled(node, weight)
    scale = node.input("deq_scale")
    if scale is None:
        return result
    default = ir.DataType.FLOAT if known_dtype(scale) in (ir.DataType.FLOAT, None) else ir.DataType.FLOAT16
    output_type = ir.DataType(int_attribute(node.view.node, "output_type", int(default)))
    if output_type != ir.DataType.FLOAT:
        result = NewNode("Cast", (NewOutput(result),), {"to": int(output_type)})
    return result


def _scaled(node: _Multiplication, weight: ir.Value) -> NewNode:
    """Return the multiplication up to the float result; up to the int32 one where there is no scale."""
    zero_points: list[Operand] = [node.input("x1_zero_point"), node.input("w_zero_point")]
    while zero_points and zero_points[-1] is None:
        zero_points.pop()
    result = NewNode("MatMulInteger", (node.input("x1"), weight, *zero_points))
    bias, scale, addend = (node.input(name) for name in ("bias", "deq_scale", "addend"))
    if scale is not None and node.is_whole() and (bias is None or node.multiplies_matrices()):
        return _whole(node, weight)
    if bias is not None:
        result = NewNode("Add", (NewOutput(result), bias))
    if scale is None:
        return result
    factor: Operand = node.scale()
    if known_dtype(scale) == ir.DataType.UINT64 and (array := constant_array(scale)) is not None:
        factor = NewConstant(array.astype(np.uint32).view(np.float32), f"{scale.name}.float")
    result = NewNode("Cast", (NewOutput(result),), {"to": int(ir.DataType.FLOAT)})
    result = NewNode("Mul", (NewOutput(result), _widened(factor)))
    return result if addend is None else NewNode("Add", (NewOutput(result), _widened(addend)))


def _whole(node: _Multiplication, weight: ir.Value) -> NewNode:
    """Return the operator with a float result that onnxruntime makes of the steps; one scale is 1 if ours is folded."""
    one = NewConstant(np.array(1, np.float32), "one")
    x1, bias, addend = (node.input(name) for name in ("x1", "bias", "addend"))
    if bias is not None:
        result = NewNode("QGemm", (*_gemm_inputs(node, weight, one), bias), _GEMM, domain=MS_DOMAIN)
    else:
        w_zero_point, own = node.input("w_zero_point"), addend if node.rule in (_STATIC, _DYNAMIC) else None
        x = node.quantized_value() if node.rule == _DYNAMIC else None
        if x is not None:
            inputs: list[Operand] = [x, weight, node.input("deq_scale"), w_zero_point, own]
        else:
            inputs = [x1, weight, *_scales(node, one), node.input("x1_zero_point"), w_zero_point, own]
        while inputs[-1] is None:
            inputs.pop()
        operator = "MatMulIntegerToFloat" if x is None else "DynamicQuantizeMatMul"
        result = NewNode(operator, tuple(inputs), domain=MS_DOMAIN)
        addend = None if own is addend else addend
    return result if addend is None else NewNode("Add", (NewOutput(result), _widened(addend)))


def _scales(node: _Multiplication, one: NewConstant) -> tuple[Operand, Operand]:
    """Return both scales of an operator that multiplies them itself, as the original had them where that is known."""
    x1_scale = node.input("x1_scale")
    if x1_scale is None or known_rank(x1_scale) not in (0, 1):
        return one, node.scale()
    return x1_scale, node.input("deq_scale")


def _widened(operand: Operand) -> Operand:
    """Return float16 numbers as float32."""
    if not isinstance(operand, ir.Value) or known_dtype(operand) != ir.DataType.FLOAT16:
        return operand
    return NewOutput(NewNode("Cast", (operand,), {"to": int(ir.DataType.FLOAT)}))


def _requantized(node: _Multiplication, weight: ir.Value, y_zero_point: ir.Value) -> NewNode:
    """Return a QLinearMatMul or QGemm whose three scales are 1, deq_scale and 1: 1 * deq_scale / 1 is deq_scale."""
    if node.quantizes_in_steps():
        return _requantized_step_by_step(node, weight, y_zero_point)
    one = NewConstant(np.array(1, np.float32), "one")
    inputs, bias = _gemm_inputs(node, weight, one), node.input("bias")
    if bias is None:
        return NewNode("QLinearMatMul", (*inputs, one, y_zero_point))
    return NewNode("QGemm", (*inputs, bias, one, y_zero_point), _GEMM, domain=MS_DOMAIN)


def _gemm_inputs(node: _Multiplication, weight: ir.Value, one: NewConstant) -> list[Operand]:
    """Return the inputs of a QLinearMatMul or QGemm up to the weight's zero point."""
    scale = node.input("deq_scale")
    x1, x1_zero_point, w_zero_point = (node.input(name) for name in ("x1", "x1_zero_point", "w_zero_point"))
    x1_type = known_dtype(x1) or known_dtype(node.input("y_zero_point")) or ir.DataType.UINT8
    # QGemm wants the weight's zero point in the shape of its scale.
    shape = [size or 1 for size in known_shape(scale) or ()]
    return [
        x1,
        one,
        x1_zero_point or NewConstant(np.zeros((), x1_type.numpy()), "x1_zero_point"),
        weight,
        node.scale(),
        w_zero_point or NewConstant(np.zeros(shape, node.view.dtype.numpy()), "w_zero_point"),
    ]


def _requantized_step_by_step(node: _Multiplication, weight: ir.Value, y_zero_point: ir.Value) -> NewNode:
    """Return the operators of a requantisation: scale, clamp, round half to even, add the zero point."""
    dtype = known_dtype(y_zero_point) or ir.DataType.UINT8
    limits = np.iinfo(dtype.numpy())
    offset = NewOutput(NewNode("Cast", (y_zero_point,), {"to": int(ir.DataType.FLOAT)}))
    result = _scaled(node, weight)
    for operator, limit, name in (("Max", limits.min, "lowest"), ("Min", limits.max, "highest")):
        bound = NewNode("Sub", (NewConstant(np.array(limit, np.float32), name), offset))
        result = NewNode(operator, (NewOutput(result), NewOutput(bound)))
    result = NewNode("Add", (NewOutput(NewNode("Round", (NewOutput(result),))), offset))
    return NewNode("Cast", (NewOutput(result),), {"to": int(dtype)})


RESTORER = Restorer(_standard_form, _check, _expose)
