"""The operator ``mcd::GatherCompressDequant``, version 1.

It gives rows of a compressed table, as Gather does along axis 0, and does the dequantisation that followed. In NumPy::

    ReferenceEvaluator(model, new_ops=[GatherCompressDequant])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx.reference.op_run import OpRun

from mcd_graph import _native
from mcd_graph.operators.constants import constant_tensor
from mcd_graph.operators.inference import type_of_input
from mcd_graph.operators.nodes import NewConstant, NewNode, NewOutput
from mcd_graph.operators.spec import BYTE_TYPES, Attribute, Input, OperatorSpec, Output, tell_onnx
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION

if TYPE_CHECKING:
    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = [
    "ATTRIBUTE_NAMES",
    "BEHIND",
    "CAST_IN_FRONT",
    "DEQUANTIZED_KEY",
    "INPUT_NAMES",
    "IN_FRONT",
    "OP_DOMAIN",
    "OP_TYPE",
    "OP_VERSION",
    "SPEC",
    "GatherCompressDequant",
    "register_schema",
]

#: Metadata of a node whose rows were made floats: where a DequantizeLinear stood, or Cast and Mul of the whole table.
DEQUANTIZED_KEY, IN_FRONT, BEHIND, CAST_IN_FRONT = "mcd.dequantized", "in front", "behind", "cast in front"

OP_TYPE = "GatherCompressDequant"

#: The inputs by position; ``scale`` and ``zero_point`` are optional.
INPUT_NAMES = ("x2", "compress_index", "indices", "scale", "zero_point")

#: ``axis`` is optional.
ATTRIBUTE_NAMES = ("compress_info", "dtype", "axis")

_DOC = """
Gives rows of a compressed table of int8 or uint8, n rows of k columns, as Gather with axis 0 gives them. With q the
table and i an index, which counts from the end where it is negative:

  without scale:                   y = q[i]                                            (the type of the table)
  with scale:                      y = float32(q[i]) * scale                           (float32)
  with scale and zero_point:       y = (float32(q[i]) - zero_point) * scale            (float32)

Each step is rounded to nearest even. These are the bits of DequantizeLinear, whose zero point is given here as a
float32, and those of Cast, Sub and Mul. Scale and zero point have one value each, or one for each row (axis = 0, those
of the rows that are asked for are taken) or column (axis = 1).

An index that is out of range is the error that it is for Gather. Only those tiles are decoded that the rows lie in.
So a row costs least where tiles are one panel high and as wide as the table, tilingN = 1 and tilingK = k / 32, rounded
up and at most 127: it takes 16 rows to be decoded, with the tiling [8, 8] 128.
"""


def _infer(context: Any) -> None:
    """Type and shape inference: the shape of the indices, and k behind it."""
    info, dtype = context.get_attribute("compress_info"), context.get_attribute("dtype")
    if info is None or len(info.ints) != 5:
        raise onnx.shape_inference.InferenceError("compress_info must hold 5 integers")
    if dtype is None or dtype.i not in BYTE_TYPES:
        raise onnx.shape_inference.InferenceError("dtype must be 2 (uint8) or 3 (int8)")
    has = {name: type_of_input(context, INPUT_NAMES, name) is not None for name in ("scale", "zero_point")}
    if has["zero_point"] and not has["scale"]:
        raise onnx.shape_inference.InferenceError("zero_point needs a scale")
    result = onnx.TypeProto()
    result.tensor_type.elem_type = TensorProto.FLOAT if has["scale"] else dtype.i
    indices = type_of_input(context, INPUT_NAMES, "indices")
    if indices is not None and indices.tensor_type.HasField("shape"):
        result.tensor_type.shape.CopyFrom(indices.tensor_type.shape)
        result.tensor_type.shape.dim.add().dim_value = info.ints[2]
    context.set_output_type(0, result)


class GatherCompressDequant(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = OP_DOMAIN

    def _run(  # noqa: PLR0917  (the operator's inputs and attributes come by position)
        self,
        x2: np.ndarray,
        compress_index: np.ndarray,
        indices: np.ndarray,
        scale: np.ndarray | None = None,
        zero_point: np.ndarray | None = None,
        compress_info: list[int] | None = None,
        dtype: int | None = None,
        axis: int | None = None,
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: the table is not of the type ``dtype``, ``axis`` is neither 0 nor 1, there is a zero point and
                no scale, one of them has neither one value nor as many as the axis, or the table is not valid.
            IndexError: an index is out of range.
        """
        table = _native.decode(x2, compress_index, np.asarray(compress_info, dtype=np.int64))
        if dtype not in BYTE_TYPES or table.dtype != BYTE_TYPES[dtype]:
            raise ValueError(f"dtype is {dtype}, and the table is {table.dtype}")
        axis = 1 if axis is None else axis
        if axis not in (0, 1):
            raise ValueError(f"axis is {axis} instead of 0 or 1")
        rows = table[indices]
        if scale is None:
            if zero_point is not None:
                raise ValueError("zero_point needs a scale")
            return (rows,)
        y = rows.astype(np.float32)
        if zero_point is not None:
            y -= _along("zero_point", zero_point, table.shape, axis, indices)
        return (y * _along("scale", scale, table.shape, axis, indices),)


def _along(name: str, values: np.ndarray, shape: tuple[int, ...], axis: int, indices: np.ndarray) -> np.ndarray:
    """Return what is broadcast with the rows."""
    if values.size == 1:
        return values.reshape(())
    if values.size != shape[axis]:
        raise ValueError(f"{name} has {values.size} values instead of one or {shape[axis]}")
    return values.reshape(-1)[indices][..., None] if axis == 0 else values.reshape(-1)


def _constant_shape(node: CompressedNode) -> tuple[int, ...]:
    return node.n, node.k


def _constant_of(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return decoded


def _axis_of(node: CompressedNode) -> int:
    return int(node.node.attributes.get_int("axis", 1) or 0)


def _check_node(node: CompressedNode) -> str | None:
    """Return what is wrong with a node: its attributes contradict its weight."""
    try:
        dtype, axis = node.node.attributes["dtype"].as_int(), _axis_of(node)
    except (KeyError, TypeError, ValueError) as error:
        return str(error)
    if axis not in (0, 1):
        return f"axis is {axis} instead of 0 or 1"
    if node.input("zero_point") is not None and node.input("scale") is None:
        return "zero_point needs a scale"
    return None if dtype == int(node.dtype) else f"dtype is {dtype}, and the weight is {node.dtype.name.lower()}"


def _restore(node: CompressedNode, weight: ir.Value) -> Operand:
    """Return Gather and DequantizeLinear, or Cast, Sub and Mul, which give the bits of whatever the node was made of.

    Of a scale, onnxruntime would make a factor of the product that reads the rows, if a Mul stood where none was.
    """
    indices, scale = node.input("indices"), node.input("scale")
    rows: Operand = NewOutput(NewNode("Gather", (weight, indices), {"axis": 0}))
    if scale is None:
        return rows
    where = node.node.metadata_props.get(DEQUANTIZED_KEY)
    whole = where in (IN_FRONT, CAST_IN_FRONT)

    def along(values: ir.Value) -> Operand:
        """Return one value or those of the columns as they are, of those of the rows the ones that are asked for."""
        if _axis_of(node) == 1 or _has_one_value(values):
            return values
        columns = NewOutput(NewNode("Reshape", (values, NewConstant(np.array([-1, 1], np.int64), "column"))))
        return columns if whole else NewOutput(NewNode("Gather", (columns, indices), {"axis": 0}))

    zero_point = node.input("zero_point")
    if where in (IN_FRONT, BEHIND) and _has_one_value(scale):
        parameters = _parameters(scale, zero_point, node.dtype)
        if parameters is not None:
            if where == BEHIND:
                return NewOutput(NewNode("DequantizeLinear", (rows, *parameters)))
            table = NewOutput(NewNode("DequantizeLinear", (weight, *parameters)))
            return NewOutput(NewNode("Gather", (table, indices), {"axis": 0}))
    widened = NewOutput(NewNode("Cast", (weight if whole else rows,), {"to": int(TensorProto.FLOAT)}))
    if zero_point is not None:
        widened = NewOutput(NewNode("Sub", (widened, along(zero_point))))
    widened = NewOutput(NewNode("Mul", (widened, along(scale))))
    return NewOutput(NewNode("Gather", (widened, indices), {"axis": 0})) if whole else widened


def _parameters(scale: ir.Value, zero_point: ir.Value | None, dtype: ir.DataType) -> tuple[Operand, Operand] | None:
    """Return scale and zero point of a DequantizeLinear; ``None`` if the zero point has not the type of the table."""
    zero = np.zeros((), np.float32) if zero_point is None else _one_value(zero_point)
    if zero is not None:
        return _scalar(scale), NewConstant(zero.astype(dtype.numpy()), "zero_point")
    # Computed at run time: the floats are cast from what the DequantizeLinear had.
    cast = None if zero_point is None else zero_point.producer()
    if cast is None or (cast.domain, cast.op_type) != ("", "Cast") or cast.inputs[0] is None:
        return None
    return (scale, cast.inputs[0]) if cast.inputs[0].dtype in (dtype, None) else None


def _one_value(values: ir.Value) -> np.ndarray | None:
    """Return the constant one number of a value, as a scalar; ``None`` if there is no such."""
    tensor = _constant(values)
    return None if tensor is None or tensor.size != 1 else tensor.numpy().reshape(())


def _scalar(values: ir.Value) -> Operand:
    """Return one value as a scalar, which no rank of the rows makes to be more."""
    array = _one_value(values)
    return values if array is None or array.shape == values.shape else NewConstant(array, "scale")


def _constant(values: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of a value that is constant, if need be behind nodes that hand it on."""
    node = values.producer()
    while node is not None and (node.domain, node.op_type) == ("", "Identity") and node.inputs[0] is not None:
        values = node.inputs[0]
        node = values.producer()
    return constant_tensor(values)


def _has_one_value(values: ir.Value) -> bool:
    tensor = _constant(values)
    if tensor is not None:
        return tensor.size == 1
    return values.shape is not None and values.shape.is_static() and int(np.prod(values.shape.numpy())) == 1


SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=_DOC,
    inputs=(
        Input(
            "x2",
            "TX",
            "compressed stream of the table, constant; int8, or the same bytes as uint8, which tell an onnxruntime "
            "before 1.24 the type of a uint8 table without scale",
        ),
        Input("compress_index", "tensor(int8)", "8 bytes for each tile of the table, constant"),
        Input("indices", "TI", "rows, of any shape"),
        Input(
            "scale", "tensor(float)", "one value, or one for each row or column; present: y is float32", optional=True
        ),
        Input("zero_point", "tensor(float)", "one value, or one for each row or column", optional=True),
    ),
    outputs=(Output("y", "TY", "the rows: shape of the indices, and k"),),
    types={
        "TX": (("tensor(int8)", "tensor(uint8)"), "stream"),
        "TI": (("tensor(int32)", "tensor(int64)"), "indices"),
        "TY": (("tensor(int8)", "tensor(uint8)", "tensor(float)"), "rows"),
    },
    attributes=(
        Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
        Attribute("dtype", ir.AttributeType.INT, "ONNX data type of the table: 2 (uint8) or 3 (int8)", required=True),
        Attribute("axis", ir.AttributeType.INT, "0: scale and zero_point go along rows; 1: along columns", default=1),
    ),
    infer=_infer,
    reference=GatherCompressDequant,
    check=_check_node,
    weight_shape=_constant_shape,
    weight_of=_constant_of,
    restore=_restore,
    telling_inputs=("scale", "zero_point"),
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
