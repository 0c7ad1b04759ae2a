"""Constants that are compressed in the file and restored when a session is created, whatever reads them.

onnxruntime sees an initializer, so no bit and no microsecond of what it computes changes. What no other rewrite took
can go this way: weights of convolutions and LSTMs, tables of other shapes, weights that a rule refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from mcd_graph.mapped import unmap
from mcd_graph.model.at_open import AT_OPEN, WAY_KEY
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION
from mcd_graph.passes.engine.emit import Names, as_tensor, place_constant
from mcd_graph.passes.engine.facts import dimensions
from mcd_graph.passes.engine.whole import matrix_of, tiling_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np

    from mcd_graph.model.constants import EightBitConstant
    from mcd_graph.passes.plan import PackedWeight

__all__ = ["ConstantJob", "constants_at_open", "restore_at_open"]


@dataclasses.dataclass(frozen=True, eq=False)
class ConstantJob:
    """A constant to compress, seen as a matrix.

    Attributes:
        key: tells it from others; the constant's name where that is unique.
        constants: where it was found; all of them have the same tensor.
        n: rows of the matrix.
        k: its columns.
    """

    key: str
    constants: tuple[EightBitConstant, ...]
    n: int
    k: int

    @property
    def source(self) -> EightBitConstant:
        """Where it was found first."""
        return self.constants[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it has in the model."""
        return tuple(each.value.name or "" for each in self.constants)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.source.tensor.nbytes

    @property
    def tiling(self) -> tuple[int, int]:
        """Tiles as large as can be."""
        return tiling_of(self.n, self.k)

    @property
    def packed(self) -> bool:
        """It is decoded once."""
        return True

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return it as an (n, k) view of its own memory: its elements in their order."""
        return self.source.tensor.numpy().reshape(self.n, self.k)

    def release(self) -> None:
        """Let go of the memory map behind it, if there is one."""
        unmap(self.source.tensor)


def constants_at_open(model: ir.Model) -> list[ConstantJob]:
    """Return the constants of a model that can be restored when a session is created.

    These are initializers and Constant nodes that some node reads, in the main graph and the graphs inside of its
    nodes. onnxruntime lets initializers of the main graph be replaced, so those of other graphs move there. A function
    cannot see them: what one holds is not among these unless its calls are inlined (:class:`InlineConstantsPass`).
    """
    inside = {id(graph) for graph in (model.graph, *model.graph.subgraphs())}
    found: dict[tuple[Any, ...], list[EightBitConstant]] = {}
    for constant in eight_bit_constants(model):
        if _can_be_restored(constant, inside):
            found.setdefault(_identity(constant.tensor), []).append(constant)
    jobs: dict[str, ConstantJob] = {}
    for constants in found.values():
        key = base = _key(constants[0], model.graph)
        while key in jobs:
            key = f"{base}#{len(jobs)}"
        jobs[key] = ConstantJob(key, tuple(constants), *matrix_of(constants[0].tensor.nbytes))
    return list(jobs.values())


def _key(constant: EightBitConstant, main: ir.Graph) -> str:
    """Return what tells a constant from others, whichever of them are lowered: graphs beside each other share names."""
    name = constant.value.name or "constant"
    if _graph_of(constant.value) is main:
        return name
    return f"{name}#{hashlib.blake2b(constant.tensor.tobytes(), digest_size=6).hexdigest()}"


def _can_be_restored(constant: EightBitConstant, graphs: Collection[int]) -> bool:
    value = constant.value
    if id(_graph_of(value)) not in graphs or value.is_graph_input() or value.is_graph_output():
        return False
    return bool(constant.readers) and all(user.domain != DOMAIN for user in value.consumers())


def _graph_of(value: ir.Value) -> ir.Graph | ir.Function | None:
    """Return the graph that has an initializer, or the Constant node whose output a value is."""
    node = value.producer()
    return value.graph if node is None else node.graph


def _identity(tensor: ir.TensorProtocol) -> tuple[Any, ...]:
    """Tell tensors apart by where their bytes are; calls of a function that was inlined share those."""
    shape = dimensions(tensor)
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.path), tensor.offset, tensor.dtype, shape
    return id(tensor), tensor.dtype, shape


def restore_at_open(model: ir.Model, jobs: Sequence[ConstantJob], packed: Mapping[str, PackedWeight]) -> None:
    """Put marked DecompressWeight nodes in the place of constants.

    Args:
        model: the model, which is changed.
        jobs: what :func:`constants_at_open` gave for it.
        packed: what became of them, by key; those that are not there stay.
    """
    names = Names(model)
    jobs = [job for job in jobs if job.key in packed]
    for job in jobs:
        output = _place(model, job, packed[job.key], names)
        for constant in job.constants:
            _replace(model, constant.value, output)
    if jobs:
        model.opset_imports[DOMAIN] = DOMAIN_VERSION  # there may be one of onnxruntime's making, 1000


def _place(model: ir.Model, job: ConstantJob, weight: PackedWeight, names: Names) -> ir.Value:
    """Put the marked node into the main graph, where all graphs inside of it see its output."""
    first, value, tensor = model.graph[0], job.source.value, job.source.tensor
    inputs = [
        place_constant(as_tensor(data), names.unique(f"{job.key}.{part}"), first, as_node=False)
        for part, data in (("x2", weight.x2), ("compress_index", weight.compress_index))
    ]
    shape = dimensions(tensor)
    info = [int(number) for number in weight.compress_info]
    attributes: dict[str, Any] = {
        "compress_info": info, "shape": list(shape), "dtype": int(tensor.dtype), "transposed": 1
    }  # fmt: skip
    in_main = len(job.constants) == 1 and _graph_of(value) is model.graph
    output = ir.Value(
        name=value.name if in_main else names.unique(value.name or job.key),
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(shape),
    )
    node = ir.node(
        OP_TYPE, inputs, attributes, domain=DOMAIN, outputs=[output],
        name=names.unique(f"{output.name}.{OP_TYPE}"), metadata_props={WAY_KEY: AT_OPEN},
    )  # fmt: skip
    first.prepend(node)
    return output


def _replace(model: ir.Model, value: ir.Value, output: ir.Value) -> None:
    """Let the readers of a constant read the restored one, and remove the constant."""
    node, graph = value.producer(), _graph_of(value)
    output.doc_string = output.doc_string or value.doc_string
    output.metadata_props.update(value.metadata_props)
    value.replace_all_uses_with(output)
    if node is not None:
        (model.graph if graph is None else graph).remove(node, safe=True)
    elif isinstance(graph, ir.Graph):
        graph.initializers.pop(value.name or "")
