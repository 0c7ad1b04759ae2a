"""The operator ``mcd::DecompressDequant``, version 1.

It stands where the DequantizeLinear of an int8 or uint8 constant stood. In NumPy::

    ReferenceEvaluator(model, new_ops=[DecompressDequant])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference.op_run import OpRun

from mcd_graph.operators.decoding import check_shape, decode_as, shape_of, type_problem
from mcd_graph.operators.nodes import NewNode, NewOutput
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION
from mcd_graph.operators.spec import Attribute, Input, OperatorSpec, Output, tell_onnx

if TYPE_CHECKING:
    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = [
    "AXES",
    "AXIS_KEY",
    "INPUT_NAMES",
    "OP_DOMAIN",
    "OP_TYPE",
    "OP_VERSION",
    "SPEC",
    "DecompressDequant",
    "register_schema",
]

#: Metadata of a node with one scale: the axis that the DequantizeLinear named all the same, one of these.
AXIS_KEY, AXES = "mcd.axis", frozenset(map(str, range(-8, 9)))

OP_TYPE = "DecompressDequant"

#: The inputs by position; the first two are constants, the last is optional.
INPUT_NAMES = ("x2", "compress_index", "scale", "zero_point")

#: ``axis`` is optional.
_ATTRIBUTE_NAMES = ("compress_info", "shape", "dtype", "axis")

_DOC = """
Decodes a compressed int8 or uint8 weight and dequantises it: y = (w - zero_point) * scale in float32, as
DequantizeLinear computes it of the tensor w that was compressed, in the shape of that.

compress_info declares the weight as a matrix of n x k elements, which are those of w row by row. scale and zero_point
hold one value for the whole tensor, or one for each place along the axis that the attribute axis names.
"""


def _infer(context: Any) -> None:
    """Type and shape inference, from the attributes alone."""
    info, shape = (context.get_attribute(name) for name in _ATTRIBUTE_NAMES[:2])
    if info is None or shape is None:
        raise onnx.shape_inference.InferenceError("compress_info and shape are required")
    try:
        _check(list(info.ints), list(shape.ints))
    except ValueError as error:
        raise onnx.shape_inference.InferenceError(str(error)) from None
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, list(shape.ints)))


def _check(info: list[int], shape: list[int], axis: int | None = None) -> None:
    """Refuse a shape that the weight does not have the elements of, and an axis that the shape does not have."""
    check_shape(info, shape)
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis is {axis}, and the shape is {shape}")


class DecompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = OP_DOMAIN

    def _run(  # noqa: PLR0917  (the operator's attributes come by position)
        self,
        x2: np.ndarray,
        compress_index: np.ndarray,
        scale: np.ndarray,
        zero_point: np.ndarray | None = None,
        compress_info: list[int] | None = None,
        shape: list[int] | None = None,
        dtype: int | None = None,
        axis: int | None = None,
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: The shape has not as many elements as the weight, the weight is not of the type ``dtype``, there
                are neither one nor as many scales as places along the axis, or the compressed weight is not valid.
        """
        shape = list(shape or ())
        _check(list(compress_info or ()), shape, axis)
        weight = decode_as(x2, compress_index, compress_info, dtype)
        floats = np.ascontiguousarray(weight).reshape(shape).astype(np.float32)
        zeros = np.zeros((), np.float32) if zero_point is None else zero_point.astype(np.float32)
        scale, zeros = (_along(each, shape, axis) for each in (scale, zeros))
        return ((floats - zeros) * scale,)


def _along(values: np.ndarray, shape: list[int], axis: int | None) -> np.ndarray:
    """Return scales or zero points so that they broadcast to the tensor."""
    if values.size == 1:
        return values.reshape(())
    if axis is None or values.size != shape[axis]:
        raise ValueError(f"there are {values.size} values along axis {axis} of shape {shape}")
    return values.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])


def _constant_of(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(decoded).reshape(shape_of(node))


def _check_node(node: CompressedNode) -> str | None:
    """Return what is wrong with a node: its attributes contradict its weight."""
    try:
        _check(list(node.info), list(shape_of(node)), _axis_of(node))
        problem = type_problem(node)
    except (KeyError, TypeError, ValueError) as error:
        return str(error)
    return "it has no scale" if node.input("scale") is None else problem


def _axis_of(node: CompressedNode) -> int | None:
    attribute = node.node.attributes.get("axis")
    return None if attribute is None else attribute.as_int()


def _restore(node: CompressedNode, weight: ir.Value) -> Operand:
    inputs = (weight, node.input("scale"), node.input("zero_point"))
    axis = _axis_of(node)
    if axis is None and (said := node.node.metadata_props.get(AXIS_KEY)) in AXES:
        axis = int(said)
    return NewOutput(NewNode(
        "DequantizeLinear", inputs if inputs[2] is not None else inputs[:2], {} if axis is None else {"axis": axis}
    ))  # fmt: skip


SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=_DOC,
    inputs=(
        Input("x2", "tensor(int8)", "compressed weight stream, constant"),
        Input("compress_index", "tensor(int8)", "8 bytes for each tile of the weight, constant"),
        Input("scale", "tensor(float)", "one value, or one for each place along the axis"),
        Input("zero_point", "TW", "of the weight's type, as many as scales; absent: 0", optional=True),
    ),
    outputs=(Output("y", "tensor(float)", "the floats"),),
    types={"TW": (("tensor(int8)", "tensor(uint8)"), "weight")},
    attributes=(
        Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
        Attribute("shape", ir.AttributeType.INTS, "shape of y, of k x n elements", required=True),
        Attribute("dtype", ir.AttributeType.INT, "ONNX data type of the weight: 2 (uint8) or 3 (int8)", required=True),
        Attribute("axis", ir.AttributeType.INT, "axis of y that several scales go along; needed where there are such"),
    ),
    infer=_infer,
    reference=DecompressDequant,
    check=_check_node,
    weight_shape=shape_of,
    weight_of=_constant_of,
    restore=_restore,
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
