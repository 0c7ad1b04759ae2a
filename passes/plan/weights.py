"""Weights that several sites share: each is compressed once, and none whose bytes would stay for another reader."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mcd_graph.operators import conv_compress_dequant, gather_compress_dequant, matmul_compress_dequant
from mcd_graph.passes.plan.site import Candidate, WeightJob
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from mcd_graph.passes.engine.match import Weight

__all__ = ["keep_sharers_of_kept", "keep_weights_used_elsewhere", "smallest_of_few", "weights_of"]

#: Nodes that may stand between a weight and its multiplications; what counts is who reads their results.
_LOOKED_THROUGH = (
    *("Cast", "Clip", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose"),
    "Unsqueeze",
)

#: Operators that decode their weight once where that is chosen.
_DECODE_ONCE = (matmul_compress_dequant.SPEC, conv_compress_dequant.SPEC, gather_compress_dequant.SPEC)

#: Bytes of weights in all that are decoded once by default (``mcd.residency``): most processors have larger caches.
_FEW = 4 << 20


def smallest_of_few(weights: Mapping[str, WeightJob]) -> dict[str, WeightJob]:
    """Return the weights of a model as they are stored best: of few, size alone counts, for they are decoded once."""
    few = sum(job.nbytes for job in weights.values()) <= _FEW
    return {key: job.decoded_once() if few and job.once else job for key, job in weights.items()}


def weights_of(candidates: Sequence[Candidate]) -> dict[str, WeightJob]:
    """Return the different weights of some sites, by key, and tell each site its key."""
    weights: dict[str, WeightJob] = {}
    keys: dict[tuple[ir.Value, tuple[object, ...], bool], str] = {}
    for candidate in candidates:
        match, weight = candidate.match, candidate.match.weight
        tiling, spec = match.fused.tiling(weight), match.fused.spec
        multiplied, looked_up = spec is matmul_compress_dequant.SPEC, spec is gather_compress_dequant.SPEC
        once = spec in _DECODE_ONCE
        identity = (weight.value, weight.recipe, weight.transposed)
        if identity not in keys:
            keys[identity] = _unused_key(weight.value.name or "weight", weights)
            weights[keys[identity]] = WeightJob(keys[identity], weight, tiling, multiplied, looked_up, once)
        job = weights[keys[identity]]
        if job.tiling not in (tiling, None):
            job = dataclasses.replace(job, tiling=None)  # who wants no special one multiplies
        multiplied, looked_up = job.multiplied and multiplied, job.looked_up and looked_up
        once = job.once and once
        weights[job.key] = dataclasses.replace(job, multiplied=multiplied, looked_up=looked_up, once=once)
        candidate.site.weight = keys[identity]
    return weights


def _unused_key(base: str, taken: Mapping[str, WeightJob]) -> str:
    key, count = base, 1
    while key in taken:
        count += 1
        key = f"{base}#{count}"
    return key


def keep_weights_used_elsewhere(candidates: Sequence[Candidate]) -> None:
    """Keep the sites whose weight has other consumers, so that its bytes would stay in the model anyway."""
    open_ = list(candidates)
    while True:
        going = {node for candidate in open_ for node in candidate.match.nodes}
        users = [(candidate, _other_user(candidate.match.weight, going)) for candidate in open_]
        for candidate, user in users:
            if user is not None:
                name = candidate.match.weight.value.name
                text = f"its weight {name} is also used by {user}, so the bytes would stay"
                candidate.site.keep(Refusal(ReasonCode.WEIGHT_SHARED, text))
        if all(user is None for _, user in users):
            return
        open_ = [candidate for candidate, user in users if user is None]


def _other_user(weight: Weight, going: set[ir.Node]) -> str | None:
    """Return who needs the weight's bytes besides the nodes in ``going``; ``None`` if nobody does."""
    values = [weight.value]
    path = set(weight.path)
    while values:
        value = values.pop()
        if value.is_graph_output():
            return f"the graph's output {value.name}"
        for user in value.consumers():
            if user in going:
                continue
            if user not in path and user.op_type not in _LOOKED_THROUGH:
                return f"{user.op_type} {user.name or next((output.name for output in user.outputs), '')}"
            values.extend(user.outputs)
    return None


def keep_sharers_of_kept(candidates: Sequence[Candidate]) -> None:
    """Keep the sites whose weight's bytes stay because another site of the same bytes is kept."""
    kept = {candidate.match.weight.value for candidate in candidates if candidate.site.status == "kept"}
    for candidate in candidates:
        value = candidate.match.weight.value
        if candidate.site.status == "lowered" and value in kept:
            text = f"its weight {value.name} is kept for another node"
            candidate.site.keep(Refusal(ReasonCode.WEIGHT_OF_KEPT, text))
