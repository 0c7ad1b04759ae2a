"""Legalisation for Ascend: MatmulCompressDequant nodes become the ones that its operator computes."""

from mcd_graph.passes.legalize.legalise_pass import LegalisePass, LegalSite
from mcd_graph.passes.legalize.limits import MAX_ROWS

__all__ = ["MAX_ROWS", "LegalSite", "LegalisePass"]
