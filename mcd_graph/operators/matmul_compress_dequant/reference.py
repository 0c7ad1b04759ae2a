"""The operator ``mcd::MatmulCompressDequant``, version 1: its ONNX schema and its NumPy twin.

Importing this module registers the schema with onnx, so that the checker and shape inference accept lowered models
(:func:`register_schema` does nothing the second time). :class:`MatmulCompressDequant` computes the operator in plain
NumPy inside :class:`onnx.reference.ReferenceEvaluator`; it is the judge of every kernel::

    ReferenceEvaluator(model, new_ops=[MatmulCompressDequant])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.defs import OpSchema
from onnx.reference.op_run import OpRun

from mcd_graph import _native

__all__ = ["INPUT_NAMES", "OP_DOMAIN", "OP_TYPE", "OP_VERSION", "MatmulCompressDequant", "register_schema"]

OP_DOMAIN = "mcd"
OP_TYPE = "MatmulCompressDequant"
OP_VERSION = 1

_ELEMENTWISE_NEEDS = "needs a float32 deq_scale, and neither y_zero_point nor y_perm"

#: A number, a symbol, or not known.
_Dim = int | str | None

#: The inputs by position; all behind ``compress_index`` are optional.
INPUT_NAMES = (
    "x1",
    "x2",
    "compress_index",
    "deq_scale",
    "bias",
    "offset_w",
    "x1_zero_point",
    "w_zero_point",
    "addend",
    "y_zero_point",
    "x1_scale",
    "y_scale",
    "x1_shape",
    "y_shape",
    "gate",
    "residual",
)

_DOC = """
Multiplies x1 (..., k) with a compressed int8 or uint8 weight of shape (k, n) and dequantises the result:

  acc = sum over k of (x1 - x1_zero_point) * (w - w_zero_point) + bias       (int32, wraps around)

and, with deq_scale float32: y = float32(acc) * deq_scale [+ addend], each step rounded to nearest even.
With deq_scale uint64 (fp32 bits, zero-extended): y = float16(float32(acc) * deq_scale).
Without deq_scale: y = acc.
With y_zero_point: y = saturate(round_half_even(float32(acc) * deq_scale) + y_zero_point).
With y_zero_point and y_scale: y = float32(that - y_zero_point) * y_scale.
With x1_scale: deq_scale, which is float32 then, stands for float32(x1_scale * deq_scale) in all of this.
With x1 float32: DynamicQuantizeLinear makes x1, x1_scale and x1_zero_point of it. The two inputs are absent then, and
deq_scale is float32. NaN in x1 is left out of the range, and quantised as the lowest value.

With x1_shape and x1_perm: x1 stands for Reshape(Transpose(x1, x1_perm), x1_shape).
With y_shape and y_perm: the result is Transpose(Reshape(y, y_shape), y_perm). Both reshape as ONNX's operator does
with allowzero 0. They are how the heads of an attention are split and put together.

With gate, residual or both, where deq_scale is float32 and y_zero_point and y_perm are absent:
y = float32(acc) * deq_scale [+ addend] [* gate] [+ residual], each step rounded to nearest even, none fused. Both are
broadcast as ONNX's Mul and Add do. They are how feed-forward layers are gated and residual streams go on.

It is a superset of Ascend's aclnnMatmulCompressDequant, with that operator's argument names.
"""

_INPUT_DOCS: dict[str, tuple[str, str]] = {
    "x1": ("T1", "activation (..., k); float32: quantised by the operator itself"),
    "x2": ("tensor(int8)", "compressed weight stream, constant"),
    "compress_index": ("tensor(int8)", "8 bytes for each tile of the weight, constant"),
    "deq_scale": ("TS", "one scale or one per column; uint64 holds the bits of a float32"),
    "bias": ("tensor(int32)", "(n) or (1, n), added to the integer sum"),
    "offset_w": ("tensor(int8)", "must be absent"),
    "x1_zero_point": ("T1", "one value"),
    "w_zero_point": ("TW", "one value or one per column, of the weight's type"),
    "addend": ("TA", "one value or one per column, added after the multiplication by deq_scale"),
    "y_zero_point": ("TQ", "one value; present: the output is quantised, with this type"),
    "x1_scale": ("tensor(float)", "one value, multiplied by a float32 deq_scale before that is used"),
    "y_scale": ("tensor(float)", "one value; present: a quantised output is made float32 again by it"),
    "x1_shape": ("tensor(int64)", "shape (..., k) that x1 is brought to; present just if x1_perm is, and x1 float32"),
    "y_shape": ("tensor(int64)", "shape that the result (..., n) is brought to; present just if y_perm is"),
    "gate": ("tensor(float)", "the float32 result is multiplied with it, element by element"),
    "residual": ("tensor(float)", "added to the float32 result at last, element by element"),
}


def _schema() -> OpSchema:
    option = OpSchema.FormalParameterOption
    inputs = [
        OpSchema.FormalParameter(name, type_, doc, param_option=option.Single if position < 3 else option.Optional)
        for position, name in enumerate(INPUT_NAMES)
        for type_, doc in [_INPUT_DOCS[name]]
    ]
    schema = OpSchema(
        OP_TYPE,
        OP_DOMAIN,
        OP_VERSION,
        _DOC,
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("y", "TY", "result (..., n), broadcast with gate and residual")],
        type_constraints=[
            ("T1", ["tensor(int8)", "tensor(uint8)", "tensor(float)"], "activation"),
            ("TW", ["tensor(int8)", "tensor(uint8)"], "weight"),
            ("TQ", ["tensor(int8)", "tensor(uint8)"], "quantised output"),
            ("TS", ["tensor(uint64)", "tensor(float)", "tensor(float16)"], "dequantisation scale"),
            ("TA", ["tensor(float)", "tensor(float16)"], "float bias"),
            (
                "TY",
                ["tensor(int32)", "tensor(float)", "tensor(float16)", "tensor(int8)", "tensor(uint8)"],
                "output",
            ),
        ],
        attributes=[
            OpSchema.Attribute(
                "compress_info", OpSchema.AttrType.INTS, "tilingK, tilingN, k, n, direction", required=True
            ),
            OpSchema.Attribute(
                "offset_x", onnx.helper.make_attribute("offset_x", 0), "zero point of x1 in Ascend's operator: 0"
            ),
            OpSchema.Attribute("output_type", OpSchema.AttrType.INT, "ONNX data type of the output", required=False),
            OpSchema.Attribute("x1_perm", OpSchema.AttrType.INTS, "order of x1's dimensions", required=False),
            OpSchema.Attribute("y_perm", OpSchema.AttrType.INTS, "order of the result's dimensions", required=False),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer)
    return schema


def _infer(context: Any) -> None:
    """Type and shape inference: (..., k) becomes (..., n); shapes that are computed are left to run time."""
    info = context.get_attribute("compress_info")
    if info is None or len(info.ints) != 5:
        raise onnx.shape_inference.InferenceError("compress_info must hold 5 integers")
    k, n = info.ints[2], info.ints[3]
    x1 = context.get_input_type(0)
    if x1 is not None and x1.tensor_type.elem_type == TensorProto.FLOAT:
        for name in ("x1_zero_point", "x1_scale"):
            if _input_type(context, name) is not None:
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
        if _input_type(context, name) is not None:
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
    plain = _input_type(context, "y_zero_point") is None and _perm(context, "y") is None
    if _input_type(context, "deq_scale") not in (TensorProto.FLOAT, None) or not plain:
        raise onnx.shape_inference.InferenceError(f"{name} {_ELEMENTWISE_NEEDS}")


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
    attribute, shape = context.get_attribute(f"{of}_perm"), _input_type(context, f"{of}_shape")
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
    if _input_type(context, "y_scale") is not None:
        return int(TensorProto.FLOAT)
    return _default_output_type(_input_type(context, "deq_scale"), _input_type(context, "y_zero_point"))


def _input_type(context: Any, name: str) -> int | None:
    position = INPUT_NAMES.index(name)
    if position >= context.get_num_inputs():
        return None
    type_ = context.get_input_type(position)
    return None if type_ is None else int(type_.tensor_type.elem_type)


def _default_output_type(deq_scale: int | None, y_zero_point: int | None) -> int:
    if y_zero_point is not None:
        return y_zero_point
    if deq_scale is None:
        return int(TensorProto.INT32)
    return int(TensorProto.FLOAT16 if deq_scale == TensorProto.UINT64 else deq_scale)


def register_schema() -> None:
    """Register the schema with onnx; a second call changes nothing."""
    if not onnx.defs.has(OP_TYPE, OP_DOMAIN):
        onnx.defs.register_schema(_schema())


class MatmulCompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = OP_DOMAIN

    def _run(  # noqa: PLR0917  (the operator's inputs come by position)
        self,
        x1: np.ndarray,
        x2: np.ndarray,
        compress_index: np.ndarray,
        deq_scale: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        offset_w: np.ndarray | None = None,
        x1_zero_point: np.ndarray | None = None,
        w_zero_point: np.ndarray | None = None,
        addend: np.ndarray | None = None,
        y_zero_point: np.ndarray | None = None,
        x1_scale: np.ndarray | None = None,
        y_scale: np.ndarray | None = None,
        x1_shape: np.ndarray | None = None,
        y_shape: np.ndarray | None = None,
        gate: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        compress_info: list[int] | None = None,
        offset_x: int | None = None,
        output_type: int | None = None,
        x1_perm: list[int] | None = None,
        y_perm: list[int] | None = None,
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: ``offset_w`` or a nonzero ``offset_x`` is given, ``x1_scale`` or a float32 ``x1`` is given
                without a float32 ``deq_scale``, a float32 ``x1`` is given with its scale or zero point,
                ``y_scale`` is given without ``y_zero_point``, a shape without its order or the other way round, a
                shape for an ``x1`` that is not float32, ``gate`` or ``residual`` is not float32, is given for a result
                that is not or that is brought into another order, or does not broadcast with the result, or the
                compressed weight is not valid.
        """
        if (x1_shape is None) != (x1_perm is None) or (y_shape is None) != (y_perm is None):
            raise ValueError("x1_shape goes with x1_perm, y_shape with y_perm")
        if x1_shape is not None:
            if x1.dtype != np.float32:
                raise ValueError("x1_shape needs a float32 x1")
            x1 = _reshape(x1.transpose(x1_perm), x1_shape)
        y = self._multiply(
            x1, x2, compress_index, deq_scale, bias, offset_w, x1_zero_point, w_zero_point, addend, y_zero_point,
            x1_scale, y_scale, compress_info, offset_x, output_type,
        )  # fmt: skip
        for name, beside, step in (("gate", gate, np.multiply), ("residual", residual, np.add)):
            if beside is None:
                continue
            if deq_scale is None or deq_scale.dtype != np.float32 or y_zero_point is not None or y_perm is not None:
                raise ValueError(f"{name} {_ELEMENTWISE_NEEDS}")
            if beside.dtype != np.float32 or y.dtype != np.float32:
                raise ValueError(f"{name} is {beside.dtype}, and the result {y.dtype}; both must be float32")
            try:
                y = np.asarray(step(y, beside))
            except ValueError:
                raise ValueError(f"{name} has shape {beside.shape}, which does not broadcast with {y.shape}") from None
        return (y if y_shape is None else _reshape(y, y_shape).transpose(y_perm),)

    @staticmethod
    def _multiply(  # noqa: PLR0917
        x1: np.ndarray,
        x2: np.ndarray,
        compress_index: np.ndarray,
        deq_scale: np.ndarray | None,
        bias: np.ndarray | None,
        offset_w: np.ndarray | None,
        x1_zero_point: np.ndarray | None,
        w_zero_point: np.ndarray | None,
        addend: np.ndarray | None,
        y_zero_point: np.ndarray | None,
        x1_scale: np.ndarray | None,
        y_scale: np.ndarray | None,
        compress_info: list[int] | None,
        offset_x: int | None,
        output_type: int | None,
    ) -> np.ndarray:
        if offset_w is not None or offset_x:
            raise ValueError("offset_w and offset_x are not supported")
        if y_scale is not None and y_zero_point is None:
            raise ValueError("y_scale needs a y_zero_point")
        float_scale = deq_scale is not None and deq_scale.dtype == np.float32
        if x1_scale is not None and not float_scale:
            raise ValueError("x1_scale needs a float32 deq_scale")
        if x1.dtype == np.float32:
            if not float_scale or x1_scale is not None or x1_zero_point is not None:
                raise ValueError("a float32 x1 needs a float32 deq_scale, and neither x1_scale nor x1_zero_point")
            x1, x1_scale, x1_zero_point = _quantise(x1)
        weight = _native.decode(x2, compress_index, np.asarray(compress_info, dtype=np.int64))
        left, right = x1.astype(np.float64), weight.T.astype(np.float64)
        if x1_zero_point is not None:
            left -= x1_zero_point.reshape(())
        if w_zero_point is not None:
            right -= w_zero_point.reshape(-1)
        # Exact: a sum of fewer than 2**37 products below 2**16 stays below 2**53. Then int32 wraps around.
        total = (left @ right).astype(np.int64)
        if bias is not None:
            total += bias.reshape(-1)
        acc = total.astype(np.int32)
        if deq_scale is None:
            return acc
        if deq_scale.dtype == np.uint64:
            scale = deq_scale.astype(np.uint32).view(np.float32).reshape(-1)
        else:
            scale = deq_scale.reshape(-1).astype(np.float32)
        if x1_scale is not None:
            scale = x1_scale.reshape(()) * scale
        y = acc.astype(np.float32) * scale
        if y_zero_point is not None:
            limits = np.iinfo(y_zero_point.dtype)
            # Clamped before the zero point is added, in float, so that no product is too large for an integer.
            zero_point = np.float32(y_zero_point.reshape(()))
            y = np.clip(y, np.float32(limits.min) - zero_point, np.float32(limits.max) - zero_point)
            rounded = np.rint(y)
            if y_scale is not None:
                result: np.ndarray = (rounded + np.float32(0)) * y_scale.reshape(())
            else:
                result = (rounded + zero_point).astype(y_zero_point.dtype)
            return result
        if addend is not None:
            y = y + addend.reshape(-1).astype(np.float32)
        element_type = output_type or (TensorProto.FLOAT if deq_scale.dtype == np.float32 else TensorProto.FLOAT16)
        return np.asarray(y, dtype=onnx.helper.tensor_dtype_to_np_dtype(element_type))


def _reshape(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Reshape as ONNX's operator does: 0 takes over a dimension, -1 is what remains."""
    return x.reshape([x.shape[position] if size == 0 else size for position, size in enumerate(shape)])


def _quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return uint8 values, their scale and their zero point, as DynamicQuantizeLinear does."""
    values = x[~np.isnan(x)]
    low, high = (np.float32(limit) for limit in (values.min(initial=0), values.max(initial=0)))
    with np.errstate(all="ignore"):
        scale = np.float32(1) if low == high else (high - low) / np.float32(255)
        position = -low / scale
        # NaN, from a range without end or without a scale, is the highest.
        zero_point = np.rint(position) if position < 255 else np.float32(255)
        steps = np.nan_to_num(x / scale, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    steps = np.rint(np.clip(steps, -zero_point, 255 - zero_point)) + zero_point
    return steps.astype(np.uint8), np.asarray(scale), np.asarray(zero_point, np.uint8)


register_schema()
