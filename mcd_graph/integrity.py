"""Verifies a model file without running it: the file itself, where its data lies, and every compressed weight."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import onnx
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.model.loading import graphs_of, load_model
from mcd_graph.model.source import Source
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.operators.view import CompressedNode, CompressedNodeError, check_memory
from mcd_graph.progress import Progress

__all__ = ["Check", "Problem", "Stream", "check_model", "over_streams", "streams_of"]

T = TypeVar("T")

_CHECKER_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
    TypeError,
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a model.

    Attributes:
        node: the node that it was found at; ``None`` when it is about the file as a whole.
        tensor: the compressed weight's stream, ``x2``; ``None`` when it is about no tensor.
        reason: what is wrong.
    """

    node: str | None
    tensor: str | None
    reason: str

    def __str__(self) -> str:
        places = [
            f"{kind} {name}: " for kind, name in (("node", self.node), ("tensor", self.tensor)) if name is not None
        ]
        return "".join((*places, self.reason))


@dataclasses.dataclass(frozen=True)
class Check:
    """What a verification found.

    Attributes:
        model: the file.
        nodes: compressed nodes in it.
        weights: different compressed weights that they use.
        compressed_bytes: size of these.
        problems: all that is wrong; none in a file that is whole.
    """

    model: str
    nodes: int
    weights: int
    compressed_bytes: int
    problems: tuple[Problem, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, with the version of its layout."""
        return {"schema": "mcd-check", "schema_version": 1, "intact": self.intact, **dataclasses.asdict(self)}


@dataclasses.dataclass
class Stream:
    """One compressed weight and the nodes that use it.

    Attributes:
        nodes: the nodes.
    """

    nodes: list[CompressedNode]

    @property
    def view(self) -> CompressedNode:
        """One of the nodes: all hold the same weight."""
        return self.nodes[0]

    @property
    def tensor(self) -> str:
        """The name of ``x2``."""
        return self.view.stream_name

    @property
    def nbytes(self) -> int:
        """Size of stream and index in bytes."""
        return self.view.x2.nbytes + self.view.compress_index.nbytes


def check_model(
    model_input: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
    memory_limit: int | None = None,
) -> Check:
    """Verify a model file without running it.

    The file must be an ONNX model that onnx's checker accepts, with its external data in regular files beside it; in
    every compressed weight each checksum must hold and each code word decode. So any flipped bit of a compressed
    weight is found. ONNX has no checksum for the rest: a flipped bit of a float constant gives another model that is
    just as valid.

    Args:
        model_input: path of a model.
        progress: called after each weight, from one thread at a time.
        memory_limit: bytes that the tables of a weight may take, for untrusted models.

    Returns:
        All problems that were found.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a weight needs more memory than ``memory_limit``.

    Examples:
        >>> import mcd_graph
        >>> from mcd_graph.integrity import check_model
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> check_model("model.mcd.onnx").problems
        ()
    """
    source = os.fspath(model_input)
    problems = []
    try:
        given = Source.read(source)
        model = load_model(given)
    except InputError as error:
        return Check(source, 0, 0, 0, (Problem(None, None, str(error).removeprefix(f"{source}: ")),))
    check_memory(model, source, memory_limit, decoded=False)
    try:
        onnx.checker.check_model(_for_checker(given.contents.proto))
    except _CHECKER_ERRORS as error:
        problems.append(Problem(None, None, f"onnx's checker: {_first_line(error)}"))

    nodes = [node for node, *_ in compressed_nodes(model)]
    streams, unreadable = streams_of(nodes)
    problems.extend(Problem(error.node, None, error.reason) for error in unreadable)
    for stream, reason in over_streams(streams, _damage, progress):
        wrong = ((node, reason or node.spec.check(node)) for node in stream.nodes)
        problems.extend(Problem(node.name, stream.tensor, what) for node, what in wrong if what is not None)
    return Check(source, len(nodes), len(streams), sum(stream.nbytes for stream in streams), tuple(problems))


def _for_checker(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Change a model so that onnx's checker finds no fault with what onnxruntime accepts.

    The checker wants a shape of every input and a type of every output, and refuses data behind links and functions
    of another version of ONNX than the model's. :func:`load_model` has looked at the data already, so that constants
    count as inputs here; and such functions' structure, so that they are taken for operators of another library.
    """
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    for function in tuple(proto.functions):
        if any(versions.get(opset.domain, opset.version) != opset.version for opset in function.opset_import):
            proto.functions.remove(function)
    for graph in graphs_of(proto.graph):
        external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        inputs = {value.name for value in graph.input}
        for tensor in external:
            graph.initializer.remove(tensor)
            if tensor.name not in inputs:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        for value in graph.output:
            if not value.HasField("type"):  # onnxruntime infers it
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for value in (*graph.input, *graph.output):
            if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
                value.type.tensor_type.shape.SetInParent()
    return proto


def streams_of(nodes: Iterable[ir.Node]) -> tuple[list[Stream], list[CompressedNodeError]]:
    """Return the different compressed weights of some nodes, unchecked, and what is wrong with nodes without one."""
    streams: dict[tuple[Any, ...], Stream] = {}
    unreadable = []
    for node in nodes:
        try:
            view = CompressedNode.of(node)
            view.parts()
        except CompressedNodeError as error:
            unreadable.append(error)
            continue
        streams.setdefault(view.key, Stream([])).nodes.append(view)
    return list(streams.values()), unreadable


def over_streams(
    streams: Sequence[Stream], look: Callable[[Stream], T], progress: Callable[[Progress], None] | None
) -> list[tuple[Stream, T]]:
    """Call ``look`` for every stream, on all processors, and return what it returned, in order."""
    lock = threading.Lock()
    done = [0, 0]
    total = sum(stream.nbytes for stream in streams)

    def one(stream: Stream) -> tuple[Stream, T]:
        result = look(stream)
        with lock:
            done[0] += 1
            done[1] += stream.nbytes
            if progress is not None:
                progress(Progress(stream.tensor, done[0], len(streams), done[1], total))
        return stream, result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, streams))


def _damage(stream: Stream) -> str | None:
    """Return what is wrong with a stream, if anything is."""
    try:
        _native.verify(*stream.view.parts())
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
