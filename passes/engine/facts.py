"""What a model says of a value or a node: operators, constants, shapes, types, attributes, readers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.constants import constant_tensor
from mcd_graph.passes.engine.shapes import inferred_dtype, inferred_shape
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = [
    "MS_DOMAIN",
    "AttributeUnknownError",
    "all_nodes",
    "called_functions",
    "calls_of",
    "constant_array",
    "constant_tensor",
    "dimensions",
    "float_attribute",
    "get_input",
    "graph_of",
    "home_of",
    "int_attribute",
    "ints_attribute",
    "is_op",
    "known_dtype",
    "known_rank",
    "known_shape",
    "only_consumer",
    "said_dtype",
    "shape_source",
    "shape_text",
    "string_attribute",
]

#: Operators whose first output is of the type of their first input.
_OF_FIRST_INPUTS_TYPE = frozenset(
    ("Add", "Clip", "Div", "Dropout", "Gemm", "Identity", "MatMul", "Mul", "Relu", "Reshape", "Sub", "Transpose")
)

#: Domain of onnxruntime's own operators.
MS_DOMAIN = "com.microsoft"


def is_op(node: ir.Node | None, op_type: str, domain: str = "") -> bool:
    """Tell whether ``node`` is the operator ``domain::op_type`` (onnx_ir writes ``ai.onnx`` as ``""``)."""
    return node is not None and node.op_type == op_type and node.domain == domain


def get_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return input ``index`` of ``node``; ``None`` when it is absent or left empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def dimensions(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of a constant as plain integers."""
    return tuple(tensor.shape.numpy())


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the numbers behind a constant value, or ``None`` when it is not constant."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def known_shape(value: ir.Value | None, depth: int = 8) -> tuple[int | None, ...] | None:
    """Return the shape of ``value`` with ``None`` for dimensions not known, or ``None`` when the rank is not known.

    A constant's own shape counts, whatever the model says of it. Besides what the model says, it looks through the
    handful of operators that compute scales: a scale that DynamicQuantizeLinear computes is a scalar, whatever the
    model forgot to mention. ``depth`` bounds that search.
    """
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return dimensions(tensor)
    shape = inferred_shape(value)
    if shape is not None:
        return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in shape)  # some write -1
    node = value.producer()
    if node is None or depth == 0:
        return None
    if node.op_type == "DynamicQuantizeLinear" and node.domain == "" and value.index():
        return ()
    if (other := _of_same_shape(value)) is not None:
        return known_shape(other, depth - 1)
    if node.domain == "" and node.op_type in ("Mul", "Div", "Add") and len(node.inputs) == 2:
        left, right = (known_shape(operand, depth - 1) for operand in node.inputs)
        return None if left is None or right is None else _broadcast(left, right)
    return None


def _of_same_shape(value: ir.Value) -> ir.Value | None:
    """Return the value whose shape ``value`` has because of the operator that computes it."""
    node = value.producer()
    if node is None or node.domain or value.index():
        return None
    keep = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
    return get_input(node, 0) if node.op_type in keep else None


def shape_source(value: ir.Value, depth: int = 8) -> ir.Value:
    """Return the value that gives ``value`` its shape, at most ``depth`` operators away, or ``value`` itself."""
    while depth and (other := _of_same_shape(value)) is not None:
        value, depth = other, depth - 1
    return value


def _broadcast(left: tuple[int | None, ...], right: tuple[int | None, ...]) -> tuple[int | None, ...]:
    rank = max(len(left), len(right))
    padded = ((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right)
    return tuple(b if a == 1 else a if b in (1, a) else None for a, b in zip(*padded, strict=True))


def known_rank(value: ir.Value | None) -> int | None:
    """Return the number of dimensions of ``value``, or ``None`` when it is not known."""
    shape = known_shape(value)
    return None if shape is None else len(shape)


def known_dtype(value: ir.Value | None, depth: int = 8) -> ir.DataType | None:
    """Return the element type of ``value`` if the model says it or the operators that compute it imply it.

    ``depth`` bounds the search.
    """
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.dtype
    dtype = inferred_dtype(value)
    if dtype is not None:
        return dtype
    node = value.producer()
    if is_op(node, "DynamicQuantizeLinear"):
        return ir.DataType.FLOAT if value.index() == 1 else ir.DataType.UINT8
    if is_op(node, "QuantizeLinear") and node is not None:
        zero_point = get_input(node, 2)
        return said_dtype(node) if zero_point is None else known_dtype(zero_point)
    if node is None or node.domain or value.index() or depth == 0:
        return None
    if node.op_type == "DequantizeLinear":
        return _dequantized_dtype(node)
    return known_dtype(get_input(node, 0), depth - 1) if node.op_type in _OF_FIRST_INPUTS_TYPE else None


def _dequantized_dtype(node: ir.Node) -> ir.DataType | None:
    """Return the type that a DequantizeLinear makes: that of its scale, unless it says another."""
    try:
        said = int_attribute(node, "output_dtype", 0)
        return ir.DataType(said) if said else known_dtype(get_input(node, 1))
    except (AttributeUnknownError, ValueError):
        return None


def said_dtype(node: ir.Node) -> ir.DataType | None:
    """Return the type that a QuantizeLinear without zero point makes."""
    try:
        return ir.DataType(int_attribute(node, "output_dtype", 0) or int(ir.DataType.UINT8))
    except (AttributeUnknownError, ValueError):
        return None


class AttributeUnknownError(Refusal):
    """An attribute that a rule depends on has no value yet, or one of another type; the text says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(ReasonCode.ATTRIBUTE_UNKNOWN, reason)


def _attribute(node: ir.Node, name: str, type_: ir.AttributeType) -> ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.is_ref():
        raise AttributeUnknownError(f"attribute {name} of {node.op_type} is set by those who call the function")
    if attribute is not None and attribute.type != type_:
        raise AttributeUnknownError(f"attribute {name} of {node.op_type} is not of type {type_.name}")
    return attribute


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or ``default`` when the node does not have it.

    Raises:
        AttributeUnknownError: it is an argument of the function around the node, or not an integer. This ends a
            rule's match: the node is kept for that reason.
    """
    attribute = _attribute(node, name, ir.AttributeType.INT)
    return default if attribute is None else attribute.as_int()


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """Return a string attribute, or ``default``; see :func:`int_attribute`."""
    attribute = _attribute(node, name, ir.AttributeType.STRING)
    return default if attribute is None else attribute.as_string()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute, or ``default`` when the node does not have it; see :func:`int_attribute`."""
    attribute = _attribute(node, name, ir.AttributeType.FLOAT)
    return default if attribute is None else attribute.as_float()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return a list of integers, or ``None`` when the node does not have it; see :func:`int_attribute`."""
    attribute = _attribute(node, name, ir.AttributeType.INTS)
    return None if attribute is None else tuple(attribute.as_ints())


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as messages write it."""
    return "not known" if shape is None else "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"


def only_consumer(value: ir.Value, graph: ir.Graph | ir.Function | None) -> ir.Node | None:
    """Return the node that alone uses ``value``, once or more, within the same graph; else ``None``."""
    if value.is_graph_output():
        return None
    consumers = value.consumers()
    if len(consumers) != 1 or consumers[0].graph is not graph:
        return None
    return consumers[0]


def all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Function | None]]:
    """Yield every node, those of subgraphs included, with the function that it stands in."""
    for node in model.graph.all_nodes():
        yield node, None
    for function in model.functions.values():
        for node in function.all_nodes():
            yield node, function


def called_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the local functions that the graph calls, itself or in other functions."""
    called: set[ir.OperatorIdentifier] = set()
    waiting = [node.op_identifier() for node in model.graph.all_nodes()]
    while waiting:
        name = waiting.pop()
        function = model.functions.get(name)
        if function is not None and name not in called:
            called.add(name)
            waiting += [node.op_identifier() for node in function.all_nodes()]
    return called


def calls_of(model: ir.Model) -> Counter[ir.OperatorIdentifier]:
    """Return how many calls of each local function are left when each is replaced by what it stands for."""

    def calls_in(owner: ir.Graph | ir.Function) -> Counter[ir.OperatorIdentifier]:
        return Counter(name for node in owner.all_nodes() if (name := node.op_identifier()) in model.functions)

    inside = {name: calls_in(function) for name, function in model.functions.items()}
    counts: Counter[ir.OperatorIdentifier] = Counter()
    level = calls_in(model.graph)
    for _ in model.functions:  # deeper than that go circles only
        counts += level
        deeper: Counter[ir.OperatorIdentifier] = Counter()
        for name, count in level.items():
            deeper += Counter({called: count * times for called, times in inside[name].items()})
        level = deeper
    return counts


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph, of a model, a subgraph or a function, that holds ``node``."""
    if node.graph is None:
        raise ValueError(f"node {node.name} is in no graph any more: the model changed since it was matched")
    return node.graph


def home_of(value: ir.Value) -> ir.Graph:
    """Return the graph, of a model, a subgraph or a function, that ``value`` belongs to."""
    if value.graph is None:
        raise ValueError(f"value {value.name} is in no graph any more: the model changed since it was matched")
    return value.graph
