"""An optimised model as it is compared: its nodes in an order in which they can be computed, and what each computes."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import onnx

from mcd_graph.model.walk import graphs_in
from mcd_graph.operators.registry import find
from mcd_graph.passes.engine.optimized import instance_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEPTH",
    "EXACT",
    "MOVES",
    "View",
    "describe",
    "is_default",
    "quantizers_of",
    "site_of",
    "unmoved",
    "value_of",
]

#: They give the same bits whichever way they are computed: they move values, or round them in one defined way.
EXACT = frozenset((
    *("Cast", "Concat", "DequantizeLinear", "DynamicQuantizeLinear", "Expand", "Flatten", "Gather", "Identity"),
    *("QuantizeLinear", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
))  # fmt: skip

#: They only move values, or hand them on.
MOVES = frozenset(("Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))

#: The lowest number of the types that are quantised to; from there, zero points of both are the same.
_LOWEST = {onnx.TensorProto.INT8: -128, onnx.TensorProto.UINT8: 0}

#: So many nodes are followed, at most, from a difference to its cause.
DEPTH = 24


class View:
    """An optimised model: its nodes, those of subgraphs included, in an order in which they can be computed."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.constants: dict[str, str] = {}
        self.zero_points: dict[str, int] = {}
        self.outputs: set[str] = set()
        self._add(graph)

    def _add(self, graph: onnx.GraphProto) -> None:
        self.outputs.update(value.name for value in graph.output)
        for tensor in graph.initializer:
            self.constants[tensor.name] = f"constant {_digest(tensor)}"
            if tensor.data_type in _LOWEST and not tensor.dims and not tensor.external_data:
                self.zero_points[tensor.name] = int(onnx.numpy_helper.to_array(tensor)) - _LOWEST[tensor.data_type]
        for node in graph.node:
            for inner in graphs_in((node,)):
                self._add(inner)
            self.nodes.append(node)
            for name in filter(None, node.output):
                self.producers[name] = node
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, index))


def value_of(name: str, values: Mapping[str, str]) -> str:
    """Return which value is called ``name``; one that nothing computes, an input, has its name to itself."""
    return values.get(name, f"value {name}")


def describe(node: onnx.NodeProto, values: Mapping[str, str]) -> str:
    """Return all that decides what a node computes, given which values it reads."""
    attributes = (
        attribute.SerializeToString(deterministic=True).hex()
        for attribute in sorted(node.attribute, key=lambda each: each.name)
        if not attribute.HasField("g") and not attribute.graphs and not is_default(node, attribute)
    )
    inputs = (value_of(name, values) if name else "" for name in node.input)
    # Nodes with graphs inside are told apart by their names, and their inner nodes are looked at by themselves.
    own = list(node.output) if any(True for _ in graphs_in((node,))) else ""
    return f"{node.domain}::{node.op_type}({', '.join(inputs)}) {' '.join(attributes)}{own}"


def is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Tell whether an attribute says what holds without it; onnxruntime writes these here and there."""
    default = _defaults(node.domain, node.op_type).get(attribute.name)
    return default is not None and default == onnx.helper.get_attribute_value(attribute)


@functools.cache
def _defaults(domain: str, op_type: str) -> dict[str, object]:
    try:
        attributes = onnx.defs.get_schema(op_type, domain=domain).attributes
    except onnx.defs.SchemaError:
        return {}
    values = {name: attribute.default_value for name, attribute in attributes.items()}
    return {name: onnx.helper.get_attribute_value(value) for name, value in values.items() if value.type}


def site_of(node: onnx.NodeProto) -> int | None:
    """Return the number of a lowered node; -1 for one without; ``None`` for nodes of other operators."""
    if find(node.domain, node.op_type) is None:
        return None
    instance = instance_of(node)
    return -1 if instance is None else instance.site


def unmoved(name: str, view: View) -> str:
    """Return the value that is moved, if need be several times, to be this one."""
    for _ in range(DEPTH):
        node = view.producers.get(name)
        if node is None or node.op_type not in MOVES:
            break
        name = str(node.input[0])
    return name


def quantizers_of(name: str, view: View) -> list[list[str]]:
    """Return the parameters of the QuantizeLinear nodes that a value comes through, with only moves in between."""
    found = []
    for _ in range(DEPTH):
        node = view.producers.get(name)
        if node is None or (node.op_type not in MOVES and node.op_type not in ("QuantizeLinear", "DequantizeLinear")):
            break
        if node.op_type == "QuantizeLinear":
            found.append([view.constants.get(each, each) for each in node.input[1:]])
        name = node.input[0]
    return found


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
