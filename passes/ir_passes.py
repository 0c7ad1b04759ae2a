"""The rewrites as onnx_ir passes, one a family of rules, for graphs that are in memory anyway.

::

    onnx_ir.passes.Sequential(CompressMatMulIntegerPass(), CompressQLinearMatMulPass())(model)

Each compresses the weights of its family itself. To compress them elsewhere, or to write them as they come, plan with
:func:`mcd_graph.passes.plan_lowering`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from mcd_graph.codec.weights import pack_weight
from mcd_graph.passes.functions import InlineWeightArgumentsPass
from mcd_graph.passes.plan import plan_lowering
from mcd_graph.passes.restore import plan_restoration
from mcd_graph.passes.rules.registry import ALL_RULES, FAMILIES

if TYPE_CHECKING:
    from mcd_graph.codec.weights import Profile
    from mcd_graph.passes.engine.match import Family, Rule

__all__ = ["FAMILY_PASSES", "CompressPass", "RestorePass"]


class CompressPass(ir.passes.InPlacePass):
    """Compresses the weights of every form of quantised multiplication, look-up, convolution and DequantizeLinear.

    Args:
        profile: ``fast``, ``balanced`` or ``small``.
        include: regular expression; only nodes in whose name it is found are lowered.
        exclude: regular expression; nodes in whose name it is found are kept.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass
        >>> result = CompressPass(profile="fast")(load_model("model.onnx"))
        >>> result.modified
        True
        >>> sum(node.op_type == "MatmulCompressDequant" for node in result.model.graph)
        3
    """

    rules: ClassVar[tuple[Rule, ...]] = ALL_RULES

    def __init__(
        self, *, profile: Profile = "balanced", include: str | None = None, exclude: str | None = None
    ) -> None:
        self.profile = profile
        self.include = include
        self.exclude = exclude

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower what the family's rules accept; ``modified`` says whether anything was."""
        inlined = InlineWeightArgumentsPass(self.rules)(model).modified
        plan = plan_lowering(model, include=self.include, exclude=self.exclude, rules=self.rules)
        packed = {
            key: pack_weight(job.array(), profile=self.profile, tiling=job.tiling) for key, job in plan.weights.items()
        }
        return ir.passes.PassResult(model, plan.apply(packed) or inlined)


def _pass_of(family: Family) -> type[CompressPass]:
    """Return the pass of one family."""
    text = f"Compresses the weights of {family.operators}."
    return type(
        f"Compress{family.name}Pass", (CompressPass,), {"rules": family.rules, "__doc__": text, "__module__": __name__}
    )


#: One pass a family, by name.
FAMILY_PASSES: dict[str, type[CompressPass]] = {each.__name__: each for each in map(_pass_of, FAMILIES)}


class RestorePass(ir.passes.InPlacePass):
    """Turns every compressed node back into standard operators that compute the same bits.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass, RestorePass
        >>> model = CompressPass()(load_model("model.onnx")).model
        >>> model = RestorePass()(model).model
        >>> any(node.domain == "mcd" for node in model.graph)
        False
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Restore what can be restored; ``modified`` says whether anything was."""
        return ir.passes.PassResult(model, plan_restoration(model).apply())
