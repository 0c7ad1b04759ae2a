"""What a model in protobuf's form consists of: its graphs, nodes and tensors, found in one walk."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain

import onnx

__all__ = ["Contents", "graphs_in", "graphs_of", "graphs_with_depth", "nodes_of"]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a model consists of.

    Attributes:
        proto: the model.
        graphs: its graph and those inside of nodes, of functions' as well, with how deep they are inside of others.
        main: the nodes of its graph, and of those inside of it.
        functions: its local functions with their nodes, and those of the graphs inside of these.
    """

    proto: onnx.ModelProto
    graphs: list[tuple[onnx.GraphProto, int]]
    main: list[onnx.NodeProto]
    functions: list[tuple[onnx.FunctionProto, list[onnx.NodeProto]]]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> "Contents":
        """Walk through a model."""
        inside = [graph for function in proto.functions for graph in graphs_in(function.node)]
        functions = [(function, list(nodes_of(function.node))) for function in proto.functions]
        return cls(proto, list(graphs_with_depth(proto.graph, *inside)), list(nodes_of(proto.graph.node)), functions)

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """All nodes, those of functions after the others."""
        return chain(self.main, *(nodes for _, nodes in self.functions))

    @property
    def tensors(self) -> Iterator[onnx.TensorProto]:
        """All tensors: those in nodes' attributes, and initialisers."""
        yield from _tensors_of_nodes(self.nodes)
        for graph, _ in self.graphs:
            yield from graph.initializer


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside of its nodes."""
    return (inner for inner, _ in graphs_with_depth(graph))


def graphs_with_depth(*graphs: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """Yield graphs and all those inside of their nodes, each with its depth, the given ones being at 0."""
    waiting = [(graph, 0) for graph in graphs]
    while waiting:
        graph, depth = waiting.pop()
        yield graph, depth
        waiting.extend((inner, depth + 1) for inner in graphs_in(graph.node))


def graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of the nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those in the graphs inside of them."""
    nodes = list(nodes)
    yield from nodes
    for graph, _ in graphs_with_depth(*graphs_in(nodes)):
        yield from graph.node


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
