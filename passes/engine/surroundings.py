"""Compares what onnxruntime makes of a model and of its lowered form, outside of the lowered nodes.

A lowered node takes the place of several nodes, and onnxruntime's optimiser sees others beside its neighbours then. It
may fuse what it did not fuse in the original (the steps of a GELU behind a product that is no Mul any more), or no
longer fuse what it did (an Add, which is gone, with the normalisation behind it). Either changes the last bits.

So every node of the optimised lowered model has to be in the optimised original as well, reading the same values.
Values go by their names where both models have them, constants by their content, and what else onnxruntime adds by the
nodes that compute it, since it makes up the names.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TYPE_CHECKING

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes.engine.optimized import SITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import onnx

    from mcd_graph.passes.engine.optimized import Optimized

__all__ = ["sites_to_blame"]

#: They give the same bits whichever way they are computed: they move values, or round them in one defined way.
_EXACT = frozenset((
    *("Cast", "Concat", "DequantizeLinear", "DynamicQuantizeLinear", "Expand", "Flatten", "Gather", "Identity"),
    *("QuantizeLinear", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
))  # fmt: skip

#: Inputs of a lowered node that are no tensors of activations: what computes them alone belongs to the node.
_PARAMETERS = frozenset(
    index for index, name in enumerate(INPUT_NAMES) if name not in ("x1", "addend", "gate", "residual")
)

#: So many nodes are followed, at most, to tell a value without a common name; and from a difference to its cause.
_DEPTH = 24


class _View:
    """An optimised model, by the names of its values; those of subgraphs included."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.producers: dict[str, tuple[onnx.NodeProto, int]] = {}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.constants: dict[str, str] = {}
        self.given: set[str] = set()
        self.outputs = {value.name for value in graph.output}
        for each in _graphs(graph):
            self.given.update(value.name for value in each.input)
            for tensor in each.initializer:
                self.constants[tensor.name] = _digest(tensor)
            for node in each.node:
                self.nodes.append(node)
                for index, name in enumerate(node.output):
                    if name:
                        self.producers[name] = (node, index)
                for index, name in enumerate(node.input):
                    self.readers.setdefault(name, []).append((node, index))


def sites_to_blame(original: Optimized, lowered: Optimized) -> set[int]:
    """Return the numbers of the lowered nodes beside which onnxruntime computes otherwise than in the original.

    Args:
        original: the optimised original.
        lowered: the optimised lowered model, in which the names of the lowered nodes hold their numbers.
    """
    theirs, ours = _View(original.graph), _View(lowered.graph)
    common = (theirs.producers.keys() & ours.producers.keys()) | (theirs.given & ours.given)
    cuts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    results = {node.site: node.outputs[0] for node in original.integer_nodes if node.site is not None}
    for node in ours.nodes:
        number = _site(node)
        # An int8 result that became uint8 has another name.
        if number in results and node.output[0] not in common:
            cuts[0][results[number]] = cuts[1][node.output[0]] = f"result of {number}"
    known = {_describe(node, _keys(theirs, common, cuts[0])) for node in theirs.nodes}
    key = _keys(ours, common, cuts[1])
    other = [node for node in ours.nodes if _site(node) is None and _describe(node, key) not in known]
    changed = [node for node in other if not _is_same_anyway(node, ours)]
    followed = {id(node) for node in other} | {id(node) for node in ours.nodes if node.op_type in _EXACT}
    blamed: set[int] = set()
    for node in changed:
        blamed |= _nearest(node, ours, followed)
    return blamed


def _keys(view: _View, common: set[str], cuts: dict[str, str]) -> Callable[[str], str]:
    """Return the function that tells values of one model apart in the same way as those of the other."""

    @functools.cache
    def key(name: str, depth: int = 0) -> str:
        if name in view.constants:
            return view.constants[name]
        if name in cuts:
            return cuts[name]
        if name in common or name not in view.producers or depth == _DEPTH:
            return f"value {name}"
        node, index = view.producers[name]
        inside = _describe(node, lambda read: key(read, depth + 1))
        return hashlib.sha256(f"{inside} output {index}".encode()).hexdigest()

    return key


def _describe(node: onnx.NodeProto, key: Callable[[str], str]) -> str:
    """Return all that decides what a node computes; nodes of graphs inside of it are described by themselves."""
    attributes = (
        attribute.SerializeToString(deterministic=True).hex()
        for attribute in sorted(node.attribute, key=lambda each: each.name)
        if not attribute.HasField("g") and not attribute.graphs
    )
    inputs = (key(name) if name else "" for name in node.input)
    return f"{node.domain}::{node.op_type}({', '.join(inputs)}) {' '.join(attributes)}"


def _site(node: onnx.NodeProto) -> int | None:
    """Return the number of a lowered node; -1 for one without; ``None`` for nodes of other operators."""
    if (node.domain, node.op_type) != (OP_DOMAIN, OP_TYPE):
        return None
    name = re.fullmatch(re.escape(SITE) + "([0-9]+)", node.name)
    return int(name[1]) if name else -1


def _is_same_anyway(node: onnx.NodeProto, view: _View) -> bool:
    """Tell whether a node that the optimised original does not have may be there."""
    if node.op_type in _EXACT:
        return True
    # What computes a scale is part of an integer multiplication there.
    readers = [reader for name in node.output for reader in view.readers.get(name, ())]
    return bool(readers) and all(
        _site(reader) is not None and index in _PARAMETERS for reader, index in readers
    ) and not view.outputs.intersection(node.output)  # fmt: skip


def _nearest(node: onnx.NodeProto, view: _View, followed: set[int]) -> set[int]:
    """Return the lowered nodes that feed a node, else those that it feeds, else those that read what it reads."""
    for ahead in (False, True):
        if found := _search(node, view, followed, ahead=ahead):
            return found
    beside = (reader for name in node.input for reader, _ in view.readers.get(name, ()))
    return _numbers(beside)


def _search(node: onnx.NodeProto, view: _View, followed: set[int], *, ahead: bool) -> set[int]:
    level, seen = [node], {id(node)}
    for _ in range(_DEPTH):
        reached = [each for one in level for each in _neighbours(one, view, ahead=ahead) if id(each) not in seen]
        if found := _numbers(reached):
            return found
        level = [each for each in reached if id(each) in followed]
        seen.update(map(id, level))
    return set()


def _neighbours(node: onnx.NodeProto, view: _View, *, ahead: bool) -> Iterator[onnx.NodeProto]:
    if ahead:
        for name in node.output:
            yield from (reader for reader, _ in view.readers.get(name, ()))
        return
    for name in node.input:
        if name in view.producers:
            yield view.producers[name][0]


def _numbers(nodes: Iterable[onnx.NodeProto]) -> set[int]:
    return {number for number in map(_site, nodes) if number is not None and number >= 0}


def _digest(tensor: onnx.TensorProto) -> str:
    """Return what tells constants apart; large ones, which are zeros here, go by type and shape."""
    content = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)}".encode())
    if not tensor.external_data:
        plain = type(tensor)()
        plain.CopyFrom(tensor)
        for field in ("name", "doc_string", "dims", "data_type"):
            plain.ClearField(field)
        content.update(plain.SerializeToString(deterministic=True))
    return content.hexdigest()


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ((attribute.g,) if attribute.HasField("g") else ()) + tuple(attribute.graphs):
                yield from _graphs(inner)
