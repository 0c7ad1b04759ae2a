"""What every rule shares: looking at constants and shapes, and the one builder of MatmulCompressDequant nodes.

A rule (one file a family) looks at a quantised matrix multiplication and answers with a :class:`Match` or with
:class:`Kept` and the reason. A match is plain data: which constant is the weight, which values feed the new node,
which value the new node computes. Nothing is changed while matching, because the weight has to be compressed first,
maybe in another process; ``_plan.py`` carries the matches out afterwards. (That pause between matching and
rewriting is why the rules are not onnxscript rewrite rules, which match and rewrite in one go.)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from mcd_graph.operator import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes._shapes import infer_shapes, inferred_dtype, inferred_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "INPUT_NAMES_ENTRY",
    "MS_DOMAIN",
    "OPTIMISED",
    "OPTIMISED_KEY",
    "RULE_KEY",
    "AttributeUnknownError",
    "Fused",
    "Kept",
    "Match",
    "Names",
    "NewConstant",
    "NewNode",
    "NewOutput",
    "Operand",
    "Result",
    "Rule",
    "Weight",
    "all_nodes",
    "build",
    "constant_array",
    "constant_tensor",
    "dimensions",
    "find_weight",
    "float_attribute",
    "get_input",
    "graph_of",
    "int_attribute",
    "ints_attribute",
    "is_op",
    "known_dtype",
    "known_rank",
    "known_shape",
    "metadata_beside_names",
    "misfit",
    "node_misfit",
    "only_consumer",
    "opset_misfit",
    "per_column",
    "place_constant",
    "place_operands",
    "quantisation_column",
    "quantisation_vector",
    "remove_dead",
    "set_input",
    "take_over",
]

#: Metadata key on every new node: the rule that made it.
RULE_KEY = "mcd.rule"

#: Metadata key on nodes that compute what onnxruntime does with the original when it optimises, not without.
OPTIMISED_KEY = "mcd.reproduces"
OPTIMISED = "optimised"

#: Metadata on every MatmulCompressDequant node: what viewers that do not know the operator call its inputs (Netron).
INPUT_NAMES_ENTRY = ("input_names", str(list(INPUT_NAMES)))

#: Domain of onnxruntime's own operators.
MS_DOMAIN = "com.microsoft"

_WEIGHT_TYPES = (ir.DataType.INT8, ir.DataType.UINT8)

#: Types of the operator's inputs, but for the stream of the weight.
_INPUT_TYPES = {
    "x1": (*_WEIGHT_TYPES, ir.DataType.FLOAT),
    "deq_scale": (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT64),
    "bias": (ir.DataType.INT32,),
    "x1_zero_point": _WEIGHT_TYPES,
    "w_zero_point": _WEIGHT_TYPES,
    "addend": (ir.DataType.FLOAT, ir.DataType.FLOAT16),
    "y_zero_point": _WEIGHT_TYPES,
    "x1_scale": (ir.DataType.FLOAT,),
    "y_scale": (ir.DataType.FLOAT,),
    "x1_shape": (ir.DataType.INT64,),
    "y_shape": (ir.DataType.INT64,),
    "gate": (ir.DataType.FLOAT,),
    "residual": (ir.DataType.FLOAT,),
}
_PAIR = ("x1", "x1_zero_point")
_SHAPES = ("x1_shape", "y_shape")
_ELEMENTWISE = ("gate", "residual")
_ONE_VALUE = ("x1_zero_point", "y_zero_point", "x1_scale", "y_scale")

#: The first version of ONNX with MatMulInteger, QLinearMatMul, QuantizeLinear and DequantizeLinear.
_QUANTISATION_OPSET = 10
_DYNAMIC_OPSET = 11


@dataclasses.dataclass(frozen=True)
class Kept:
    """Why a matrix multiplication stays as it was: one sentence without a full stop.

    Attributes:
        reason: the sentence.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant weight matrix as a rule found it.

    Attributes:
        value: the initialiser, or the output of the Constant node, that holds the bytes.
        tensor: its tensor, int8 or uint8, of shape (k, n), or (n, k) when ``transposed``; more dimensions, all 1, may
            follow (convolution kernels).
        transposed: the constant is stored as (n, k).
        path: constant nodes between ``value`` and the multiplication, the one nearest to ``value`` first.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    transposed: bool = False
    path: tuple[ir.Node, ...] = ()

    @property
    def k(self) -> int:
        """Number of rows of the multiplication's right-hand side."""
        return dimensions(self.tensor)[1 if self.transposed else 0]

    @property
    def n(self) -> int:
        """Number of columns of the multiplication's right-hand side."""
        return dimensions(self.tensor)[0 if self.transposed else 1]

    def array(self) -> np.ndarray:
        """Return the weight as an (n, k) view of its own memory."""
        stored = self.tensor.numpy().reshape(dimensions(self.tensor)[:2])
        return stored if self.transposed else stored.T


@dataclasses.dataclass(frozen=True, eq=False)
class NewConstant:
    """A small constant that a rewrite adds; ``hint`` becomes its name."""

    array: np.ndarray
    hint: str


@dataclasses.dataclass(frozen=True, eq=False)
class NewNode:
    """A node that a rewrite adds in front of the new MatmulCompressDequant."""

    op_type: str
    inputs: tuple[Operand, ...]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    domain: str = ""
    num_outputs: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class NewOutput:
    """Output ``index`` of a :class:`NewNode`."""

    node: NewNode
    index: int = 0


class Result:
    """Stands, among the inputs of a :class:`NewNode`, for what the new MatmulCompressDequant computes."""


Operand: TypeAlias = ir.Value | NewConstant | NewOutput | Result | None


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
    """Inputs and attributes of the MatmulCompressDequant to be, but for the three that hold the weight."""

    x1: Operand
    deq_scale: Operand = None
    bias: Operand = None
    x1_zero_point: Operand = None
    w_zero_point: Operand = None
    addend: Operand = None
    y_zero_point: Operand = None
    x1_scale: Operand = None
    y_scale: Operand = None
    output_type: ir.DataType | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A matrix multiplication that can be lowered.

    Attributes:
        pattern: what was found, for the report, e.g. ``MatMulInteger+Cast+Mul``.
        weight: the constant right-hand side.
        fused: the new node's inputs.
        output: the value that is computed instead.
        nodes: the nodes that go away, the multiplication first, the one that produces ``output`` last.
        result: what takes the place of ``output``, when that is not the new node's result itself.
        optimised: the original is reproduced as onnxruntime runs it with graph optimisations on (QDQ forms), not
            as it runs without.
    """

    pattern: str
    weight: Weight
    fused: Fused
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    result: NewOutput | Result = dataclasses.field(default_factory=Result)
    optimised: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """One family of patterns: the operator it starts from and the function that looks at such a node.

    The function answers ``None`` for a node that is no quantised matrix multiplication at all.
    """

    name: str
    domain: str
    op_type: str
    match: Callable[[ir.Node], Match | Kept | None]


class Names:
    """Hands out value and node names that are used nowhere else in the model, subgraphs and functions included."""

    def __init__(self, model: ir.Model) -> None:
        self._used: set[str] = set()
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            for inner in (graph, *graph.subgraphs()):
                values: list[ir.Value] = [*inner.inputs, *inner.initializers.values()]
                for node in inner:
                    self._used.add(node.name or "")
                    values.extend(node.outputs)
                self._used.update(value.name or "" for value in values)

    def unique(self, base: str) -> str:
        """Return ``base``, or ``base_1``, ``base_2``, … when it is taken, and take it."""
        name, count = base, 0
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name


# ---------------------------------------------------------------------------------------------------------------------
# Looking


def is_op(node: ir.Node | None, op_type: str, domain: str = "") -> bool:
    """Tell whether ``node`` is the operator ``domain::op_type`` (onnx_ir writes ``ai.onnx`` as ``""``)."""
    return node is not None and node.op_type == op_type and node.domain == domain


def get_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return input ``index`` of ``node``; ``None`` when it is absent or left empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def dimensions(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of a constant as plain integers."""
    return tuple(tensor.shape.numpy())


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a value that nobody can change at run time: a pure initialiser or a Constant node."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or not is_op(node, "Constant") or len(node.attributes) != 1:
        return None
    # Not ir.convenience.get_const_tensor: that one names the tensor after the value, and so changes the model.
    (attribute,) = node.attributes.values()
    if attribute.is_ref():  # an argument of the function around it
        return None
    form = (attribute.name, attribute.type)
    if form == ("value", ir.AttributeType.TENSOR):
        return attribute.as_tensor()
    if form in (("value_float", ir.AttributeType.FLOAT), ("value_floats", ir.AttributeType.FLOATS)):
        return ir.tensor(np.array(attribute.value, np.float32))
    if form in (("value_int", ir.AttributeType.INT), ("value_ints", ir.AttributeType.INTS)):
        return ir.tensor(np.array(attribute.value, np.int64))
    return None


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the numbers behind a constant value, or ``None`` when it is not constant."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def known_shape(value: ir.Value | None, depth: int = 8) -> tuple[int | None, ...] | None:
    """Return the shape of ``value`` with ``None`` for dimensions not known, or ``None`` when the rank is not known.

    A constant's own shape counts, whatever the model says of it. Besides what the model says, it looks through the
    handful of operators that compute scales: a scale that DynamicQuantizeLinear computes is a scalar, whatever the
    model forgot to mention. ``depth`` bounds that search.
    """
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return dimensions(tensor)
    shape = inferred_shape(value)
    if shape is not None:
        return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in shape)  # some write -1
    node = value.producer()
    if node is None or depth == 0:
        return None
    if node.op_type == "DynamicQuantizeLinear" and node.domain == "" and value.index():
        return ()
    if (other := _of_same_shape(value)) is not None:
        return known_shape(other, depth - 1)
    if node.domain == "" and node.op_type in ("Mul", "Div", "Add") and len(node.inputs) == 2:
        left, right = (known_shape(operand, depth - 1) for operand in node.inputs)
        return None if left is None or right is None else _broadcast(left, right)
    return None


def _of_same_shape(value: ir.Value) -> ir.Value | None:
    """Return the value whose shape ``value`` has because of the operator that computes it."""
    node = value.producer()
    if node is None or node.domain or value.index():
        return None
    keep = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
    return get_input(node, 0) if node.op_type in keep else None


def _shape_source(value: ir.Value, depth: int = 8) -> ir.Value:
    """Return the value that gives ``value`` its shape, at most ``depth`` operators away, or ``value`` itself."""
    while depth and (other := _of_same_shape(value)) is not None:
        value, depth = other, depth - 1
    return value


def _broadcast(left: tuple[int | None, ...], right: tuple[int | None, ...]) -> tuple[int | None, ...]:
    rank = max(len(left), len(right))
    padded = ((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right)
    return tuple(b if a == 1 else a if b in (1, a) else None for a, b in zip(*padded, strict=True))


def known_rank(value: ir.Value | None) -> int | None:
    """Return the number of dimensions of ``value``, or ``None`` when it is not known."""
    shape = known_shape(value)
    return None if shape is None else len(shape)


def known_dtype(value: ir.Value | None) -> ir.DataType | None:
    """Return the element type of ``value`` if the model says it or a quantising operator implies it."""
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.dtype
    dtype = inferred_dtype(value)
    if dtype is not None:
        return dtype
    node = value.producer()
    if is_op(node, "DynamicQuantizeLinear"):
        return ir.DataType.FLOAT if value.index() == 1 else ir.DataType.UINT8
    if is_op(node, "QuantizeLinear") and node is not None:
        zero_point = get_input(node, 2)
        return _said_dtype(node) if zero_point is None else known_dtype(zero_point)
    return None


def _said_dtype(node: ir.Node) -> ir.DataType | None:
    """Return the type that a QuantizeLinear without zero point makes."""
    try:
        return ir.DataType(int_attribute(node, "output_dtype", 0) or int(ir.DataType.UINT8))
    except (AttributeUnknownError, ValueError):
        return None


def per_column(shape: tuple[int | None, ...] | None, n: int, rank: int | None) -> bool:
    """Tell whether a value of ``shape`` acts on the columns of an (…, n) result without changing the result's shape.

    True for one element, (n,), and either of them behind dimensions of size 1, as long as there are not more
    dimensions than the result's ``rank`` (``None``: not known, at least 1).
    """
    if shape is None or len(shape) > (1 if rank is None else rank):
        return False
    return all(dim == 1 for dim in shape[:-1]) and (not shape or shape[-1] in (1, n))


def quantisation_vector(value: ir.Value | None, n: int, rank: int | None = 2) -> Operand | Kept:
    """Return a scale, zero point or bias in one of the operator's shapes: scalar, (1,), (n,) or (1, n).

    Constants behind more dimensions of size 1 are brought to (n,) or (1,); values of another shape, or of one that
    is not known, are answered with :class:`Kept`.
    """
    if value is None:
        return None
    shape = known_shape(value)
    if not per_column(shape, n, rank):
        return Kept(f"{value.name} is neither one value nor one per column (shape {_text(shape)}, {n} columns)")
    if shape is None or len(shape) <= 1 or (len(shape) == 2 and shape[-1] == n):
        return value
    array = constant_array(value)
    if array is None:
        return Kept(f"{value.name} is computed at run time with shape {_text(shape)}")
    return NewConstant(np.ascontiguousarray(array.reshape(-1)), f"{value.name}.vector")


def quantisation_column(value: ir.Value | None, n: int) -> Operand | Kept:
    """Return an int32 bias as a vector with one number per column: (n,) or (1, n).

    A constant of one element is repeated; one that is computed at run time is answered with :class:`Kept`.
    """
    vector = quantisation_vector(value, n)
    if value is None or isinstance(vector, Kept):
        return vector
    shape = known_shape(value) or ()
    if shape and shape[-1] == n:
        return vector
    array = constant_array(value)
    if array is None:
        return Kept(f"{value.name} is one value for all columns, computed at run time")
    return NewConstant(np.repeat(array.reshape(-1), n), f"{value.name}.columns")


class AttributeUnknownError(Exception):
    """An attribute that a rule depends on has no value yet, or one of another type; the message says which."""


def _attribute(node: ir.Node, name: str, type_: ir.AttributeType) -> ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.is_ref():
        raise AttributeUnknownError(f"attribute {name} of {node.op_type} is set by those who call the function")
    if attribute is not None and attribute.type != type_:
        raise AttributeUnknownError(f"attribute {name} of {node.op_type} is not of type {type_.name}")
    return attribute


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or ``default`` when the node does not have it.

    Raises:
        AttributeUnknownError: it is an argument of the function around the node, or not an integer. This ends a
            rule's match: the node is kept for that reason.
    """
    attribute = _attribute(node, name, ir.AttributeType.INT)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute, or ``default`` when the node does not have it; see :func:`int_attribute`."""
    attribute = _attribute(node, name, ir.AttributeType.FLOAT)
    return default if attribute is None else attribute.as_float()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return a list of integers, or ``None`` when the node does not have it; see :func:`int_attribute`."""
    attribute = _attribute(node, name, ir.AttributeType.INTS)
    return None if attribute is None else tuple(attribute.as_ints())


def _text(shape: tuple[int | None, ...] | None) -> str:
    return "not known" if shape is None else "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"


def only_consumer(value: ir.Value, graph: ir.Graph | ir.Function | None) -> ir.Node | None:
    """Return the node that alone uses ``value``, once or more, within the same graph; else ``None``."""
    if value.is_graph_output():
        return None
    consumers = value.consumers()
    if len(consumers) != 1 or consumers[0].graph is not graph:
        return None
    return consumers[0]


def find_weight(
    value: ir.Value | None, *, transposed: bool = False, path: tuple[ir.Node, ...] = (), kernel: bool = False
) -> Weight | Kept:
    """Return the constant int8 or uint8 matrix behind ``value``, or the reason why there is none.

    Args:
        value: the multiplication's input, or what a DequantizeLinear in front of it reads.
        transposed: the multiplication wants the transpose of ``value``.
        path: nodes between ``value`` and the multiplication that go when nobody else needs them.
        kernel: a convolution's kernel of three or more dimensions is looked for, not a matrix.
    """
    if value is None:
        return Kept("it has no weight input")
    while (producer := value.producer()) is not None and is_op(producer, "Identity") and producer not in path:
        if (behind := get_input(producer, 0)) is None:
            break
        value, path = behind, (producer, *path)
    if value.is_graph_input():
        what = "an initialiser that callers may override" if value.is_initializer() else "an input of the graph"
        return Kept(f"weight {value.name} is {what}")
    tensor = constant_tensor(value)
    if producer is not None and is_op(producer, "QuantizeLinear"):
        folded = _quantised_constant(producer)
        if folded is not None:
            value, tensor = folded
            path = (producer, *path)
    if tensor is None:
        return Kept(f"weight {value.name} is computed at run time" + (f" by {producer.op_type}" if producer else ""))
    if tensor.dtype not in _WEIGHT_TYPES:
        return Kept(f"weight {value.name} is {tensor.dtype.name.lower()}, not int8 or uint8")
    if len(tensor.shape) != 2 and not (kernel and len(tensor.shape) > 2):
        return Kept(f"weight {value.name} has {len(tensor.shape)} dimensions, not 2")
    if 0 in dimensions(tensor):
        return Kept(f"weight {value.name} is empty")
    return Weight(value, tensor, transposed, path)


def _quantised_constant(node: ir.Node) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """Return the float32 constant that a QuantizeLinear node reads, and what the node makes of it, computed lazily.

    onnxruntime folds such a node when it loads the model. Division, clamping, rounding half to even and the zero
    point come in the order of its kernel. ``None`` if an input is not constant, if the scales are not one for the
    whole tensor or one for each index of one axis, or if there may be NaN to convert, of which each processor makes
    another integer.
    """
    value, scale, zero_point = (get_input(node, index) for index in range(3))
    tensor, scales, zeros = constant_tensor(value), constant_array(scale), constant_array(zero_point)
    if zero_point is None and (dtype := _said_dtype(node)) in _WEIGHT_TYPES:
        zeros = np.zeros((), dtype.numpy())
    if value is None or tensor is None or scales is None or zeros is None or int_attribute(node, "block_size", 0):
        return None
    if int_attribute(node, "precision", 0) not in (0, ir.DataType.FLOAT):
        return None
    if tensor.dtype != ir.DataType.FLOAT or scales.dtype != np.float32 or zeros.dtype not in (np.int8, np.uint8):
        return None
    if not np.isfinite(scales).all() or not scales.all() or _has_nan(tensor.numpy()):
        return None
    if zeros.size not in (1, scales.size):
        return None
    shape = dimensions(tensor)
    if scales.size != 1 or scales.ndim > 1:
        axis = int_attribute(node, "axis", 1)
        if scales.ndim != 1 or not -len(shape) <= axis < len(shape) or scales.size != shape[axis]:
            return None
        broadcast = [1] * len(shape)
        broadcast[axis] = scales.size
        scales = scales.reshape(broadcast)
        zeros = zeros.reshape(broadcast if zeros.size != 1 else ())
    else:
        scales, zeros = scales.reshape(()), zeros.reshape(())

    def quantise() -> ir.TensorProtocol:
        limits = np.iinfo(zeros.dtype)
        offset = zeros.astype(np.float32)
        with np.errstate(over="ignore"):  # infinity is clamped
            quotient = tensor.numpy() / scales
        clamped = np.clip(quotient, limits.min - offset, limits.max - offset)
        return ir.tensor((np.rint(clamped) + offset).astype(zeros.dtype))

    return value, ir.LazyTensor(quantise, ir.DataType.from_numpy(zeros.dtype), ir.Shape(shape), name=value.name)


def _has_nan(array: np.ndarray) -> bool:
    # The least of some numbers is NaN if one is; this way there is no second array.
    return array.size > 0 and bool(np.isnan(array.min()))


# ---------------------------------------------------------------------------------------------------------------------
# Models that contradict themselves


def misfit(inputs: Mapping[str, Operand], *, k: int, n: int, weight_type: ir.DataType) -> Kept | None:
    """Return a reason if inputs of the operator, by name, are known to be of another type or size than it takes.

    Nothing else sees it early: checkers know nothing of the types of another domain's operators, and compare no sizes.
    """
    types = {**_INPUT_TYPES, "w_zero_point": (weight_type,)}
    for name, allowed in types.items():
        operand = inputs.get(name)
        if isinstance(operand, ir.Value):
            label, dtype, shape = operand.name, known_dtype(operand), known_shape(operand)
        elif isinstance(operand, NewConstant):
            label, dtype, shape = operand.hint, ir.DataType.from_numpy(operand.array.dtype), operand.array.shape
        else:
            continue
        if dtype is not None and dtype not in allowed:
            return Kept(f"its {name} {label} is {dtype.name.lower()}")
        if shape is None or name in (*_SHAPES, *_ELEMENTWISE) or (name == "x1" and inputs.get("x1_shape") is not None):
            continue
        if name == "x1":
            if not shape or shape[-1] not in (k, None):
                return Kept(f"{label} of shape {_text(shape)} does not fit a weight of {k} rows")
            continue
        sizes = (1,) if name in _ONE_VALUE else (n,) if name == "bias" else (1, n)
        *leading, last = shape or (1,)
        if (
            last not in (*sizes, None)
            or any(dim not in (1, None) for dim in leading)
            or (last == n != 1 < len(leading))
        ):
            return Kept(f"its {name} {label} has shape {_text(shape)}, for {n} columns")
    x1, zero_point = (inputs.get(name) for name in _PAIR)
    if not isinstance(x1, ir.Value) or not isinstance(zero_point, ir.Value):
        return None
    x1_type, zero_type = known_dtype(x1), known_dtype(zero_point)
    if x1_type is not None and zero_type is not None and x1_type != zero_type:
        return Kept(f"its activation is {x1_type.name.lower()}, the zero point of that {zero_type.name.lower()}")
    if _shape_source(x1) is _shape_source(zero_point):
        return Kept(f"zero point {zero_point.name} of its activation has the shape of that")
    return None


def infer_inputs(model: ir.Model) -> None:
    """Infer shapes and types if the model does not say those of an input of a MatmulCompressDequant node.

    Checkers know none for that operator's inputs, but do for those of the operators that take its place.
    """
    inputs = (value for node in model.graph.all_nodes() if is_op(node, OP_TYPE, OP_DOMAIN) for value in node.inputs)
    if any(value is not None and (known_shape(value) is None or known_dtype(value) is None) for value in inputs):
        infer_shapes(model)


def node_misfit(node: ir.Node, *, k: int, n: int, weight_type: ir.DataType) -> Kept | None:
    """Return a reason if inputs or attributes of a MatmulCompressDequant node contradict each other or its weight.

    Raises:
        AttributeUnknownError: its output_type is set by those who call the function around it.
    """
    inputs = {name: get_input(node, index) for index, name in enumerate(INPUT_NAMES)}
    if inputs["x1"] is None:
        return Kept("it has no activation input")
    if (reason := misfit(inputs, k=k, n=n, weight_type=weight_type)) is not None:
        return reason
    for shape, perm in (("x1_shape", "x1_perm"), ("y_shape", "y_perm")):
        if (inputs[shape] is None) != (ints_attribute(node, perm) is None):
            return Kept(f"it has only one of {shape} and {perm}")
    scale, y_zero_point = inputs["deq_scale"], inputs["y_zero_point"]
    scale_type = known_dtype(scale)
    if known_dtype(inputs["x1"]) == ir.DataType.FLOAT and scale_type not in (ir.DataType.FLOAT, None):
        return Kept("its x1 is float, and its deq_scale is not")
    if scale is None and y_zero_point is not None:
        return Kept("it has a y_zero_point, but no deq_scale")
    if scale is None:
        allowed: Sequence[ir.DataType] = (ir.DataType.INT32,)
    elif inputs["y_scale"] is not None:
        allowed = (ir.DataType.FLOAT,)
    elif y_zero_point is not None:
        dtype = known_dtype(y_zero_point)
        allowed = _WEIGHT_TYPES if dtype is None else (dtype,)
    elif scale_type is not None:
        allowed = (ir.DataType.FLOAT if scale_type == ir.DataType.FLOAT else ir.DataType.FLOAT16,)
    else:
        allowed = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    output_type = int_attribute(node, "output_type", int(allowed[0]))
    if output_type not in allowed:
        return Kept(f"its output_type {output_type} contradicts its inputs")
    for name in _ELEMENTWISE:
        if inputs[name] is None:
            continue
        if scale_type not in (ir.DataType.FLOAT, None) or scale is None or y_zero_point is not None:
            return Kept(f"it has a {name}, and its result is not a float32 product")
        if inputs["y_shape"] is not None:
            return Kept(f"it has a {name} and a y_perm")
    return None


def opset_misfit(owner: ir.Model | ir.Function, *, dynamic: bool = False) -> Kept | None:
    """Return a reason if ``owner`` imports ONNX's operators in a version without the quantised ones, or not at all.

    ``dynamic``: DynamicQuantizeLinear, which is younger, is needed as well.
    """
    needed = _DYNAMIC_OPSET if dynamic else _QUANTISATION_OPSET
    version = owner.opset_imports.get("")
    if version is not None and version >= needed:
        return None
    imported = (
        "does not import ONNX's operators" if version is None else f"imports version {version} of ONNX's operators"
    )
    what = "DynamicQuantizeLinear" if dynamic else "the quantised ones"
    return Kept(f"the model {imported}; {what} came with {needed}")


# ---------------------------------------------------------------------------------------------------------------------
# Building


def build(
    match: Match,
    rule: Rule,
    packed: tuple[ir.Value, ir.Value],
    compress_info: Iterable[int],
    *,
    names: Names,
    replaced: dict[ir.Value, ir.Value],
    in_function: bool,
) -> ir.Node:
    """Put a MatmulCompressDequant in the place of ``match.nodes`` and return it.

    The new node takes over the name of the multiplication and computes a value of the same name, type and shape
    as ``match.output``, so that graph outputs and value infos stay what they were.

    Args:
        match: what to replace. Its last node must produce ``match.output``.
        rule: the rule that found it; written into the new node's metadata.
        packed: the values x2 and compress_index.
        compress_info: the attribute's five integers.
        names: names already taken in the model.
        replaced: what became of the outputs of earlier matches, since a later one may have them for inputs; this
            match's output is added.
        in_function: ``match`` is inside a local function. New constants become Constant nodes then, since functions
            have no initialisers, and a Cast to the type that it has already stands behind the result: onnxruntime
            infers types of a function's values from schemas alone, which cannot tell this operator's.
    """
    anchor, last, fused = match.nodes[0], match.nodes[-1], match.fused
    stamp = {**anchor.metadata_props, RULE_KEY: rule.name}
    if match.optimised:
        stamp[OPTIMISED_KEY] = OPTIMISED
    given: dict[str, Operand] = {field.name: getattr(fused, field.name) for field in dataclasses.fields(Fused)}
    given["x2"], given["compress_index"] = packed
    base = anchor.name or anchor.op_type
    inputs = place_operands(
        [given.get(name) for name in INPUT_NAMES], last, names,
        in_function=in_function, base=base, metadata=stamp, replaced=replaced,
    )  # fmt: skip
    while inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {"compress_info": [int(number) for number in compress_info]}
    if fused.output_type is not None:
        attributes["output_type"] = int(fused.output_type)
    node = ir.node(
        OP_TYPE, inputs, attributes, domain=OP_DOMAIN, outputs=[ir.Value()],
        name=anchor.name, doc_string=anchor.doc_string, metadata_props=dict([INPUT_NAMES_ENTRY]) | stamp,
    )  # fmt: skip
    last.prepend(node)
    final: ir.Value | None = node.outputs[0]
    result = match.result
    output_type = fused.output_type or known_dtype(match.output)
    if in_function and output_type is not None and isinstance(result, Result):
        result = NewOutput(NewNode("Cast", (result,), {"to": int(output_type)}))
    if isinstance(result, NewOutput):
        node.outputs[0].name = names.unique(f"{base}.result")
        (final,) = place_operands(
            [result], last, names, in_function=in_function, base=base, metadata=stamp,
            replaced=replaced, result=node.outputs[0],
        )  # fmt: skip
    if final is None:
        raise ValueError("a match's result is a value")
    take_over(match.output, final)
    replaced[match.output] = final
    return node


def metadata_beside_names(node: ir.Node) -> dict[str, str]:
    """Return a MatmulCompressDequant node's metadata but for the names of its inputs, which fit no other operator."""
    return {key: text for key, text in node.metadata_props.items() if (key, text) != INPUT_NAMES_ENTRY}


def set_input(node: ir.Node, position: int, value: ir.Value | None) -> None:
    """Set, or remove, an optional input; the list of inputs ends with one that is there."""
    node.resize_inputs(max(len(node.inputs), position + 1))
    node.replace_input_with(position, value)
    count = len(node.inputs)
    while node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be what ``old`` was: name, type, shape, documentation, uses, place among the graph's outputs."""
    new.name, new.type, new.shape, new.doc_string = old.name, old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def place_operands(
    operands: Sequence[Operand],
    before: ir.Node,
    names: Names,
    *,
    in_function: bool,
    base: str,
    metadata: Mapping[str, str] | None = None,
    replaced: Mapping[ir.Value, ir.Value] | None = None,
    result: ir.Value | None = None,
) -> list[ir.Value | None]:
    """Make the constants and nodes that ``operands`` ask for, in front of ``before``, and return the values.

    A :class:`NewNode` or :class:`NewConstant` that is mentioned twice is made once. New nodes are called ``base`` and
    their operator, and carry ``metadata``. A value that has been ``replaced`` is exchanged for its successor,
    and :class:`Result` for ``result``.
    """
    made: dict[NewNode | NewConstant, tuple[ir.Value, ...]] = {}

    def value_of(operand: Operand) -> ir.Value | None:
        if operand is None:
            return None
        if isinstance(operand, ir.Value):
            return (replaced or {}).get(operand, operand)
        if isinstance(operand, Result):
            return result
        key = operand.node if isinstance(operand, NewOutput) else operand
        if key not in made:
            made[key] = place(key)
        return made[key][operand.index if isinstance(operand, NewOutput) else 0]

    def place(new: NewNode | NewConstant) -> tuple[ir.Value, ...]:
        if isinstance(new, NewConstant):
            name = names.unique(new.hint)
            return (place_constant(ir.tensor(new.array, name=name), name, before, as_node=in_function),)
        inputs = [value_of(operand) for operand in new.inputs]
        name = names.unique(f"{base}.{new.op_type}")
        outputs = [ir.Value(name=names.unique(f"{name}.{index}")) for index in range(new.num_outputs)]
        node = ir.node(
            new.op_type, inputs, new.attributes, domain=new.domain, outputs=outputs, name=name,
            metadata_props=dict(metadata or {}),
        )  # fmt: skip
        before.prepend(node)
        return tuple(node.outputs)

    return [value_of(operand) for operand in operands]


def place_constant(tensor: ir.TensorProtocol, name: str, before: ir.Node, *, as_node: bool) -> ir.Value:
    """Add a constant to the graph of ``before``: an initialiser, or a Constant node in front of ``before``."""
    type_, shape = ir.TensorType(tensor.dtype), ir.Shape(dimensions(tensor))
    if as_node:
        value = ir.Value(name=name, type=type_, shape=shape)
        before.prepend(ir.node("Constant", [], {"value": tensor}, outputs=[value]))
        return value
    value = ir.Value(name=name, type=type_, shape=shape, const_value=tensor)
    graph_of(before).register_initializer(value)
    return value


def remove_dead(nodes: Iterable[ir.Node]) -> None:
    """Remove replaced nodes, and then whatever only they used: constants and the nodes that computed their inputs."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        inputs = {value: None for value in node.inputs if value is not None}
        node.graph.remove(node, safe=True)
        for value in inputs:
            if value.uses() or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is not None:
                waiting.append(producer)
            elif value.is_initializer() and not value.is_graph_input():
                owner = value.graph
                if owner is not None and value.name is not None:
                    owner.initializers.pop(value.name, None)


# ---------------------------------------------------------------------------------------------------------------------
# Walking


def all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Function | None]]:
    """Yield every node, those of subgraphs included, with the function that it stands in."""
    for node in model.graph.all_nodes():
        yield node, None
    for function in model.functions.values():
        for node in function.all_nodes():
            yield node, function


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph, of a model, a subgraph or a function, that holds ``node``."""
    if node.graph is None:
        raise ValueError(f"node {node.name} is in no graph any more: the model changed since it was matched")
    return node.graph
