"""Restoring standard operators: every node of our domain becomes what it stands for, with its weight uncompressed.

The operator's description says what a node becomes, or which module of this package knows
(:attr:`OperatorSpec.restore`). The result computes the same bits as the node did. It need not be the graph that
was compressed: a QLinearMatMul comes back with its three scales folded into one, for instance.
"""

from __future__ import annotations

import dataclasses
import logging
from importlib import import_module
from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators import decompress_weight, gather_compress_dequant
from mcd_graph.operators.nodes import NewNode, NewOutput
from mcd_graph.operators.registry import compressed_nodes, name_of
from mcd_graph.operators.spec import DOMAIN
from mcd_graph.operators.view import CompressedNode, CompressedNodeError, info_of
from mcd_graph.passes.engine.emit import (
    RULE_KEY,
    Names,
    metadata_beside_names,
    place_constant,
    place_operands,
    remove_dead,
    take_over,
)
from mcd_graph.passes.engine.facts import graph_of, home_of, is_op
from mcd_graph.passes.engine.restorer import Restorer
from mcd_graph.passes.engine.validate import infer_inputs
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Any

    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.spec import OperatorSpec

__all__ = ["RestorationSite", "RestorePlan", "plan_restoration"]

logger = logging.getLogger(__name__)

_WEIGHT_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}


@dataclasses.dataclass
class RestorationSite:
    """One compressed node.

    Attributes:
        name: of the node; of its output when the node has no name.
        k: rows of the weight.
        n: columns of the weight.
        status: ``restored`` or ``kept``; before ``apply``, ``restored`` means that it can be.
        code: which kind of reason kept it.
        reason: why it was kept, in words.
    """

    name: str
    k: int
    n: int
    status: str = "restored"
    code: ReasonCode | None = None
    reason: str | None = None


class RestorePlan:
    """What :func:`plan_restoration` found in a model, and the means to carry it out.

    Attributes:
        model: the model that was looked at; :meth:`apply` changes it in place.
        sites: every compressed node, in graph order.
    """

    def __init__(self, model: ir.Model, candidates: list[tuple[RestorationSite, _Lowered | None]]) -> None:
        self.model = model
        self.sites = [site for site, _ in candidates]
        self._open = [lowered for _, lowered in candidates if lowered is not None]

    def apply(self) -> bool:
        """Restore what can be restored; return whether anything was changed.

        The weights come back as lazy tensors of shape (k, n), decoded only while the model is written, one at a time;
        a node inside a function gets a Constant node. Applying a plan again does nothing.
        """
        todo, self._open = self._open, []
        names = Names(self.model)
        weights = _Weights([lowered.view for lowered in todo], names)
        for lowered in todo:
            lowered.restorer.expose(lowered.view, names)
            value = weights.value(lowered.view, as_node=lowered.function is not None)
            self._replace(lowered, value, names)
        remove_dead(lowered.view.node for lowered in todo)
        _forget_domain(self.model)
        return bool(todo)

    def _replace(self, lowered: _Lowered, weight: ir.Value, names: Names) -> None:
        """Put the standard form of a node, whose uncompressed weight is ``weight``, in its place."""
        node = lowered.view.node
        form = lowered.restorer.standard_form(lowered.view, weight)
        if form is weight and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(weight)
            return
        if isinstance(form, ir.Value):
            form = NewOutput(NewNode("Identity", (form,)))
        (value,) = place_operands(
            [form], node, names, in_function=lowered.function is not None, base=node.name or node.op_type
        )
        if value is None or (producer := value.producer()) is None:
            raise AssertionError("a new node's output has that node as producer")
        producer.name, producer.doc_string = node.name, node.doc_string
        metadata = metadata_beside_names(node)
        producer.metadata_props.update({key: text for key, text in metadata.items() if key != RULE_KEY})
        take_over(node.outputs[0], value)
        if lowered.function is not None:
            _remove_cast(value)
        for domain in _domains(form):
            for owner in (self.model, lowered.function):
                if owner is not None:
                    owner.opset_imports.setdefault(domain, 1)


def _remove_cast(value: ir.Value) -> None:
    """Remove the Cast that told the type of a compressed node's result in a function, where nothing else does."""
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output() or not is_op(readers[0], "Cast"):
        return
    (cast,) = readers
    if RULE_KEY in cast.metadata_props:
        take_over(cast.outputs[0], value)
        graph_of(cast).remove(cast, safe=True)


def _domains(operand: Operand) -> set[str]:
    """Return the domains, beside ONNX's own, of the nodes that compute an operand."""
    if not isinstance(operand, NewOutput):
        return set()
    own = {operand.node.domain} - {""}
    return own.union(*map(_domains, operand.node.inputs))


class _Weights:
    """The constants that were compressed, placed once in each graph that needs them; graphs share the tensors.

    A table that is looked up and multiplied with is one tensor, behind a Transpose where it is multiplied with.
    """

    def __init__(self, views: Sequence[CompressedNode], names: Names) -> None:
        self._names = names
        self._tensors: dict[tuple[Any, ...], ir.LazyTensor] = {}
        self._values: dict[tuple[Any, ...], ir.Value] = {}
        self._tables = {view.key: view for view in views if view.weight_shape == (view.n, view.k) and _is_table(view)}

    def value(self, view: CompressedNode, *, as_node: bool) -> ir.Value:
        """Return the value of a node's uncompressed constant, in the graph that has the stream."""
        home = _home_of_stream(view)
        table = self._tables.get(view.key)
        if table is None or _is_table(view) or view.weight_shape != (view.k, view.n):
            return self._placed(view, home, view.node, as_node=as_node)
        place = (id(graph_of(view.node)), view.key, "Transpose")
        if place not in self._values:
            source = self._placed(table, home, view.node, as_node=as_node)
            turned = NewOutput(NewNode("Transpose", (source,), {"perm": [1, 0]}))
            (value,) = place_operands([turned], view.node, self._names, in_function=as_node, base=view.weight_name)
            if value is None:
                raise AssertionError("a new node has an output")
            self._values[place] = value
        return self._values[place]

    def _placed(self, view: CompressedNode, home: ir.Graph, user: ir.Node, *, as_node: bool) -> ir.Value:
        key = (view.key, view.weight_shape, view.spec.weight_of)
        if key not in self._tensors:
            self._tensors[key] = view.weight(self._name(view))
        tensor = self._tensors[key]
        place = (id(home), id(tensor))
        if place not in self._values:
            before = user if home is graph_of(user) else home[0]
            self._values[place] = place_constant(tensor, tensor.name or "", before, as_node=as_node)
        return self._values[place]

    def _name(self, view: CompressedNode) -> str:
        """Return a name for a node's constant: that of the node's output, if the constant takes its place."""
        output = view.node.outputs[0]
        if view.spec is decompress_weight.SPEC and output.name and not output.is_graph_output():
            return output.name
        return self._names.unique(view.weight_name)


def _home_of_stream(view: CompressedNode) -> ir.Graph:
    """Return the graph that has a node's stream, so that graphs that share that share the weight."""
    x2 = view.input("x2")
    return graph_of(view.node) if x2 is None else home_of(x2)


def _is_table(view: CompressedNode) -> bool:
    return view.spec is gather_compress_dequant.SPEC


@dataclasses.dataclass(frozen=True)
class _Lowered:
    """A node that can be restored, and the function around it, if any."""

    view: CompressedNode
    restorer: Restorer
    function: ir.Function | None


def plan_restoration(model: ir.Model, *, operators: Collection[OperatorSpec] | None = None) -> RestorePlan:
    """Look for compressed nodes in a model, its subgraphs and its functions; change nothing.

    Args:
        model: a compressed model.
        operators: those whose nodes are restored; all by default.

    Returns:
        What was found, with ``apply``.

    Examples:
        >>> import mcd_graph
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import plan_restoration
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> plan = plan_restoration(load_model("model.mcd.onnx"))
        >>> [(site.k, site.n, site.status) for site in plan.sites]
        [(256, 128, 'restored'), (128, 256, 'restored'), (256, 128, 'restored')]
    """
    infer_inputs(model)
    candidates: list[tuple[RestorationSite, _Lowered | None]] = []
    for node, spec, function in compressed_nodes(model):
        if operators is not None and spec not in operators:
            continue
        info = info_of(node)
        site = RestorationSite(name_of(node), *(info[2:4] if len(info) == 5 else (0, 0)))
        lowered: _Lowered | None = None
        try:
            lowered = _take_apart(model, node, spec, function)
        except Refusal as refusal:
            site.status, site.code, site.reason = "kept", refusal.code, refusal.reason
            logger.info("%s is kept: %s [%s]", site.name, refusal.reason, refusal.code)
        candidates.append((site, lowered))
    return RestorePlan(model, candidates)


def _take_apart(model: ir.Model, node: ir.Node, spec: OperatorSpec, function: ir.Function | None) -> _Lowered:
    try:
        view = CompressedNode.of(node)
    except CompressedNodeError as error:
        raise Refusal(ReasonCode.STREAM_NOT_CONSTANT, error.reason) from None
    restorer = _restorer_of(spec)
    view.inspect()  # a damaged weight is an error
    if (wrong := spec.check(view)) is not None:
        raise Refusal(ReasonCode.INPUTS_CONTRADICT, wrong)
    restorer.check(view, model if function is None else function)
    return _Lowered(view, restorer, function)


def _restorer_of(spec: OperatorSpec) -> Restorer:
    """Return how an operator is restored, as its description says."""
    if spec.restore is None:
        raise Refusal(ReasonCode.NOT_RESTORABLE, f"no standard operators are known that compute {spec.op_type}")
    if isinstance(spec.restore, str):
        restorer: Restorer = import_module(spec.restore).RESTORER
        return restorer
    return Restorer(spec.restore)


def _forget_domain(model: ir.Model) -> None:
    """Remove the opset import of the operator's domain where no node uses it any more."""

    def used(nodes: Iterator[ir.Node]) -> bool:
        return any(node.domain == DOMAIN for node in nodes)

    functions = list(model.functions.values())
    for function in functions:
        if not used(function.all_nodes()):
            function.opset_imports.pop(DOMAIN, None)
    if not used(model.graph.all_nodes()) and not any(DOMAIN in function.opset_imports for function in functions):
        model.opset_imports.pop(DOMAIN, None)
