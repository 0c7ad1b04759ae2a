"""Keeps the order of what onnx_ir does not preserve between reading a model and writing it.

Training information, which onnx_ir forgets and runtimes ignore, comes back as it was. Metadata comes in its own order
instead of the alphabet's, value infos and quantisation annotations in the order of the file, and only those that were
in it or belong to what is new.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

__all__ = ["remember_order", "to_proto"]

_KEY, _TRAINING_KEY = "mcd_graph.order", "mcd_graph.training"

Scope: TypeAlias = onnx.GraphProto | onnx.FunctionProto


@dataclasses.dataclass(frozen=True)
class _Order:
    """Ranks of names in the file's lists."""

    value_infos: Mapping[str, int]
    annotations: Mapping[str, int]


def remember_order(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Note the order of a proto, and its training information, in the model that was made of it."""
    if proto.training_info:
        kept = onnx.ModelProto(training_info=proto.training_info)
        model.meta[_TRAINING_KEY] = list(kept.training_info)
    for graph, scope in _scopes(model, proto):
        annotations = scope.quantization_annotation if isinstance(scope, onnx.GraphProto) else ()
        graph.meta[_KEY] = _Order(
            _ranks(info.name for info in scope.value_info),
            _ranks(annotation.tensor_name for annotation in annotations),
        )


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a proto, in the order that it was read in; what is new comes last."""
    proto = ir.to_proto(model)
    proto.training_info.extend(model.meta.get(_TRAINING_KEY, ()))
    _set_metadata(proto, model)
    for function_proto in proto.functions:
        _set_metadata(function_proto, _function(model, function_proto))
    for graph, scope in _scopes(model, proto):
        if isinstance(scope, onnx.GraphProto):
            _set_metadata(scope, graph)
            for info, value in (
                *zip(scope.input, graph.inputs, strict=True),
                *zip(scope.output, graph.outputs, strict=True),
            ):
                _set_metadata(info, value)
            for tensor in scope.initializer:
                _set_metadata(tensor, graph.initializers[tensor.name].const_value)
        for node_proto, node in zip(scope.node, graph, strict=True):
            _set_metadata(node_proto, node)
            for attribute in node_proto.attribute:
                _set_tensors_metadata(attribute, node.attributes[attribute.name])
        _order_value_infos(scope, graph)
    return proto


def _scopes(model: ir.Model, proto: onnx.ModelProto) -> Iterator[tuple[ir.Graph, Scope]]:
    """Yield all graphs and functions of a model, each with its proto."""
    waiting: list[tuple[ir.Graph, Scope]] = [(model.graph, proto.graph)]
    waiting.extend((_function(model, function).graph, function) for function in proto.functions)
    while waiting:
        graph, scope = waiting.pop()
        yield graph, scope
        for node, node_proto in zip(graph, scope.node, strict=True):
            for attribute in node_proto.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH and not attribute.ref_attr_name:
                    waiting.append((node.attributes[attribute.name].as_graph(), attribute.g))
                elif attribute.type == onnx.AttributeProto.GRAPHS and not attribute.ref_attr_name:
                    waiting.extend(zip(node.attributes[attribute.name].as_graphs(), attribute.graphs, strict=True))


def _function(model: ir.Model, proto: onnx.FunctionProto) -> ir.Function:
    return model.functions[proto.domain, proto.name, proto.overload]


def _ranks(names: Iterable[str]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(names)}


def _set_metadata(proto: Any, source: Any) -> None:
    """Write the metadata of ``source`` anew: onnx_ir sorts it, and writes that of a tensor twice."""
    if proto.metadata_props:
        del proto.metadata_props[:]
        for key, value in source.metadata_props.items():
            proto.metadata_props.add(key=key, value=value)


def _set_tensors_metadata(proto: onnx.AttributeProto, attribute: ir.Attr) -> None:
    if proto.ref_attr_name:
        return
    if proto.type == onnx.AttributeProto.TENSOR:
        _set_metadata(proto.t, attribute.as_tensor())
    elif proto.type == onnx.AttributeProto.TENSORS:
        for tensor_proto, tensor in zip(proto.tensors, attribute.as_tensors(), strict=True):
            _set_metadata(tensor_proto, tensor)


def _order_value_infos(scope: Scope, graph: ir.Graph) -> None:
    """Sort value infos and annotations as they were; leave out those that onnx_ir adds to what initialisers say."""
    order = graph.meta.get(_KEY)
    if not isinstance(order, _Order):
        order = _Order({}, {})
    values = {output.name: output for node in graph for output in node.outputs}
    values.update(graph.initializers)
    infos = [info for info in scope.value_info if info.name in order.value_infos or info.name not in graph.initializers]
    for info in infos:
        if info.name in values:
            _set_metadata(info, values[info.name])
    if isinstance(scope, onnx.GraphProto):
        # Some exporters describe the outputs twice.
        infos.extend(info for info in scope.output if info.name in order.value_infos)
        annotations = sorted(
            scope.quantization_annotation,
            key=lambda annotation: order.annotations.get(annotation.tensor_name, len(order.annotations)),
        )
        _replace(scope.quantization_annotation, annotations)
    _replace(scope.value_info, sorted(infos, key=lambda info: order.value_infos.get(info.name, len(order.value_infos))))


def _replace(field: Any, messages: list[Any]) -> None:
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field[:]
    field.extend(copies)
