"""Constants that are restored when a session is created: how a model file stores them.

In memory such a constant is a DecompressWeight node like others, marked by :data:`WAY_KEY`. In the file the node's
place is taken by an initializer of the constant's name, type and shape, whose data lies in an external file that does
not exist and whose name is :data:`SENTENCE`. onnxruntime takes it for an initializer, packs and folds it as ever, and
gets its data from whoever opens the model: the operator library does so for the session config entry ``mcd.model``.
Who opens the model without that reads the sentence in onnxruntime's message.

Where the compressed weight is, the model's metadata says, as JSON under :data:`AT_OPEN_KEY`::

    {"data": "model.mcd.onnx_data", "constants": [{
        "name": "conv.weight", "dtype": "int8", "shape": [64, 3, 3, 3], "compress_info": [8, 8, 54, 32, 0],
        "transposed": 1, "x2": [name, offset, length], "compress_index": [name, offset, length]}]}

Names that are those of the constant with ``.x2`` and ``.compress_index`` behind are written as empty strings.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from mcd_graph.errors import InputError
from mcd_graph.model.tensors import external_entries
from mcd_graph.model.walk import graphs_of
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.spec import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir

__all__ = [
    "AT_OPEN",
    "AT_OPEN_KEY",
    "SENTENCE",
    "WAY_KEY",
    "hide_nodes",
    "is_at_open",
    "locations_at_open",
    "reveal_nodes",
]

#: Metadata of a DecompressWeight node whose output is to be an initializer when a session is created.
WAY_KEY = "mcd.way"
AT_OPEN = "open"

#: Metadata of a model that has such constants.
AT_OPEN_KEY = "mcd.at_open"

#: Where the initializers say that their data lies; no path can be told by it, and so no file.
SENTENCE = "compressed by mcd-graph, open it with mcd_graph.InferenceSession or the session config entry mcd.model"

_PARTS = ("x2", "compress_index")


def is_at_open(node: ir.Node) -> bool:
    """Tell whether a node is marked as a constant that is restored when a session is created."""
    return node.metadata_props.get(WAY_KEY) == AT_OPEN


def hide_nodes(proto: onnx.ModelProto) -> None:
    """Put initializers without data in the place of the nodes that are marked, as far as their weights are in a file.

    Args:
        proto: a model as it is to be written; it is changed. Nodes of the main graph alone are looked at.
    """
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = [node for node in graph.node if _is_marked(node) and _file_of(node, tensors) is not None]
    if not found:
        return
    (data,) = {_file_of(node, tensors) for node in found}
    entries = [_entry(node, tensors) for node in found]
    for node in found:
        graph.node.remove(node)
    read = Counter(_names_read(proto))
    streams = {_name_of(each, part) for each in entries for part in _PARTS}
    gone = {name for name in streams if not read[name]}
    made = {each["name"] for each in entries}
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *map(_without_data, entries)])
    values = [value for value in graph.value_info if value.name not in made]
    del graph.value_info[:]
    graph.value_info.extend(values)
    text = json.dumps({"data": data, "constants": entries}, separators=(",", ":"))
    proto.metadata_props.add(key=AT_OPEN_KEY, value=text)


def reveal_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the nodes that :func:`hide_nodes` took away; the model itself if it has none.

    Raises:
        InputError: the metadata does not fit the model.
    """
    text = _text_of(proto)
    if text is None:
        return proto
    data, entries = _parsed(text)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    others = [entry for entry in model.metadata_props if entry.key != AT_OPEN_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    graph = model.graph
    named = {tensor.name: tensor for tensor in graph.initializer}
    nodes, streams = [], {}
    for entry in entries:
        tensor = named.get(entry["name"])
        if tensor is None or external_entries(tensor).get("location") != SENTENCE:
            raise InputError(f"its metadata {AT_OPEN_KEY} names {entry['name']!r}, which is no constant to be restored")
        if list(tensor.dims) != entry["shape"] or tensor.data_type != _type_of(entry):
            raise InputError(f"its metadata {AT_OPEN_KEY} says another type or shape of {entry['name']!r}")
        graph.initializer.remove(tensor)
        for part in _PARTS:
            _, offset, length = entry[part]
            name = _name_of(entry, part)
            streams[name] = _external(name, TensorProto.INT8, [length], (data, offset, length))
        nodes.append(_node(entry, tensor.data_type))
    graph.initializer.extend(stream for name, stream in streams.items() if name not in named)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=1)
    return model


def locations_at_open(proto: onnx.ModelProto) -> set[str]:
    """Return the file that has the constants, as it is written in the model; nothing if there are none."""
    text = _text_of(proto)
    if text is None:
        return set()
    try:
        return {_parsed(text)[0]}
    except InputError:
        return set()


def _text_of(proto: onnx.ModelProto) -> str | None:
    return next((entry.value for entry in proto.metadata_props if entry.key == AT_OPEN_KEY), None)


def _is_marked(node: onnx.NodeProto) -> bool:
    marked = any((each.key, each.value) == (WAY_KEY, AT_OPEN) for each in node.metadata_props)
    return marked and (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def _file_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return the file that a node's weight is in; ``None`` if it is not in one."""
    locations = {external_entries(tensors[name]).get("location") if name in tensors else None for name in node.input}
    return locations.pop() if len(locations) == 1 else None


def _entry(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> dict[str, Any]:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    entry = {
        "name": node.output[0],
        "dtype": TensorProto.DataType.Name(attributes["dtype"]).lower(),
        "shape": list(attributes["shape"]),
        "compress_info": list(attributes["compress_info"]),
        "transposed": attributes.get("transposed", 0),
    }
    for part, name in zip(_PARTS, node.input, strict=True):
        place = external_entries(tensors[name])
        said = "" if name == f"{entry['name']}.{part}" else name
        entry[part] = [said, int(place.get("offset", 0)), int(place["length"])]
    return entry


def _name_of(entry: Mapping[str, Any], part: str) -> str:
    """Return the name of a constant's stream or index: after the constant, unless another one is said."""
    return entry[part][0] or f"{entry['name']}.{part}"


def _node(entry: Mapping[str, Any], dtype: int) -> onnx.NodeProto:
    node = helper.make_node(
        OP_TYPE, [_name_of(entry, part) for part in _PARTS], [entry["name"]], domain=DOMAIN,
        name=f"{entry['name']}.{OP_TYPE}", compress_info=entry["compress_info"], shape=entry["shape"], dtype=dtype,
        transposed=entry["transposed"],
    )  # fmt: skip
    node.metadata_props.add(key=WAY_KEY, value=AT_OPEN)
    return node


def _without_data(entry: Mapping[str, Any]) -> onnx.TensorProto:
    length = entry["compress_info"][2] * entry["compress_info"][3]
    return _external(entry["name"], _type_of(entry), entry["shape"], (SENTENCE, 0, length))


def _type_of(entry: Mapping[str, Any]) -> int:
    return int(TensorProto.DataType.Value(entry["dtype"].upper()))


def _external(name: str, dtype: int, shape: list[int], place: tuple[str, int, int]) -> onnx.TensorProto:
    """Return a tensor whose data lies elsewhere: in which file, from where on, and how many bytes."""
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _names_read(proto: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of values that nodes read and graphs give, those inside of nodes as well."""
    for graph in graphs_of(proto.graph):
        yield from (value.name for value in graph.output)
        for node in graph.node:
            yield from node.input


_FIELDS = {"name": str, "dtype": str, "shape": list, "compress_info": list, "transposed": int, "x2": list}


def _parsed(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of the data file, and what is said of each constant, of the types that it has to be of."""
    try:
        said = json.loads(text)
        data, entries = said["data"], said["constants"]
        fits = isinstance(data, str) and isinstance(entries, list) and all(map(_is_entry, entries))
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise InputError(f"its metadata {AT_OPEN_KEY} cannot be read: the model is damaged, or of a newer version")
    return data, entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry[name], kind) for name, kind in _FIELDS.items()):
        return False
    numbers = [*entry["shape"], *entry["compress_info"]]
    for part in _PARTS:
        name, *place = entry[part]
        if not isinstance(name, str) or len(place) != 2:
            return False
        numbers += place
    natural = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    return natural and len(entry["compress_info"]) == 5 and entry["dtype"] in ("int8", "uint8")
