"""A W8A8S model folder to a W8A8SC one, as the loaders of vLLM-Ascend and MindIE want it.

Layers are fused and split for tensor parallelism first, as those loaders do, then compressed. With an installed
``compress_excutor`` the result is for a device; with the open codec it is a rehearsal: every layer is run and compared.
"""

from mcd_graph.ascend.checkpoint.report import CheckpointReport, LayerResult
from mcd_graph.ascend.checkpoint.run import write_checkpoint

__all__ = ["CheckpointReport", "LayerResult", "write_checkpoint"]
