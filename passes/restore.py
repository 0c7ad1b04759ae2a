"""The way back: every MatmulCompressDequant becomes standard operators and an uncompressed weight again.

========================================  ====================================================================
what the node has                         what it becomes
========================================  ====================================================================
no deq_scale                              MatMulInteger (+ Add of the int32 bias)
float deq_scale                           MatMulInteger (+ Add), Cast to float, Mul (+ Add of the addend)
uint64 deq_scale (Ascend's form)          the same with a float32 constant, and a Cast to float16 behind
x1_scale                                  Mul of it and deq_scale in front
float x1                                  DynamicQuantizeLinear in front
y_zero_point                              QLinearMatMul
y_zero_point, y_scale                     the same, and DequantizeLinear behind
y_zero_point, int32 bias                  com.microsoft's QGemm for matrices; for other ranks the operators that it
                                          consists of
x1_shape, y_shape                         Transpose and Reshape in front, Reshape and Transpose behind
gate, residual                            Mul and Add behind
========================================  ====================================================================

The result computes the same bits as the node did. It need not be the graph that was compressed: a QLinearMatMul comes
back with its three scales folded into one, for instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes.engine.emit import (
    RULE_KEY,
    Names,
    metadata_beside_names,
    place_constant,
    place_operands,
    remove_dead,
    take_over,
)
from mcd_graph.passes.engine.facts import (
    MS_DOMAIN,
    AttributeUnknownError,
    all_nodes,
    constant_array,
    constant_tensor,
    get_input,
    graph_of,
    int_attribute,
    ints_attribute,
    known_dtype,
    known_rank,
    known_shape,
)
from mcd_graph.passes.engine.match import NewConstant, NewNode, NewOutput, Operand
from mcd_graph.passes.engine.validate import check_node, check_opset, infer_inputs
from mcd_graph.passes.fusions.dynamic_quantizer import quantiser_of
from mcd_graph.passes.fusions.elementwise import expose_elementwise
from mcd_graph.passes.fusions.layout import expose_layout
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RestorationSite", "RestorePlan", "plan_restoration"]

logger = logging.getLogger(__name__)

_WEIGHT_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}


@dataclasses.dataclass
class RestorationSite:
    """One MatmulCompressDequant node.

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
        sites: every MatmulCompressDequant node, in graph order.
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
        tensors: dict[tuple[int, ...], ir.LazyTensor] = {}
        values: dict[tuple[int, int], ir.Value] = {}
        for lowered in todo:
            node, key = lowered.node, lowered.key
            expose_elementwise(node, names)
            expose_layout(node, names)
            if key not in tensors:
                tensors[key] = lowered.weight(names.unique(lowered.weight_name))
            place = (id(graph_of(node)), id(tensors[key]))
            if place not in values:
                values[place] = place_constant(
                    tensors[key], tensors[key].name or "", node, as_node=lowered.function is not None
                )
            restored = NewOutput(_standard_form(lowered, values[place]))
            (value,) = place_operands(
                [restored], node, names, in_function=lowered.function is not None, base=node.name or OP_TYPE
            )
            if value is None or (producer := value.producer()) is None:
                raise AssertionError("a new node's output has that node as producer")
            producer.name, producer.doc_string = node.name, node.doc_string
            metadata = metadata_beside_names(node)
            producer.metadata_props.update({key: text for key, text in metadata.items() if key != RULE_KEY})
            take_over(node.outputs[0], value)
            if producer.domain:
                for owner in (self.model, lowered.function):
                    if owner is not None:
                        owner.opset_imports.setdefault(producer.domain, 1)
        remove_dead(lowered.node for lowered in todo)
        _forget_domain(self.model)
        return bool(todo)


@dataclasses.dataclass(frozen=True)
class _Lowered:
    """A node that can be restored, taken apart."""

    node: ir.Node
    function: ir.Function | None
    info: tuple[int, ...]
    x2: ir.TensorProtocol
    compress_index: ir.TensorProtocol
    weight_type: ir.DataType

    @functools.cached_property
    def quantiser(self) -> NewNode | None:
        """What quantises a float x1; to be looked at when the nodes before this one have been restored."""
        return quantiser_of(self.node)

    @property
    def key(self) -> tuple[int, ...]:
        """Tells compressed weights apart; equal for two tensors that read the same place of the same file."""

        def place(tensor: ir.TensorProtocol) -> tuple[int, ...]:
            if isinstance(tensor, ir.ExternalTensor):
                return hash(str(tensor.path)), tensor.offset or 0
            return (id(tensor),)

        return (*place(self.x2), *place(self.compress_index), *self.info)

    @property
    def weight_name(self) -> str:
        value = get_input(self.node, INPUT_NAMES.index("x2"))
        name = value.name if value is not None and value.name else "weight"
        return name.removesuffix(".x2")

    def input(self, name: str) -> ir.Value | None:
        """Return the input called ``name``, if there is one."""
        return get_input(self.node, INPUT_NAMES.index(name))

    def activation(self) -> tuple[Operand, Operand, Operand]:
        """Return x1, its scale, and its zero point: the inputs, or what a quantiser makes of a float x1."""
        if self.quantiser is None:
            return self.input("x1"), self.input("x1_scale"), self.input("x1_zero_point")
        return NewOutput(self.quantiser, 0), NewOutput(self.quantiser, 1), NewOutput(self.quantiser, 2)

    def scale(self) -> Operand:
        """Return ``deq_scale``, multiplied by the scale of x1 if there is one."""
        deq_scale, (_, x1_scale, _) = self.input("deq_scale"), self.activation()
        return deq_scale if x1_scale is None else NewOutput(NewNode("Mul", (x1_scale, deq_scale)))

    def weight(self, name: str) -> ir.LazyTensor:
        """Return the uncompressed weight (k, n), decoded when it is looked at."""

        def decode() -> ir.TensorProtocol:
            with _named(self.node):
                weight = _native.decode(self.x2.numpy(), self.compress_index.numpy(), np.asarray(self.info, np.int64))
            if isinstance(self.x2, ir.ExternalTensor):
                self.x2.release()  # or all maps would stay to the end
            return ir.tensor(weight.T, name=name)

        return ir.LazyTensor(decode, self.weight_type, ir.Shape(self.info[2:4]), name=name)


def plan_restoration(model: ir.Model) -> RestorePlan:
    """Look for MatmulCompressDequant nodes in a model, its subgraphs and its functions; change nothing.

    Args:
        model: a compressed model.

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
    for node, function in all_nodes(model):
        if (node.domain, node.op_type) != (OP_DOMAIN, OP_TYPE):
            continue
        info = _compress_info(node)
        site = RestorationSite(node.name or node.outputs[0].name or "", *(info[2:4] if len(info) == 5 else (0, 0)))
        owner = model if function is None else function
        lowered: _Lowered | None = None
        try:
            check_opset(owner, dynamic=quantiser_of(node) is not None)
            lowered = _take_apart(node, function, info)
        except Refusal as refusal:
            site.status, site.code, site.reason = "kept", refusal.code, refusal.reason
            logger.info("%s is kept: %s [%s]", site.name, refusal.reason, refusal.code)
        candidates.append((site, lowered))
    return RestorePlan(model, candidates)


def _compress_info(node: ir.Node) -> tuple[int, ...]:
    """Return the attribute's integers; none if it is missing, or is no list of integers."""
    try:
        return ints_attribute(node, "compress_info") or ()
    except AttributeUnknownError:
        return ()


def _take_apart(node: ir.Node, function: ir.Function | None, info: tuple[int, ...]) -> _Lowered:
    x2, index = (constant_tensor(get_input(node, INPUT_NAMES.index(name))) for name in ("x2", "compress_index"))
    if x2 is None or index is None:
        raise Refusal(ReasonCode.STREAM_NOT_CONSTANT, "its compressed weight is not constant")
    if len(info) != 5:
        raise Refusal(ReasonCode.STREAM_NOT_CONSTANT, "its compress_info does not hold 5 integers")
    scale = get_input(node, INPUT_NAMES.index("deq_scale"))
    if known_dtype(scale) == ir.DataType.UINT64 and constant_array(scale) is None:
        raise Refusal(ReasonCode.RUN_TIME_PARAMETER, "its uint64 deq_scale is computed at run time")
    with _named(node):
        described = _native.inspect(x2.numpy(), index.numpy(), np.asarray(info, np.int64))
    weight_type = _WEIGHT_TYPES[described["dtype"]]
    check_node(node, k=info[2], n=info[3], weight_type=weight_type)
    return _Lowered(node, function, info, x2, index, weight_type)


@contextlib.contextmanager
def _named(node: ir.Node) -> Iterator[None]:
    """Say in a codec's error which node's weight is damaged."""
    try:
        yield
    except _native.FormatError as error:
        raise _native.FormatError(f"node {node.name or node.outputs[0].name}: {error}") from None


def _standard_form(lowered: _Lowered, weight: ir.Value) -> NewNode:
    """Return the node, with those in front of it, that computes what the lowered one did."""
    y_zero_point = lowered.input("y_zero_point")
    if y_zero_point is not None:
        result, y_scale = _requantised(lowered, weight, y_zero_point), lowered.input("y_scale")
        if y_scale is not None:
            result = NewNode("DequantizeLinear", (NewOutput(result), y_scale, y_zero_point))
        return result
    result = _scaled(lowered, weight)
    scale = lowered.input("deq_scale")
    if scale is None:
        return result
    default = ir.DataType.FLOAT if known_dtype(scale) in (ir.DataType.FLOAT, None) else ir.DataType.FLOAT16
    output_type = ir.DataType(int_attribute(lowered.node, "output_type", int(default)))
    if output_type != ir.DataType.FLOAT:
        result = NewNode("Cast", (NewOutput(result),), {"to": int(output_type)})
    return result


def _scaled(lowered: _Lowered, weight: ir.Value) -> NewNode:
    """Return the multiplication up to the float result; up to the int32 one where there is no scale."""
    x1, _, x1_zero_point = lowered.activation()
    zero_points: list[Operand] = [x1_zero_point, lowered.input("w_zero_point")]
    while zero_points and zero_points[-1] is None:
        zero_points.pop()
    result = NewNode("MatMulInteger", (x1, weight, *zero_points))
    bias, scale, addend = (lowered.input(name) for name in ("bias", "deq_scale", "addend"))
    if bias is not None:
        result = NewNode("Add", (NewOutput(result), bias))
    if scale is None:
        return result
    factor: Operand = lowered.scale()
    if known_dtype(scale) == ir.DataType.UINT64 and (array := constant_array(scale)) is not None:
        factor = NewConstant(array.astype(np.uint32).view(np.float32), f"{scale.name}.float")
    result = NewNode("Cast", (NewOutput(result),), {"to": int(ir.DataType.FLOAT)})
    result = NewNode("Mul", (NewOutput(result), _widened(factor)))
    return result if addend is None else NewNode("Add", (NewOutput(result), _widened(addend)))


def _widened(operand: Operand) -> Operand:
    """Return float16 numbers as float32."""
    if not isinstance(operand, ir.Value) or known_dtype(operand) != ir.DataType.FLOAT16:
        return operand
    return NewOutput(NewNode("Cast", (operand,), {"to": int(ir.DataType.FLOAT)}))


def _requantised(lowered: _Lowered, weight: ir.Value, y_zero_point: ir.Value) -> NewNode:
    """Return a QLinearMatMul or QGemm whose three scales are 1, deq_scale and 1: 1 * deq_scale / 1 is deq_scale."""
    one = NewConstant(np.array(1, np.float32), "one")
    scale = lowered.input("deq_scale")
    (x1, _, x1_zero_point), bias = lowered.activation(), lowered.input("bias")
    w_zero_point = lowered.input("w_zero_point")
    x1_type = known_dtype(lowered.input("x1")) or known_dtype(y_zero_point) or ir.DataType.UINT8
    # QGemm wants the weight's zero point in the shape of its scale.
    shape = [size or 1 for size in known_shape(scale) or ()]
    inputs: list[Operand] = [
        x1,
        one,
        x1_zero_point or NewConstant(np.zeros((), x1_type.numpy()), "x1_zero_point"),
        weight,
        lowered.scale(),
        w_zero_point or NewConstant(np.zeros(shape, lowered.weight_type.numpy()), "w_zero_point"),
    ]
    if bias is None:
        return NewNode("QLinearMatMul", (*inputs, one, y_zero_point))
    if known_rank(lowered.input("x1")) == 2:
        attributes = {"alpha": 1.0, "transA": 0, "transB": 0}
        return NewNode("QGemm", (*inputs, bias, one, y_zero_point), attributes, domain=MS_DOMAIN)
    return _requantised_step_by_step(lowered, weight, y_zero_point)


def _requantised_step_by_step(lowered: _Lowered, weight: ir.Value, y_zero_point: ir.Value) -> NewNode:
    """Return the operators of a requantisation: scale, clamp, round half to even, add the zero point."""
    dtype = known_dtype(y_zero_point) or ir.DataType.UINT8
    limits = np.iinfo(dtype.numpy())
    offset = NewOutput(NewNode("Cast", (y_zero_point,), {"to": int(ir.DataType.FLOAT)}))
    result = _scaled(lowered, weight)
    for operator, limit, name in (("Max", limits.min, "lowest"), ("Min", limits.max, "highest")):
        bound = NewNode("Sub", (NewConstant(np.array(limit, np.float32), name), offset))
        result = NewNode(operator, (NewOutput(result), NewOutput(bound)))
    result = NewNode("Add", (NewOutput(NewNode("Round", (NewOutput(result),))), offset))
    return NewNode("Cast", (NewOutput(result),), {"to": int(dtype)})


def _forget_domain(model: ir.Model) -> None:
    """Remove the opset import of the operator's domain where no node uses it any more."""

    def used(nodes: Iterator[ir.Node]) -> bool:
        return any(node.domain == OP_DOMAIN for node in nodes)

    functions = list(model.functions.values())
    for function in functions:
        if not used(function.all_nodes()):
            function.opset_imports.pop(OP_DOMAIN, None)
    if not used(model.graph.all_nodes()) and not any(OP_DOMAIN in function.opset_imports for function in functions):
        model.opset_imports.pop(OP_DOMAIN, None)
