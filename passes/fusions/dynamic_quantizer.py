"""Quantisers that belong to one node go into it.

onnxruntime makes one DynamicQuantizeMatMul of a DynamicQuantizeLinear and its multiplication where nobody else reads
what was quantised. In the same case MatmulCompressDequant takes the float activation and quantises it itself, to the
same bits. A quantiser with several readers stays: it does its work once for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes.engine.emit import set_input
from mcd_graph.passes.engine.facts import get_input, is_op, known_dtype
from mcd_graph.passes.engine.match import NewNode

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = ["absorb_quantiser", "quantiser_of"]

#: The inputs that take the three outputs of DynamicQuantizeLinear.
_POSITIONS = tuple(INPUT_NAMES.index(name) for name in ("x1", "x1_scale", "x1_zero_point"))


def absorb_quantiser(node: ir.Node, *, in_function: bool) -> ir.Node | None:
    """Let a MatmulCompressDequant quantise its activation itself, if its quantiser serves nobody else.

    Args:
        node: the MatmulCompressDequant.
        in_function: it is inside a local function. Values have no types there, and without one nothing would tell
            that the activation is float.

    Returns:
        The DynamicQuantizeLinear that is without readers now, or ``None`` if nothing was changed.
    """
    x1 = get_input(node, 0)
    quantiser = None if x1 is None else x1.producer()
    if quantiser is None or not is_op(quantiser, "DynamicQuantizeLinear") or quantiser.graph is not node.graph:
        return None
    outputs = quantiser.outputs
    if [get_input(node, position) for position in _POSITIONS] != list(outputs):
        return None
    if any(output.is_graph_output() or len(output.uses()) != 1 for output in outputs):
        return None
    x = get_input(quantiser, 0)
    if x is None:
        return None
    if known_dtype(x) is None:
        if in_function:
            return None
        x.dtype = ir.DataType.FLOAT
    for position, value in zip(_POSITIONS, (x, None, None), strict=True):
        set_input(node, position, value)
    return quantiser


def quantiser_of(node: ir.Node) -> NewNode | None:
    """Return the DynamicQuantizeLinear that a node with a float activation stands for; ``None`` for other nodes."""
    x1: Operand = get_input(node, 0)
    if not isinstance(x1, ir.Value) or known_dtype(x1) != ir.DataType.FLOAT:
        return None
    return NewNode("DynamicQuantizeLinear", (x1,), num_outputs=3)
