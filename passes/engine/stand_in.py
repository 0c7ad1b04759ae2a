"""Weights for a lowered model that onnxruntime opens and does not run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mcd_graph.codec.weights import pack_weight
from mcd_graph.operators.registry import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcd_graph.codec.weights import CompressedWeight

__all__ = ["StandIn", "make_small", "zeros"]

#: Where compress_info has k.
_K = 2


class StandIn:
    """A compressed weight that says it has ``k`` rows and has one, of zeros."""

    def __init__(self, k: int, n: int, dtype: np.dtype[Any]) -> None:
        packed = zeros(n, 1, dtype)
        self.x2, self.compress_index = packed.x2, packed.compress_index
        self.compress_info = packed.compress_info.copy()
        self.compress_info[_K] = k


def make_small(nodes: Iterable[ir.Node]) -> None:
    """Let lowered nodes with a :class:`StandIn` say the truth, so that a session can be created."""
    for node in nodes:
        if spec_of(node) is not None:
            info = list(node.attributes["compress_info"].as_ints())
            info[_K] = 1
            node.attributes["compress_info"] = ir.AttrInt64s("compress_info", info)


@functools.lru_cache(maxsize=64)
def zeros(n: int, k: int, dtype: np.dtype[Any], tiling: tuple[int, int] | None = None) -> CompressedWeight:
    """Return a compressed weight of zeros, for readers that look at more than the number of columns."""
    return pack_weight(np.zeros((n, k), dtype), profile="fast", tiling=tiling)
