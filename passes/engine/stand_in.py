"""Weights for a lowered model that onnxruntime is to open and nobody is to run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mcd_graph.codec.weights import pack_weight
from mcd_graph.operators.matmul_compress_dequant import OP_DOMAIN, OP_TYPE
from mcd_graph.passes.engine.facts import is_op

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcd_graph.codec.weights import CompressedWeight

__all__ = ["StandIn", "make_small"]

#: Where compress_info has k.
_K = 2


class StandIn:
    """A compressed weight that says it has ``k`` rows and has one, of zeros."""

    def __init__(self, k: int, n: int, dtype: np.dtype[Any]) -> None:
        packed = _zeros(n, dtype)
        self.x2, self.compress_index = packed.x2, packed.compress_index
        self.compress_info = packed.compress_info.copy()
        self.compress_info[_K] = k


def make_small(nodes: Iterable[ir.Node]) -> None:
    """Let lowered nodes with a :class:`StandIn` say the truth, so that a session can be created."""
    for node in nodes:
        if is_op(node, OP_TYPE, OP_DOMAIN):
            info = list(node.attributes["compress_info"].as_ints())
            info[_K] = 1
            node.attributes["compress_info"] = ir.AttrInt64s("compress_info", info)


@functools.lru_cache(maxsize=64)
def _zeros(n: int, dtype: np.dtype[Any]) -> CompressedWeight:
    return pack_weight(np.zeros((n, 1), dtype), profile="fast")
