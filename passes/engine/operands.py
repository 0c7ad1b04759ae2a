"""A multiplication's constant weight, and scales, zero points and biases in one of the operator's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import (
    constant_array,
    constant_tensor,
    dimensions,
    get_input,
    int_attribute,
    is_op,
    known_shape,
    said_dtype,
    shape_text,
)
from mcd_graph.passes.engine.match import NewConstant, Weight
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Operand

__all__ = ["WEIGHT_TYPES", "find_weight", "per_column", "quantisation_column", "quantisation_vector"]

WEIGHT_TYPES = (ir.DataType.INT8, ir.DataType.UINT8)


def per_column(shape: tuple[int | None, ...] | None, n: int, rank: int | None) -> bool:
    """Tell whether a value of ``shape`` acts on the columns of an (…, n) result without changing the result's shape.

    True for one element, (n,), and either of them behind dimensions of size 1, as long as there are not more
    dimensions than the result's ``rank`` (``None``: not known, at least 1).
    """
    if shape is None or len(shape) > (1 if rank is None else rank):
        return False
    return all(dim == 1 for dim in shape[:-1]) and (not shape or shape[-1] in (1, n))


def quantisation_vector(value: ir.Value | None, n: int, rank: int | None = 2) -> Operand:
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


def quantisation_column(value: ir.Value | None, n: int) -> Operand:
    """Return an int32 bias as a vector with one number per column: (n,) or (1, n).

    A constant of one element is repeated; one that is computed at run time is refused.
    """
    vector = quantisation_vector(value, n)
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
    while (producer := value.producer()) is not None and is_op(producer, "Identity") and producer not in path:
        if (behind := get_input(producer, 0)) is None:
            break
        value, path = behind, (producer, *path)
    if value.is_graph_input():
        if value.is_initializer():
            raise Refusal(
                ReasonCode.WEIGHT_OVERRIDABLE, f"weight {value.name} is an initialiser that callers may override"
            )
        raise Refusal(ReasonCode.WEIGHT_IS_INPUT, f"weight {value.name} is an input of the graph")
    tensor = constant_tensor(value)
    if producer is not None and is_op(producer, "QuantizeLinear"):
        folded = _quantised_constant(producer)
        if folded is not None:
            value, tensor = folded
            path = (producer, *path)
    if tensor is None:
        raise Refusal(
            ReasonCode.WEIGHT_COMPUTED,
            f"weight {value.name} is computed at run time" + (f" by {producer.op_type}" if producer else ""),
        )
    if tensor.dtype not in WEIGHT_TYPES:
        raise Refusal(ReasonCode.WEIGHT_TYPE, f"weight {value.name} is {tensor.dtype.name.lower()}, not int8 or uint8")
    if len(tensor.shape) != 2 and not (kernel and len(tensor.shape) > 2):
        raise Refusal(ReasonCode.WEIGHT_RANK, f"weight {value.name} has {len(tensor.shape)} dimensions, not 2")
    if 0 in dimensions(tensor):
        raise Refusal(ReasonCode.WEIGHT_EMPTY, f"weight {value.name} is empty")
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
    if zero_point is None and (dtype := said_dtype(node)) in WEIGHT_TYPES:
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
