"""Finding every quantised matrix multiplication and look-up of a model, and lowering those that the rules accept.

Planning and rewriting are two steps, so that the weights can be compressed in between, one by one and wherever the
caller likes::

    plan = plan_lowering(model)
    packed = {key: pack_weight(job.array(), tiling=job.tiling) for key, job in plan.weights.items()}
    plan.apply(packed)
"""

from mcd_graph.passes.plan.finding import plan_lowering
from mcd_graph.passes.plan.lowering import LoweringPlan, PackedWeight, reproduces_optimized
from mcd_graph.passes.plan.shared_scales import bytes_of_scales
from mcd_graph.passes.plan.site import Site, WeightJob, tiles_spared
from mcd_graph.passes.plan.weights import smallest_of_few

__all__ = [
    "LoweringPlan",
    "PackedWeight",
    "Site",
    "WeightJob",
    "bytes_of_scales",
    "plan_lowering",
    "reproduces_optimized",
    "smallest_of_few",
    "tiles_spared",
]  # fmt: skip
