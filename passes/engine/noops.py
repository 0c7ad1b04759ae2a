"""Nodes that hand on a value as it is, which onnxruntime removes before it fuses, and what stands behind them.

Identity, Dropout in inference, a Cast to the type that its input has, a product with or quotient by 1, a sum with or
difference of 0, and a Transpose that undoes the one in front of it. All but the sum give each bit of their input; the
sum makes 0 of -0. ``ort_behaviour.REMOVES_NO_OPS``, ``ort_behaviour.CANCELS_TRANSPOSES``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mcd_graph.passes.engine.facts import (
    AttributeUnknownError,
    constant_array,
    get_input,
    int_attribute,
    ints_attribute,
    is_op,
    known_dtype,
    known_rank,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Readers", "only_reader", "readers_of", "source_of"]

#: Operators with the number that makes them hand on their first input, and whether the two may change places.
_NEUTRAL = {"Mul": (1, True), "Div": (1, False), "Add": (0, True), "Sub": (0, False)}
#: Those of them that give each bit of it.
_EXACT = ("Mul", "Div")


@dataclasses.dataclass(frozen=True)
class Readers:
    """Who reads a value, with those that hand it on left out.

    Attributes:
        uses: each reading node with the position of the input.
        between: the nodes that were left out, each behind those that it reads.
        is_output: the value, or what one of these nodes makes of it, is an output of the graph.
    """

    uses: tuple[tuple[ir.Node, int], ...]
    between: tuple[ir.Node, ...]
    is_output: bool

    @property
    def nodes(self) -> list[ir.Node]:
        """The different nodes that read the value."""
        return list(dict.fromkeys(node for node, _ in self.uses))


def _handed_on(node: ir.Node, *, exact: bool) -> ir.Value | None:
    """Return the value that is the first output of ``node`` as well, or ``None`` if it computes something."""
    if node.domain or not node.outputs:
        return None
    value = get_input(node, 0)
    try:
        if node.op_type in _NEUTRAL and not (exact and node.op_type not in _EXACT):
            return _beside_neutral(node)
        if value is None:
            return None
        if node.op_type == "Dropout":
            return value if _is_inference(node) else None
        if node.op_type == "Cast":
            return value if int_attribute(node, "to", 0) == known_dtype(value) else None
        if node.op_type == "Transpose":
            return _transposed_twice(node, value)
    except AttributeUnknownError:
        return None
    return value if node.op_type == "Identity" else None


def _beside_neutral(node: ir.Node) -> ir.Value | None:
    """Return what is multiplied by 1, or added to 0, if it keeps its shape."""
    number, either = _NEUTRAL[node.op_type]
    if len(node.inputs) != 2:
        return None
    for position in (1, 0) if either else (1,):
        array, value = constant_array(node.inputs[position]), node.inputs[1 - position]
        if array is None or value is None or array.size != 1 or array.dtype.kind not in "fiu" or array.item() != number:
            continue
        if array.ndim <= _least_rank(value):
            return value
    return None


def _least_rank(value: ir.Value, depth: int = 8) -> int:
    """Return how many dimensions a value has at least."""
    rank, producer = known_rank(value), value.producer()
    if rank is not None or producer is None or producer.domain or depth == 0:
        return rank or 0
    if producer.op_type == "MatMul":
        return 1 if (known_rank(get_input(producer, 1)) or 0) > 1 else 0
    first = get_input(producer, 0)
    if producer.op_type in ("Clip", "Dropout", "Identity", "Mul", "Relu") and first is not None and not value.index():
        return _least_rank(first, depth - 1)
    return 2 if producer.op_type == "Gemm" else 0


def _is_inference(node: ir.Node) -> bool:
    """Tell whether a Dropout drops nothing, and nobody reads what it would have dropped."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if int_attribute(node, "training_mode", 0):
        return False
    mode = get_input(node, 2)
    array = constant_array(mode)
    return mode is None or (array is not None and not array.any())


def _transposed_twice(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return what the Transpose in front of a Transpose reads, if the two together keep the order."""
    first = value.producer()
    if first is None or not is_op(first, "Transpose") or first.graph is not node.graph or first is node:
        return None
    one, other = (ints_attribute(each, "perm") for each in (first, node))
    if one is None and other is None:
        return get_input(first, 0)
    size = len(one or other or ())
    backwards = tuple(reversed(range(size)))
    one, other = one or backwards, other or backwards
    if len(one) != len(other) or not all(0 <= axis < size for axis in (*one, *other)):
        return None
    return get_input(first, 0) if all(one[axis] == index for index, axis in enumerate(other)) else None


def source_of(value: ir.Value, *, exact: bool = False) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """Return the value that is handed on as ``value``, and the nodes that do, the first one first.

    Args:
        value: where to start.
        exact: look through nothing that makes 0 of -0.
    """
    path: tuple[ir.Node, ...] = ()
    while (node := value.producer()) is not None and node not in path:
        before = None if value.index() else _handed_on(node, exact=exact)
        if before is None or (path and node.graph is not path[-1].graph):
            break
        value, path = before, (*_pair(node), *path)
    return value, path


def _pair(node: ir.Node) -> tuple[ir.Node, ...]:
    """Return a node that hands on a value, with the Transpose that it undoes."""
    value = get_input(node, 0)
    first = None if value is None or not is_op(node, "Transpose") else value.producer()
    return (node,) if first is None else (first, node)


def readers_of(value: ir.Value, *, exact: bool = False) -> Readers:
    """Return who reads a value, through the nodes of its producer's graph that hand it on.

    Args:
        value: the value.
        exact: look through nothing that makes 0 of -0.
    """
    producer = value.producer()
    graph = None if producer is None else producer.graph
    uses: list[tuple[ir.Node, int]] = []
    between: dict[ir.Node, None] = {}
    is_output = False
    waiting = [value]
    while waiting:
        current = waiting.pop(0)
        is_output = is_output or current.is_graph_output()
        for user, position in current.uses():
            if user in between:
                continue
            undoing = _undone_by(user, exact=exact) if user.graph is graph else []
            if undoing:
                between |= dict.fromkeys([user, *undoing])
                waiting += [node.outputs[0] for node in undoing]
            elif user.graph is graph and _handed_on(user, exact=exact) is current:
                between[user] = None
                waiting.append(user.outputs[0])
            else:
                uses.append((user, position))
    return Readers(tuple(uses), tuple(between), is_output)


def _undone_by(transpose: ir.Node, *, exact: bool) -> list[ir.Node]:
    """Return the Transposes that alone read a Transpose, if each undoes it."""
    if not is_op(transpose, "Transpose") or transpose.outputs[0].is_graph_output():
        return []
    users = transpose.outputs[0].consumers()
    value = get_input(transpose, 0)
    undo = all(is_op(user, "Transpose") and _handed_on(user, exact=exact) is value for user in users)
    return list(users) if undo else []


def only_reader(value: ir.Value, *, exact: bool = False) -> tuple[ir.Node | None, tuple[ir.Node, ...]]:
    """Return the node that alone reads ``value``, once or more, in the graph that computes it, and those in between."""
    producer, readers = value.producer(), readers_of(value, exact=exact)
    if producer is None or readers.is_output or len(readers.nodes) != 1 or readers.nodes[0].graph is not producer.graph:
        return None, ()
    return readers.nodes[0], readers.between
