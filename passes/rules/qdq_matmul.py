"""MatMul and Gemm between DequantizeLinear and QuantizeLinear ("QDQ"), as onnxruntime runs them when it optimises.

Taken literally, such a graph multiplies floats. onnxruntime's graph optimiser makes integer kernels of it, and the
rewrite reproduces those, byte for byte. Where the optimiser would leave the multiplication in float, it is kept.

::

    MatMul(DQ(x1), DQ(W)) -> Q        as QLinearMatMul:  requantised with x1_scale * w_scale / y_scale
    MatMul(DQ(x1), DQ(W))             as MatMulIntegerToFloat:  float with x1_scale * w_scale
    MatMul(DQ(x1), DQ(W)) + C -> Q    as the Gemm that onnxruntime makes of it, for matrices
    Gemm(DQ(x1), DQ(W), DQ(C)) -> Q   as QGemm:  C is added to the int32 sum
    Gemm(DQ(x1), DQ(W), DQ(C))        as QGemm with a float result
    Gemm(DQ(x1), DQ(W), C) -> Q       C is brought to int32: round(C / (x1_scale * w_scale)), as onnxruntime 1.21
                                      and later do (1.20 computes in float)

==============================  ======================================================================================
accepted                        uint8 and int8 activations, weights per tensor or per column, transA, transB, alpha;
                                a Transpose between the weight's DequantizeLinear and the multiplication; a Relu in
                                front of the QuantizeLinear that its saturation makes superfluous; Reshape, Transpose,
                                Squeeze, Unsqueeze, Slice in front of the QuantizeLinear, past which it is moved
kept, with the reason           weights alone quantised; scales per row; 4- and 16-bit types; results that are used
                                as float beside the QuantizeLinear; other Relu and Clip nodes behind; a float Gemm
                                bias without QuantizeLinear; an Add behind that may be fused into a float Gemm;
                                int8 activations and results that are shared (onnxruntime for x86 makes uint8 of the
                                others first, and computes these in float); two QuantizeLinear in a row
==============================  ======================================================================================
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from mcd_graph.passes.engine.facts import float_attribute, get_input, int_attribute, known_dtype
from mcd_graph.passes.engine.match import Family, Fused, Match, NewNode, NewOutput, Operand, Result, Rule, Weight
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.qdq_bias import integer_bias
from mcd_graph.passes.rules.qdq_destination import Quantized, Requantization, destination, output_parameters
from mcd_graph.passes.rules.qdq_operands import check_activation, find_operands
from mcd_graph.passes.rules.scales import fold_scales, fuse, require_matrix

__all__ = ["FAMILY"]


def _match_matmul(node: ir.Node) -> Match | None:
    return _match(node, transpose_x=False, transpose_w=False, alpha=1.0, c=None)


def _match_gemm(node: ir.Node) -> Match | None:
    return _match(
        node,
        transpose_x=bool(int_attribute(node, "transA", 0)),
        transpose_w=bool(int_attribute(node, "transB", 0)),
        alpha=float_attribute(node, "alpha", 1.0),
        c=get_input(node, 2),
    )


def _match(node: ir.Node, *, transpose_x: bool, transpose_w: bool, alpha: float, c: ir.Value | None) -> Match | None:
    found = find_operands(node, transpose_w)
    if found is None:
        return None
    x, w, weight = found
    check_activation(x)
    quantized = destination(node, weight.n)
    if known_dtype(x.scale) == ir.DataType.FLOAT16:
        raise Refusal(ReasonCode.SCALE_TYPE, "its scales are float16, so onnxruntime computes in float")
    y = None if quantized is None else output_parameters(quantized)
    if y is None:
        require_matrix(weight, w.scale)
    scale = fold_scales(x.scale, w.scale, None if y is None else y.scale, alpha=alpha, n=weight.n)
    if quantized is not None and quantized.bias is not None:
        c = quantized.bias
    bias = None if c is None else integer_bias(node, c, x, w, weight, alpha=alpha, requantized=quantized is not None)
    x1: Operand = x.value
    if transpose_x:
        x1 = NewOutput(NewNode("Transpose", (x1,), {"perm": [1, 0]}))
    fused = fuse(x1, x.zero_point, weight, w.zero_point, scale, bias=bias)
    if quantized is None or y is None:
        return Match(f"DequantizeLinear+{node.op_type}", weight, fused, node.outputs[0], (node,), optimized=True)
    return _requantized(
        node, weight, dataclasses.replace(fused, y_zero_point=y.zero_point, output_type=None), quantized, y
    )


def _requantized(node: ir.Node, weight: Weight, fused: Fused, quantized: Quantized, y: Requantization) -> Match:
    pattern = f"DequantizeLinear+{node.op_type}"
    if not quantized.moved:
        nodes = (node, *quantized.between, quantized.node)
        pattern = "+".join([pattern, *(each.op_type for each in nodes[1:])])
        return Match(pattern, weight, fused, quantized.node.outputs[0], nodes, optimized=True)
    restored = NewNode("DequantizeLinear", (Result(), y.scale, y.zero_point))
    pattern = f"{pattern}+QuantizeLinear+DequantizeLinear"
    return Match(pattern, weight, fused, node.outputs[0], (node,), NewOutput(restored), optimized=True)


matmul_qdq_rule = Rule("matmul_qdq_rule", "", "MatMul", _match_matmul, "DequantizeLinear+MatMul")
gemm_qdq_rule = Rule("gemm_qdq_rule", "", "Gemm", _match_gemm, "DequantizeLinear+Gemm")

FAMILY = Family(
    "QdqMatMul",
    "MatMul and Gemm between DequantizeLinear and QuantizeLinear",
    "`DequantizeLinear` → `MatMul` or `Gemm` [→ `QuantizeLinear`]",
    "with int32 or float bias, superfluous `Relu`",
    (matmul_qdq_rule, gemm_qdq_rule),
)
