"""QLinearMatMul: quantised in, quantised out.

::

    y = QLinearMatMul(x1, x1_scale, x1_zp, W, w_scale, w_zp, y_scale, y_zp)
    ->
    y = MatmulCompressDequant(x1, W', (x1_scale * w_scale) / y_scale, x1_zp, w_zp, y_zp)

==============================  ======================================================================================
accepted                        int8 or uint8 activations, weights and results; weight scale and zero point for the
                                whole matrix or per column; float32 scales, constant or computed at run time;
                                constant float16 scales
kept, with the reason           weights that are not constant int8 or uint8 matrices; an activation scale or zero
                                point per row; float16 scales computed at run time; 8-bit float types
==============================  ======================================================================================

onnxruntime folds the three scales in float32, multiplies the int32 sum with the result, clamps, rounds half to even
and adds the zero point; the operator does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import get_input
from mcd_graph.passes.engine.match import Family, Match, Rule
from mcd_graph.passes.engine.operands import find_weight
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import fold_scales, fuse

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FAMILY"]


def _match(node: ir.Node) -> Match:
    x1, x1_scale, x1_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point = (
        get_input(node, index) for index in range(8)
    )
    weight = find_weight(w)
    if x1 is None or x1_scale is None or w_scale is None or y_scale is None or y_zero_point is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "an input that QLinearMatMul needs is missing")
    scale = fold_scales(x1_scale, w_scale, y_scale, n=weight.n, float16=True)
    fused = fuse(x1, x1_zero_point, weight, w_zero_point, scale, y_zero_point=y_zero_point)
    return Match("QLinearMatMul", weight, fused, node.outputs[0], (node,))


qlinear_matmul_rule = Rule("qlinear_matmul_rule", "", "QLinearMatMul", _match)

FAMILY = Family(
    "QLinearMatMul",
    "QLinearMatMul",
    "`QLinearMatMul` [`DequantizeLinear`]",
    "with its requantisation, and its dequantisation where onnxruntime would not make something else of it",
    (qlinear_matmul_rule,),
)
