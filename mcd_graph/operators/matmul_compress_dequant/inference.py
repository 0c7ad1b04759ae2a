"""Types and shapes of ``mcd::MatmulCompressDequant``'s result, as onnx infers them."""

from __future__ import annotations

import math
from typing import Any

import onnx
from onnx import TensorProto

from mcd_graph.operators.inference import type_of_input
from mcd_graph.operators.matmul_compress_dequant.signature import ELEMENTWISE_NEEDS, INPUT_NAMES

__all__ = ["infer"]

#: A number, a symbol, or not known.
_Dim = int | str | None


def infer(context: Any) -> None:
    """Type and shape inference: (..., k) becomes (..., n); shapes that are computed are left to run time."""
    info = context.get_attribute("compress_info")
    if info is None or len(info.ints) != 5:
        raise onnx.shape_inference.InferenceError("compress_info must hold 5 integers")
    k, n = info.ints[2], info.ints[3]
    x1 = context.get_input_type(0)
    if x1 is not None and x1.tensor_type.elem_type == TensorProto.FLOAT:
        for name in ("x1_zero_point", "x1_scale"):
            if _element_type(context, name) is not None:
                raise onnx.shape_inference.InferenceError(f"{name} must be absent where x1 is float32")
    result = onnx.TypeProto()
    result.tensor_type.elem_type = _output_type(context)
    dims = None if x1 is None else _dims(x1)
    if (perm := _perm(context, "x1")) is not None:
        dims = _reshaped(_permuted(dims, perm), _constant(context, "x1_shape"))
    if dims is not None:
        if not dims or (isinstance(dims[-1], int) and 0 <= dims[-1] != k):
            raise onnx.shape_inference.InferenceError(f"the last dimension of x1 must be {k}")
        dims = [*dims[:-1], n]
    if (perm := _perm(context, "y")) is not None:
        dims = _permuted(_reshaped(dims, _constant(context, "y_shape")), perm)
    for name in ("gate", "residual"):
        if _element_type(context, name) is not None:
            _check_elementwise(context, name)
            dims = _broadcast(dims, _dims(context.get_input_type(INPUT_NAMES.index(name))), name)
    if dims is not None:
        result.tensor_type.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, dims).tensor_type.shape)
    context.set_output_type(0, result)


def _dims(type_: onnx.TypeProto) -> list[_Dim] | None:
    """Return the dimensions of a type, if it has any."""
    if not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims]


def _check_elementwise(context: Any, name: str) -> None:
    """Refuse a gate or residual where the result is not float32, or is brought into another order."""
    plain = _element_type(context, "y_zero_point") is None and _perm(context, "y") is None
    if _element_type(context, "deq_scale") not in (TensorProto.FLOAT, None) or not plain:
        raise onnx.shape_inference.InferenceError(f"{name} {ELEMENTWISE_NEEDS}")


def _broadcast(left: list[_Dim] | None, right: list[_Dim] | None, name: str) -> list[_Dim] | None:
    """Return what Mul and Add make of two shapes, ``None`` for dimensions that are not known."""
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    made: list[_Dim] = []
    for one, other in zip([1] * (rank - len(left)) + left, [1] * (rank - len(right)) + right, strict=True):
        if one == 1 or other == 1:
            made.append(other if one == 1 else one)
        elif isinstance(one, int) and isinstance(other, int) and one != other:
            raise onnx.shape_inference.InferenceError(f"{name} of shape {right} does not broadcast with {left}")
        else:
            made.append(one if one == other or isinstance(one, int) else other if isinstance(other, int) else None)
    return made


def _perm(context: Any, of: str) -> list[int] | None:
    """Return the order that goes with a shape; InferenceError if there is only one of the two."""
    attribute, shape = context.get_attribute(f"{of}_perm"), _element_type(context, f"{of}_shape")
    if (attribute is None) != (shape is None):
        raise onnx.shape_inference.InferenceError(f"{of}_shape goes with {of}_perm")
    return None if attribute is None else list(attribute.ints)


def _constant(context: Any, name: str) -> list[int] | None:
    """Return a shape that is an initialiser."""
    tensor = context.get_input_data(INPUT_NAMES.index(name))
    return None if tensor is None else [int(size) for size in onnx.numpy_helper.to_array(tensor).reshape(-1)]


def _permuted(dims: list[_Dim] | None, perm: list[int]) -> list[_Dim] | None:
    if dims is None:
        return None
    if sorted(perm) != list(range(len(dims))):
        raise onnx.shape_inference.InferenceError(f"{len(dims)} dimensions have no order {perm}")
    return [dims[position] for position in perm]


def _reshaped(dims: list[_Dim] | None, shape: list[int] | None) -> list[_Dim] | None:
    """Return the dimensions that Reshape makes, ``None`` for those that are not known."""
    if shape is None:
        return None
    if shape.count(-1) > 1 or min(shape, default=0) < -1 or math.prod(filter(None, shape)) >= 1 << 63:
        raise onnx.shape_inference.InferenceError(f"{shape} is no shape")
    if dims is not None and any(size == 0 for size in shape[len(dims) :]):
        raise onnx.shape_inference.InferenceError(f"{shape} takes over a dimension that is not there")
    made: list[_Dim] = []
    for position, size in enumerate(shape):
        if size == 0:
            made.append(None if dims is None else dims[position])
        else:
            made.append(None if size == -1 else size)
    if dims is not None and all(isinstance(dim, int) and dim >= 0 for dim in dims):
        count = math.prod(dim for dim in dims if isinstance(dim, int))
        known = math.prod(dim for dim in made if isinstance(dim, int))
        if (None not in made and known != count) or (None in made and known and count % known):
            raise onnx.shape_inference.InferenceError(f"{dims} cannot be brought to {shape}")
        if made.count(None) == 1 and known:
            made[made.index(None)] = count // known
    return made


def _output_type(context: Any) -> int:
    attribute = context.get_attribute("output_type")
    if attribute is not None:
        return int(attribute.i)
    if _element_type(context, "y_scale") is not None:
        return int(TensorProto.FLOAT)
    return _default_output_type(_element_type(context, "deq_scale"), _element_type(context, "y_zero_point"))


def _element_type(context: Any, name: str) -> int | None:
    type_ = type_of_input(context, INPUT_NAMES, name)
    return None if type_ is None else int(type_.tensor_type.elem_type)


def _default_output_type(deq_scale: int | None, y_zero_point: int | None) -> int:
    if y_zero_point is not None:
        return y_zero_point
    if deq_scale is None:
        return int(TensorProto.INT32)
    return int(TensorProto.FLOAT16 if deq_scale == TensorProto.UINT64 else deq_scale)
