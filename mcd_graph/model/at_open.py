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

A model that is one file has them inside of that: one behind the other in the tensor of a function that nothing calls
(:data:`FUNCTION`), which onnxruntime reads and drops. ``data`` is empty then, and ``ir_version`` is that of the
original: functions came with version 8.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from mcd_graph.errors import InputError
from mcd_graph.model.tensors import external_entries
from mcd_graph.model.walk import graphs_of
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir

__all__ = [
    "AT_OPEN",
    "AT_OPEN_KEY",
    "FUNCTION",
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

#: The function of our domain whose tensor has the compressed weights of a model without a data file.
FUNCTION = "mcd_at_open_data"

_FUNCTIONS_FROM = 8
"""The first version of the IR that has functions."""

_PARTS = ("x2", "compress_index")


def is_at_open(node: ir.Node) -> bool:
    """Tell whether a node is marked as a constant that is restored when a session is created."""
    return node.metadata_props.get(WAY_KEY) == AT_OPEN


def hide_nodes(proto: onnx.ModelProto) -> None:
    """Put initializers without data in the place of the nodes that are marked.

    Their weights are in a data file, or all of them in the model; of a model that has some here and some there, the
    nodes of the others stay.

    Args:
        proto: a model as it is to be written; it is changed. Nodes of the main graph alone are looked at.
    """
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    marked = [node for node in graph.node if _is_marked(node)]
    found = [node for node in marked if _file_of(node, tensors) is not None]
    if found:
        (data,) = {_file_of(node, tensors) for node in found}
        places = {name: _place_in_file(tensors[name]) for node in found for name in node.input}
    else:
        data, found = "", [node for node in marked if _is_inside(node, tensors)]
        places = _moved_to_function(proto, [tensors[name] for node in found for name in node.input])
    if not found:
        return
    entries = [_entry(node, places) for node in found]
    _put_without_data(graph, found, entries)
    said = {"data": data, "constants": entries} | ({} if data else {"ir_version": proto.ir_version})
    proto.metadata_props.add(key=AT_OPEN_KEY, value=json.dumps(said, separators=(",", ":")))
    if not data:
        proto.ir_version = max(proto.ir_version, _FUNCTIONS_FROM)


def _put_without_data(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], entries: Sequence[dict[str, Any]]
) -> None:
    """Replace nodes by initializers, and remove those of their inputs that nothing else reads."""
    for node in nodes:
        graph.node.remove(node)
    read = Counter(_names_read(graph))
    gone = {name for each in entries for part in _PARTS if not read[name := _name_of(each, part)]}
    made = {each["name"] for each in entries}
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *map(_without_data, entries)])
    values = [value for value in graph.value_info if value.name not in made]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _moved_to_function(proto: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> dict[str, tuple[int, int]]:
    """Put the bytes of tensors into a function of the model; return where in it they are, by name."""
    places: dict[str, tuple[int, int]] = {}
    data = bytearray()
    for tensor in tensors:
        if tensor.name not in places:
            content = numpy_helper.to_array(tensor).tobytes()
            places[tensor.name] = len(data), len(content)
            data += content
    if places:
        held = TensorProto(name="data", data_type=TensorProto.UINT8, dims=[len(data)], raw_data=bytes(data))
        node = helper.make_node("Constant", [], ["data"], value=held)
        opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 1)
        opsets = [helper.make_opsetid("", opset)]
        proto.functions.append(helper.make_function(DOMAIN, FUNCTION, [], ["data"], [node], opsets))
    return places


def reveal_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the nodes that :func:`hide_nodes` took away; the model itself if it has none.

    Raises:
        InputError: the metadata does not fit the model.
    """
    text = _text_of(proto)
    if text is None:
        return proto
    said, entries = _parsed(text)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    others = [entry for entry in model.metadata_props if entry.key != AT_OPEN_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    graph = model.graph
    named = {tensor.name: tensor for tensor in graph.initializer}
    inside = None if said["data"] else _taken_from_function(model, said["ir_version"])
    nodes, streams = [], {}
    for entry in entries:
        tensor = named.get(entry["name"])
        if tensor is None or external_entries(tensor).get("location") != SENTENCE:
            raise InputError(f"its metadata {AT_OPEN_KEY} names {entry['name']!r}, which is no constant to be restored")
        if list(tensor.dims) != entry["shape"] or tensor.data_type != _type_of(entry):
            raise InputError(f"its metadata {AT_OPEN_KEY} says another type or shape of {entry['name']!r}")
        graph.initializer.remove(tensor)
        for part in _PARTS:
            name = _name_of(entry, part)
            streams[name] = _stream(name, entry[part], said["data"], inside)
        nodes.append(_node(entry, tensor.data_type))
    graph.initializer.extend(stream for name, stream in streams.items() if name not in named)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=DOMAIN_VERSION)
    return model


def _stream(name: str, place: Sequence[Any], data: str, inside: bytes | None) -> onnx.TensorProto:
    """Return a stream or an index: in the data file, or of the bytes that are inside of the model."""
    _, offset, length = place
    if inside is None:
        return _external(name, TensorProto.INT8, [length], (data, offset, length))
    if offset + length > len(inside):
        raise InputError(f"its metadata {AT_OPEN_KEY} says that {name!r} is where the model has no data")
    content = inside[offset : offset + length]
    return TensorProto(name=name, data_type=TensorProto.INT8, dims=[length], raw_data=content)


def _taken_from_function(model: onnx.ModelProto, ir_version: int) -> bytes:
    """Return the bytes that the model has inside, and make it what it was without the function that has them."""
    found = [each for each in model.functions if (each.domain, each.name) == (DOMAIN, FUNCTION)]
    data = [each.t.raw_data for function in found for node in function.node for each in node.attribute]
    if len(data) != 1:
        raise InputError(
            f"its metadata {AT_OPEN_KEY} says that compressed constants are in the model, and they are not: another "
            "program has written it anew, without them"
        )
    model.functions.remove(found[0])
    model.ir_version = ir_version
    return bytes(data[0])


def locations_at_open(proto: onnx.ModelProto) -> set[str]:
    """Return the file that has the constants, as it is written in the model; nothing if there are none."""
    text = _text_of(proto)
    if text is None:
        return set()
    try:
        data = _parsed(text)[0]["data"]
    except InputError:
        return set()
    return {data} if data else set()


def _text_of(proto: onnx.ModelProto) -> str | None:
    return next((entry.value for entry in proto.metadata_props if entry.key == AT_OPEN_KEY), None)


def _is_marked(node: onnx.NodeProto) -> bool:
    marked = any((each.key, each.value) == (WAY_KEY, AT_OPEN) for each in node.metadata_props)
    return marked and (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def _file_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return the file that a node's weight is in; ``None`` if it is not in one."""
    locations = {external_entries(tensors[name]).get("location") if name in tensors else None for name in node.input}
    return locations.pop() if len(locations) == 1 else None


def _is_inside(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    """Tell whether the model itself has a node's weight."""
    return all(name in tensors and not external_entries(tensors[name]) for name in node.input)


def _place_in_file(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Return where in its file an external tensor begins, and how many bytes it has."""
    place = external_entries(tensor)
    return int(place.get("offset", 0)), int(place["length"])


def _entry(node: onnx.NodeProto, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    entry = {
        "name": node.output[0],
        "dtype": TensorProto.DataType.Name(attributes["dtype"]).lower(),
        "shape": list(attributes["shape"]),
        "compress_info": list(attributes["compress_info"]),
        "transposed": attributes.get("transposed", 0),
    }
    for part, name in zip(_PARTS, node.input, strict=True):
        entry[part] = ["" if name == f"{entry['name']}.{part}" else name, *places[name]]
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


def _names_read(main: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of values that nodes read and graphs give, those inside of nodes as well."""
    for graph in graphs_of(main):
        yield from (value.name for value in graph.output)
        for node in graph.node:
            yield from node.input


_FIELDS = {"name": str, "dtype": str, "shape": list, "compress_info": list, "transposed": int, "x2": list}


def _parsed(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what is said of all constants and of each, of the types that it has to be of."""
    try:
        said = json.loads(text)
        data, entries = said["data"], said["constants"]
        fits = isinstance(data, str) and isinstance(entries, list) and all(map(_is_entry, entries))
        fits = fits and (data != "" or (type(said["ir_version"]) is int and 0 < said["ir_version"] < 1 << 31))
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise InputError(f"its metadata {AT_OPEN_KEY} cannot be read: the model is damaged, or of a newer version")
    return said, entries


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
