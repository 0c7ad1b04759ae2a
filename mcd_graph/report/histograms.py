"""How often each weight value occurs in a compressed model, which is what decides how small it gets."""

import dataclasses
import os

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.model.loading import load_model
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE

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
        return float(-(share * np.log2(share)).sum())


def weight_histograms(model: str | os.PathLike[str]) -> list[Histogram]:
    """Decode every compressed weight of a model, one at a time, and count its values.

    Args:
        model: path of a compressed model.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: it is not a model, or a weight in it is damaged.
    """
    loaded = load_model(model)
    found: dict[str, Histogram] = {}
    for graph in (loaded.graph, *(function.graph for function in loaded.functions.values())):
        for node in graph.all_nodes():
            if (node.domain, node.op_type) == (OP_DOMAIN, OP_TYPE):
                histogram = _count(node, os.fspath(model), found)
                found[histogram.name] = histogram
    return list(found.values())


def _count(node: ir.Node, source: str, known: dict[str, Histogram]) -> Histogram:
    x2, index = (node.inputs[INPUT_NAMES.index(part)] for part in ("x2", "compress_index"))
    name = "" if x2 is None else (x2.name or "").removesuffix(".x2")
    if name in known:
        return known[name]  # nodes share it
    tensors = [None if value is None else ir.convenience.get_const_tensor(value) for value in (x2, index)]
    info = node.attributes.get("compress_info")
    if tensors[0] is None or tensors[1] is None or info is None:
        raise InputError(f"{source}: node {node.name}: its compressed weight is not constant")
    try:
        weight = _native.decode(tensors[0].numpy(), tensors[1].numpy(), np.array(info.as_ints(), np.int64))
    except ValueError as error:
        raise InputError(f"{source}: node {node.name}: {error}") from None
    return Histogram(name, np.array(_native.histogram(weight), np.int64))
