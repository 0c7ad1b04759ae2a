"""Reshape and Transpose around a multiplication go into its node: they are how the heads of an attention are split.

Behind the projections to queries, keys and values stand Reshape to (batch, length, heads, size) and Transpose to
(batch, heads, length, size), or for the keys to (batch, heads, size, length); in front of the projection back stand
Transpose and Reshape the other way round. MatmulCompressDequant takes the shapes and orders as ``x1_shape``,
``x1_perm``, ``y_shape`` and ``y_perm``, and writes its result where it belongs. They only move values, so no bit
changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes.engine.emit import set_input, take_over
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.facts import (
    AttributeUnknownError,
    get_input,
    int_attribute,
    ints_attribute,
    is_op,
    known_dtype,
    only_consumer,
)
from mcd_graph.passes.fusions.protocol import Fusion

if TYPE_CHECKING:
    from mcd_graph.passes.engine.emit import Names

__all__ = ["FUSION", "absorb_layout", "expose_layout"]

_X1_SHAPE, _Y_SHAPE, _X1_ZERO_POINT = (INPUT_NAMES.index(name) for name in ("x1_shape", "y_shape", "x1_zero_point"))

#: Swaps length and heads; its own inverse.
_HEADS = (0, 2, 1, 3)
#: The same, with the length last.
_HEADS_TRANSPOSED = (0, 2, 3, 1)


def absorb_layout(node: ir.Node) -> list[ir.Node]:
    """Let a MatmulCompressDequant do what Reshape and Transpose behind it do, and Transpose and Reshape in front.

    Those in front only if the node quantises its activation itself, and either only if nobody else reads what is in
    between.

    Returns:
        The nodes that are without readers now, each before those that it read.
    """
    return [*_absorb_behind(node), *_absorb_in_front(node)]


def _absorb_behind(node: ir.Node) -> list[ir.Node]:
    y = node.outputs[0]
    reshape = _only_reader(y, "Reshape")
    transpose = None if reshape is None else _only_reader(reshape.outputs[0], "Transpose")
    if reshape is None or transpose is None or (shape := _shape(reshape)) is None:
        return []
    perm = _perm(transpose)
    if perm not in (_HEADS, _HEADS_TRANSPOSED):
        return []
    graph = node.graph
    if graph is None:
        return []
    # The shape may be computed between the two.
    graph.remove(node)
    reshape.prepend(node)
    _set(node, _Y_SHAPE, shape, "y_perm", perm)
    take_over(transpose.outputs[0], y)
    return [transpose, reshape]


def _absorb_in_front(node: ir.Node) -> list[ir.Node]:
    x1 = get_input(node, 0)
    if x1 is None or known_dtype(x1) != ir.DataType.FLOAT or get_input(node, _X1_ZERO_POINT) is not None:
        return []
    reshape = _only_producer(x1, "Reshape", node)
    between = None if reshape is None else get_input(reshape, 0)
    transpose = None if reshape is None or between is None else _only_producer(between, "Transpose", reshape)
    if reshape is None or transpose is None or (shape := _shape(reshape)) is None or _perm(transpose) != _HEADS:
        return []
    heads = get_input(transpose, 0)
    if heads is None or known_dtype(heads) not in (None, ir.DataType.FLOAT):
        return []
    heads.dtype = ir.DataType.FLOAT
    node.replace_input_with(0, heads)
    _set(node, _X1_SHAPE, shape, "x1_perm", _HEADS)
    return [reshape, transpose]


def expose_layout(node: ir.Node, names: Names) -> bool:
    """Put Reshape and Transpose back around a MatmulCompressDequant that does what they do.

    Returns:
        Whether there were any.

    Raises:
        AttributeUnknownError: ``x1_perm`` or ``y_perm`` is no list of integers.
    """
    x1, x1_shape, y_shape = (get_input(node, position) for position in (0, _X1_SHAPE, _Y_SHAPE))
    x1_perm, y_perm = ints_attribute(node, "x1_perm"), ints_attribute(node, "y_perm")
    base = node.name or node.op_type
    exposed = False
    if x1 is not None and x1_shape is not None and x1_perm is not None:
        transpose = ir.node("Transpose", [x1], {"perm": x1_perm}, name=names.unique(f"{base}.x1.Transpose"))
        reshape = ir.node("Reshape", [transpose.outputs[0], x1_shape], name=names.unique(f"{base}.x1.Reshape"))
        for made in (transpose, reshape):
            made.outputs[0].name, made.outputs[0].type = names.unique(f"{made.name}.output"), x1.type
            node.prepend(made)
        node.replace_input_with(0, reshape.outputs[0])
        _set(node, _X1_SHAPE, None, "x1_perm", None)
        exposed = True
    if y_shape is not None and y_perm is not None:
        y, moved = node.outputs[0], ir.Value()
        take_over(y, moved)
        y.name, y.shape = names.unique(f"{base}.result"), None
        reshape = ir.node("Reshape", [y, y_shape], name=names.unique(f"{base}.Reshape"))
        reshape.outputs[0].name, reshape.outputs[0].type = names.unique(f"{reshape.name}.output"), y.type
        transpose = ir.node(
            "Transpose", [reshape.outputs[0]], {"perm": y_perm}, outputs=[moved], name=names.unique(f"{base}.Transpose")
        )
        node.append([reshape, transpose])
        _set(node, _Y_SHAPE, None, "y_perm", None)
        exposed = True
    return exposed


def _set(node: ir.Node, position: int, shape: ir.Value | None, name: str, perm: tuple[int, ...] | None) -> None:
    """Set, or remove, a shape and the order that goes with it."""
    set_input(node, position, shape)
    if perm is None:
        del node.attributes[name]
    else:
        node.attributes.add(ir.AttrInt64s(name, list(perm)))


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the node of that type that alone reads ``value``, as its first input and no other."""
    producer = value.producer()
    reader = None if producer is None else only_consumer(value, producer.graph)
    if reader is None or not is_op(reader, op_type) or len(value.uses()) != 1 or get_input(reader, 0) is not value:
        return None
    return reader


def _only_producer(value: ir.Value, op_type: str, reader: ir.Node) -> ir.Node | None:
    """Return the node of that type that computes ``value`` for ``reader`` alone."""
    producer = value.producer()
    if producer is None or not is_op(producer, op_type) or producer.graph is not reader.graph:
        return None
    return producer if not value.is_graph_output() and len(value.uses()) == 1 else None


def _shape(reshape: ir.Node) -> ir.Value | None:
    """Return the shape that a Reshape makes, unless a 0 means something else in it than it does to the operator."""
    try:
        return None if int_attribute(reshape, "allowzero", 0) else get_input(reshape, 1)
    except AttributeUnknownError:
        return None


def _perm(transpose: ir.Node) -> tuple[int, ...] | None:
    try:
        return ints_attribute(transpose, "perm")
    except AttributeUnknownError:
        return None


def _fuse(node: ir.Node, *, in_function: bool = False) -> list[ir.Node] | None:
    return None if in_function else absorb_layout(node) or None


FUSION = Fusion("Reshape and Transpose", _fuse, expose_layout, Extent.NO_ELEMENTWISE)
