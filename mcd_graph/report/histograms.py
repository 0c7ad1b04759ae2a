"""How often each weight value occurs in a compressed model, which is what decides how small it gets."""

import dataclasses
import os

import numpy as np
import numpy.typing as npt

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.model.loading import load_model
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.operators.view import CompressedNode

__all__ = ["Histogram", "weight_histograms"]


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Occurrences of the 256 symbols of one weight, or of several together.

    Attributes:
        name: of the weight.
        counts: int64 of shape (256,); index i is the weight i - 128 if int8, and i if uint8.
    """

    name: str
    counts: npt.NDArray[np.int64]

    @property
    def entropy_bits(self) -> float:
        """Order-0 entropy in bits per weight."""
        share = self.counts[self.counts > 0] / self.counts.sum()
        return float(-(share * np.log2(share)).sum()) + 0.0  # of one value it is minus zero


def weight_histograms(model: str | os.PathLike[str]) -> list[Histogram]:
    """Decode every compressed weight of a model, one at a time, and count its values.

    Args:
        model: path of a compressed model.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: it is not a model, or a weight in it is damaged.
    """
    source = os.fspath(model)
    found: dict[str, Histogram] = {}
    for node, *_ in compressed_nodes(load_model(model)):
        try:
            view = CompressedNode.of(node)
            name = view.weight_name
            if name not in found:  # nodes share it
                found[name] = Histogram(name, np.array(_native.histogram(view.decode()), np.int64))
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
    return list(found.values())
