"""MatMul and Gemm between DequantizeLinear and QuantizeLinear ("QDQ"), as onnxruntime runs them when it optimises.

Taken literally, such a graph multiplies floats. onnxruntime's graph optimiser makes integer kernels of it, and the
rewrite reproduces those, byte for byte. Where the optimiser would leave the multiplication in float, it is kept.

::

    MatMul(DQ(x1), DQ(W)) -> Q        as QLinearMatMul:  requantised with x1_scale * w_scale / y_scale
    MatMul(DQ(x1), DQ(W))             as MatMulIntegerToFloat:  float with x1_scale * w_scale
    MatMul(DQ(x1), DQ(W)) + C -> Q    as the Gemm that onnxruntime makes of it, for matrices
    Gemm(DQ(x1), DQ(W), DQ(C)) -> Q   as QGemm:  C is added to the int32 sum
    Gemm(DQ(x1), DQ(W), DQ(C))        as QGemm with a float result
    Gemm(DQ(x1), DQ(W), C) -> Q       C is brought to int32: round(C / (x1_scale * w_scale)), as onnxruntime 1.21
                                      and later do (1.20 computes in float)

==============================  ======================================================================================
accepted                        uint8 and int8 activations, weights per tensor or per column, transA, transB, alpha;
                                a Transpose between the weight's DequantizeLinear and the multiplication; a Relu in
                                front of the QuantizeLinear that its saturation makes superfluous; Reshape, Transpose,
                                Squeeze, Unsqueeze, Slice in front of the QuantizeLinear, past which it is moved
kept, with the reason           weights alone quantised; scales per row; 4- and 16-bit types; results that are used
                                as float beside the QuantizeLinear; other Relu and Clip nodes behind; a float Gemm
                                bias without QuantizeLinear; an Add behind that may be fused into a float Gemm;
                                int8 activations and results that are shared (onnxruntime for x86 makes uint8 of the
                                others first, and computes these in float); two QuantizeLinear in a row
==============================  ======================================================================================
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes import ort_behaviour
from mcd_graph.passes.engine.facts import (
    MS_DOMAIN,
    constant_array,
    float_attribute,
    get_input,
    int_attribute,
    ints_attribute,
    is_op,
    known_dtype,
    known_rank,
    known_shape,
)
from mcd_graph.passes.engine.match import (
    Family,
    Fused,
    Match,
    NewConstant,
    NewNode,
    NewOutput,
    Operand,
    Result,
    Rule,
    Weight,
)
from mcd_graph.passes.engine.noops import readers_of, source_of
from mcd_graph.passes.engine.operands import find_weight, quantisation_column
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.scales import fold_scales, fuse, require_one_value

if TYPE_CHECKING:
    from mcd_graph.passes.engine.noops import Readers

__all__ = ["FAMILY"]

_EIGHT_BIT = (ir.DataType.INT8, ir.DataType.UINT8)

#: Operators past which onnxruntime moves a QuantizeLinear up towards the multiplication.
_MOVABLE = ort_behaviour.MOVES_QUANTIZE_UP.operators


@dataclasses.dataclass(frozen=True)
class _Dequantised:
    """An input of the multiplication, taken apart at its DequantizeLinear, and what hands its result on."""

    node: ir.Node
    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    path: tuple[ir.Node, ...] = ()

    @property
    def dtype(self) -> ir.DataType | None:
        """Type of the quantised value, which its zero point has as well."""
        return known_dtype(self.value) or known_dtype(self.zero_point)


@dataclasses.dataclass(frozen=True)
class _Quantised:
    """The QuantizeLinear behind the multiplication.

    Attributes:
        node: the QuantizeLinear.
        between: nodes between the multiplication and it that go.
        bias: what an Add between them adds, which onnxruntime makes a Gemm of.
        moved: onnxruntime moves it up past other nodes, so that those see its rounding; they and it stay.
    """

    node: ir.Node
    between: tuple[ir.Node, ...] = ()
    bias: ir.Value | None = None
    moved: bool = False


@dataclasses.dataclass(frozen=True)
class _Output:
    """Scale and zero point of a requantised result."""

    scale: ir.Value
    zero_point: ir.Value | NewConstant


def _is_qdq(node: ir.Node | None, op_type: str) -> bool:
    return is_op(node, op_type) or is_op(node, op_type, MS_DOMAIN)


def _dequantised(value: ir.Value | None, user: ir.Node) -> _Dequantised | None:
    """Return the DequantizeLinear that computes ``value`` in the same graph, or ``None``."""
    if value is None:
        return None
    value, path = source_of(value)
    node = value.producer()
    if node is None or not _is_qdq(node, "DequantizeLinear") or node.graph is not user.graph:
        return None
    quantised, scale = get_input(node, 0), get_input(node, 1)
    if quantised is None or scale is None:
        return None
    return _Dequantised(node, source_of(quantised)[0], scale, get_input(node, 2), path)


def _without_noops(value: ir.Value | None) -> ir.Value | None:
    return None if value is None else source_of(value)[0]


def _match_matmul(node: ir.Node) -> Match | None:
    return _match(node, transpose_x=False, transpose_w=False, alpha=1.0, c=None)


def _match_gemm(node: ir.Node) -> Match | None:
    return _match(
        node,
        transpose_x=bool(int_attribute(node, "transA", 0)),
        transpose_w=bool(int_attribute(node, "transB", 0)),
        alpha=float_attribute(node, "alpha", 1.0),
        c=get_input(node, 2),
    )


def _match(node: ir.Node, *, transpose_x: bool, transpose_w: bool, alpha: float, c: ir.Value | None) -> Match | None:
    found = _find_operands(node, transpose_w)
    if found is None:
        return None
    x, w, weight = found
    _check_type(x)
    quantised = _destination(node, weight.n)
    if known_dtype(x.scale) == ir.DataType.FLOAT16:
        raise Refusal(ReasonCode.SCALE_TYPE, "its scales are float16, so onnxruntime computes in float")
    y = None if quantised is None else _output_parameters(quantised)
    scale = fold_scales(x.scale, w.scale, None if y is None else y.scale, alpha=alpha, n=weight.n)
    if quantised is not None and quantised.bias is not None:
        c = quantised.bias
    bias = None if c is None else _bias(node, c, x, w, weight, alpha=alpha, requantised=quantised is not None)
    x1: Operand = x.value
    if transpose_x:
        x1 = NewOutput(NewNode("Transpose", (x1,), {"perm": [1, 0]}))
    fused = fuse(x1, x.zero_point, weight, w.zero_point, scale, bias=bias)
    if quantised is None or y is None:
        return Match(f"DequantizeLinear+{node.op_type}", weight, fused, node.outputs[0], (node,), optimised=True)
    return _requantised(
        node, weight, dataclasses.replace(fused, y_zero_point=y.zero_point, output_type=None), quantised, y
    )


def _find_operands(node: ir.Node, transpose_w: bool) -> tuple[_Dequantised, _Dequantised, Weight] | None:
    """Return activation and weight; ``None`` if the node is a float multiplication like any other."""
    x, value = _dequantised(get_input(node, 0), node), get_input(node, 1)
    path: tuple[ir.Node, ...] = ()
    if value is not None:
        value, path = source_of(value)
    transpose = None if value is None else value.producer()
    if transpose is not None and is_op(transpose, "Transpose"):
        perm, rank = ints_attribute(transpose, "perm"), known_rank(get_input(transpose, 0))
        if perm == (1, 0) or (perm is None and rank in (2, None)) or (perm == (0, 2, 1) and rank == 3):
            transpose_w, value, path = not transpose_w, get_input(transpose, 0), (transpose, *path)
    w = _dequantised(value, node)
    if w is None:
        _refuse_outside(value, node)
        producer = None if value is None else value.producer()
        between = producer if producer is not None and is_op(producer, "Reshape") else None
        if x is None or between is None or _dequantised(get_input(between, 0), node) is None:
            return None
        raise Refusal(
            ReasonCode.WEIGHT_RESHAPED,
            "its weight is reshaped behind its DequantizeLinear, so onnxruntime computes in float",
        )
    weight = find_weight(w.value, transposed=transpose_w, path=(w.node, *w.path, *path))
    if x is None:
        _refuse_outside(get_input(node, 0), node)
        raise Refusal(
            ReasonCode.ACTIVATION_NOT_QUANTISED, "its activation is not quantised, so onnxruntime computes in float"
        )
    if int_attribute(w.node, "block_size", 0):
        raise Refusal(ReasonCode.WEIGHT_BLOCKED, "its weight is quantised in blocks, so onnxruntime computes in float")
    if any(int_attribute(each.node, "output_dtype", 0) not in (0, ir.DataType.FLOAT) for each in (x, w)):
        raise Refusal(ReasonCode.SCALE_TYPE, "its operands are not dequantised to float32")
    columns = weight.leading + (0 if transpose_w else 1)
    shape = known_shape(w.scale)
    axis = int_attribute(w.node, "axis", 1)
    if shape not in ((), (1,)) and axis not in (columns, columns - weight.leading - 2):
        raise Refusal(
            ReasonCode.WEIGHT_SCALE_AXIS, "its weight's scale is not per column, so onnxruntime computes in float"
        )
    return x, w, weight


def _refuse_outside(value: ir.Value | None, user: ir.Node) -> None:
    """Refuse an operand whose DequantizeLinear stands in a graph around that of the multiplication."""
    producer = None if value is None else source_of(value)[0].producer()
    if producer is not None and _is_qdq(producer, "DequantizeLinear") and producer.graph is not user.graph:
        what = "activation" if value is get_input(user, 0) else "weight"
        text = f"its {what} is dequantised in a graph around its own, so onnxruntime computes in float"
        raise Refusal(ReasonCode.DEQUANTISED_OUTSIDE, text)


def _check_type(x: _Dequantised) -> None:
    """Refuse an activation that onnxruntime would not multiply as integers.

    ``ort_behaviour.MERGES_DOUBLE_QUANTIZERS``, ``ort_behaviour.MAKES_INT8_PAIRS_UINT8``.
    """
    dtype = x.dtype
    if dtype is None:
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"the type of its activation {x.value.name} is not known")
    if dtype not in _EIGHT_BIT:
        raise Refusal(ReasonCode.ACTIVATION_TYPE, f"its activation is {dtype.name.lower()}, not int8 or uint8")
    producer = x.value.producer()
    if producer is not None and _is_qdq(producer, "QuantizeLinear"):
        before = get_input(producer, 0)
        if before is not None and _is_qdq(source_of(before)[0].producer(), "DequantizeLinear"):
            raise Refusal(
                ReasonCode.QUANTISED_TWICE, "its activation is quantised twice in a row, which onnxruntime merges"
            )
    if dtype == ir.DataType.INT8 and (producer is None or not _is_signed_pair(producer, x.node)):
        raise Refusal(
            ReasonCode.INT8_SHARED,
            "its int8 activation is not between one QuantizeLinear and one DequantizeLinear of its own, "
            "so onnxruntime computes in float on x86",
        )


def _is_signed_pair(quantise: ir.Node, dequantise: ir.Node) -> bool:
    """Tell whether onnxruntime for x86 would turn this int8 pair into a uint8 one (it has no fast int8 kernel).

    ``ort_behaviour.MAKES_INT8_PAIRS_UINT8``.
    """
    if not _is_qdq(quantise, "QuantizeLinear") or not _is_qdq(dequantise, "DequantizeLinear"):
        return False
    between, behind = readers_of(quantise.outputs[0]), readers_of(dequantise.outputs[0])
    if len(between.uses) != 1 or between.is_output or len(behind.uses) + behind.is_output != 1:
        return False
    if any(_same_parameters(quantise, other) for other in _siblings(quantise)):
        return False  # MERGES_EQUAL_NODES: onnxruntime makes one node of the two, and then it has two readers
    zero_points = [constant_array(get_input(node, 2)) for node in (quantise, dequantise)]
    return all(array is not None and array.size == 1 and array.dtype == np.int8 for array in zero_points) and (
        zero_points[0] == zero_points[1]
    )


def _siblings(node: ir.Node) -> list[ir.Node]:
    """Return the other nodes of the same operator that read the same first input."""
    value = get_input(node, 0)
    users = () if value is None else value.consumers()
    return [user for user in users if user is not node and is_op(user, node.op_type, node.domain)]


def _same_parameters(node: ir.Node, other: ir.Node) -> bool:
    """Tell whether the inputs behind the first are the same values or equal constants."""
    if len(node.inputs) != len(other.inputs):
        return False
    for left, right in zip(node.inputs[1:], other.inputs[1:], strict=True):
        a, b = constant_array(left), constant_array(right)
        if left is not right and (a is None or b is None or not np.array_equal(a, b)):
            return False
    return True


def _destination(node: ir.Node, n: int) -> _Quantised | None:
    """Return the QuantizeLinear that onnxruntime fuses with the multiplication, ``None`` for a float result.

    ``ort_behaviour.FUSES_QDQ``.

    Refused where onnxruntime leaves the multiplication in float, or where it does something else.
    """
    readers = readers_of(node.outputs[0])
    if node.op_type == "MatMul" and len(readers.uses) == 1 and not readers.is_output:
        ((add, position),) = readers.uses
        if is_op(add, "Add") and len(add.inputs) == 2 and add.graph is node.graph:
            bias = add.inputs[1 - position]
            if _may_become_gemm(node, bias, n):
                return _as_gemm(node, add, bias, readers.between)
    return _behind(node.outputs[0], node.op_type)


def _behind(output: ir.Value, op_type: str) -> _Quantised | None:
    """Do as :func:`_destination` says for the result of a MatMul or Gemm."""
    producer = output.producer()
    graph = None if producer is None else producer.graph
    readers = readers_of(output)
    uses = readers.uses
    if any(user.graph is not graph for user, _ in uses):
        raise Refusal(ReasonCode.RESULT_READ_ELSEWHERE, "its result is used inside another graph")
    if len(uses) != 1:
        _refuse_read_twice(readers)
        if any(_is_qdq(user, "QuantizeLinear") for user, _ in uses):
            raise Refusal(
                ReasonCode.RESULT_READ_ELSEWHERE,
                "its result is used beside its QuantizeLinear, so onnxruntime computes in float",
            )
        return None
    user = uses[0][0]
    if _is_qdq(user, "QuantizeLinear"):
        if readers.is_output:
            raise Refusal(
                ReasonCode.RESULT_READ_ELSEWHERE,
                "its result is an output of the graph, so onnxruntime computes in float",
            )
        return _Quantised(user, readers.between)
    if is_op(user, "Relu") or is_op(user, "Clip"):
        return _behind_clip(readers, user)
    if readers.is_output:
        return None
    if op_type == "Gemm" and any(is_op(user, each) for each in ort_behaviour.FUSES_BEHIND_GEMM.operators):
        raise Refusal(ReasonCode.FUSED_FIRST, f"onnxruntime fuses the {user.op_type} behind it first")
    return _moved_up(user)


def _as_gemm(node: ir.Node, add: ir.Node, bias: ir.Value | None, noops: tuple[ir.Node, ...]) -> _Quantised:
    """Return what stands behind MatMul and Add where onnxruntime surely makes a Gemm of the two.

    It does so for matrices and a vector over the columns; for higher ranks only since some release, and only with all
    sizes known. The Gemm's bias is float, so without a QuantizeLinear it is computed in float
    (``ort_behaviour.FUSES_ADD_INTO_GEMM``).
    """
    sure = (
        known_rank(_without_noops(get_input(node, 0))) == 2
        and known_rank(bias) == 1
        and constant_array(bias) is not None
    )
    quantised = _behind(add.outputs[0], "Gemm") if sure else None
    if quantised is not None and not quantised.moved:
        return dataclasses.replace(quantised, between=(*noops, add, *quantised.between), bias=bias)
    raise Refusal(
        ReasonCode.FUSED_FIRST, "onnxruntime may fuse the Add behind it into a Gemm, and then computes that in float"
    )


def _refuse_read_twice(readers: Readers) -> None:
    """Refuse if an operator reads a value twice: merged, the two would be the only reader of it.

    ``ort_behaviour.MERGES_EQUAL_NODES``.
    """
    operators = [(user.domain, user.op_type) for user in readers.nodes if not _is_qdq(user, "QuantizeLinear")]
    if len(set(operators)) != len(operators):
        raise Refusal(
            ReasonCode.RESULT_READ_TWICE,
            "the same operator reads its result twice, and onnxruntime may make one node of them",
        )


def _behind_clip(product: Readers, clip: ir.Node) -> _Quantised | None:
    """Return what follows a Relu or Clip: the QuantizeLinear if its saturation does the clipping already.

    ``ort_behaviour.DROPS_RELU_THAT_SATURATION_DOES``.
    """
    clipped = readers_of(clip.outputs[0])
    if len(clipped.uses) != 1 or clipped.is_output:
        _refuse_read_twice(clipped)
        return None
    refusal = Refusal(
        ReasonCode.ACTIVATION_FUNCTION_BEHIND, f"a {clip.op_type} is behind it, so onnxruntime computes in float"
    )
    quantise = clipped.uses[0][0]
    if not _is_qdq(quantise, "QuantizeLinear") or quantise.graph is not clip.graph or product.is_output:
        raise refusal
    zero_point = get_input(quantise, 2)
    array = np.zeros((), np.uint8) if zero_point is None else constant_array(zero_point)
    if clip.op_type != "Relu" or array is None or array.size != 1 or array.dtype not in (np.int8, np.uint8):
        raise refusal
    if array.reshape(()) != np.iinfo(array.dtype).min:
        raise refusal
    return _Quantised(quantise, (*product.between, clip, *clipped.between))


def _may_become_gemm(node: ir.Node, other: ir.Value | None, n: int) -> bool:
    """Tell whether onnxruntime's fusion of MatMul and Add may apply; when shapes are not known, it may."""
    x, bias = known_shape(_without_noops(get_input(node, 0))), known_shape(other)
    if x is None or bias is None:
        return True
    vector = len(bias) == 1 and bias[0] in (n, None)
    return vector or len(bias) == 2 if len(x) == 2 else vector and None not in x


def _moved_up(user: ir.Node) -> _Quantised | None:
    """Return the QuantizeLinear that onnxruntime moves up past reshaping nodes to the multiplication, if any.

    ``ort_behaviour.MOVES_QUANTIZE_UP``.
    """
    graph = user.graph
    while any(is_op(user, op_type) for op_type in _MOVABLE):
        readers = readers_of(user.outputs[0])
        if len(readers.uses) != 1 or readers.is_output or readers.uses[0][0].graph is not graph or readers.uses[0][1]:
            return None
        user = readers.uses[0][0]
        if _is_qdq(user, "QuantizeLinear"):
            parameters = [constant_array(value) for value in user.inputs[1:] if value is not None]
            constant = all(array is not None and array.size == 1 for array in parameters)
            return _Quantised(user, moved=True) if constant else None
    return None


def _output_parameters(quantised: _Quantised) -> _Output:
    """Return scale and zero point of the result; refuse where onnxruntime would not requantise to it.

    The activation counts as uint8 here, which an int8 one in a pair of its own becomes; the result has to be uint8
    as well, or become it in the same way.
    """
    quantise = quantised.node
    scale, zero_point = get_input(quantise, 1), get_input(quantise, 2)
    if scale is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "its QuantizeLinear has no scale")
    if int_attribute(quantise, "block_size", 0):
        raise Refusal(ReasonCode.RESULT_BLOCKED, "its result is quantised in blocks, so onnxruntime computes in float")
    dtype: int | None
    if zero_point is None:
        dtype = int_attribute(quantise, "output_dtype", 0) or int(ir.DataType.UINT8)
        given: ir.Value | NewConstant = NewConstant(np.zeros((), np.uint8), f"{scale.name}.zero_point")
    else:
        dtype, given = known_dtype(zero_point), zero_point
    if dtype not in _EIGHT_BIT or (dtype == ir.DataType.INT8 and zero_point is None):
        raise Refusal(
            ReasonCode.RESULT_TYPE,
            "its activation and result are quantised to different types, so onnxruntime computes in float",
        )
    readers = readers_of(quantise.outputs[0]).nodes
    if not quantised.moved:
        if dtype == ir.DataType.INT8 and not (len(readers) == 1 and _is_signed_pair(quantise, readers[0])):
            raise Refusal(
                ReasonCode.INT8_SHARED,
                "its int8 result is not between one QuantizeLinear and one DequantizeLinear of its own, "
                "so onnxruntime computes in float on x86",
            )
        behind = [user for reader in readers for output in reader.outputs for user in readers_of(output).nodes]
        if any(_is_qdq(user, "QuantizeLinear") for user in behind):
            raise Refusal(
                ReasonCode.QUANTISED_TWICE, "its result is quantised twice in a row, which onnxruntime merges"
            )
    if isinstance(given, ir.Value):
        require_one_value(given, "output zero point")
    return _Output(scale, given)


def _bias(
    node: ir.Node, c: ir.Value, x: _Dequantised, w: _Dequantised, weight: Weight, *, alpha: float, requantised: bool
) -> Operand:
    """Return a Gemm's third input as int32, the way onnxruntime brings it there.

    ``ort_behaviour.QUANTIZES_FLOAT_BIAS``.
    """
    if alpha != 1 or float_attribute(node, "beta", 1.0) != 1:
        raise Refusal(
            ReasonCode.BIAS_SCALED,
            "it has a bias, and an alpha or beta that is not 1, so onnxruntime computes in float",
        )
    dequantised = _dequantised(c, node)
    if dequantised is not None:
        if dequantised.dtype != ir.DataType.INT32:
            raise Refusal(
                ReasonCode.BIAS_NOT_INT32, "its bias is not quantised to int32, so onnxruntime computes in float"
            )
        return quantisation_column(dequantised.value, weight.n)
    array, x_scale, w_scale = constant_array(source_of(c)[0]), constant_array(x.scale), constant_array(w.scale)
    if not requantised or array is None or array.ndim != 1 or array.dtype != np.float32:
        raise Refusal(ReasonCode.BIAS_NOT_INT32, "its bias is float, so onnxruntime computes in float")
    if x_scale is None or w_scale is None:
        raise Refusal(
            ReasonCode.BIAS_NOT_INT32, "its bias is float, and the scale to quantise it with is computed at run time"
        )
    if array.size != weight.n:
        raise Refusal(ReasonCode.BIAS_SHAPE, "its bias is not a vector over the columns")
    with np.errstate(all="ignore"):
        rounded = np.rint(array / (x_scale.reshape(()) * w_scale.reshape(-1)))
    if not np.all(np.abs(rounded) < 2.0**31):
        raise Refusal(ReasonCode.BIAS_RANGE, "its bias does not fit into int32")
    return NewConstant(rounded.astype(np.int32), f"{c.name}.int32")


def _requantised(node: ir.Node, weight: Weight, fused: Fused, quantised: _Quantised, y: _Output) -> Match:
    pattern = f"DequantizeLinear+{node.op_type}"
    if not quantised.moved:
        nodes = (node, *quantised.between, quantised.node)
        pattern = "+".join([pattern, *(each.op_type for each in nodes[1:])])
        return Match(pattern, weight, fused, quantised.node.outputs[0], nodes, optimised=True)
    restored = NewNode("DequantizeLinear", (Result(), y.scale, y.zero_point))
    pattern = f"{pattern}+QuantizeLinear+DequantizeLinear"
    return Match(pattern, weight, fused, node.outputs[0], (node,), NewOutput(restored), optimised=True)


matmul_qdq_rule = Rule("matmul_qdq_rule", "", "MatMul", _match_matmul, "DequantizeLinear+MatMul")
gemm_qdq_rule = Rule("gemm_qdq_rule", "", "Gemm", _match_gemm, "DequantizeLinear+Gemm")

FAMILY = Family(
    "QdqMatMul",
    "MatMul and Gemm between DequantizeLinear and QuantizeLinear",
    "`DequantizeLinear` → `MatMul` or `Gemm` [→ `QuantizeLinear`]",
    "with int32 or float bias, superfluous `Relu`",
    (matmul_qdq_rule, gemm_qdq_rule),
)
