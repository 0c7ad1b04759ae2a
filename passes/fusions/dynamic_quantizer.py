"""Quantisers that belong to one node go into it.

onnxruntime makes one DynamicQuantizeMatMul of a DynamicQuantizeLinear and its multiplication where nobody else reads
what was quantised (``ort_behaviour.FUSES_DYNAMIC_QUANTIZERS``). In the same case MatmulCompressDequant takes the float
activation and quantises it itself, to the same bits. A quantiser with several readers stays: it does its work once for
all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes.engine.emit import place_operands, set_input
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.facts import get_input, is_op, known_dtype
from mcd_graph.passes.engine.match import NewNode, NewOutput
from mcd_graph.passes.fusions.protocol import Fusion

if TYPE_CHECKING:
    from mcd_graph.passes.engine.emit import Names

__all__ = ["FUSION", "absorb_quantizer", "quantizes_itself"]

#: The inputs that take the three outputs of DynamicQuantizeLinear.
_POSITIONS = tuple(INPUT_NAMES.index(name) for name in ("x1", "x1_scale", "x1_zero_point"))


def absorb_quantizer(node: ir.Node, *, in_function: bool) -> ir.Node | None:
    """Let a MatmulCompressDequant quantise its activation itself, if its quantiser serves nobody else.

    Args:
        node: the MatmulCompressDequant.
        in_function: it is inside a local function. Values have no types there, and without one nothing would tell
            that the activation is float.

    Returns:
        The DynamicQuantizeLinear that is without readers now, or ``None`` if nothing was changed.
    """
    x1 = get_input(node, 0)
    quantizer = None if x1 is None else x1.producer()
    if quantizer is None or not is_op(quantizer, "DynamicQuantizeLinear") or quantizer.graph is not node.graph:
        return None
    outputs = quantizer.outputs
    if [get_input(node, position) for position in _POSITIONS] != list(outputs):
        return None
    if any(output.is_graph_output() or len(output.uses()) != 1 for output in outputs):
        return None
    x = get_input(quantizer, 0)
    if x is None:
        return None
    if known_dtype(x) is None:
        if in_function:
            return None
        x.dtype = ir.DataType.FLOAT
    for position, value in zip(_POSITIONS, (x, None, None), strict=True):
        set_input(node, position, value)
    return quantizer


def quantizes_itself(node: ir.Node) -> bool:
    """Tell whether a node takes a float activation."""
    x1 = get_input(node, 0)
    return x1 is not None and known_dtype(x1) == ir.DataType.FLOAT


def expose_quantizer(node: ir.Node, names: Names) -> bool:
    """Put the DynamicQuantizeLinear back in front of a MatmulCompressDequant that does what it does.

    Returns:
        Whether there was one.
    """
    if not quantizes_itself(node):
        return False
    quantized = NewNode("DynamicQuantizeLinear", (get_input(node, 0),), num_outputs=3)
    values = place_operands(
        [NewOutput(quantized, index) for index in range(3)], node, names,
        in_function=False, base=node.name or node.op_type,
    )  # fmt: skip
    for position, value in zip(_POSITIONS, values, strict=True):
        set_input(node, position, value)
    return True


def _fuse(node: ir.Node, *, in_function: bool = False) -> list[ir.Node] | None:
    quantizer = absorb_quantizer(node, in_function=in_function)
    return None if quantizer is None else [quantizer]


FUSION = Fusion("DynamicQuantizeLinear", _fuse, expose_quantizer, Extent.NO_ELEMENTWISE, in_qdq=False)
