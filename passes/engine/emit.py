"""Changing a model: the one builder of compressed nodes, and what places and removes nodes and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.registry import spec_of
from mcd_graph.operators.spec import DOMAIN
from mcd_graph.passes.engine.facts import constant_array, dimensions, graph_of, known_dtype
from mcd_graph.passes.engine.match import NewConstant, NewNode, NewOutput, Result
from mcd_graph.passes.engine.shapes import inferred_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    import numpy as np

    from mcd_graph.operators.spec import OperatorSpec
    from mcd_graph.passes.engine.match import Match, Operand, Rule

__all__ = [
    "OPTIMIZED",
    "OPTIMIZED_KEY",
    "RULE_KEY",
    "Names",
    "as_tensor",
    "build",
    "metadata_beside_names",
    "place_constant",
    "place_operands",
    "remove_dead",
    "set_input",
    "sort_constants",
    "take_over",
]

#: Metadata key on every new node: the rule that made it.
RULE_KEY = "mcd.rule"

#: Metadata key on nodes that compute what onnxruntime does with the original when it optimises, not without.
OPTIMIZED_KEY = "mcd.reproduces"

OPTIMIZED = "optimised"

#: Metadata key on every new node: what viewers that do not know its operator call its inputs (Netron).
_INPUT_NAMES_KEY = "input_names"


class Names:
    """Hands out value and node names that are used nowhere else in the model, subgraphs and functions included."""

    def __init__(self, model: ir.Model) -> None:
        self._used: set[str] = set()
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            for inner in (graph, *graph.subgraphs()):
                values: list[ir.Value] = [*inner.inputs, *inner.initializers.values()]
                for node in inner:
                    self._used.add(node.name or "")
                    values.extend(node.outputs)
                self._used.update(value.name or "" for value in values)

    def unique(self, base: str) -> str:
        """Return ``base``, or ``base_1``, ``base_2``, … when it is taken, and take it."""
        name, count = base, 0
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name


def build(
    match: Match,
    rule: Rule,
    packed: tuple[ir.Value, ir.Value],
    compress_info: Iterable[int],
    *,
    names: Names,
    replaced: dict[ir.Value, ir.Value],
    in_function: bool,
) -> ir.Node:
    """Put a compressed node in the place of ``match.nodes`` and return it.

    The new node takes over the name of the one that the rule starts from, and computes a value of the same name, type
    and shape as ``match.output``, so that graph outputs and value infos stay what they were.

    Args:
        match: what to replace. Its last node must produce ``match.output``.
        rule: the rule that found it; written into the new node's metadata.
        packed: the values x2 and compress_index.
        compress_info: the attribute's five integers.
        names: names already taken in the model.
        replaced: what became of the outputs of earlier matches, since a later one may have them for inputs; this
            match's output is added.
        in_function: ``match`` is inside a local function. New constants become Constant nodes then, since functions
            have no initialisers, and a Cast to the type that it has already stands behind the result: onnxruntime
            infers types of a function's values from schemas alone, which cannot tell this operator's.
    """
    anchor, last, fused, spec = match.nodes[0], match.nodes[-1], match.fused, match.fused.spec
    stamp = {**anchor.metadata_props, RULE_KEY: rule.name}
    told = fused.metadata()
    if match.optimized:
        stamp[OPTIMIZED_KEY] = OPTIMIZED
    given: dict[str, Operand] = {**fused.inputs(), **dict(zip(("x2", "compress_index"), packed, strict=True))}
    base = anchor.name or anchor.op_type
    inputs = place_operands(
        [given.get(name) for name in spec.input_names], last, names,
        in_function=in_function, base=base, metadata=stamp, replaced=replaced,
    )  # fmt: skip
    while inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {"compress_info": [int(number) for number in compress_info], **fused.attributes()}
    node = ir.node(
        spec.op_type, inputs, attributes, domain=DOMAIN, outputs=[ir.Value()],
        name=anchor.name, doc_string=anchor.doc_string, metadata_props=_input_names(spec, inputs) | stamp | told,
    )  # fmt: skip
    last.prepend(node)
    final: ir.Value | None = node.outputs[0]
    result = match.result
    output_type = fused.output_type or known_dtype(match.output)
    if in_function and output_type is not None and isinstance(result, Result):
        result = NewOutput(NewNode("Cast", (result,), {"to": int(output_type)}))
    if isinstance(result, NewOutput):
        node.outputs[0].name = names.unique(f"{base}.result")
        (final,) = place_operands(
            [result], last, names, in_function=in_function, base=base, metadata=stamp,
            replaced=replaced, result=node.outputs[0],
        )  # fmt: skip
    if final is None:
        raise ValueError("a match's result is a value")
    take_over(match.output, final)
    if final is node.outputs[0] or not in_function:
        of_output = _of_known_sizes(match.output) if final is node.outputs[0] else None
        _declare(node.outputs[0], fused.result_shape(match.weight) or of_output, output_type)
    replaced[match.output] = final
    return node


def _declare(value: ir.Value, shape: ir.Shape | None, dtype: ir.DataType | None) -> None:
    """Say what is known of a value of which the model says nothing.

    onnxruntime infers the same of the operators that are replaced, and decides by it what it fuses.
    """
    if value.shape is None and shape is not None and dtype is not None:
        value.shape = shape
        value.type = value.type or ir.TensorType(dtype)


def _of_known_sizes(value: ir.Value) -> ir.Shape | None:
    """Return how many dimensions a value was inferred to have, and those sizes that are numbers."""
    shape = inferred_shape(value)
    return None if shape is None else ir.Shape([size if isinstance(size, int) else None for size in shape])


def _input_names(spec: OperatorSpec, inputs: Sequence[ir.Value | None]) -> dict[str, str]:
    """Return the metadata that names inputs for viewers; those that are absent need no name."""
    names = [name if value is not None else "" for name, value in zip(spec.input_names, inputs, strict=False)]
    return {_INPUT_NAMES_KEY: str(names)}


def _has_our_names(node: ir.Node, spec: OperatorSpec | None) -> bool:
    """Tell whether the names of a node's inputs are ours, not the original's."""
    found = node.metadata_props.get(_INPUT_NAMES_KEY)
    return spec is not None and _input_names(spec, node.inputs)[_INPUT_NAMES_KEY] == found


def metadata_beside_names(node: ir.Node) -> dict[str, str]:
    """Return a compressed node's metadata but for the names of its inputs, which fit no other operator."""
    ours = _has_our_names(node, spec_of(node))
    return {key: text for key, text in node.metadata_props.items() if key != _INPUT_NAMES_KEY or not ours}


def set_input(node: ir.Node, position: int, value: ir.Value | None) -> None:
    """Set, or remove, an optional input; the list of inputs ends with one that is there, and so do their names."""
    spec = spec_of(node)
    ours = _has_our_names(node, spec)
    node.resize_inputs(max(len(node.inputs), position + 1))
    node.replace_input_with(position, value)
    count = len(node.inputs)
    while node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)
    if spec is not None and ours:
        node.metadata_props.update(_input_names(spec, node.inputs))


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Transfer name, type, shape, documentation, uses and place among the graph's outputs from ``old`` to ``new``."""
    new.name, new.type, new.shape, new.doc_string = old.name, old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def place_operands(
    operands: Sequence[Operand],
    before: ir.Node,
    names: Names,
    *,
    in_function: bool,
    base: str,
    metadata: Mapping[str, str] | None = None,
    replaced: Mapping[ir.Value, ir.Value] | None = None,
    result: ir.Value | None = None,
) -> list[ir.Value | None]:
    """Make the constants and nodes that ``operands`` ask for, in front of ``before``, and return the values.

    A :class:`NewNode` or :class:`NewConstant` that is mentioned twice is made once. New nodes are called ``base`` and
    their operator, and carry ``metadata``. A value that has been ``replaced`` is exchanged for its successor,
    and :class:`Result` for ``result``.
    """
    made: dict[NewNode | NewConstant, tuple[ir.Value, ...]] = {}

    def value_of(operand: Operand) -> ir.Value | None:
        if operand is None:
            return None
        if isinstance(operand, ir.Value):
            return (replaced or {}).get(operand, operand)
        if isinstance(operand, Result):
            return result
        key = operand.node if isinstance(operand, NewOutput) else operand
        if key not in made:
            made[key] = place(key)
        return made[key][operand.index if isinstance(operand, NewOutput) else 0]

    def place(new: NewNode | NewConstant) -> tuple[ir.Value, ...]:
        if isinstance(new, NewConstant):
            name = names.unique(new.hint)
            return (place_constant(ir.tensor(new.array, name=name), name, before, as_node=in_function),)
        inputs = [value_of(operand) for operand in new.inputs]
        name = names.unique(f"{base}.{new.op_type}")
        outputs = [ir.Value(name=names.unique(f"{name}.{index}")) for index in range(new.num_outputs)]
        node = ir.node(
            new.op_type, inputs, new.attributes, domain=new.domain, outputs=outputs, name=name,
            metadata_props=dict(metadata or {}),
        )  # fmt: skip
        before.prepend(node)
        return tuple(node.outputs)

    return [value_of(operand) for operand in operands]


def as_tensor(data: np.ndarray | ir.TensorProtocol) -> ir.TensorProtocol:
    """Return an array as a tensor, and a tensor, which may lie in a file, as it is."""
    return data if isinstance(data, ir.TensorProtocol) else ir.tensor(data)


def place_constant(tensor: ir.TensorProtocol, name: str, before: ir.Node, *, as_node: bool) -> ir.Value:
    """Add a constant to the graph of ``before``: an initialiser, or a Constant node in front of ``before``."""
    type_, shape = ir.TensorType(tensor.dtype), ir.Shape(dimensions(tensor))
    if as_node:
        value = ir.Value(name=name, type=type_, shape=shape)
        before.prepend(ir.node("Constant", [], {"value": tensor}, outputs=[value]))
        return value
    value = ir.Value(name=name, type=type_, shape=shape, const_value=tensor)
    graph_of(before).register_initializer(value)
    return value


def sort_constants(graph: ir.Graph) -> None:
    """Move what computes constants in front of the first reader: a new node may read one that stood further on."""
    done: set[int] = set()

    def move(value: ir.Value | None, reader: ir.Node) -> None:
        producer = None if value is None else value.producer()
        if producer is None or id(producer) in done or producer.graph is not graph or constant_array(value) is None:
            return
        done.add(id(producer))
        for given in producer.inputs:
            move(given, reader)
        graph.remove(producer)
        reader.prepend(producer)

    for node in tuple(graph):
        for value in node.inputs:
            move(value, node)
        done.add(id(node))


def remove_dead(nodes: Iterable[ir.Node]) -> None:
    """Remove replaced nodes, and then whatever only they used: constants and the nodes that computed their inputs.

    Lowered nodes stay, even if what they compute has no consumers.
    """
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        inputs = {value: None for value in node.inputs if value is not None}
        node.graph.remove(node, safe=True)
        for value in inputs:
            if value.uses() or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is not None and producer.domain == DOMAIN:
                continue
            if producer is not None:
                waiting.append(producer)
            elif value.is_initializer() and not value.is_graph_input():
                owner = value.graph
                if owner is not None and value.name is not None:
                    owner.initializers.pop(value.name, None)
