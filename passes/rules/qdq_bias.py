"""The bias of a QDQ Gemm as int32, the way onnxruntime brings it there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import constant_array, float_attribute
from mcd_graph.passes.engine.match import NewConstant, Operand, Weight
from mcd_graph.passes.engine.noops import source_of
from mcd_graph.passes.engine.operands import quantization_column
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.qdq_pairs import Dequantized, dequantized_at

__all__ = ["integer_bias"]


def integer_bias(
    node: ir.Node, c: ir.Value, x: Dequantized, w: Dequantized, weight: Weight, *, alpha: float, requantized: bool
) -> Operand:
    """Return a Gemm's third input as int32, the way onnxruntime brings it there.

    ``ort_behaviour.QUANTIZES_FLOAT_BIAS``.
    """
    if alpha != 1 or float_attribute(node, "beta", 1.0) != 1:
        raise Refusal(
            ReasonCode.BIAS_SCALED,
            "it has a bias, and an alpha or beta that is not 1, so onnxruntime computes in float",
        )
    dequantized = dequantized_at(c, node)
    if dequantized is not None:
        if dequantized.dtype != ir.DataType.INT32:
            raise Refusal(
                ReasonCode.BIAS_NOT_INT32, "its bias is not quantised to int32, so onnxruntime computes in float"
            )
        return quantization_column(dequantized.value, weight.n)
    array, x_scale, w_scale = constant_array(source_of(c)[0]), constant_array(x.scale), constant_array(w.scale)
    if not requantized or array is None or array.ndim != 1 or array.dtype != np.float32:
        raise Refusal(ReasonCode.BIAS_NOT_INT32, "its bias is float, so onnxruntime computes in float")
    if x_scale is None or w_scale is None:
        raise Refusal(
            ReasonCode.BIAS_NOT_INT32, "its bias is float, and the scale to quantise it with is computed at run time"
        )
    if array.size != weight.n:
        raise Refusal(ReasonCode.BIAS_SHAPE, "its bias is not a vector over the columns")
    with np.errstate(all="ignore"):
        rounded = np.rint(array / (x_scale.reshape(()) * w_scale.reshape(-1)))
    if not np.all(np.abs(rounded) < 2.0**31):
        raise Refusal(ReasonCode.BIAS_RANGE, "its bias does not fit into int32")
    return NewConstant(rounded.astype(np.int32), f"{c.name}.int32")
