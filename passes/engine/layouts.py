"""Says what an optimised model computes whichever layout its values have, to compare it where layouts change."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx

from mcd_graph.model.walk import graphs_of
from mcd_graph.passes.engine.optimized import nodes_of
from mcd_graph.passes.engine.view import EXACT, View, describe, is_default, quantizers_of, site_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcd_graph.passes.engine.optimized import Optimized

__all__ = ["computing", "summing"]

#: Operators that add floats up along dimensions, in an order that depends on where these are.
_SUMMING = frozenset((
    *("AveragePool", "Conv", "CumSum", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "GlobalAveragePool"),
    *("GroupNorm", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "MatMul"),
    *("MeanVarianceNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare", "SimplifiedLayerNormalization", "SkipLayerNormalization"),
    "SkipSimplifiedLayerNormalization",
))  # fmt: skip


def computing(optimized: Optimized) -> Counter[str]:
    """Return what the nodes of an optimised model compute, but for lowered ones and those that are exact in any layout.

    Their attributes and integer constants tell along which dimensions; other constants have those of the layout. Exact
    nodes count where they round what is widened again: onnxruntime may leave the name of a value to what it rounds.
    """
    view = View(optimized.graph)
    any_layout = (node.op_type in EXACT or node.op_type.startswith("QLinear") for node in view.nodes)
    computed = _along_dimensions(
        optimized,
        (node for node, exact in zip(view.nodes, any_layout, strict=True) if not exact and site_of(node) is None),
    )
    widened = (quantizers_of(node.output[0], view) for node in view.nodes if node.op_type == "DequantizeLinear")
    return computed + Counter(f"rounded {parameters}" for parameters in widened if parameters)


def summing(optimized: Optimized) -> Counter[str]:
    """Return what the nodes of an optimised model compute that add floats up, and along which dimensions."""
    return _along_dimensions(optimized, (node for node in nodes_of(optimized) if node.op_type in _SUMMING))


def _along_dimensions(optimized: Optimized, nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
    """Return what nodes compute by their attributes and integer constants, whatever values they read."""
    axes = {
        tensor.name: onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
        for graph in graphs_of(optimized.graph)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and not tensor.external_data
    }
    ranks = _ranks(optimized)

    def described(node: onnx.NodeProto) -> str:
        copy, rank = onnx.NodeProto(), next((ranks[name] for name in node.input if name in ranks), 0)
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.name in ("axes", "axis") and not is_default(node, attribute):
                attribute.i = _from_the_front(attribute.i, rank)
                attribute.ints[:] = [_from_the_front(each, rank) for each in attribute.ints]
        along = {name: str([_from_the_front(each, rank) for each in axes.get(name, ())]) for name in node.input}
        return describe(copy, along)

    return Counter(map(described, nodes))


def _from_the_front(axis: int, rank: int) -> int:
    """Return the number of a dimension counted from the first, where it is counted from the last; onnxruntime mixes."""
    return axis + rank if axis < 0 else axis


def _ranks(optimized: Optimized) -> dict[str, int]:
    """Return how many dimensions values have, as far as onnxruntime says."""
    values = (
        value
        for graph in graphs_of(optimized.graph)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    )
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}
