"""Constants that are compressed in the file and restored when a session is created, whatever reads them.

onnxruntime sees an initializer, so no bit and no microsecond of what it computes changes. What no other rewrite took
can go this way: weights of convolutions and LSTMs, tables of other shapes, weights that a rule refused.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from mcd_graph.model.at_open import AT_OPEN, WAY_KEY
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION
from mcd_graph.passes.engine.emit import Names, as_tensor, place_constant, take_over
from mcd_graph.passes.engine.facts import dimensions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from mcd_graph.model.constants import EightBitConstant
    from mcd_graph.passes.plan import PackedWeight

__all__ = ["ConstantJob", "constants_at_open", "matrix_of", "restore_at_open"]

#: What a tile's panels are made of, in elements: columns k and rows n; and so many of these a tile holds at the most.
_FRACTAL_K, _FRACTAL_N, _FRACTALS = 32, 16, 127
#: Elements along k whose root fields are stored together.
_GROUP_K = 4
#: Bytes that an element takes, as far as shapes are compared by it, and what a tile takes beside its elements: an entry
#: of the index, a count, and half of a line of padding.
_ELEMENT_BYTES, _TILE_BYTES = 0.75, 42


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
    def tiling(self) -> tuple[int, int]:
        """Tiles as large as can be."""
        return _tiling(self.n, self.k)

    @property
    def packed(self) -> bool:
        """It is decoded once."""
        return True

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


def matrix_of(count: int) -> tuple[int, int]:
    """Return rows and columns of the matrix, of so many elements, that takes the fewest bytes within 0.1 %.

    Of several that do it is one without fractals that are cut, if there is one, and the squarest.
    """

    def cost(k: int) -> tuple[int, float]:
        n = count // k
        stored = n * math.ceil(k / _GROUP_K) * _GROUP_K * _ELEMENT_BYTES + _tiles(n, k, _tiling(n, k)) * _TILE_BYTES
        whole = n % _FRACTAL_N == 0 and k % _FRACTAL_K == 0  # which takes less time to decode
        return round(1000 * math.log(stored)) + (not whole), abs(math.log(k / n))

    small = [k for k in range(1, math.isqrt(count) + 1) if count % k == 0]
    best = min({*small, *(count // k for k in small)}, key=cost)
    return count // best, best


def _tiling(n: int, k: int) -> tuple[int, int]:
    """Return the size of tiles, in fractals along k and n, of which there are fewest; the longest along k of those."""
    across, down = math.ceil(k / _FRACTAL_K), math.ceil(n / _FRACTAL_N)
    sizes = ((each, max(1, min(_FRACTALS // each, down))) for each in range(min(across, _FRACTALS), 0, -1))
    return min(sizes, key=lambda size: _tiles(n, k, size))


def _tiles(n: int, k: int, tiling: tuple[int, int]) -> int:
    return math.ceil(k / (_FRACTAL_K * tiling[0])) * math.ceil(n / (_FRACTAL_N * tiling[1]))


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
