"""The operator ``mcd::DecompressWeight``, version 1.

It stands where an int8 or uint8 constant stood, in front of operators that are not touched. In NumPy::

    ReferenceEvaluator(model, new_ops=[DecompressWeight])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference.op_run import OpRun

from mcd_graph.operators.decoding import check_shape, decode_as, shape_of, type_problem
from mcd_graph.operators.spec import BYTE_TYPES, Attribute, Input, OperatorSpec, Output, tell_onnx
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION

if TYPE_CHECKING:
    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = [
    "ATTRIBUTE_NAMES",
    "INPUT_NAMES",
    "OP_DOMAIN",
    "OP_TYPE",
    "OP_VERSION",
    "SPEC",
    "DecompressWeight",
    "register_schema",
]

OP_TYPE = "DecompressWeight"

#: The inputs by position; both are constants.
INPUT_NAMES = ("x2", "compress_index")

#: ``transposed`` is optional.
ATTRIBUTE_NAMES = ("compress_info", "shape", "dtype", "transposed")

_DOC = """
Decodes a compressed int8 or uint8 weight: the tensor y that was compressed, in its own shape and order.

compress_info declares the weight as a matrix of k x n elements. The elements of y are, row by row, those of the matrix
(k, n), which MatmulCompressDequant multiplies with; with transposed = 1 those of (n, k). A tensor of any rank is one of
the two: its dimensions are parted into rows and columns anywhere.
"""


def _infer(context: Any) -> None:
    """Type and shape inference, from the attributes alone."""
    info, shape, dtype = (context.get_attribute(name) for name in ATTRIBUTE_NAMES[:3])
    if info is None or shape is None or dtype is None:
        raise onnx.shape_inference.InferenceError("compress_info, shape and dtype are required")
    if dtype.i not in BYTE_TYPES:
        raise onnx.shape_inference.InferenceError(f"dtype is {dtype.i} instead of 2 (uint8) or 3 (int8)")
    try:
        check_shape(list(info.ints), list(shape.ints))
    except ValueError as error:
        raise onnx.shape_inference.InferenceError(str(error)) from None
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(dtype.i, list(shape.ints)))


class DecompressWeight(OpRun):
    """The operator in NumPy, for :class:`onnx.reference.ReferenceEvaluator`."""

    op_domain = OP_DOMAIN

    def _run(  # noqa: PLR0917  (the operator's attributes come by position)
        self,
        x2: np.ndarray,
        compress_index: np.ndarray,
        compress_info: list[int] | None = None,
        shape: list[int] | None = None,
        dtype: int | None = None,
        transposed: int | None = None,
    ) -> tuple[np.ndarray]:
        """Compute the operator; see the schema for shapes and types.

        Raises:
            ValueError: The shape has not as many elements as the weight, the weight is not of the type ``dtype``,
                ``transposed`` is neither 0 nor 1, or the compressed weight is not valid.
        """
        check_shape(compress_info or (), shape or ())
        if transposed not in (None, 0, 1):
            raise ValueError(f"transposed is {transposed} instead of 0 or 1")
        weight = decode_as(x2, compress_index, compress_info, dtype)
        return (np.ascontiguousarray(weight if transposed else weight.T).reshape(shape),)


def _is_transposed(node: CompressedNode) -> bool:
    attribute = node.node.attributes.get("transposed")
    return attribute is not None and attribute.as_int() == 1


def _constant_of(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(decoded if _is_transposed(node) else decoded.T).reshape(shape_of(node))


def _check_node(node: CompressedNode) -> str | None:
    """Return what is wrong with a node: its attributes contradict its weight."""
    try:
        check_shape(node.info, shape_of(node))
        problem = type_problem(node)
        transposed = node.node.attributes.get_int("transposed", 0)
    except (KeyError, TypeError, ValueError) as error:
        return str(error)
    if transposed not in (0, 1):
        return f"transposed is {transposed} instead of 0 or 1"
    return problem


def _restore(_node: CompressedNode, weight: ir.Value) -> Operand:
    return weight


SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=_DOC,
    inputs=(
        Input("x2", "tensor(int8)", "compressed weight stream, constant"),
        Input("compress_index", "tensor(int8)", "8 bytes for each tile of the weight, constant"),
    ),
    outputs=(Output("y", "TW", "the constant"),),
    types={"TW": (("tensor(int8)", "tensor(uint8)"), "weight")},
    attributes=(
        Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
        Attribute("shape", ir.AttributeType.INTS, "shape of y, of k x n elements", required=True),
        Attribute("dtype", ir.AttributeType.INT, "ONNX data type of y: 2 (uint8) or 3 (int8)", required=True),
        Attribute(
            "transposed",
            ir.AttributeType.INT,
            "1: y holds the matrix (n, k), row by row; 0: the matrix (k, n)",
            default=0,
        ),
    ),
    infer=_infer,
    reference=DecompressWeight,
    check=_check_node,
    weight_shape=shape_of,
    weight_of=_constant_of,
    restore=_restore,
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
