"""Nodes that compute something else each time, and what a model computes before them."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

__all__ = ["random_nodes", "values_before"]

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_VALUES = 16
"""So many values are looked at, at most."""


def random_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that draw random numbers without a seed, those of subgraphs and functions included."""
    functions = (node for function in model.functions.values() for node in function.all_nodes())
    return [node for node in (*model.graph.all_nodes(), *functions) if _is_random(node)]


def values_before(model: ir.Model, nodes: Iterable[ir.Node]) -> list[str]:
    """Return names of values of the main graph into which nothing random goes, and which are read where it does."""
    random = set(nodes)
    first = [node for node in model.graph if not random.isdisjoint(_within(model, node))]
    tainted = set(_behind(first))
    found = {
        value.name: None
        for node in tainted
        for value in node.inputs
        if value is not None and value.name and _is_computed(value, model.graph) and value.producer() not in tainted
    }
    return [name for name in found if name][:_VALUES]


def _is_random(node: ir.Node) -> bool:
    if node.domain or "seed" in node.attributes:
        return False
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        mode = ir.convenience.get_const_tensor(node.inputs[2])
        return mode is None or bool(mode.numpy().any())
    return node.op_type in _RANDOM


def _within(model: ir.Model, node: ir.Node) -> Iterator[ir.Node]:
    """Yield a node, and the nodes of the graphs and of the function inside of it."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()
    function = model.functions.get(node.op_identifier())
    if function is not None:
        yield from function.all_nodes()


def _behind(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield nodes and all those that read, directly or not, what they compute."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(user for output in node.outputs for user in output.consumers())


def _is_computed(value: ir.Value, graph: ir.Graph) -> bool:
    producer = value.producer()
    return producer is not None and producer.graph is graph and producer.op_type != "Constant"
