"""What a checkpoint's conversion found: sizes, limits, and how the layers ran."""

import dataclasses
from typing import Any

from mcd_graph.ascend.codec import Codec

__all__ = ["CheckpointReport", "LayerResult"]

_SCHEMA = 1
_NOTE = (
    "written with the open codec: a rehearsal. No device reads these weights, and the device's codec gives other sizes",
    "written with CANN's codec: for a device. Nothing was run here",
)


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """One layer of one rank.

    Attributes:
        name: in the fused model.
        rank: that holds it.
        n: rows of its weight.
        k: columns.
        zeros: weights that are 0.
        stream_bytes: of the compressed weight.
        index_bytes: of its index.
        codec: that it was compressed with.
        rows: rows of activations that it was run with; 0 if it was not.
        differing: results that were not those of the uncompressed product.
        faults: what it fails to meet of the document's limits.
    """

    name: str
    rank: int
    n: int
    k: int
    zeros: int
    stream_bytes: int
    index_bytes: int
    codec: Codec
    rows: int
    differing: int
    faults: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Loaders have room for the stream: n * k bytes."""
        return self.stream_bytes <= self.n * self.k


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """What was written.

    Attributes:
        layout: of the folder.
        ranks: that share the model.
        codec: of the weights.
        layers: of all ranks.
        kept: layers that stay W8A8S, because their streams do not fit on one of the ranks.
        resumed: layers that an earlier run had compressed already.
    """

    layout: str
    ranks: int
    codec: Codec
    layers: tuple[LayerResult, ...]
    kept: tuple[str, ...]
    resumed: int

    @property
    def differing(self) -> int:
        """Results that were not those of the uncompressed products."""
        return sum(layer.differing for layer in self.layers)

    @property
    def faulty(self) -> tuple[LayerResult, ...]:
        """Layers that fail to meet a limit."""
        return tuple(layer for layer in self.layers if layer.faults)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        layers = [{**dataclasses.asdict(layer), "faults": list(layer.faults)} for layer in self.layers]
        fields = {"layout": self.layout, "ranks": self.ranks, "mcd.codec": self.codec, "kept": list(self.kept)}
        return {"schema": _SCHEMA, **fields, "layers": layers}

    def lines(self) -> list[str]:
        """Return it as a person reads it."""
        before = sum(layer.n * layer.k for layer in self.layers)
        after = sum(
            layer.n * layer.k if layer.name in self.kept else layer.stream_bytes + layer.index_bytes
            for layer in self.layers
        )
        ran = [layer for layer in self.layers if layer.rows]
        lines = [
            f"{len(self.layers)} layers of {self.ranks} ranks: {before} bytes became {after}",
            _NOTE[self.codec == "cann"],
        ]
        if self.resumed:
            lines.append(f"{self.resumed} of these layers were done by a run that was interrupted")
        if ran:
            how = "each gave the bytes of the uncompressed product"
            if self.differing:
                how = f"{self.differing} results differ from the uncompressed product"
            lines.append(f"{len(ran)} layers were run with {ran[0].rows} rows as vLLM-Ascend calls them: {how}")
        lines += [f"{name} stays W8A8S: its stream does not fit into n * k bytes" for name in self.kept]
        lines += [f"rank {layer.rank}: {layer.name}: {fault}" for layer in self.faulty for fault in layer.faults]
        if not self.faulty:
            lines.append("every layer meets the limits of the operator's document")
        return lines
