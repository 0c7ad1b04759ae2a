"""Every rule, so that planning, the passes and inspection know the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcd_graph.passes.rules.matmul_integer import matmul_integer_rule
from mcd_graph.passes.rules.matmul_integer_to_float import dynamic_quantize_matmul_rule, matmul_integer_to_float_rule
from mcd_graph.passes.rules.pointwise_conv import conv_integer_rule, qlinear_conv_rule
from mcd_graph.passes.rules.qdq_matmul import gemm_qdq_rule, matmul_qdq_rule
from mcd_graph.passes.rules.qgemm import qgemm_rule
from mcd_graph.passes.rules.qlinear_matmul import qlinear_matmul_rule

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Rule

__all__ = ["ALL_RULES", "CONVOLUTION_RULES"]

#: Every rule, in the order in which the families are described. No two start from the same operator.
ALL_RULES: tuple[Rule, ...] = (
    matmul_integer_rule,
    qlinear_matmul_rule,
    matmul_integer_to_float_rule,
    dynamic_quantize_matmul_rule,
    qgemm_rule,
    matmul_qdq_rule,
    gemm_qdq_rule,
)

#: Convolutions that are multiplications, for those who ask for them.
CONVOLUTION_RULES: tuple[Rule, ...] = (conv_integer_rule, qlinear_conv_rule)
