"""Reads ONNX models from strangers: what a file claims is checked before any of it is followed.

External data may only lie in regular files below the model's own directory. Paths that are absolute, contain ``..``,
or lead elsewhere through links are refused, and so are offsets and lengths that the file or the tensor's own shape
contradict. Graphs inside of graphs have a limit, and local functions must not call each other in a circle, nor unfold
into more nodes than a program can hold.
"""

import errno
import graphlib
import itertools
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from mcd_graph.errors import InputError
from mcd_graph.model.fidelity import remember_order
from mcd_graph.operators.registry import find, unknown_operator
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION

__all__ = ["ModelSource", "external_files", "graphs_of", "load_model", "read_proto"]

DEPTH_LIMIT = 32
"""Graphs inside of graphs; protobuf's own limit for files is about as many."""

NODES_LIMIT = 10_000_000
"""Nodes of a model whose local functions are unfolded, as runtimes do."""

FILE_BYTES_LIMIT = (1 << 31) - 1
"""What a protobuf message may hold, and so a model file without its external data."""

_ONE_OUTPUT = {
    *(("com.microsoft", name) for name in ("QuantizeLinear", "DequantizeLinear", "QGemm", "QLinearConv")),
    *(("com.microsoft", name) for name in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")),
}
"""Operators of other domains than ONNX's that the passes replace; onnx may have no schema for them."""

_ATTRIBUTE_VALUES = {"f", "i", "s", "t", "g", "sparse_tensor", "tp"} | {
    *("floats", "ints", "strings", "tensors", "graphs", "sparse_tensors", "type_protos")
}
"""Fields of an attribute that hold its value."""

ModelSource = str | os.PathLike[str] | onnx.ModelProto
"""A model is given by its path, or as a proto that holds all its data itself."""


_CONSTANTS_IR_VERSION = 4
"""The first version of the IR in which an initialiser that is not among the graph's inputs is a constant."""


def load_model(source: ModelSource) -> ir.Model:
    """Load a model; external data stays on disk and is memory-mapped when it is looked at.

    Args:
        source: path of a model file, or a proto without external data.

    Returns:
        The model in onnx_ir's representation, independent of ``source``.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an ONNX model, or its external data is refused.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> [value.name for value in load_model("model.onnx").graph.inputs]
        ['ids', 'mask']
    """
    if isinstance(source, onnx.ModelProto):
        name, proto, base = "the given ModelProto", source, None
    else:
        name, proto, base = os.fspath(source), read_proto(source), Path(source).absolute().parent
    proto = _with_constants(proto)
    try:
        _check_depth(proto)
        _check_texts(proto)
        _check_imports(proto)
        _check_operators(proto)
        _check_circles(proto)
        _check_functions(proto)
        _check_kept_whole(proto)
        _check_outputs(proto)
        _check_attributes(proto)
        _check_names(proto)
        folders = None if base is None else _Folders(base, Path(name))
        for tensor in _tensors_of_model(proto):
            _check_tensor(tensor, folders)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not a valid ONNX model: {_first_line(error)}") from error
    _forget_negative_sizes(model)
    remember_order(model, proto)
    if base is not None:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(graph, base)
        _follow_links(model)
    return model


def read_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model file without its external data.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an ONNX model.
    """
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(_read_regular(Path(path)))
    except DecodeError as error:
        # Versions of protobuf before 7 say nothing but that it failed.
        if "depth" in str(error).lower():
            raise InputError(f"{os.fspath(path)}: its graphs or types are nested too deeply") from None
        raise InputError(f"{os.fspath(path)} is not an ONNX model") from None
    # Any few bytes may happen to parse: a model has at least a version, operators and a node or an output.
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{os.fspath(path)} is not an ONNX model")
    return proto


def _with_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its initialisers as constants if it is of an IR version that has no others.

    Below version 4 each initialiser has to be listed among the inputs as well, and onnxruntime takes it for a constant;
    from version 4 on the list means that callers may override it. So the list goes, and the version is 4 then.
    """
    if proto.ir_version >= _CONSTANTS_IR_VERSION:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.ir_version = _CONSTANTS_IR_VERSION
    constants = {tensor.name for tensor in proto.graph.initializer}
    del changed.graph.input[:]
    changed.graph.input.extend(value for value in proto.graph.input if value.name not in constants)
    return changed


def _read_regular(path: Path) -> bytes:
    """Read a file that is one: a pipe may never end, and a device has no end."""
    # Without waiting for somebody to write into it, if it is a pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file")
        if status.st_size > FILE_BYTES_LIMIT:
            raise InputError(f"{path} is not an ONNX model: it is larger than 2 GiB")
        return file.read()


def external_files(proto: onnx.ModelProto) -> set[str]:
    """Return the locations of all external data that the model names, unchecked, as they are written in it."""
    return {
        _external_entries(tensor).get("location", "")
        for tensor in _tensors_of_model(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside of its nodes."""
    return (inner for inner, _ in _graphs_with_depth(graph))


def _graphs_with_depth(*graphs: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """Yield graphs and all those inside of their nodes, each with its depth, the given ones being at 0."""
    waiting = [(graph, 0) for graph in graphs]
    while waiting:
        graph, depth = waiting.pop()
        yield graph, depth
        waiting.extend((inner, depth + 1) for inner in _graphs_in(graph.node))


def _graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of the nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those in the graphs inside of them."""
    nodes = list(nodes)
    yield from nodes
    for graph, _ in _graphs_with_depth(*_graphs_in(nodes)):
        yield from graph.node


def _tensors_of_model(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for function in proto.functions:
        yield from _tensors_of_nodes(function.node)
    inside = (graph for function in proto.functions for graph in _graphs_in(function.node))
    for graph, _ in _graphs_with_depth(proto.graph, *inside):
        yield from graph.initializer
        yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_depth(proto: onnx.ModelProto) -> None:
    """Raise InputError if graphs are nested so deeply that following them could exhaust a stack."""
    inside = (graph for function in proto.functions for graph in _graphs_in(function.node))
    for _, depth in _graphs_with_depth(proto.graph, *inside):
        if depth > DEPTH_LIMIT:
            raise InputError(f"its graphs are nested more than {DEPTH_LIMIT} deep")


def _check_functions(proto: onnx.ModelProto) -> None:
    """Raise InputError if local functions share a name, call each other in a circle, or unfold into too many nodes."""
    for function, times in Counter(map(_called, proto.functions)).items():
        if times > 1:
            raise InputError(f"it has {times} local functions of the name {'::'.join(filter(None, function))}")
    calls = {
        _called(function): Counter(_called(node) for node in _nodes_of(function.node)) for function in proto.functions
    }
    sizes: dict[tuple[str, str, str], int] = {}
    for start in calls:
        # Depth first, without recursion; a function is entered, and left when all that it calls are known.
        path = [start]
        while path:
            function = path[-1]
            unknown = next((called for called in calls[function] if called in calls and called not in sizes), None)
            if unknown is None:
                sizes[function] = sum(count * sizes.get(called, 1) for called, count in calls[function].items())
                path.pop()
            elif unknown in path:
                circle = " calls ".join(called[1] for called in (*path[path.index(unknown) :], unknown))
                raise InputError(f"its local functions call each other in a circle: {circle}")
            else:
                path.append(unknown)
    if sum(sizes.get(_called(node), 1) for node in _nodes_of(proto.graph.node)) > NODES_LIMIT:
        raise InputError(f"its local functions unfold into more than {NODES_LIMIT:,} nodes")


def _called(node: onnx.NodeProto | onnx.FunctionProto) -> tuple[str, str, str]:
    """Return what identifies the function that a node calls, or that a proto defines."""
    name = node.op_type if isinstance(node, onnx.NodeProto) else node.name
    return node.domain, name, node.overload


def _check_imports(proto: onnx.ModelProto) -> None:
    """Raise InputError for two versions of one domain, and where our operator is used in a version unknown here."""
    for imports in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        domains = ["" if opset.domain == "ai.onnx" else opset.domain for opset in imports]
        if len(set(domains)) < len({(domain, opset.version) for domain, opset in zip(domains, imports, strict=True)}):
            raise InputError("it imports several versions of one domain")
    # onnxruntime writes imports of all domains that it knows, with a version of its own for those of custom operators:
    # one that no node uses says nothing.
    for imports, nodes in (
        (proto.opset_import, proto.graph.node),
        *((function.opset_import, function.node) for function in proto.functions),
    ):
        for opset in imports:
            if opset.domain == DOMAIN and opset.version != DOMAIN_VERSION and _uses_operator(nodes):
                raise InputError(f"it imports version {opset.version} of domain {DOMAIN!r}; known is {DOMAIN_VERSION}")


def _check_operators(proto: onnx.ModelProto) -> None:
    """Raise InputError for an operator of our domain that is not known here: its weight would be overlooked."""
    local = {(function.domain, function.name) for function in proto.functions}
    nodes = itertools.chain(proto.graph.node, *(function.node for function in proto.functions))
    for node in _nodes_of(nodes):
        name = (node.domain, node.op_type)
        if node.domain == DOMAIN and find(*name) is None and name not in local:
            raise unknown_operator(node.name or next(iter(node.output), ""), node.op_type)


def _uses_operator(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Return whether any of the nodes, or of those inside of them, is of our domain."""
    return any(node.domain == DOMAIN for node in _nodes_of(nodes))


def _check_names(proto: onnx.ModelProto) -> None:
    """Raise InputError if a value has no name, or is read where nothing of that name is in scope."""
    _check_scope(proto.graph, [])
    for function in proto.functions:
        known = {*function.input, *(name for node in function.node for name in node.output)}
        _check_nodes(function.node, [known])
        for name in function.output:
            if name not in known:
                raise InputError(f"output {name!r} of function {function.name!r} is not computed")


def _check_scope(graph: onnx.GraphProto, outer: list[set[str]]) -> None:
    """Check the names of one graph and those inside of it; ``outer`` are the names around it, outermost first."""
    given = [value.name for value in (*graph.input, *graph.initializer)]
    if not all((*given, *(value.name for value in graph.output))):
        raise InputError(f"an input, output or initialiser of graph {graph.name!r} has no name")
    scopes = [*outer, {*given, *(name for node in graph.node for name in node.output)}]
    _check_nodes(graph.node, scopes)
    declared = {value.name: value.type for value in graph.input}
    for value in graph.output:
        if declared.setdefault(value.name, value.type) != value.type:
            raise InputError(f"output {value.name!r} of graph {graph.name!r} is declared in two ways")
        if not any(value.name in names for names in scopes):
            raise InputError(f"output {value.name!r} of graph {graph.name!r} is not computed")


def _check_nodes(nodes: Iterable[onnx.NodeProto], scopes: list[set[str]]) -> None:
    for node in nodes:
        for name in node.input:
            if name and not any(name in names for names in scopes):
                raise InputError(f"node {node.name!r} ({node.op_type}) reads {name!r}, which is not computed")
        for graph in _graphs_in([node]):
            _check_scope(graph, scopes)


def _check_circles(proto: onnx.ModelProto) -> None:
    """Raise InputError if a node needs its own result: whoever follows values to where they come from would not end."""
    inside = (graph for function in proto.functions for graph in _graphs_in(function.node))
    for graph, _ in _graphs_with_depth(proto.graph, *inside):
        _check_order(graph.node)
    for function in proto.functions:
        _check_order(function.node)


def _check_order(nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise InputError if there is no order in which the nodes of one graph can run."""
    nodes = list(nodes)
    producers = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    needs = {at: {producers[name] for name in _names_read(node) if name in producers} for at, node in enumerate(nodes)}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        names = " needs ".join(repr(nodes[at].name or "".join(nodes[at].output[:1])) for at in reversed(error.args[1]))
        raise InputError(f"its nodes need each other's results in a circle: {names}") from None


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Return the values that a node reads, by graphs inside of it as well, unless those have one of that name."""
    names = set(node.input)
    for graph in _graphs_in([node]):
        within = {name for each in graph.node for name in _names_read(each)} | {value.name for value in graph.output}
        within -= {name for each in graph.node for name in each.output}
        names |= within - {value.name for value in (*graph.input, *graph.initializer)}
    return names


def _check_outputs(proto: onnx.ModelProto) -> None:
    """Raise InputError if a node has no output, or several, where every operator of its domain, or it, has one."""
    inside = (node for function in proto.functions for node in _nodes_of(function.node))
    functions = {_called(function) for function in proto.functions}
    for node in (*_nodes_of(proto.graph.node), *inside):
        if not any(node.output) and node.domain in ("", "ai.onnx", "com.microsoft", DOMAIN):
            raise InputError(f"node {node.name!r} ({node.op_type}) has no output")
        # Whoever replaces such a node by what computes its one result would leave it there for the others.
        if any(node.output[1:]) and _has_one_output(node) and _called(node) not in functions:
            raise InputError(f"node {node.name!r} ({node.op_type}) has more than one output: {', '.join(node.output)}")


def _has_one_output(node: onnx.NodeProto) -> bool:
    """Tell whether the operator has exactly one output. No operator of ONNX has had more in an earlier version."""
    if node.domain in ("", "ai.onnx"):
        return onnx.defs.has(node.op_type) and onnx.defs.get_schema(node.op_type).max_output == 1
    ours = find(node.domain, node.op_type)
    return len(ours.outputs) == 1 if ours else (node.domain, node.op_type) in _ONE_OUTPUT


def _check_texts(message: Message) -> None:
    """Raise InputError if a name or another text is not UTF-8: protobuf reads such a one, but cannot copy it."""
    if isinstance(message, onnx.TensorProto):
        # Not field by field: that would copy the data.
        texts: list[str | bytes] = [message.name, message.doc_string]
        inner: list[Message] = [*message.external_data, *message.metadata_props]
    else:
        texts, inner = [], []
        for field, value in message.ListFields():
            items = [value] if isinstance(value, (str, bytes, Message)) else value
            if field.type == field.TYPE_STRING:
                texts.extend(items)
            elif field.type == field.TYPE_MESSAGE:
                inner.extend(items)
    for text in texts:
        if isinstance(text, bytes):
            raise InputError(f"text {text!r} is not UTF-8")
    for each in inner:
        _check_texts(each)


def _check_attributes(proto: onnx.ModelProto) -> None:
    """Raise InputError for attributes that onnx_ir reads but cannot walk over, or write again."""
    for node in _nodes_of(proto.graph.node):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                where = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
                raise InputError(f"{where}: it refers to an argument, but is not in a function")
    inside = (node for function in proto.functions for node in _nodes_of(function.node))
    for node in (*_nodes_of(proto.graph.node), *inside):
        names = [attribute.name for attribute in node.attribute]
        if len(set(names)) < len(names):
            raise InputError(f"node {node.name!r} ({node.op_type}) has two attributes of one name")
        for attribute in node.attribute:
            where = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
            if attribute.type == onnx.AttributeProto.UNDEFINED:
                raise InputError(f"{where}: it has no type")
            if attribute.ref_attr_name and {field.name for field, _ in attribute.ListFields()} & _ATTRIBUTE_VALUES:
                raise InputError(f"{where}: it has a value and refers to an argument as well")
            if attribute.ref_attr_name and attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise InputError(f"{where}: graphs as arguments of functions are not supported")
            if attribute.HasField("g") != (attribute.type == onnx.AttributeProto.GRAPH):
                raise InputError(f"{where}: it holds a graph and is of another type, or the other way round")


def _check_kept_whole(proto: onnx.ModelProto) -> None:
    """Raise InputError for the two things that onnx_ir forgets, since they would be missing in what we write."""
    if proto.training_info:
        raise InputError("models with training information are not supported")
    if any(graph.sparse_initializer for graph in graphs_of(proto.graph)):
        raise InputError("sparse initialisers are not supported")


class _Folders:
    """Where a model's external data may lie, which is where onnxruntime looks for it.

    Data is named from the model's folder, and with all links followed lies below that folder, or below the folder of
    the model file itself if that is a link: so a hub's cache opens, whose files are links into a folder of blobs.

    Attributes:
        base: the model's folder, from which locations count.
    """

    def __init__(self, base: Path, model: Path) -> None:
        self.base = base
        self._allowed = (base.resolve(), model.resolve().parent)

    def hold(self, path: Path) -> bool:
        """Tell whether a file lies in the folders with all links followed; OSError if there is none."""
        real = path.resolve(strict=True)
        return any(real.is_relative_to(folder) for folder in self._allowed)


def _check_tensor(tensor: onnx.TensorProto, folders: _Folders | None) -> None:
    """Raise InputError unless the tensor has as many bytes as its type and shape need."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if folders is None:
            raise InputError(f"tensor {tensor.name!r} is in another file; give the model's path instead of a proto")
        _check_external(tensor, folders)
    elif not tensor.HasField("raw_data"):
        _check_entries(tensor)
    elif len(tensor.raw_data) != _byte_size(tensor):
        raise InputError(
            f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, which do not fit its type and shape"
        )
    else:
        _check_padding(tensor, tensor.raw_data[-1:])


def _check_entries(tensor: onnx.TensorProto) -> None:
    """Raise InputError unless the tensor's typed field has as many entries as its type and shape need."""
    try:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    except KeyError:  # no type, or one that is not known: nothing looks into it
        return
    entries = getattr(tensor, field)
    count = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        count *= 2
    six_bits = tensor.data_type != onnx.TensorProto.STRING and _bits(tensor) == 6
    if field == "int32_data" and _bits(tensor) < 8 and not six_bits:
        count = -(-count * _bits(tensor) // 8)  # an entry for each byte
    if len(entries) != count or any(dim < 0 for dim in tensor.dims):
        raise InputError(f"tensor {tensor.name!r} has {len(entries)} entries, which do not fit its type and shape")
    if six_bits and any(not 0 <= entry < 64 for entry in entries):
        raise InputError(f"tensor {tensor.name!r} has entries beyond the 6 bits of its type")


def _check_padding(tensor: onnx.TensorProto, last: bytes) -> None:
    """Raise InputError if the last byte of a 6-bit type has bits beyond the last element: onnx_ir does not read it."""
    if not last or _bits(tensor) != 6:
        return
    used = math.prod(tensor.dims) * 6 % 8
    if used and last[0] >> used:
        raise InputError(f"tensor {tensor.name!r} has padding bits that are not zero")


def _external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(tensor: onnx.TensorProto, folders: _Folders) -> None:
    """Raise InputError unless the tensor's bytes lie within a regular file where external data may lie."""
    entries = _external_entries(tensor)
    location = entries.get("location", "")

    def refuse(reason: str) -> InputError:
        return InputError(f"tensor {tensor.name!r}: external data {location!r} {reason}")

    if not location or "\0" in location:
        raise refuse("is not a file name")
    if PurePath(location).is_absolute():
        raise refuse("is an absolute path, which is refused")
    if Path(os.path.normpath(location)).is_relative_to(".."):
        raise refuse("leads out of the model's directory, which is refused")
    path = folders.base / location
    try:
        if not folders.hold(path):
            raise refuse("is a link out of the model's directory, which is refused")
        status = path.stat()
    except (OSError, RuntimeError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise refuse("is not a regular file")
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key) or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise refuse(f"has {key} {text!r}, which is not a size")
        numbers[key] = int(text)
    needed = _byte_size(tensor)
    if needed is None:
        raise refuse("is of a type or shape that cannot be external")
    if entries.get("length") and numbers["length"] != needed:
        raise refuse(f"has length {numbers['length']}, but its type and shape need {needed} bytes")
    if numbers["offset"] + needed > status.st_size:
        raise refuse(f"ends at byte {numbers['offset'] + needed}, but the file has only {status.st_size}")
    if needed and _bits(tensor) == 6:
        with path.open("rb") as file:
            file.seek(numbers["offset"] + needed - 1)
            _check_padding(tensor, file.read(1))


def _bits(tensor: onnx.TensorProto) -> int:
    """Return the bits of an element; TypeError or ValueError if its type has no fixed number of them."""
    return ir.DataType(tensor.data_type).bitwidth


def _byte_size(tensor: onnx.TensorProto) -> int | None:
    try:
        bits = _bits(tensor)
    except (TypeError, ValueError):
        return None
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            return None
        count *= dim
    return (count * bits + 7) // 8


def _forget_negative_sizes(model: ir.Model) -> None:
    """Let negative sizes be not known: some exporters write -1 for that, and onnx computes with it as with a number."""
    for graph in model.graphs():
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            if value.shape is not None and any(isinstance(dim, int) and dim < 0 for dim in value.shape):
                value.shape = ir.Shape([None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape])


def _follow_links(model: ir.Model) -> None:
    """Let tensors whose data lies behind links be read: onnx_ir refuses what onnxruntime opens and we have checked."""
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _without_links(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _without_links(attribute.value))


def _without_links(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """Return the same tensor by its real path; onnx_ir checks only those that are below a base directory."""
    path = Path(tensor.path)
    if path.stat().st_nlink == 1 and path.resolve().is_relative_to(Path(tensor.base_dir).resolve()):
        return tensor
    return ir.ExternalTensor(
        str(path.resolve()),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _first_line(error: BaseException) -> str:
    """Return the innermost cause's message: onnx_ir wraps it in descriptions of whole nodes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
