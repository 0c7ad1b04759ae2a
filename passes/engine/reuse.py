"""How often a run uses each element of a weight: what decoding it has to be measured against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["reuse_of"]

Shape = tuple[int | None, ...]


def reuse_of(weight: ir.Value) -> int:
    """Return how often a run uses each element, at least: sizes that the model does not fix count once.

    Args:
        weight: what is multiplied with, in the form that its readers see.
    """
    return sum(_by(node, weight) for node in weight.consumers())


def _by(node: ir.Node, weight: ir.Value) -> int:
    shape = known_shape(node.outputs[0]) if node.outputs else None
    if node.op_type == "ConvTranspose":
        shape = known_shape(node.inputs[0])  # each place of the input meets the whole kernel
    if not shape or node.domain not in ("", "com.microsoft"):
        return 1
    if node.op_type in ("Conv", "ConvTranspose", "ConvInteger", "FusedConv"):
        return _count((shape[0], *shape[2:]))
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger"):
        batch = (known_shape(weight) or ())[:-2]
        return max(1, _count(shape[:-1]) // _count(batch))
    return 1


def _count(sizes: Shape) -> int:
    return math.prod(size or 1 for size in sizes)
