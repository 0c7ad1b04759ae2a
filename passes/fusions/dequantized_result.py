"""A DequantizeLinear behind a requantised result goes into the node that computes it.

QLinearMatMul and DequantizeLinear become one MatmulCompressDequant with ``y_scale``: it rounds to eight bits and
widens again, to the same floats. onnxruntime, when it optimises, may make something else of a DequantizeLinear: an
integer operator together with a QuantizeLinear further on, or one that is moved behind operators that only move
values. There it stays, so that both models go on to change alike. It stays as well where several nodes read it:
onnxruntime gives each reader a DequantizeLinear of its own, which keeps it from fusing GELU, LayerNormalization and
the like behind it, whose readers have to share one value (``ort_behaviour.COPIES_SHARED_DEQUANTIZE``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes import ort_behaviour
from mcd_graph.passes.engine.emit import set_input, take_over
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.facts import (
    MS_DOMAIN,
    AttributeUnknownError,
    constant_array,
    get_input,
    int_attribute,
    is_op,
    known_dtype,
    known_shape,
    only_consumer,
)
from mcd_graph.passes.fusions.protocol import Fusion

if TYPE_CHECKING:
    from mcd_graph.passes.engine.emit import Names

__all__ = ["FUSION", "absorb_dequantizer", "expose_dequantizer"]

_Y_ZERO_POINT, _Y_SCALE = (INPUT_NAMES.index(name) for name in ("y_zero_point", "y_scale"))

#: Operators that onnxruntime joins with a DequantizeLinear in front, or moves in front of it.
_JOINED = ort_behaviour.JOINS_DEQUANTIZE.operators


def absorb_dequantizer(node: ir.Node) -> ir.Node | None:
    """Let a MatmulCompressDequant with a requantised result make floats of it, where a DequantizeLinear would.

    Returns:
        The DequantizeLinear that is without readers now, or ``None`` if nothing was changed.
    """
    y, zero_point = node.outputs[0], get_input(node, _Y_ZERO_POINT)
    user = only_consumer(y, node.graph)
    if zero_point is None or user is None or len(y.uses()) != 1 or get_input(user, 0) is not y:
        return None
    if not (is_op(user, "DequantizeLinear") or is_op(user, "DequantizeLinear", MS_DOMAIN)):
        return None
    scale = get_input(user, 1)
    if scale is None or known_shape(scale) not in ((), (1,)) or known_dtype(scale) != ir.DataType.FLOAT:
        return None
    floats = user.outputs[0]
    if len(floats.uses()) + floats.is_graph_output() > 1:
        return None
    if not _same_zero_point(zero_point, get_input(user, 2)) or _joined(floats):
        return None
    try:
        if int_attribute(user, "block_size", 0) or int_attribute(user, "output_dtype", 0) not in (0, ir.DataType.FLOAT):
            return None
    except AttributeUnknownError:
        return None
    set_input(node, _Y_SCALE, scale)
    node.attributes.add(ir.AttrInt64("output_type", int(ir.DataType.FLOAT)))
    take_over(floats, y)
    return user


def expose_dequantizer(node: ir.Node, names: Names) -> bool:
    """Put the DequantizeLinear back behind a MatmulCompressDequant that does what it does.

    Returns:
        Whether there was one.
    """
    scale, zero_point = get_input(node, _Y_SCALE), get_input(node, _Y_ZERO_POINT)
    if scale is None or zero_point is None:
        return False
    base, result, floats = node.name or node.op_type, node.outputs[0], ir.Value()
    take_over(result, floats)
    result.name, result.type = names.unique(f"{base}.quantised"), None
    if (dtype := known_dtype(zero_point)) is not None:
        result.dtype = dtype
    made = ir.node(
        "DequantizeLinear",
        [result, scale, zero_point],
        outputs=[floats],
        name=names.unique(f"{base}.DequantizeLinear"),
    )
    node.append(made)
    set_input(node, _Y_SCALE, None)
    node.attributes.pop("output_type", None)
    return True


def _same_zero_point(ours: ir.Value, theirs: ir.Value | None) -> bool:
    if ours is theirs:
        return True
    left, right = constant_array(ours), constant_array(theirs)
    if left is None or left.size != 1:
        return False
    if theirs is None:
        return not left.any()
    return right is not None and right.size == 1 and left.dtype == right.dtype and left.item() == right.item()


def _joined(value: ir.Value) -> bool:
    """Tell whether onnxruntime may do something with the DequantizeLinear that computes ``value``."""
    for user in value.consumers():
        readers = (reader for output in user.outputs for reader in output.consumers())
        if user.op_type in _JOINED or any(reader.op_type == "QuantizeLinear" for reader in readers):
            return True
    return False


def _fuse(node: ir.Node, *, in_function: bool = False) -> list[ir.Node] | None:
    dequantizer = None if in_function else absorb_dequantizer(node)
    return None if dequantizer is None else [dequantizer]


FUSION = Fusion("DequantizeLinear", _fuse, expose_dequantizer, Extent.NO_ELEMENTWISE, in_qdq=False, in_pattern=True)
