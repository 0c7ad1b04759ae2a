"""Graph rewrites: which quantised matrix multiplications become MatmulCompressDequant nodes, and back.

One file a family of patterns; ``_common.py`` is what they share, ``_plan.py`` finds and carries out,
``restoration.py`` is the way back.
"""

from mcd_graph.passes._common import Kept
from mcd_graph.passes._plan import LoweringPlan, Site, WeightJob, plan_lowering, reproduces_optimised
from mcd_graph.passes.legalise import LegalisePass, LegalSite
from mcd_graph.passes.restoration import RestorationSite, RestorePlan, plan_restoration

__all__ = [
    "Kept",
    "LegalSite",
    "LegalisePass",
    "LoweringPlan",
    "RestorationSite",
    "RestorePlan",
    "Site",
    "WeightJob",
    "plan_lowering",
    "plan_restoration",
    "reproduces_optimised",
]
