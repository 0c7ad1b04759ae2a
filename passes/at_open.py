"""Constants that are compressed in the file and restored when a session is created, whatever reads them.

onnxruntime sees an initializer, so no bit and no microsecond of what it computes changes. What no other rewrite took
can go this way: weights of convolutions and LSTMs, tables of other shapes, weights that a rule refused.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from mcd_graph.model.at_open import AT_OPEN, WAY_KEY
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION
from mcd_graph.passes.engine.emit import Names, as_tensor, place_constant, take_over
from mcd_graph.passes.engine.facts import dimensions
from mcd_graph.passes.engine.whole import matrix_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from mcd_graph.model.constants import EightBitConstant
    from mcd_graph.passes.plan import PackedWeight

__all__ = ["ConstantJob", "constants_at_open", "matrix_of", "restore_at_open"]


@dataclasses.dataclass(frozen=True, eq=False)
class ConstantJob:
    """A constant to compress, seen as a matrix.

    Attributes:
        constant: where it was found.
        n: rows of the matrix.
        k: its columns.
    """

    constant: EightBitConstant
    n: int
    k: int

    @property
    def key(self) -> str:
        """The constant's name."""
        return self.constant.value.name or ""

    @property
    def source(self) -> EightBitConstant:
        """Where it was found."""
        return self.constant

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.constant.tensor.nbytes

    @property
    def tiling(self) -> None:
        """The codec chooses its tiles."""
        return

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return it as an (n, k) view of its own memory: its elements in their order."""
        return self.constant.tensor.numpy().reshape(self.n, self.k)

    def release(self) -> None:
        """Let go of the memory map behind it, if there is one."""
        if isinstance(self.constant.tensor, ir.ExternalTensor):
            self.constant.tensor.release()


def constants_at_open(model: ir.Model) -> Iterator[ConstantJob]:
    """Yield the constants of a model that can be restored when a session is created.

    These are the initializers of the main graph, which is where onnxruntime lets them be replaced, that some node
    reads; those of compressed nodes excepted.
    """
    for constant in eight_bit_constants(model):
        value = constant.value
        if value.graph is not model.graph or not value.is_initializer() or value.is_graph_input():
            continue
        if value.is_graph_output() or not constant.readers or any(user.domain == DOMAIN for user in value.consumers()):
            continue
        yield ConstantJob(constant, *matrix_of(constant.tensor.nbytes))


def restore_at_open(model: ir.Model, packed: Mapping[str, PackedWeight]) -> None:
    """Put marked DecompressWeight nodes in the place of constants.

    Args:
        model: the model, which is changed.
        packed: what became of the jobs of :func:`constants_at_open`, by key; those that are not there stay.
    """
    names = Names(model)
    jobs = [job for job in constants_at_open(model) if job.key in packed]
    for job in jobs:
        value, weight = job.constant.value, packed[job.key]
        first = model.graph[0]
        inputs = [
            place_constant(as_tensor(data), names.unique(f"{value.name}.{part}"), first, as_node=False)
            for part, data in (("x2", weight.x2), ("compress_index", weight.compress_index))
        ]
        dtype, shape = job.constant.tensor.dtype, dimensions(job.constant.tensor)
        info = [int(number) for number in weight.compress_info]
        attributes: dict[str, Any] = {
            "compress_info": info, "shape": list(shape), "dtype": int(dtype), "transposed": 1
        }  # fmt: skip
        output = ir.Value()
        node = ir.node(
            OP_TYPE, inputs, attributes, domain=DOMAIN, outputs=[output],
            name=names.unique(f"{value.name}.{OP_TYPE}"), metadata_props={WAY_KEY: AT_OPEN},
        )  # fmt: skip
        first.prepend(node)
        model.graph.initializers.pop(value.name or "")
        take_over(value, output)
        output.type, output.shape = ir.TensorType(dtype), ir.Shape(shape)
    if jobs:
        model.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)
