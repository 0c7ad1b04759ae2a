"""Graph rewrites: which quantised matrix multiplications become MatmulCompressDequant nodes, and back.

One file a family of patterns; ``_common.py`` is what they share, ``_plan.py`` finds and carries out,
``restoration.py`` is the way back.
"""

from mcd_graph.passes._common import Kept
from mcd_graph.passes._plan import LoweringPlan, Site, WeightJob, plan_lowering

__all__ = ["Kept", "LoweringPlan", "Site", "WeightJob", "plan_lowering"]
