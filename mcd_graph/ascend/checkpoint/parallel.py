"""Which block of a tensor each rank of a tensor-parallel group holds, as vLLM's layers cut it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mcd_graph.ascend.checkpoint.source import Part
from mcd_graph.errors import InputError

__all__ = ["Heads", "Rank", "is_row_parallel"]

_EVEN = ("q_proj", "gate_proj", "up_proj")
_KEY_VALUE = ("k_proj", "v_proj")
_ROW = ("o_proj", "down_proj")
_VOCABULARY = ("embed_tokens", "lm_head")
_VOCABULARY_UNIT = 64  # vLLM pads the vocabulary to a multiple of it


@dataclasses.dataclass(frozen=True)
class Heads:
    """Attention heads, and those of keys and values."""

    queries: int
    keys: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Heads":
        """Read them from a model's config.

        Raises:
            InputError: it has none.
        """
        queries = config.get("num_attention_heads")
        keys = config.get("num_key_value_heads", queries)
        if not (isinstance(queries, int) and isinstance(keys, int) and 0 < keys <= queries):
            raise InputError(f"config.json has {queries!r} attention heads and {keys!r} of keys and values")
        return cls(queries, keys)


@dataclasses.dataclass(frozen=True)
class Rank:
    """One of the ranks that share a model."""

    index: int
    count: int
    heads: Heads

    def part(self, name: str, shape: tuple[int, ...], *, vocabulary_dim: int = 0) -> Part:
        """Return the block of a tensor that this rank holds.

        Args:
            name: of the tensor, ``MODULE.LAYER.PARAMETER``.
            shape: of all of it.
            vocabulary_dim: along which an embedding is cut; vLLM cuts the vocabulary, MindIE the hidden size.

        Raises:
            InputError: it cannot be cut into so many.
        """
        module, _, parameter = name.rpartition(".")
        layer = module.rpartition(".")[2]
        if layer in _VOCABULARY and parameter in ("weight", "bias"):
            if layer == "embed_tokens" and vocabulary_dim == 1:
                return self._even(name, shape, 1)
            return self._vocabulary(name, shape)
        if self.count == 1 or len(shape) == 0 or parameter in ("input_scale", "input_offset"):
            return Part(name)
        if layer in _KEY_VALUE:
            return self._heads(name, shape)
        if layer in _EVEN:
            if layer == "q_proj" and self.heads.queries % self.count:
                raise InputError(f"{self.heads.queries} attention heads cannot be split among {self.count} ranks")
            return self._even(name, shape, 0)
        if layer in _ROW:
            return self._even(name, shape, 1) if parameter == "weight" else Part(name)
        if len(shape) > 1:
            raise InputError(f"it is not known how {name} of shape {shape} is split among ranks")
        return Part(name)

    def _even(self, name: str, shape: tuple[int, ...], dim: int) -> Part:
        return _block(name, shape, dim, self.index, self.count)

    def _heads(self, name: str, shape: tuple[int, ...]) -> Part:
        """Keys and values: where there are fewer heads than ranks, several ranks hold the same."""
        if self.heads.keys >= self.count:
            return self._even(name, shape, 0)
        if self.count % self.heads.keys:
            raise InputError(f"{self.heads.keys} heads of keys and values cannot be repeated for {self.count} ranks")
        return _block(name, shape, 0, self.index * self.heads.keys // self.count, self.heads.keys)

    def _vocabulary(self, name: str, shape: tuple[int, ...]) -> Part:
        rows = shape[0]
        padded = rows + -rows % _VOCABULARY_UNIT
        if padded % self.count:
            raise InputError(f"{name}: {padded} rows cannot be split among {self.count} ranks")
        each = padded // self.count
        start, stop = min(self.index * each, rows), min((self.index + 1) * each, rows)
        return Part(name, 0, start, stop, each - (stop - start))


def _block(name: str, shape: tuple[int, ...], dim: int, index: int, count: int) -> Part:
    if shape[dim] % count:
        raise InputError(f"tensor {name} of shape {shape} cannot be split into {count} along dimension {dim}")
    each = shape[dim] // count
    return Part(name, dim, index * each, (index + 1) * each)


def is_row_parallel(layer: str) -> bool:
    """Whether ranks hold columns of this layer's weight (n, k), and their results are added."""
    return layer.rpartition(".")[2] in _ROW
