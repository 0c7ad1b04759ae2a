"""Legalisation for Ascend: MatmulCompressDequant nodes become the ones that its operator computes."""

from mcd_graph.passes.legalize.legalize_pass import LegalizePass, LegalSite
from mcd_graph.passes.legalize.limits import MAX_ROWS

__all__ = ["MAX_ROWS", "LegalSite", "LegalizePass"]
