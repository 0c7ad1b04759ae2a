"""What each rank's file holds: layers to be compressed, and tensors that are taken over, fused and split."""

import dataclasses
from collections.abc import Iterable

from mcd_graph.ascend.checkpoint.layout import Layout
from mcd_graph.ascend.checkpoint.parallel import Heads, Rank, is_row_parallel
from mcd_graph.ascend.checkpoint.source import Checkpoint, Part
from mcd_graph.errors import InputError

__all__ = ["Linear", "Output", "RankPlan", "plan_rank"]

_SHARED = ("input_scale", "input_offset")  # one number for all layers that are fused: they read the same activations
_WANTED = ("quant_bias", "deq_scale")


@dataclasses.dataclass(frozen=True)
class Output:
    """A tensor of a rank's file.

    Attributes:
        name: in the fused model.
        parts: blocks of the source's tensors, one behind another along the first dimension.
        shared: the parts must be equal, and one is taken.
        zeros: zeros of that shape: of a bias that another rank adds.
    """

    name: str
    parts: tuple[Part, ...]
    shared: bool = False
    zeros: bool = False


@dataclasses.dataclass(frozen=True)
class Linear:
    """A quantised layer of a rank.

    Attributes:
        name: of the layer in the fused model.
        sources: layers of the source that it is made of.
        weight: blocks of their weights, one behind another along n.
        n: rows of all of them.
        k: columns.
        bias: int32 (n,), what it adds.
        scale: int64 (n,), what it multiplies by.
    """

    name: str
    sources: tuple[str, ...]
    weight: Output
    n: int
    k: int
    bias: Output
    scale: Output


@dataclasses.dataclass(frozen=True)
class RankPlan:
    """What a rank's file holds."""

    rank: Rank
    linears: tuple[Linear, ...]
    others: tuple[Output, ...]


def plan_rank(checkpoint: Checkpoint, layout: Layout, index: int, count: int) -> RankPlan:
    """Plan the file of one rank.

    Raises:
        InputError: the model cannot be fused or split like that.
    """
    rank = Rank(index, count, Heads.of(checkpoint.config))
    linears, others = [], []
    for name, sources in _fused_tensors(checkpoint, layout):
        output = _output(checkpoint, layout, rank, name, sources)
        layer, _, parameter = name.rpartition(".")
        if parameter == "weight" and all(checkpoint.kind(source) == "W8A8S" for source in sources):
            linears.append(_linear(checkpoint, layout, rank, layer, output))
        else:
            others.append(output)
    if not linears:
        raise InputError(f"{checkpoint.folder} has no W8A8S weight")
    return RankPlan(rank, tuple(linears), tuple(others))


def _fused_tensors(checkpoint: Checkpoint, layout: Layout) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the fused model's tensors, and the source's that each is made of."""
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    taken: set[str] = set()
    for name in checkpoint.files:
        if name in taken:
            continue
        module, _, parameter = name.rpartition(".")
        parent, _, layer = module.rpartition(".")
        fused = next((new for new, old in layout.fused.items() if layer in old), None)
        if tied and layer in ("embed_tokens", "lm_head") and not layout.is_mindie:
            # vLLM's two names are one tensor; its files have it by the name that sorts first.
            if layer == "embed_tokens":
                yield "lm_head.weight", (name,)
        elif fused is None:
            yield name, (name,)
        else:
            members = tuple(f"{parent}.{old}.{parameter}" for old in layout.fused[fused])
            missing = [member for member in members if member not in checkpoint.files]
            if missing:
                raise InputError(f"{missing[0]} is missing: {fused} is made of {', '.join(layout.fused[fused])}")
            kinds = {checkpoint.kind(member) for member in members}
            if len(kinds) > 1:
                raise InputError(f"{parent}.{fused} cannot be fused: its {parameter} is {' and '.join(sorted(kinds))}")
            taken.update(members)
            yield f"{parent}.{fused}.{parameter}", members


def _output(checkpoint: Checkpoint, layout: Layout, rank: Rank, name: str, sources: tuple[str, ...]) -> Output:
    module, _, parameter = name.rpartition(".")
    vocabulary_dim = 1 if layout.is_mindie else 0
    parts = tuple(rank.part(source, checkpoint.shapes[source], vocabulary_dim=vocabulary_dim) for source in sources)
    elsewhere = is_row_parallel(module) and parameter == "quant_bias" and rank.index > 0
    # vLLM-Ascend's loader makes these zeros itself; MindIE's files have them.
    return Output(name, parts, shared=parameter in _SHARED, zeros=elsewhere and layout.is_mindie)


def _linear(checkpoint: Checkpoint, layout: Layout, rank: Rank, layer: str, weight: Output) -> Linear:
    sources = tuple(part.name.removesuffix(".weight") for part in weight.parts)
    if ".experts." in layer:
        raise InputError(f"{layer}: W8A8SC is for linear layers, not for experts")
    shapes = []
    for part in weight.parts:
        shape = checkpoint.shapes[part.name]
        if len(shape) != 2:
            raise InputError(f"weight {part.name} has shape {shape}, not (n, k)")
        size = part.stop - part.start
        shapes.append(shape if part.dim is None else (size, shape[1]) if part.dim == 0 else (shape[0], size))
    wanted = {}
    for parameter in _WANTED:
        names = tuple(f"{source}.{parameter}" for source in sources)
        for name in names:
            if name not in checkpoint.files:
                raise InputError(f"layer {layer} has no {name}")
        wanted[parameter] = _output(checkpoint, layout, rank, f"{layer}.{parameter}", names)
    if len({k for _, k in shapes}) != 1:
        raise InputError(f"{layer} cannot be fused: its weights have shapes {shapes}")
    n, k = sum(n for n, _ in shapes), shapes[0][1]
    return Linear(layer, sources, weight, n, k, wanted["quant_bias"], wanted["deq_scale"])
