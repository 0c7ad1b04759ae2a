"""To the strict form: MatmulCompressDequant nodes become the ones that Ascend's operator computes.

That operator takes int8 activations (m, k), an int8 weight without zero point, a constant scale for each column and an
int32 bias, and gives float16. What a node has besides moves into the weight, the bias, or nodes around it:

========================================  ====================================================================
what the node has                         what becomes of it
========================================  ====================================================================
strict already, within the limits         nothing
x1_shape, y_shape                         Transpose and Reshape in front, Reshape and Transpose behind
gate, residual                            Mul and Add behind
float x1                                  DynamicQuantizeLinear in front, which gives a uint8 x1
uint8 x1                                  x1 - 128 as int8, which flips the top bit (Cast, Sub, Cast)
more or fewer than 2 dimensions           Reshape to (m, k) and back
uint8 weight                              w - 128 as int8, and its zero point with it
zero point of the weight                  subtracted from the weight
zero point of x1, constant                folded into the bias: bias - zero_point * sum over k of w
zero point of x1, computed at run time    the same at run time (Cast, Sub, Mul, Sub)
no bias                                   zeros
k or n against the limits                 zeros at the end of x1 (Pad) and of the weight; columns cut off (Slice)
one constant scale                        repeated for each column
scale computed at run time                1 in the node; Mul behind it
x1_scale                                  multiplied with the scale; by a Mul when it is computed at run time
float output                              Cast behind the node
addend, y_zero_point, y_scale             Add, QuantizeLinear, DequantizeLinear behind that
more rows than allowed (an option)        a node for each chunk of rows, and Concat
========================================  ====================================================================

float16 ends at 65504. Where the result of the original node does not have that limit and could exceed it, given the
weight, the scale is divided by a power of two, and the result multiplied by it again as float32: no bit is lost
by that. The result differs from the original's in one point only: it went through float16.

These stay as they were, each with its reason: nodes without a scale, whose result is int32; nodes in functions, which
ATC does not know; weights that leave int8 once their zero point is subtracted; constant scales that are not finite
and above zero; weights, weight zero points and uint64 scales that are computed at run time.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.registry import compressed_nodes, name_of
from mcd_graph.passes.engine.emit import (
    Names,
    remove_dead,
)
from mcd_graph.passes.engine.validate import infer_inputs
from mcd_graph.passes.fusions.registry import undo_fusions
from mcd_graph.passes.legalize.analysis import parts_of, take_apart
from mcd_graph.passes.legalize.emission import Emission
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.passes.legalize.emission import Pack

__all__ = ["LegalSite", "LegalizePass"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class LegalSite:
    """One compressed node.

    Attributes:
        name: of the node; of its output when the node has no name.
        status: ``strict`` or ``kept``.
        code: which kind of reason kept it.
        reason: why it was kept, in words.
        k: rows of the weight before.
        n: columns of the weight before.
    """

    name: str
    status: str = "strict"
    reason: str | None = None
    k: int = 0
    n: int = 0
    code: ReasonCode | None = None


class LegalizePass(ir.passes.InPlacePass):
    """Bring MatmulCompressDequant nodes into the strict form.

    ``modified`` says whether any node was changed. Without ``pack``, a second run changes nothing.

    Args:
        max_rows: cut the activations into chunks of at most this many rows, for which their number must be known
            (:data:`MAX_ROWS` is the limit that CANN's document gives); ``None``: leave them whole.
        split_activations: multiply the upper and the lower four bits of the activations by themselves, so that float16
            rounds less; twice the rows.
        pack: compresses a weight, int8 (n, k), given with its name, to (x2, compress_index, compress_info). It is used
            for every weight of every node; without it, weights that have to change get the open codec.

    Attributes:
        sites: what became of each node, after a run, in graph order.

    Raises (when run):
        FormatError: a compressed weight in the model is damaged; the message names the node.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass, LegalizePass
        >>> legalize = LegalizePass()
        >>> result = legalize(CompressPass()(load_model("model.onnx")).model)
        >>> [(site.status, site.k, site.n) for site in legalize.sites]
        [('strict', 256, 128), ('strict', 128, 256), ('strict', 256, 128)]
    """

    def __init__(
        self, *, max_rows: int | None = None, pack: Pack | None = None, split_activations: bool = False
    ) -> None:
        super().__init__()
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}")
        self.max_rows = max_rows
        self.pack = pack
        self.split_activations = split_activations
        self.sites: list[LegalSite] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change ``model`` in place."""
        self.sites = []
        infer_inputs(model)
        names, opset = Names(model), model.opset_imports.get("", 0)
        emission = Emission(model, names, self.max_rows, self.pack, split_activations=self.split_activations)
        dead: list[ir.Node] = []
        undone = False
        for node, spec, function in list(compressed_nodes(model)):
            site = LegalSite(name_of(node))
            self.sites.append(site)
            try:
                if spec.ascend is None:
                    text = f"Ascend has no operator like {spec.op_type}; restore it first"
                    raise Refusal(ReasonCode.NOT_ON_ASCEND, text)
                if function is not None:
                    raise Refusal(ReasonCode.IN_FUNCTION, "it is in a function; inline that first")
                parts = take_apart(node, opset=opset, max_rows=self.max_rows)
            except Refusal as refusal:
                site.status, site.code, site.reason = "kept", refusal.code, refusal.reason
                logger.info("%s is kept: %s [%s]", site.name, refusal.reason, refusal.code)
                continue
            site.k, site.n = parts.k, parts.n
            if undo_fusions(node, names):
                undone = True
                parts = parts_of(node, parts.weight, changed=parts.changed)
            if emission.legalize(parts):
                dead.append(node)
        remove_dead(dead)
        return ir.passes.PassResult(model, modified=bool(dead) or undone)
