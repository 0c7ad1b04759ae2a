"""Where the result of a QDQ multiplication goes: the QuantizeLinear that onnxruntime fuses with it, or none."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes import ort_behaviour
from mcd_graph.passes.engine.facts import (
    constant_array,
    get_input,
    int_attribute,
    is_op,
    known_dtype,
    known_rank,
    known_shape,
)
from mcd_graph.passes.engine.match import NewConstant
from mcd_graph.passes.engine.noops import readers_of
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.qdq_pairs import EIGHT_BIT, is_qdq, is_signed_pair, without_noops
from mcd_graph.passes.rules.scales import require_one_value

if TYPE_CHECKING:
    from mcd_graph.passes.engine.noops import Readers

__all__ = ["Quantized", "Requantization", "destination", "output_parameters"]

#: Operators past which onnxruntime moves a QuantizeLinear up towards the multiplication.
_MOVABLE = ort_behaviour.MOVES_QUANTIZE_UP.operators


@dataclasses.dataclass(frozen=True)
class Quantized:
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
class Requantization:
    """Scale and zero point of a requantised result."""

    scale: ir.Value
    zero_point: ir.Value | NewConstant


def destination(node: ir.Node, n: int) -> Quantized | None:
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


def _behind(output: ir.Value, op_type: str) -> Quantized | None:
    """Classify the consumers of the result of a MatMul or Gemm, as :func:`destination` does."""
    producer = output.producer()
    graph = None if producer is None else producer.graph
    readers = readers_of(output)
    uses = readers.uses
    if any(user.graph is not graph for user, _ in uses):
        raise Refusal(ReasonCode.RESULT_READ_ELSEWHERE, "its result is used inside another graph")
    if len(uses) != 1:
        _refuse_read_twice(readers)
        if any(is_qdq(user, "QuantizeLinear") for user, _ in uses):
            raise Refusal(
                ReasonCode.RESULT_READ_ELSEWHERE,
                "its result is used beside its QuantizeLinear, so onnxruntime computes in float",
            )
        return None
    user = uses[0][0]
    if is_qdq(user, "QuantizeLinear"):
        if readers.is_output:
            raise Refusal(
                ReasonCode.RESULT_READ_ELSEWHERE,
                "its result is an output of the graph, so onnxruntime computes in float",
            )
        return Quantized(user, readers.between)
    if is_op(user, "Relu") or is_op(user, "Clip"):
        return _behind_clip(readers, user)
    if readers.is_output:
        return None
    if op_type == "Gemm" and any(is_op(user, each) for each in ort_behaviour.FUSES_BEHIND_GEMM.operators):
        raise Refusal(ReasonCode.FUSED_FIRST, f"onnxruntime fuses the {user.op_type} behind it first")
    return _moved_up(user)


def _as_gemm(node: ir.Node, add: ir.Node, bias: ir.Value | None, noops: tuple[ir.Node, ...]) -> Quantized:
    """Return what stands behind MatMul and Add where onnxruntime surely makes a Gemm of the two.

    It does so for matrices and a vector over the columns; for higher ranks only since some release, and only with all
    sizes known. The Gemm's bias is float, so without a QuantizeLinear it is computed in float
    (``ort_behaviour.FUSES_ADD_INTO_GEMM``).
    """
    sure = (
        known_rank(without_noops(get_input(node, 0))) == 2
        and known_rank(bias) == 1
        and constant_array(bias) is not None
    )
    quantized = _behind(add.outputs[0], "Gemm") if sure else None
    if quantized is not None and not quantized.moved:
        return dataclasses.replace(quantized, between=(*noops, add, *quantized.between), bias=bias)
    raise Refusal(
        ReasonCode.FUSED_FIRST, "onnxruntime may fuse the Add behind it into a Gemm, and then computes that in float"
    )


def _refuse_read_twice(readers: Readers) -> None:
    """Refuse if an operator reads a value twice: merged, the two would be the only reader of it.

    ``ort_behaviour.MERGES_EQUAL_NODES``.
    """
    operators = [(user.domain, user.op_type) for user in readers.nodes if not is_qdq(user, "QuantizeLinear")]
    if len(set(operators)) != len(operators):
        raise Refusal(
            ReasonCode.RESULT_READ_TWICE,
            "the same operator reads its result twice, and onnxruntime may make one node of them",
        )


def _behind_clip(product: Readers, clip: ir.Node) -> Quantized | None:
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
    quantize = clipped.uses[0][0]
    if not is_qdq(quantize, "QuantizeLinear") or quantize.graph is not clip.graph or product.is_output:
        raise refusal
    zero_point = get_input(quantize, 2)
    array = np.zeros((), np.uint8) if zero_point is None else constant_array(zero_point)
    if clip.op_type != "Relu" or array is None or array.size != 1 or array.dtype not in (np.int8, np.uint8):
        raise refusal
    if array.reshape(()) != np.iinfo(array.dtype).min:
        raise refusal
    return Quantized(quantize, (*product.between, clip, *clipped.between))


def _may_become_gemm(node: ir.Node, other: ir.Value | None, n: int) -> bool:
    """Tell whether onnxruntime's fusion of MatMul and Add may apply; when shapes are not known, it may."""
    x, bias = known_shape(without_noops(get_input(node, 0))), known_shape(other)
    if x is None or bias is None:
        return True
    vector = len(bias) == 1 and bias[0] in (n, None)
    return vector or len(bias) == 2 if len(x) == 2 else vector and None not in x


def _moved_up(user: ir.Node) -> Quantized | None:
    """Return the QuantizeLinear that onnxruntime moves up past reshaping nodes to the multiplication, if any.

    ``ort_behaviour.MOVES_QUANTIZE_UP``.
    """
    graph = user.graph
    while any(is_op(user, op_type) for op_type in _MOVABLE):
        readers = readers_of(user.outputs[0])
        if len(readers.uses) != 1 or readers.is_output or readers.uses[0][0].graph is not graph or readers.uses[0][1]:
            return None
        user = readers.uses[0][0]
        if is_qdq(user, "QuantizeLinear"):
            parameters = [constant_array(value) for value in user.inputs[1:] if value is not None]
            constant = all(array is not None and array.size == 1 for array in parameters)
            return Quantized(user, moved=True) if constant else None
    return None


def output_parameters(quantized: Quantized) -> Requantization:
    """Return scale and zero point of the result; refuse where onnxruntime would not requantise to it.

    The activation counts as uint8 here, which an int8 one in a pair of its own becomes; the result has to be uint8
    as well, or become it in the same way.
    """
    quantize = quantized.node
    scale, zero_point = get_input(quantize, 1), get_input(quantize, 2)
    if scale is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "its QuantizeLinear has no scale")
    if int_attribute(quantize, "block_size", 0):
        raise Refusal(ReasonCode.RESULT_BLOCKED, "its result is quantised in blocks, so onnxruntime computes in float")
    dtype: int | None
    if zero_point is None:
        dtype = int_attribute(quantize, "output_dtype", 0) or int(ir.DataType.UINT8)
        given: ir.Value | NewConstant = NewConstant(np.zeros((), np.uint8), f"{scale.name}.zero_point")
    else:
        dtype, given = known_dtype(zero_point), zero_point
    if dtype not in EIGHT_BIT or (dtype == ir.DataType.INT8 and zero_point is None):
        raise Refusal(
            ReasonCode.RESULT_TYPE,
            "its activation and result are quantised to different types, so onnxruntime computes in float",
        )
    readers = readers_of(quantize.outputs[0]).nodes
    if not quantized.moved:
        if dtype == ir.DataType.INT8 and not (len(readers) == 1 and is_signed_pair(quantize, readers[0])):
            raise Refusal(
                ReasonCode.INT8_SHARED,
                "its int8 result is not between one QuantizeLinear and one DequantizeLinear of its own with the "
                "same constant zero point, so onnxruntime computes in float on x86",
            )
        behind = [user for reader in readers for output in reader.outputs for user in readers_of(output).nodes]
        if any(is_qdq(user, "QuantizeLinear") for user in behind):
            raise Refusal(
                ReasonCode.QUANTIZED_TWICE, "its result is quantised twice in a row, which onnxruntime merges"
            )
    if isinstance(given, ir.Value):
        require_one_value(given, "output zero point")
    return Requantization(scale, given)
