"""com.microsoft QGemm: what onnxruntime makes of a quantised Gemm, in models that it had optimised and saved.

::

    y = QGemm(x1, x1_scale, x1_zp, W, w_scale, w_zp, bias, y_scale, y_zp)
    ->
    y = MatmulCompressDequant(x1, W', alpha * x1_scale * w_scale [/ y_scale], bias, x1_zp, w_zp [, y_zp])

==============================  ======================================================================================
accepted                        transB (the weight is stored as it is wanted, then), transA (by a Transpose of the
                                activation), alpha; with an output scale and zero point, or a float result without
kept, with the reason           weights that are not constant int8 or uint8 matrices; an int32 bias that is not a
                                vector over the columns; an activation scale or zero point per row
==============================  ======================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import MS_DOMAIN, float_attribute, get_input, int_attribute
from mcd_graph.passes.engine.match import Family, Match, NewNode, NewOutput, Operand, Rule
from mcd_graph.passes.engine.operands import find_weight, quantization_column
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import fold_scales, fuse

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FAMILY"]


def _match(node: ir.Node) -> Match:
    x1, x1_scale, x1_zero_point, w, w_scale, w_zero_point, c, y_scale, y_zero_point = (
        get_input(node, index) for index in range(9)
    )
    weight = find_weight(w, transposed=bool(int_attribute(node, "transB", 0)))
    if x1 is None or x1_scale is None or w_scale is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QGemm needs is missing")
    if (y_scale is None) != (y_zero_point is None):
        raise Refusal(ReasonCode.INPUT_MISSING, "it has one of output scale and zero point, but not both")
    bias = quantization_column(c, weight.n)
    scale = fold_scales(x1_scale, w_scale, y_scale, alpha=float_attribute(node, "alpha", 1.0), n=weight.n)
    left: Operand = x1
    if int_attribute(node, "transA", 0):
        left = NewOutput(NewNode("Transpose", (x1,), {"perm": [1, 0]}))
    fused = fuse(left, x1_zero_point, weight, w_zero_point, scale, bias=bias, y_zero_point=y_zero_point)
    return Match("QGemm", weight, fused, node.outputs[0], (node,))


qgemm_rule = Rule("qgemm_rule", MS_DOMAIN, "QGemm", _match)

FAMILY = Family(
    "QGemm",
    "com.microsoft's QGemm",
    "`QGemm` (com.microsoft)",
    "with int32 bias, alpha, transA, transB",
    (qgemm_rule,),
)
