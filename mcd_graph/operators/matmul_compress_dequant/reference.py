"""``mcd::MatmulCompressDequant`` in plain NumPy, inside :class:`onnx.reference.ReferenceEvaluator`.

It is the judge of every kernel::

    ReferenceEvaluator(model, new_ops=[MatmulCompressDequant])
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference.op_run import OpRun

from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant.signature import ELEMENTWISE_NEEDS
from mcd_graph.operators.spec import DOMAIN

__all__ = ["MatmulCompressDequant"]


class MatmulCompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = DOMAIN

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
                raise ValueError(f"{name} {ELEMENTWISE_NEEDS}")
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
            x1, x1_scale, x1_zero_point = _quantize(x1)
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


def _quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
