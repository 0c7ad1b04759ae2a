"""Asks the installed onnxruntime what it makes of a model's multiplications when it optimises.

Whether QDQ multiplications are computed in integers, and which nodes go into them, is decided by onnxruntime's graph
optimiser, after it has removed no-ops, folded constants and merged nodes. The rules say what they expect of it, and
its answer decides: a multiplication is lowered only where the two agree.

The model is asked about without its large tensors: each is all zeros in one sparse file, of the same type and shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from mcd_graph.isolation import death_of
from mcd_graph.model import walk
from mcd_graph.options import quiet_options
from mcd_graph.passes.engine.facts import all_nodes
from mcd_graph.passes.engine.inlined import RETURNED, returning

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "SITE",
    "TOO_LONG",
    "Instance",
    "IntegerNode",
    "Optimized",
    "ask_onnxruntime",
    "emptied_copy",
    "instance_of",
    "nodes_of",
    "optimize",
    "readers_of",
]

#: Prefix of the names that the nodes asked about have, before their number.
SITE = "mcd.site."

#: Tensors of more bytes are replaced by zeros; scales, zero points and biases, whose values decide, are smaller.
_KEPT_BYTES = 64 << 10

#: How long onnxruntime may take for it.
_SECONDS = 120.0

#: What is said of a model that takes longer.
TOO_LONG = f"it takes longer than {_SECONDS:.0f} s"

#: Operators that multiply integers, as onnxruntime's optimiser makes them.
_INTEGER_OPERATORS = frozenset(
    ("QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearConv")
)


#: Where they have the scale and zero point of the activation, the scale of the weight, and both of the result.
_PARAMETERS = {
    "QLinearMatMul": (1, 2, 4, 6, 7),
    "QLinearConv": (1, 2, 4, 6, 7),
    "QGemm": (1, 2, 4, 7, 8),
    "MatMulIntegerToFloat": (2, 4, 3, None, None),
}


@dataclasses.dataclass(frozen=True)
class Instance:
    """A node that was asked about, at one place of the graph that onnxruntime makes.

    Attributes:
        prefix: what onnxruntime puts in front of the names of a function that it puts in place of a call.
        site: the number of the node.
    """

    prefix: str
    site: int


def instance_of(node: onnx.NodeProto) -> Instance | None:
    """Return which node that was asked about an optimised node was; onnxruntime appends to names that it replaces."""
    name = re.match("(.*)" + re.escape(SITE) + r"([0-9]+)(/|$)", node.name)
    return Instance(name[1], int(name[2])) if name else None


@dataclasses.dataclass(frozen=True)
class IntegerNode:
    """A multiplication that onnxruntime computes in integers.

    Attributes:
        instance: which of the nodes that were asked about became it, as far as its name tells; else ``None``. One in a
            local function has an instance for each call.
        activation: the name of what it multiplies.
        outputs: names of its results.
        requantizes: its result is int8 or uint8, not float or int32.
        scale: what it multiplies sums with, where that is constant: float32, one value or one per column.
        zero_points: of activation and result, where they are there and constant.
    """

    instance: Instance | None
    activation: str
    outputs: tuple[str, ...]
    requantizes: bool
    scale: np.ndarray | None = None
    zero_points: tuple[np.ndarray | None, np.ndarray | None] = (None, None)


@dataclasses.dataclass(frozen=True)
class Optimized:
    """What onnxruntime makes of a model.

    Attributes:
        graph: the optimised graph; large tensors are all zeros.
        integer_nodes: the multiplications in it that it computes in integers.
    """

    graph: onnx.GraphProto
    integer_nodes: tuple[IntegerNode, ...]


def ask_onnxruntime(model: ir.Model, sites: Sequence[ir.Node]) -> Optimized | str:
    """Return what the installed onnxruntime makes of a model at its default settings, or why it cannot be asked.

    Args:
        model: the model; it is as before afterwards.
        sites: the nodes to look for by name.
    """
    with emptied_copy(model, sites) as copy:
        return copy if isinstance(copy, str) else optimize(copy)


@contextlib.contextmanager
def emptied_copy(model: ir.Model, sites: Sequence[ir.Node]) -> Iterator[Path | str]:
    """Write a copy of a model without its large tensors; yield its path, or why there is none.

    Args:
        model: the model; it is as before afterwards.
        sites: the nodes that are called ``SITE`` and their number in the copy; others that compute what a
            function returns are called ``RETURNED`` and theirs.
    """
    with tempfile.TemporaryDirectory(prefix="mcd-") as folder:
        path = Path(folder) / "model.onnx"
        answer: Path | str = path
        try:
            with (
                _named((node, "") for node in _already_marked(model)),
                _named((node, f"{RETURNED}{number}") for number, node in enumerate(returning(model))),
                _named((node, f"{SITE}{number}") for number, node in enumerate(sites)),
                _emptied(model, path.with_name("zeros.bin")),
            ):
                content = ir.to_proto(model).SerializeToString()
            path.write_bytes(content)
        except Exception as error:  # noqa: BLE001 - onnx_ir's and protobuf's exceptions have no common base
            answer = _first_line(error)
        yield answer


def optimize(
    path: Path,
    *,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    channels_last: bool = False,
    inline_only: bool = False,
) -> Optimized | str:
    """Return what onnxruntime makes of a model file at its default settings, or why it cannot be asked.

    There are models whose optimisation ends the process, so that is done in another one.

    Args:
        path: the model.
        custom_ops: libraries of other operators that the model needs.
        channels_last: let it bring the channels of its own convolutions last, as it does at the end.
        inline_only: let it put functions in place of their calls, and not optimise.
    """
    destination = path.with_name("optimized.onnx")
    complaint = path.with_name("complaint.txt")
    for left in (destination, complaint):
        left.unlink(missing_ok=True)

    def ask() -> None:
        try:
            options = quiet_options(threads=1, custom_ops=custom_ops)
            if inline_only:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            _optimize(path, destination, options, () if channels_last else ("NhwcTransformer",))
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common base
            complaint.write_text(_first_line(error), encoding="utf-8", errors="replace")

    try:
        death = death_of(ask, seconds=_SECONDS)
        if death is not None:
            return f"it ends its process ({death})"
        if complaint.exists():
            return complaint.read_text(encoding="utf-8")
        if not destination.exists():
            return TOO_LONG
        graph = onnx.ModelProto.FromString(destination.read_bytes()).graph
    except Exception as error:  # noqa: BLE001 - protobuf's exceptions have no common base
        return _first_line(error)
    constants = {tensor.name: tensor for each in walk.graphs_of(graph) for tensor in each.initializer}
    found = (_integer_node(node, constants) for node in walk.nodes_of(graph.node) if node.op_type in _INTEGER_OPERATORS)
    return Optimized(graph, tuple(found))


def nodes_of(optimized: Optimized) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of an optimised model, those of subgraphs as well."""
    yield from walk.nodes_of(optimized.graph.node)


def readers_of(optimized: Optimized, name: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of an optimised model that read a value of this name."""
    return (node for node in nodes_of(optimized) if name in node.input)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _integer_node(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> IntegerNode:
    """Describe an integer multiplication."""
    requantizes = node.op_type in ("QLinearMatMul", "QLinearConv") or (node.op_type == "QGemm" and any(node.input[7:9]))

    def constant(index: int | None) -> np.ndarray | None:
        tensor = constants.get(node.input[index]) if index is not None and index < len(node.input) else None
        return None if tensor is None or tensor.external_data else numpy_helper.to_array(tensor)

    x_scale, x_zero, w_scale, y_scale, y_zero = _PARAMETERS.get(node.op_type, (None,) * 5)
    return IntegerNode(
        instance_of(node),
        node.input[0],
        tuple(node.output),
        requantizes,
        _folded(node, constant(x_scale), constant(w_scale), constant(y_scale), requantizes=requantizes),
        (constant(x_zero), constant(y_zero)),
    )


def _folded(
    node: onnx.NodeProto,
    x_scale: np.ndarray | None,
    w_scale: np.ndarray | None,
    y_scale: np.ndarray | None,
    *,
    requantizes: bool,
) -> np.ndarray | None:
    """Return the product of scales as onnxruntime rounds it; ``None`` if one of them is not a float32 constant."""
    scales = [x_scale, w_scale, *([y_scale] if requantizes else [])]
    if x_scale is None or w_scale is None or any(each is None or each.dtype != np.float32 for each in scales):
        return None
    if x_scale.size != 1 or (y_scale is not None and requantizes and y_scale.size != 1):
        return None  # it runs no such model
    alpha = next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 1.0)
    with np.errstate(all="ignore"):
        folded = np.float32(alpha) * x_scale.reshape(()) * w_scale
        return np.asarray(folded if y_scale is None or not requantizes else folded / y_scale.reshape(()), np.float32)


def _already_marked(model: ir.Model) -> list[ir.Node]:
    """Return the nodes whose own names look like those of nodes that are asked about."""
    return [node for node, _ in all_nodes(model) if SITE in (node.name or "") or RETURNED in (node.name or "")]


@contextlib.contextmanager
def _named(names: Iterable[tuple[ir.Node, str]]) -> Iterator[None]:
    """Give nodes other names for a while."""
    before: list[tuple[ir.Node, str | None]] = []
    try:
        for node, name in names:
            before.append((node, node.name))
            node.name = name
        yield
    finally:
        for node, original in reversed(before):
            node.name = original


@contextlib.contextmanager
def _emptied(model: ir.Model, zeros: Path) -> Iterator[None]:
    """Replace a model's large initialisers, for a while, by zeros in a file that takes no room on the disk."""
    graphs = (*model.graphs(), *(function.graph for function in model.functions.values()))
    values = [value for graph in graphs for value in graph.initializers.values()]
    tensors = [value.const_value for value in values]
    size = 0
    try:
        for value, tensor in zip(values, tensors, strict=True):
            if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > _KEPT_BYTES:
                value.const_value = ir.ExternalTensor(
                    zeros.name,
                    0,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                )
                size = max(size, tensor.nbytes)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        with zeros.open("wb") as file:
            file.truncate(size)
        yield
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor


def _optimize(source: Path, destination: Path, options: ort.SessionOptions, disabled: Sequence[str]) -> None:
    options.optimized_model_filepath = str(destination)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.bin")
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(_KEPT_BYTES + 1)
    )
    options.add_session_config_entry("session.disable_prepacking", "1")  # for nothing is computed
    # NhwcTransformer is left out where nodes are compared: quantised operators compute the same in any layout.
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled))
