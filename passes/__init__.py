"""Graph rewrites: which nodes with quantised weights become compressed nodes, and back.

``rules/`` has one file a family of patterns, and ``registry.py``, which lists them. ``engine/`` is what they share:
matches, facts of a model, validation, planning, onnxruntime's answer, changing the model. ``fusions/`` take in what
stands around a lowered node, and put it back. ``restore.py`` restores standard operators, ``legalize/`` makes the nodes
those of Ascend, ``ir_passes.py`` has the onnx_ir passes.
"""

from mcd_graph.passes.functions import InlineWeightArgumentsPass
from mcd_graph.passes.ir_passes import FAMILY_PASSES, CompressPass, RestorePass
from mcd_graph.passes.legalize import LegalizePass, LegalSite
from mcd_graph.passes.plan import LoweringPlan, Site, WeightJob, plan_lowering, reproduces_optimized
from mcd_graph.passes.refusal import Kept, ReasonCode, Refusal
from mcd_graph.passes.restore import RestorationSite, RestorePlan, plan_restoration

__all__ = [
    "CompressPass",
    "InlineWeightArgumentsPass",
    "Kept",
    "LegalSite",
    "LegalizePass",
    "LoweringPlan",
    "ReasonCode",
    "Refusal",
    "RestorationSite",
    "RestorePass",
    "RestorePlan",
    "Site",
    "WeightJob",
    "plan_lowering",
    "plan_restoration",
    "reproduces_optimized",
]
__all__.extend(FAMILY_PASSES)


def __getattr__(name: str) -> type[CompressPass]:
    """Return the pass of one family of rules, ``CompressQGemmPass`` for instance."""
    try:
        return FAMILY_PASSES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
