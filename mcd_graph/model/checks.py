"""Whether a model is one that can be followed: what a file claims is checked before any of it is followed.

Graphs inside of graphs have a limit, and local functions must not call each other in a circle, nor unfold into more
nodes than a program can hold.
"""

import graphlib
from collections import Counter
from collections.abc import Iterable

import onnx
from google.protobuf.message import Message

from mcd_graph.errors import InputError
from mcd_graph.model.walk import Contents, graphs_in
from mcd_graph.operators.registry import find, unknown_operator
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION

__all__ = ["DEPTH_LIMIT", "NODES_LIMIT", "check_structure"]

DEPTH_LIMIT = 32
"""Graphs inside of graphs; protobuf's own limit for files is about as many."""

NODES_LIMIT = 10_000_000
"""Nodes of a model whose local functions are unfolded, as runtimes do."""

_ONE_OUTPUT = {
    *(("com.microsoft", name) for name in ("QuantizeLinear", "DequantizeLinear", "QGemm", "QLinearConv")),
    *(("com.microsoft", name) for name in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")),
}
"""Operators of other domains than ONNX's that the passes replace; onnx may have no schema for them."""

_ATTRIBUTE_VALUES = {"f", "i", "s", "t", "g", "sparse_tensor", "tp"} | {
    *("floats", "ints", "strings", "tensors", "graphs", "sparse_tensors", "type_protos")
}
"""Fields of an attribute that hold its value."""


def check_structure(contents: Contents) -> None:
    """Raise InputError if a model cannot be followed, or not be written again as it is."""
    _check_depth(contents)
    _check_texts(contents.proto)
    _check_imports(contents)
    _check_operators(contents)
    _check_circles(contents)
    _check_functions(contents)
    _check_kept_whole(contents)
    _check_outputs(contents)
    _check_attributes(contents)
    _check_names(contents.proto)


def _check_depth(contents: Contents) -> None:
    """Raise InputError if graphs are nested so deeply that following them could exhaust a stack."""
    for _, depth in contents.graphs:
        if depth > DEPTH_LIMIT:
            raise InputError(f"its graphs are nested more than {DEPTH_LIMIT} deep")


def _check_functions(contents: Contents) -> None:
    """Raise InputError if local functions share a name, call each other in a circle, or unfold into too many nodes."""
    for function, times in Counter(_called(function) for function, _ in contents.functions).items():
        if times > 1:
            raise InputError(f"it has {times} local functions of the name {'::'.join(filter(None, function))}")
    calls = {_called(function): Counter(_called(node) for node in nodes) for function, nodes in contents.functions}
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
    if sum(sizes.get(_called(node), 1) for node in contents.main) > NODES_LIMIT:
        raise InputError(f"its local functions unfold into more than {NODES_LIMIT:,} nodes")


def _called(node: onnx.NodeProto | onnx.FunctionProto) -> tuple[str, str, str]:
    """Return what identifies the function that a node calls, or that a proto defines."""
    name = node.op_type if isinstance(node, onnx.NodeProto) else node.name
    return node.domain, name, node.overload


def _check_imports(contents: Contents) -> None:
    """Raise InputError for two versions of one domain, and where our operator is used in a version unknown here."""
    owners = [
        (contents.proto.opset_import, contents.main),
        *((function.opset_import, nodes) for function, nodes in contents.functions),
    ]
    for imports, _ in owners:
        domains = ["" if opset.domain == "ai.onnx" else opset.domain for opset in imports]
        if len(set(domains)) < len({(domain, opset.version) for domain, opset in zip(domains, imports, strict=True)}):
            raise InputError("it imports several versions of one domain")
    # onnxruntime writes imports of all domains that it knows, with a version of its own for those of custom operators:
    # one that no node uses says nothing.
    for imports, nodes in owners:
        used = any(node.domain == DOMAIN for node in nodes)
        for opset in imports:
            if opset.domain == DOMAIN and opset.version != DOMAIN_VERSION and used:
                raise InputError(f"it imports version {opset.version} of domain {DOMAIN!r}; known is {DOMAIN_VERSION}")


def _check_operators(contents: Contents) -> None:
    """Raise InputError for an operator of our domain that is not known here: its weight would be overlooked."""
    local = {(function.domain, function.name) for function, _ in contents.functions}
    for node in contents.nodes:
        name = (node.domain, node.op_type)
        if node.domain == DOMAIN and find(*name) is None and name not in local:
            raise unknown_operator(node.name or next(iter(node.output), ""), node.op_type)


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
        for graph in graphs_in([node]):
            _check_scope(graph, scopes)


def _check_circles(contents: Contents) -> None:
    """Raise InputError if a node needs its own result: whoever follows values to where they come from would not end."""
    for graph, _ in contents.graphs:
        _check_order(graph.node)
    for function, _ in contents.functions:
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
    for graph in graphs_in([node]):
        within = {name for each in graph.node for name in _names_read(each)} | {value.name for value in graph.output}
        within -= {name for each in graph.node for name in each.output}
        names |= within - {value.name for value in (*graph.input, *graph.initializer)}
    return names


def _check_outputs(contents: Contents) -> None:
    """Raise InputError if a node has no output, or several, where every operator of its domain, or it, has one."""
    functions = {_called(function) for function, _ in contents.functions}
    for node in contents.nodes:
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
            raise InputError(f"text {text!r} is not UTF-8, as ONNX wants names and other texts: rename it")
    for each in inner:
        _check_texts(each)


def _check_attributes(contents: Contents) -> None:
    """Raise InputError for attributes that onnx_ir reads but cannot walk over, or write again."""
    for node in contents.main:
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                where = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
                raise InputError(f"{where}: it refers to an argument, but is not in a function")
    for node in contents.nodes:
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


def _check_kept_whole(contents: Contents) -> None:
    """Raise InputError for what would be missing in what we write: data of training information in other files."""
    for info in contents.proto.training_info:
        for graph in (info.initialization, info.algorithm):
            tensors = Contents.of(onnx.ModelProto(graph=graph)).tensors
            if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
                raise InputError("models whose training information has external data are not supported")
