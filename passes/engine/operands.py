"""A multiplication's constant weight, and scales, zero points and biases in one of the operator's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.constants import fold, reshaped
from mcd_graph.passes.engine.facts import (
    constant_array,
    constant_tensor,
    dimensions,
    get_input,
    ints_attribute,
    is_op,
    known_rank,
    known_shape,
    shape_text,
)
from mcd_graph.passes.engine.match import NewConstant, Weight
from mcd_graph.passes.engine.noops import source_of
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = ["WEIGHT_TYPES", "check_rank", "find_weight", "per_column", "quantization_column", "quantization_vector"]

WEIGHT_TYPES = (ir.DataType.INT8, ir.DataType.UINT8)


def per_column(shape: tuple[int | None, ...] | None, n: int, rank: int | None) -> bool:
    """Tell whether a value of ``shape`` acts on the columns of an (…, n) result without changing the result's shape.

    True for one element, (n,), and either of them behind dimensions of size 1, as long as there are not more
    dimensions than the result's ``rank`` (``None``: not known, at least 1).
    """
    if shape is None or len(shape) > (1 if rank is None else rank):
        return False
    return all(dim == 1 for dim in shape[:-1]) and (not shape or shape[-1] in (1, n))


def quantization_vector(value: ir.Value | None, n: int, rank: int | None = 2) -> Operand:
    """Return a scale, zero point or bias in one of the operator's shapes: scalar, (1,), (n,) or (1, n).

    Constants behind more dimensions of size 1 are brought to (n,) or (1,); values of another shape, or of one that
    is not known, are refused.
    """
    if value is None:
        return None
    shape = known_shape(value)
    if not per_column(shape, n, rank):
        raise Refusal(
            ReasonCode.PARAMETER_SHAPE,
            f"{value.name} is neither one value nor one per column (shape {shape_text(shape)}, {n} columns)",
        )
    if shape is None or len(shape) <= 1 or (len(shape) == 2 and shape[-1] == n):
        return value
    array = constant_array(value)
    if array is None:
        raise Refusal(
            ReasonCode.PARAMETER_COMPUTED, f"{value.name} is computed at run time with shape {shape_text(shape)}"
        )
    return NewConstant(np.ascontiguousarray(array.reshape(-1)), f"{value.name}.vector")


def quantization_column(value: ir.Value | None, n: int) -> Operand:
    """Return an int32 bias as a vector with one number per column: (n,) or (1, n).

    A constant of one element is repeated; one that is computed at run time is refused.
    """
    vector = quantization_vector(value, n)
    if value is None:
        return vector
    shape = known_shape(value) or ()
    if shape and shape[-1] == n:
        return vector
    array = constant_array(value)
    if array is None:
        raise Refusal(ReasonCode.PARAMETER_COMPUTED, f"{value.name} is one value for all columns, computed at run time")
    return NewConstant(np.repeat(array.reshape(-1), n), f"{value.name}.columns")


def find_weight(
    value: ir.Value | None, *, transposed: bool = False, path: tuple[ir.Node, ...] = (), kernel: bool = False
) -> Weight:
    """Return the constant int8 or uint8 matrix behind ``value``, or refuse, for there is none.

    Args:
        value: the multiplication's input, or what a DequantizeLinear in front of it reads.
        transposed: the multiplication wants the transpose of ``value``.
        path: nodes between ``value`` and the multiplication that go when nobody else needs them.
        kernel: a convolution's kernel of three or more dimensions is looked for, not a matrix.
    """
    if value is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no weight input")
    while True:
        value, skipped = source_of(value)
        producer, path = value.producer(), (*skipped, *path)
        behind = None if producer is None or producer in path else _reversed_matrix(producer)
        if producer is None or behind is None:
            break
        value, path, transposed = behind, (producer, *path), not transposed
    constant = fold(value)
    if constant is None:
        raise _not_constant(value)
    tensor = constant.tensor
    if tensor.dtype not in WEIGHT_TYPES:
        raise Refusal(ReasonCode.WEIGHT_TYPE, f"weight {value.name} is {tensor.dtype.name.lower()}, not int8 or uint8")
    shape = dimensions(tensor)
    leading = 0 if kernel else max(0, len(shape) - 2)
    if len(shape) < 2 or any(size != 1 for size in shape[:leading]):
        raise Refusal(ReasonCode.WEIGHT_RANK, f"weight {value.name} has shape {shape_text(shape)}, which is no matrix")
    if 0 in shape:
        raise Refusal(ReasonCode.WEIGHT_EMPTY, f"weight {value.name} is empty")
    matrix = reshaped(tensor, shape[leading:]) if leading else tensor
    return Weight(constant.value, matrix, transposed, (*constant.path, *path), constant.recipe, leading)


def check_rank(weight: Weight, x: ir.Value | None) -> None:
    """Refuse if the dimensions in front of a weight's matrix may give the result more dimensions than ``x`` has."""
    rank = known_rank(x)
    if weight.leading and (rank is None or rank < weight.leading + 2):
        dims = "of a rank that is not known" if rank is None else f"of {rank} dimensions"
        raise Refusal(
            ReasonCode.WEIGHT_RANK,
            f"weight {weight.value.name} has {weight.leading + 2} dimensions, and its activation is {dims}: the result "
            "may have more than the activation has",
        )


def _reversed_matrix(node: ir.Node) -> ir.Value | None:
    """Return the constant matrix that a node is the Transpose of."""
    if not is_op(node, "Transpose") or ints_attribute(node, "perm") not in (None, (1, 0)):
        return None
    value = get_input(node, 0)
    constant = None if value is None else fold(value)
    return value if constant is not None and len(constant.tensor.shape) == 2 else None


def _not_constant(value: ir.Value) -> Refusal:
    """Return why a weight is not constant: what callers give or what computes it."""
    if value.is_graph_input():
        if value.is_initializer():
            return Refusal(
                ReasonCode.WEIGHT_OVERRIDABLE,
                f"weight {value.name} is an initializer that callers may override: it is among the graph's inputs",
            )
        return Refusal(
            ReasonCode.WEIGHT_IS_INPUT, f"weight {value.name} is an input of the graph or function around it"
        )
    producer = value.producer()
    by = "" if producer is None else f" by {producer.op_type}"
    when = "of constants" if _depends_on_constants(value) else "at run time"
    return Refusal(ReasonCode.WEIGHT_COMPUTED, f"weight {value.name} is computed {when}{by}")


def _depends_on_constants(value: ir.Value, depth: int = 8) -> bool:
    """Tell whether nodes compute a value of constants alone, so that onnxruntime may fold it."""
    node = value.producer()
    if node is None or node.op_type == "Constant":
        return constant_tensor(value) is not None
    return depth > 0 and all(each is None or _depends_on_constants(each, depth - 1) for each in node.inputs)
