"""The descriptions that loaders read: the type of every tensor."""

from mcd_graph.ascend.checkpoint.layout import LAYOUTS, Layout
from mcd_graph.ascend.checkpoint.plan import RankPlan
from mcd_graph.ascend.checkpoint.report import CheckpointReport
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.ascend.codec import CODEC_KEY

__all__ = ["mindie_description", "vllm_description"]


def vllm_description(checkpoint: Checkpoint, report: CheckpointReport) -> dict[str, object]:
    """Return types by the source's names: vLLM-Ascend looks a fused layer up by those that it is made of."""
    kept = {source for layer in report.kept for source in _sources_of(layer)}
    description: dict[str, object] = {"model_quant_type": "W8A8SC", "version": "1.0.0"}
    for name, kind in checkpoint.description.items():
        if name in description:
            continue
        sparse = name.endswith(".weight") and kind == "W8A8S" and name.removesuffix(".weight") not in kept
        description[name] = "W8A8SC" if sparse else kind
    description["metadata"] = {CODEC_KEY: report.codec}
    return description


def _sources_of(name: str) -> tuple[str, ...]:
    parent, _, layer = name.rpartition(".")
    return tuple(f"{parent}.{old}" for old in LAYOUTS["vllm"].fused.get(layer, (layer,)))


def mindie_description(
    checkpoint: Checkpoint, layout: Layout, plan: RankPlan, report: CheckpointReport
) -> dict[str, object]:
    """Return the types of a rank's tensors by MindIE's names."""
    description: dict[str, object] = {"model_quant_type": "W8A8SC", "version": "1.0.0"}
    for linear in plan.linears:
        if linear.name in report.kept:
            description[layout.tensor(f"{linear.name}.weight")] = "W8A8S"
            continue
        for part in ("weight", "index", "info"):
            description[layout.tensor(f"{linear.name}.{part}")] = "W8A8SC"
    for output in plan.others:
        description[layout.tensor(output.name)] = checkpoint.kind(output.parts[0].name)
    description["metadata"] = {CODEC_KEY: report.codec}
    return description
