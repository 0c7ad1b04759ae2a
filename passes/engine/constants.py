"""Constants behind operators that onnxruntime folds when it loads a model: what they are, computed when looked at.

The operators are those that exporters put between an integer weight and its use: Identity, Cast between integer types,
Clip, QuantizeLinear, Reshape, Squeeze, Unsqueeze and Transpose. Each is computed as onnxruntime's kernel computes it;
what that leaves to the processor (NaN to an integer) is not folded. ``ort_behaviour.FOLDS_CONSTANTS``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.passes.engine.facts import (
    AttributeUnknownError,
    constant_array,
    constant_tensor,
    dimensions,
    get_input,
    int_attribute,
    ints_attribute,
    said_dtype,
)
from mcd_graph.passes.engine.noops import source_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Change: TypeAlias = Callable[[np.ndarray], np.ndarray]

__all__ = ["Constant", "fold", "folded_scale", "reshaped"]

_EIGHT_BIT = (np.int8, np.uint8)
_INTEGERS = (
    *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
)
#: So many operators are looked through, at most.
_DEPTH = 16


@dataclasses.dataclass(frozen=True)
class Constant:
    """A constant, maybe behind operators that change it.

    Attributes:
        value: the initialiser, or the output of the Constant node, that holds the bytes.
        tensor: what the operators make of it, computed when looked at.
        recipe: what they do, for comparing: two constants of the same value and recipe are equal.
        path: the operators, the one nearest to ``value`` first.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    recipe: tuple[object, ...] = ()
    path: tuple[ir.Node, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Step:
    """What one operator makes of a constant: its type, its shape, and the numbers; ``said`` tells steps apart."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    change: Change
    said: tuple[object, ...]


def fold(value: ir.Value, depth: int = _DEPTH) -> Constant | None:
    """Return the constant that ``value`` is, or ``None`` if callers or the model's inputs decide it."""
    if value.is_graph_input():
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return Constant(value, tensor)
    node = value.producer()
    if node is None or depth == 0 or node.domain or value.index():
        return None
    before, skipped = source_of(value)
    if skipped:
        inner = fold(before, depth - 1)
        return None if inner is None else dataclasses.replace(inner, path=(*inner.path, *skipped))
    first = get_input(node, 0)
    step_of = _STEPS.get(node.op_type)
    inner = None if first is None or step_of is None else fold(first, depth - 1)
    if inner is None or step_of is None:
        return None
    try:
        step = step_of(node, inner.tensor)
    except AttributeUnknownError:
        return None
    if step is None:
        return None
    tensor = _changed(inner.tensor, step, value.name)
    return Constant(inner.value, tensor, (*inner.recipe, node.op_type, *step.said), (*inner.path, node))


def folded_scale(value: ir.Value | None, depth: int = _DEPTH) -> np.ndarray | None:
    """Return the numbers of a float32 constant, or of products and quotients of such as onnxruntime folds them."""
    array = constant_array(value)
    node = None if value is None else value.producer()
    if array is not None or node is None or node.domain or depth == 0:
        return array
    operation = {"Mul": np.multiply, "Div": np.divide}.get(node.op_type)
    if operation is None or len(node.inputs) != 2:
        return None
    one, other = (folded_scale(each, depth - 1) for each in node.inputs)
    if one is None or other is None or not one.dtype == other.dtype == np.float32:
        return None
    with np.errstate(all="ignore"):  # as for onnxruntime
        return np.asarray(operation(one, other), np.float32)


def reshaped(tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.LazyTensor:
    """Return a constant in another shape, computed when looked at."""
    return _changed(tensor, _Step(tensor.dtype, shape, lambda array: array.reshape(shape), ()), tensor.name)


def _changed(tensor: ir.TensorProtocol, step: _Step, name: str | None) -> ir.LazyTensor:
    def compute() -> ir.TensorProtocol:
        return ir.tensor(step.change(tensor.numpy()), name=name)

    return ir.LazyTensor(compute, step.dtype, ir.Shape(step.shape), name=name)


def _cast(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    """Return a Cast between integer types, which keeps the low bits."""
    to = int_attribute(node, "to", 0)
    if tensor.dtype not in _INTEGERS or to not in _INTEGERS:
        return None
    dtype = ir.DataType(to)
    return _Step(dtype, dimensions(tensor), lambda array: array.astype(dtype.numpy()), (to,))


def _clip(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    """Return a Clip of integers with constant bounds, either of which may be absent."""
    bounds = [get_input(node, position) for position in (1, 2)]
    arrays = [constant_array(bound) for bound in bounds]
    if (
        tensor.dtype not in _INTEGERS
        or node.attributes
        or any(
            bound is not None and (array is None or array.size != 1 or array.dtype != tensor.dtype.numpy())
            for bound, array in zip(bounds, arrays, strict=True)
        )
    ):
        return None
    low, high = (None if array is None else array.item() for array in arrays)

    def change(array: np.ndarray) -> np.ndarray:
        array = array if low is None else np.maximum(array, array.dtype.type(low))
        return array if high is None else np.minimum(array, array.dtype.type(high))

    return _Step(tensor.dtype, dimensions(tensor), change, (low, high))


def _transpose(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    shape = dimensions(tensor)
    perm = ints_attribute(node, "perm") or tuple(reversed(range(len(shape))))
    if sorted(perm) != list(range(len(shape))):
        return None
    return _Step(tensor.dtype, tuple(shape[axis] for axis in perm), lambda array: array.transpose(perm), perm)


def _reshape(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    wanted = constant_array(get_input(node, 1))
    old = dimensions(tensor)
    if wanted is None or wanted.ndim != 1 or wanted.dtype.kind not in "iu" or int_attribute(node, "allowzero", 0):
        return None
    sizes = [old[axis] if size == 0 and axis < len(old) else int(size) for axis, size in enumerate(wanted)]
    return _of_shape(tensor, sizes)


def _squeeze(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    old, axes = dimensions(tensor), _axes(node, len(dimensions(tensor)))
    if axes is None and get_input(node, 1) is not None:
        return None
    gone = {axis for axis, size in enumerate(old) if size == 1} if axes is None else set(axes)
    if any(axis >= len(old) or old[axis] != 1 for axis in gone):
        return None
    return _of_shape(tensor, [size for axis, size in enumerate(old) if axis not in gone])


def _unsqueeze(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    old = dimensions(tensor)
    given = constant_array(get_input(node, 1))
    count = len(ints_attribute(node, "axes") or ()) if given is None else given.size
    axes = _axes(node, len(old) + count)
    if axes is None or len(set(axes)) != count:
        return None
    sizes = iter(old)
    return _of_shape(tensor, [1 if axis in axes else next(sizes) for axis in range(len(old) + count)])


def _axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Return the axes that a Squeeze or Unsqueeze is given, as attribute or constant; ``None`` if there are none."""
    given = constant_array(get_input(node, 1))
    axes = ints_attribute(node, "axes") if given is None else tuple(int(axis) for axis in given.reshape(-1))
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        return None
    return tuple(axis % rank for axis in axes)


def _of_shape(tensor: ir.TensorProtocol, sizes: list[int]) -> _Step | None:
    """Return a step that changes the shape alone; one size may be -1."""
    total = tensor.size
    if any(size < -1 for size in sizes) or sizes.count(-1) > 1:
        return None
    known = int(np.prod([size for size in sizes if size != -1], dtype=np.int64))
    if -1 in sizes:
        if known == 0 or total % known:
            return None
        sizes = [total // known if size == -1 else size for size in sizes]
    elif known != total:
        return None
    return _Step(tensor.dtype, tuple(sizes), lambda array: array.reshape(sizes), tuple(sizes))


def _quantize(node: ir.Node, tensor: ir.TensorProtocol) -> _Step | None:
    """Return a QuantizeLinear of float32 by constants.

    Division, clamping, rounding half to even and the zero point come in the order of onnxruntime's kernel. ``None`` if
    the scales are not one for the whole tensor or one for each index of one axis, or if there may be NaN to convert, of
    which each processor makes another integer.
    """
    scales, zero_point = constant_array(get_input(node, 1)), get_input(node, 2)
    zeros = constant_array(zero_point)
    if zero_point is None and (dtype := said_dtype(node)) in (ir.DataType.INT8, ir.DataType.UINT8):
        zeros = np.zeros((), dtype.numpy())
    if scales is None or zeros is None or int_attribute(node, "block_size", 0):
        return None
    if int_attribute(node, "precision", 0) not in (0, ir.DataType.FLOAT):
        return None
    if tensor.dtype != ir.DataType.FLOAT or scales.dtype != np.float32 or zeros.dtype not in _EIGHT_BIT:
        return None
    if not np.isfinite(scales).all() or not scales.all() or _has_nan(tensor.numpy()):
        return None
    if zeros.size not in (1, scales.size):
        return None
    shape = dimensions(tensor)
    said: tuple[object, ...] = (scales.tobytes(), zeros.tobytes(), str(zeros.dtype))
    if scales.size != 1 or scales.ndim > 1:
        axis = int_attribute(node, "axis", 1)
        if scales.ndim != 1 or not -len(shape) <= axis < len(shape) or scales.size != shape[axis]:
            return None
        broadcast = [1] * len(shape)
        broadcast[axis] = scales.size
        scales, zeros = scales.reshape(broadcast), zeros.reshape(broadcast if zeros.size != 1 else ())
        said = (*said, axis)
    else:
        scales, zeros = scales.reshape(()), zeros.reshape(())

    def change(array: np.ndarray) -> np.ndarray:
        limits = np.iinfo(zeros.dtype)
        offset = zeros.astype(np.float32)
        with np.errstate(over="ignore"):  # infinity is clamped
            quotient = array / scales
        clamped = np.clip(quotient, limits.min - offset, limits.max - offset)
        return np.asarray((np.rint(clamped) + offset).astype(zeros.dtype))

    return _Step(ir.DataType.from_numpy(zeros.dtype), shape, change, said)


def _has_nan(array: np.ndarray) -> bool:
    # The least of some numbers is NaN if one is; this way there is no second array.
    return array.size > 0 and bool(np.isnan(array.min()))


_STEPS: dict[str, Callable[[ir.Node, ir.TensorProtocol], _Step | None]] = {
    "Cast": _cast,
    "Clip": _clip,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
