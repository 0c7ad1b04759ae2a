"""A constant of any rank as a weight: all of it, seen as a matrix of its elements in their order."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from mcd_graph.passes.engine.match import Weight

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FRACTAL_K", "FRACTAL_N", "MOST_FRACTALS", "WholeTensor", "matrix_of", "tiling_of", "wide_matrix_of"]

#: What a tile's panels are made of, in elements: columns k and rows n; and so many of these a tile holds at the most.
FRACTAL_K, FRACTAL_N, MOST_FRACTALS = 32, 16, 127
#: Elements along k whose root fields are stored together.
_GROUP_K = 4
#: Bytes that an element takes, as far as shapes are compared by it, and what a tile takes beside its elements: an entry
#: of the index, a count, and half of a line of padding.
_ELEMENT_BYTES, _TILE_BYTES = 0.75, 42


@dataclasses.dataclass(frozen=True)
class WholeTensor(Weight):
    """A constant of any rank, seen as a matrix (n, k) of its elements in their order.

    Attributes:
        matrix: n and k.
    """

    matrix: tuple[int, int] = (0, 0)

    @property
    def k(self) -> int:
        """Columns of the matrix."""
        return self.matrix[1]

    @property
    def n(self) -> int:
        """Rows of the matrix."""
        return self.matrix[0]

    def array(self) -> np.ndarray:
        """Return the matrix as a view of the constant's memory."""
        return self.tensor.numpy().reshape(self.matrix)


#: What a wide matrix's tiles may be larger by than those that are filled best, and the most columns it has.
_MORE_PADDING, _MOST_COLUMNS = 1.005, 2048


def wide_matrix_of(count: int) -> tuple[int, int]:
    """Return rows and columns of the widest matrix, of so many elements, whose tiles are filled about as well as any's.

    Who writes it row by row writes long rows.
    """
    small = [k for k in range(1, math.isqrt(count) + 1) if count % k == 0]
    padded = {k: _padded(count // k, k) for k in {*small, *(count // k for k in small)}}
    limit = min(padded.values()) * _MORE_PADDING
    wide = [k for k, size in padded.items() if size <= limit and k <= _MOST_COLUMNS]
    return (count // max(wide), max(wide)) if wide else matrix_of(count)


def _padded(n: int, k: int) -> int:
    """Return the elements of the tiles of a matrix."""
    return math.ceil(k / FRACTAL_K) * FRACTAL_K * math.ceil(n / FRACTAL_N) * FRACTAL_N


def matrix_of(count: int) -> tuple[int, int]:
    """Return rows and columns of the matrix, of so many elements, that takes the fewest bytes within 0.1 %.

    Of several that do it is one without fractals that are cut, if there is one, and the squarest.
    """

    def cost(k: int) -> tuple[int, float]:
        n = count // k
        stored = n * math.ceil(k / _GROUP_K) * _GROUP_K * _ELEMENT_BYTES + _tiles(n, k, tiling_of(n, k)) * _TILE_BYTES
        whole = n % FRACTAL_N == 0 and k % FRACTAL_K == 0  # which takes less time to decode
        return round(1000 * math.log(stored)) + (not whole), abs(math.log(k / n))

    small = [k for k in range(1, math.isqrt(count) + 1) if count % k == 0]
    best = min({*small, *(count // k for k in small)}, key=cost)
    return count // best, best


def tiling_of(n: int, k: int) -> tuple[int, int]:
    """Return the size of tiles, in fractals along k and n, of which there are fewest; the longest along k of those."""
    across, down = math.ceil(k / FRACTAL_K), math.ceil(n / FRACTAL_N)
    sizes = ((each, max(1, min(MOST_FRACTALS // each, down))) for each in range(min(across, MOST_FRACTALS), 0, -1))
    return min(sizes, key=lambda size: _tiles(n, k, size))


def _tiles(n: int, k: int, tiling: tuple[int, int]) -> int:
    return math.ceil(k / (FRACTAL_K * tiling[0])) * math.ceil(n / (FRACTAL_N * tiling[1]))
