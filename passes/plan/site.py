"""What a plan knows of a model: its multiplications and look-ups, what matched there, and the weights to compress."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

from mcd_graph.mapped import unmap
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.whole import FRACTAL_K, FRACTAL_N, tiling_of

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from mcd_graph.passes.engine.match import Match, Rule, Weight
    from mcd_graph.passes.refusal import ReasonCode, Refusal

__all__ = ["Candidate", "Site", "WeightJob", "tiles_spared"]

logger = logging.getLogger(__name__)

#: How many fractals a tile has at least where its size counts more than the time for a row.
_LARGE = 16


@dataclasses.dataclass
class Site:
    """One quantised matrix multiplication or look-up that was met.

    Attributes:
        name: of the node; of its first output when the node has no name.
        op_type: of the node.
        pattern: the operators that one node replaces; the rule's operator alone for a kept one.
        status: ``lowered`` or ``kept``; before ``apply``, ``lowered`` means that it can be.
        code: which kind of reason kept it.
        reason: why it was kept, in words.
        k: rows of the weight, if they are known.
        n: columns of the weight, if they are known.
        weight: key into :attr:`LoweringPlan.weights`; ``None`` for a kept one.
        optimized: the lowered node gives the bits of the original as onnxruntime runs it with graph optimisations
            on, not off (QDQ forms).
        absorbed: what the lowered node takes in around the pattern, by the names of the fusions.
    """

    name: str
    op_type: str
    pattern: str
    status: str
    code: ReasonCode | None = None
    reason: str | None = None
    k: int | None = None
    n: int | None = None
    weight: str | None = None
    optimized: bool = False
    absorbed: tuple[str, ...] = ()

    def describe(self, match: Match) -> None:
        """Note what matched."""
        self.pattern, self.optimized = match.pattern, match.optimized
        self.k, self.n = match.weight.k, match.weight.n

    def keep(self, refusal: Refusal) -> None:
        """Mark the site as kept, for the reason that ``refusal`` gives, and log that."""
        self.status, self.code, self.reason, self.weight = "kept", refusal.code, refusal.reason, None
        logger.info("%s (%s) is kept: %s [%s]", self.name, self.op_type, refusal.reason, refusal.code)


def _panels_of_larger_tiles(n: int, k: int) -> int:
    """Return how high a tile as wide as a matrix (n, k) has to be so that what each tile says of itself is little.

    Tiles of one panel, of a table 64 wide, took 3.4 to 7.2 % more than the entropy, those of eight 1.3 to 2.8 %.
    """
    return max(1, min(_LARGE // math.ceil(k / FRACTAL_K), math.ceil(n / FRACTAL_N)))


def tiles_spared(n: int, k: int) -> int:
    """Return how many tiles fewer a matrix (n, k) has with larger tiles than with such of one panel."""
    panels = math.ceil(n / FRACTAL_N)
    return panels - math.ceil(panels / _panels_of_larger_tiles(n, k))


@dataclasses.dataclass(frozen=True)
class WeightJob:
    """A constant weight to compress: made once, however many multiplications use it.

    Attributes:
        key: its name in :attr:`LoweringPlan.weights`; the initialiser's name where that is unique.
        source: where it was found.
        tiling: the size of tile that suits its readers; ``None``: the codec's own choice.
        multiplied: multiplications read it, and nothing else.
        looked_up: look-ups read it, and nothing else.
        once: its readers decode it once where that is chosen (``mcd.residency``).
        packed: it is decoded once, so that its size alone counts.
    """

    key: str
    source: Weight
    tiling: tuple[int, int] | None = None
    multiplied: bool = False
    looked_up: bool = False
    once: bool = False
    packed: bool = False

    @property
    def k(self) -> int:
        """Rows of the multiplication's right-hand side."""
        return self.source.k

    @property
    def n(self) -> int:
        """Columns of the multiplication's right-hand side."""
        return self.source.n

    @property
    def dtype(self) -> np.dtype[Any]:
        """Either int8 or uint8."""
        return self.source.tensor.dtype.numpy()

    @property
    def nbytes(self) -> int:
        """Size of the uncompressed weight in bytes."""
        return self.k * self.n

    def with_larger_tiles(self) -> WeightJob:
        """Return it with tiles of 16 fractals or more, if it is a table: a row of it takes longer to decode then."""
        if self.tiling is None or not self.looked_up:
            return self
        return dataclasses.replace(self, tiling=(self.tiling[0], _panels_of_larger_tiles(self.n, self.k)))

    def decoded_once(self) -> WeightJob:
        """Return it as it is stored where its size alone counts: with few tiles, unless its readers want others."""
        tiling = tiling_of(self.n, self.k) if self.tiling is None else self.tiling
        return dataclasses.replace(self, packed=True, tiling=tiling)

    def array(self) -> np.ndarray:
        """Return the weight as an (n, k) view, read from the model's memory map only when it is looked at."""
        return self.source.array()

    def release(self) -> None:
        """Let go of the memory map behind the weight, if there is one; ``array`` opens it again."""
        unmap(self.source.value.const_value)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A site that can be lowered: what matched, which rule found it, the function around it, its extent and layout."""

    site: Site
    match: Match
    rule: Rule
    function: ir.Function | None
    extent: Extent = Extent.ALL
    channels_last: bool = False
