"""Loads ONNX models that are not trusted: what a file claims is checked before any of it is followed."""

from pathlib import Path

import onnx
import onnx_ir as ir

from mcd_graph.errors import InputError
from mcd_graph.model.checks import check_structure
from mcd_graph.model.fidelity import remember_order
from mcd_graph.model.source import ModelSource, Source, external_files, read_proto
from mcd_graph.model.sparse import with_dense_constants
from mcd_graph.model.tensors import Folders, check_tensor
from mcd_graph.model.walk import Contents, graphs_of

__all__ = ["ModelSource", "check_tensors", "external_files", "graphs_of", "load_model", "read_proto"]

_CONSTANTS_IR_VERSION = 4
"""The first version of the IR in which an initialiser that is not among the graph's inputs is a constant."""


def load_model(source: ModelSource | Source) -> ir.Model:
    """Load a model; external data stays on disk and is memory-mapped when it is looked at.

    Args:
        source: path of a model file, a proto without external data, or either of them read already.

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
    given = source if isinstance(source, Source) else Source.read(source)
    name, base = given.name, None if given.path is None else given.path.absolute().parent
    contents = _with_constants(given.contents)
    try:
        contents = with_dense_constants(contents)
        proto = contents.proto
        check_structure(contents)
        _check_tensors(contents, given.path)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not a valid ONNX model: {_first_line(error)}") from error
    _forget_negative_sizes(model)
    _call_onnx_by_one_name(model)
    remember_order(model, proto)
    if base is not None:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(graph, base)
        _follow_links(model)
    return model


def check_tensors(source: Source) -> None:
    """Raise InputError unless all tensors have the bytes that they need, in files where they may lie."""
    try:
        _check_tensors(source.contents, source.path)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None


def _check_tensors(contents: Contents, path: Path | None) -> None:
    folders = None if path is None else Folders(path.absolute().parent, path)
    for tensor in contents.tensors:
        check_tensor(tensor, folders)


def _with_constants(contents: Contents) -> Contents:
    """Return the model with its initialisers as constants if it is of an IR version that has no others.

    Below version 4 each initialiser has to be listed among the inputs as well, and onnxruntime takes it for a constant;
    from version 4 on the list means that callers may override it. So the list goes, and the version is 4 then.
    """
    proto = contents.proto
    if proto.ir_version >= _CONSTANTS_IR_VERSION:
        return contents
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.ir_version = _CONSTANTS_IR_VERSION
    constants = {tensor.name for tensor in proto.graph.initializer}
    del changed.graph.input[:]
    changed.graph.input.extend(value for value in proto.graph.input if value.name not in constants)
    return Contents.of(changed)


def _call_onnx_by_one_name(model: ir.Model) -> None:
    """Have ONNX's own domain be the empty one in lists of imports, as it is in nodes; it is called ``ai.onnx`` too."""
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        version = imports.pop("ai.onnx", None)
        if version is not None:
            imports.setdefault("", version)


def _forget_negative_sizes(model: ir.Model) -> None:
    """Treat negative dimensions as unknown: some exporters write -1, and onnx computes with it as with a number."""
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
