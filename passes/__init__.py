"""Graph rewrites: which quantised matrix multiplications become MatmulCompressDequant nodes, and back.

One file a family of patterns; ``_common.py`` is what they share, ``_scales.py`` how onnxruntime folds scales,
``_dynamic.py`` and ``_dequantised.py`` take in what stands around a node, ``_plan.py`` finds and carries out,
``restoration.py`` is the way back, ``legalise.py`` the way on to Ascend's operator, ``ir_passes.py`` the onnx_ir
passes.
"""

from mcd_graph.passes._common import Kept
from mcd_graph.passes._plan import LoweringPlan, Site, WeightJob, plan_lowering, reproduces_optimised
from mcd_graph.passes.ir_passes import (
    CompressMatMulIntegerPass,
    CompressMatMulIntegerToFloatPass,
    CompressPass,
    CompressPointwiseConvPass,
    CompressQdqMatMulPass,
    CompressQGemmPass,
    CompressQLinearMatMulPass,
    RestorePass,
)
from mcd_graph.passes.legalise import LegalisePass, LegalSite
from mcd_graph.passes.restoration import RestorationSite, RestorePlan, plan_restoration

__all__ = [
    "CompressMatMulIntegerPass",
    "CompressMatMulIntegerToFloatPass",
    "CompressPass",
    "CompressPointwiseConvPass",
    "CompressQGemmPass",
    "CompressQLinearMatMulPass",
    "CompressQdqMatMulPass",
    "Kept",
    "LegalSite",
    "LegalisePass",
    "LoweringPlan",
    "RestorationSite",
    "RestorePass",
    "RestorePlan",
    "Site",
    "WeightJob",
    "plan_lowering",
    "plan_restoration",
    "reproduces_optimised",
]
