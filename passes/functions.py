"""Local functions that are given their weights: inlined, so that each call has constants of its own.

Some quantisers write one function for all layers and hand it each layer's weight. Within the function nothing is
constant; where it is called, everything is. onnxruntime inlines functions before all else, so inlining changes no bit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.registry import ALL_RULES, RULES_ON_REQUEST

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mcd_graph.passes.engine.match import Rule

__all__ = ["InlineConstantsPass", "InlineWeightArgumentsPass"]

logger = logging.getLogger(__name__)


class InlineWeightArgumentsPass(ir.passes.InPlacePass):
    """Inline the local functions that multiply by a weight which they are given.

    Functions that import operators of another version than the model does, that call each other in a circle, or that
    are given graphs are left as they are.

    Args:
        rules: the families of multiplications to look for.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import InlineWeightArgumentsPass
        >>> InlineWeightArgumentsPass()(load_model("model.onnx")).modified  # it has no functions
        False
    """

    def __init__(self, rules: Sequence[Rule] = (*ALL_RULES, *RULES_ON_REQUEST)) -> None:
        super().__init__()
        self.rules = {(rule.domain, rule.op_type): rule for rule in rules}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change ``model`` in place."""
        modified = False
        while self._inline_once(model):  # what is inlined into a function may make that one of them
            modified = True
        return ir.passes.PassResult(model, modified)

    def _inline_once(self, model: ir.Model) -> bool:
        wanted = {
            function.identifier()
            for function in model.functions.values()
            if _can_be_inlined(model, function) and self._is_given_a_weight(function)
        }
        return _inlined(model, wanted, "are given their weights").modified

    def _is_given_a_weight(self, function: ir.Function) -> bool:
        for node in function.all_nodes():
            rule = self.rules.get((node.domain, node.op_type))
            if rule is None or not node.outputs:
                continue
            try:
                rule.match(node)
            except Refusal as refusal:
                if refusal.code is ReasonCode.WEIGHT_IS_INPUT:
                    return True
        return False


class InlineConstantsPass(ir.passes.InPlacePass):
    """Inline the local functions that hold int8 or uint8 constants, so that these are constants of a graph.

    Which functions are left as they are: as :class:`InlineWeightArgumentsPass`.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes.functions import InlineConstantsPass
        >>> InlineConstantsPass()(load_model("model.onnx")).modified  # it has no functions
        False
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change ``model`` in place."""
        holding = {id(_graph_of(constant.value)) for constant in eight_bit_constants(model)}
        wanted = {
            function.identifier()
            for function in model.functions.values()
            if not holding.isdisjoint(map(id, (function.graph, *function.graph.subgraphs())))
            and _can_be_inlined(model, function)
        }
        return _inlined(model, wanted, "hold constants")


def _graph_of(value: ir.Value) -> ir.Graph | ir.Function | None:
    node = value.producer()
    return value.graph if node is None else node.graph


def _inlined(model: ir.Model, wanted: Collection[ir.OperatorIdentifier], why: str) -> ir.passes.PassResult:
    """Inline the calls of some functions, if that can be done at all."""
    if not wanted:
        return ir.passes.PassResult(model, modified=False)
    inline = InlinePass(lambda function: function.identifier() in wanted)
    try:
        inline.requires(model)
    except ir.passes.PreconditionError as error:
        logger.info("no function is inlined: %s", error)
        return ir.passes.PassResult(model, modified=False)
    result = inline.call(model)
    logger.info("inlined %d functions that %s", len(wanted), why)
    return ir.passes.PassResult(model, result.modified)


def _can_be_inlined(model: ir.Model, function: ir.Function) -> bool:
    """Tell whether a function and its calls have nothing that onnx_ir's inliner refuses."""
    versions = model.opset_imports
    if any(versions.get(domain, version) != version for domain, version in function.opset_imports.items()):
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    owners = (model.graph, *(each.graph for each in model.functions.values()))
    calls = [node for owner in owners for node in owner.all_nodes() if node.op_identifier() == function.identifier()]
    return all(
        len(call.inputs) <= len(function.inputs)
        and not any(
            attribute.type in graphs for attribute in (*call.attributes.values(), *function.attributes.values())
        )
        for call in calls
    )
