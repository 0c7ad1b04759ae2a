"""Reads ONNX models from strangers: what a file claims is checked before any of it is followed.

External data may only lie in regular files below the model's own directory. Paths that are absolute, contain ``..``,
or lead elsewhere through links are refused, and so are offsets and lengths that the file or the tensor's own shape
contradict.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from mcd_graph.errors import InputError

__all__ = ["ModelSource", "external_files", "graphs_of", "load_model", "read_proto"]

ModelSource = str | os.PathLike[str] | onnx.ModelProto
"""A model is given by its path, or as a proto that holds all its data itself."""


def load_model(source: ModelSource) -> ir.Model:
    """Load a model; external data stays on disk and is memory-mapped when it is looked at.

    Args:
        source: path of a model file, or a proto without external data.

    Returns:
        The model in onnx_ir's representation, independent of ``source``.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an ONNX model, or its external data is refused.
    """
    if isinstance(source, onnx.ModelProto):
        name, proto, base = "the given ModelProto", source, None
    else:
        name, proto, base = os.fspath(source), read_proto(source), Path(source).absolute().parent
    try:
        _check_kept_whole(proto)
        for tensor in _tensors_of_model(proto):
            _check_tensor(tensor, base)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not a valid ONNX model: {_first_line(error)}") from error
    if base is not None:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(graph, base)
    return model


def read_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model file without its external data.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an ONNX model.
    """
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(Path(path).read_bytes())
    except DecodeError:
        raise InputError(f"{os.fspath(path)} is not an ONNX model") from None
    # Any few bytes may happen to parse: a model has at least a version, operators and a node or an output.
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{os.fspath(path)} is not an ONNX model")
    return proto


def external_files(proto: onnx.ModelProto) -> set[str]:
    """Return the locations of all external data that the model names, unchecked, as they are written in it."""
    return {
        _external_entries(tensor).get("location", "")
        for tensor in _tensors_of_model(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside of its nodes."""
    yield graph
    yield from _graphs_in(graph.node)


def _graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs_of(graph)


def _tensors_of_model(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = list(graphs_of(proto.graph))
    for function in proto.functions:
        yield from _tensors_of_nodes(function.node)
        graphs.extend(_graphs_in(function.node))
    for graph in graphs:
        yield from graph.initializer
        yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_kept_whole(proto: onnx.ModelProto) -> None:
    """Raise InputError for the two things that onnx_ir forgets, since they would be missing in what we write."""
    if proto.training_info:
        raise InputError("models with training information are not supported")
    if any(graph.sparse_initializer for graph in graphs_of(proto.graph)):
        raise InputError("sparse initialisers are not supported")


def _check_tensor(tensor: onnx.TensorProto, base: Path | None) -> None:
    """Raise InputError unless the tensor has as many bytes as its type and shape need."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if base is None:
            raise InputError(f"tensor {tensor.name!r} is in another file; give the model's path instead of a proto")
        _check_external(tensor, base)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != _byte_size(tensor):
        raise InputError(
            f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, which do not fit its type and shape"
        )


def _external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(tensor: onnx.TensorProto, base: Path) -> None:
    """Raise InputError unless the tensor's bytes lie within a regular file below ``base``."""
    entries = _external_entries(tensor)
    location = entries.get("location", "")

    def refuse(reason: str) -> InputError:
        return InputError(f"tensor {tensor.name!r}: external data {location!r} {reason}")

    if not location or "\0" in location:
        raise refuse("is not a file name")
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise refuse("is an absolute path, which is refused")
    if ".." in PurePosixPath(location).parts or ".." in PureWindowsPath(location).parts:
        raise refuse("leads out of the model's directory, which is refused")
    path = base / location
    try:
        if not path.resolve(strict=True).is_relative_to(base.resolve()):
            raise refuse("is a link out of the model's directory, which is refused")
        status = path.stat()
    except (OSError, RuntimeError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise refuse("is not a regular file")
    if status.st_nlink > 1:
        # onnx and onnx_ir refuse it as well: a hard link can smuggle any file of the same disk into the directory.
        raise refuse("has several hard links, which is refused; copy it")
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


def _byte_size(tensor: onnx.TensorProto) -> int | None:
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return None
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            return None
        count *= dim
    return (count * bits + 7) // 8


def _first_line(error: BaseException) -> str:
    """Return the innermost cause's message: onnx_ir wraps it in descriptions of whole nodes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
