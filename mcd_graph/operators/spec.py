"""What an operator of the domain ``mcd`` is: its signature, and what the rest of the package needs to know of it.

An operator is described once, by an :class:`OperatorSpec`. The schema that onnx checks models with is made from it
(:func:`schema_of`); checks, reports, restoration and export ask it, so none of them names an operator.
"""

from __future__ import annotations

import atexit
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx.defs import OpSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx.reference.op_run import OpRun

    from mcd_graph.operators.nodes import Operand
    from mcd_graph.operators.view import CompressedNode

__all__ = [
    "BYTE_TYPES",
    "DOMAIN",
    "DOMAIN_VERSION",
    "Attribute",
    "Input",
    "OperatorSpec",
    "Output",
    "schema_of",
    "tell_onnx",
]

DOMAIN = "mcd"
DOMAIN_VERSION = 1

#: The types that a compressed tensor can have, by ONNX's number.
BYTE_TYPES: dict[int, type] = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8}

_ATTRIBUTE_TYPES = {
    ir.AttributeType.INT: OpSchema.AttrType.INT,
    ir.AttributeType.INTS: OpSchema.AttrType.INTS,
    ir.AttributeType.FLOAT: OpSchema.AttrType.FLOAT,
    ir.AttributeType.STRING: OpSchema.AttrType.STRING,
}


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of an operator.

    Attributes:
        name: of the input.
        type: an ONNX type such as ``tensor(int8)``, or a name from :attr:`OperatorSpec.types`.
        doc: what it is, one line.
        optional: whether it may be absent.
    """

    name: str
    type: str
    doc: str
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Output:
    """An output of an operator; see :class:`Input`."""

    name: str
    type: str
    doc: str


@dataclasses.dataclass(frozen=True)
class Attribute:
    """An attribute of an operator.

    Attributes:
        name: of the attribute.
        type: its type.
        doc: what it is, one line.
        required: whether it must be present.
        default: its value where it is absent; ``None``: there is none.
    """

    name: str
    type: ir.AttributeType
    doc: str
    required: bool = False
    default: int | float | str | None = None


def _no_check(node: CompressedNode) -> str | None:  # noqa: ARG001
    return None


def _matrix_shape(node: CompressedNode) -> tuple[int, ...]:
    return node.k, node.n


def _matrix(node: CompressedNode, decoded: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return decoded.T


@dataclasses.dataclass(frozen=True, eq=False)
class OperatorSpec:
    """The description of one operator.

    Every operator of the domain has its compressed weight in the inputs ``x2`` and ``compress_index`` and the attribute
    ``compress_info``.

    Attributes:
        op_type: name of the operator.
        doc: what it computes.
        inputs: by position.
        outputs: by position.
        types: the element types that each type name used in inputs and outputs stands for, with a word on it.
        attributes: in any order.
        infer: type and shape inference, as onnx calls it.
        reference: the operator in NumPy, which judges the kernels.
        check: returns what is wrong with a node whose weight decodes, or ``None``.
        weight_shape: shape of the constant that was compressed; (k, n) by default.
        weight_of: that constant, from the decoded matrix (n, k); its transpose by default.
        restore: returns the value that takes the place of the node's first output, given the node and its
            uncompressed constant. Where more has to be undone than that: the name of the module of the passes with the
            operator's ``RESTORER``. ``None``: no standard operators compute the same.
        ascend: name of the aclnn operator that computes its strict form; ``None``: it must be restored before export.
        telling_inputs: optional inputs that a report names, since they tell what a node computes besides.
    """

    op_type: str
    doc: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    types: Mapping[str, tuple[tuple[str, ...], str]]
    attributes: tuple[Attribute, ...]
    infer: Callable[[Any], None]
    reference: type[OpRun]
    check: Callable[[CompressedNode], str | None] = _no_check
    weight_shape: Callable[[CompressedNode], tuple[int, ...]] = _matrix_shape
    weight_of: Callable[[CompressedNode, np.ndarray], np.ndarray] = _matrix
    restore: Callable[[CompressedNode, ir.Value], Operand] | str | None = None
    ascend: str | None = None
    telling_inputs: tuple[str, ...] = ()

    @property
    def weight_by_columns(self) -> bool:
        """Whether the constant that was compressed is the transpose of the matrix that is stored."""
        return self.weight_of is _matrix

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, by position."""
        return tuple(each.name for each in self.inputs)

    def input(self, node: ir.Node, name: str) -> ir.Value | None:
        """Return the input ``name`` of a node of this operator; ``None`` where it is absent or left empty."""
        position = self.input_names.index(name)
        return node.inputs[position] if position < len(node.inputs) else None


def tell_onnx(spec: OperatorSpec) -> None:
    """Register an operator's schema with onnx; a second call changes nothing."""
    if not onnx.defs.has(spec.op_type, DOMAIN):
        onnx.defs.register_schema(schema_of(spec))
        atexit.register(_untell_onnx, spec)


def _untell_onnx(spec: OperatorSpec) -> None:
    """Take a schema away again while Python is alive.

    Else onnx (seen with 1.19 to 1.21) gives up the function that infers shapes when Python has ended, and crashes or
    hangs in that.
    """
    if onnx.defs.has(spec.op_type, DOMAIN):
        onnx.defs.deregister_schema(spec.op_type, DOMAIN_VERSION, DOMAIN)


def schema_of(spec: OperatorSpec) -> OpSchema:
    """Return the schema by which onnx checks nodes of an operator."""
    option = OpSchema.FormalParameterOption
    schema = OpSchema(
        spec.op_type,
        DOMAIN,
        DOMAIN_VERSION,
        spec.doc,
        inputs=[
            OpSchema.FormalParameter(
                each.name, each.type, each.doc, param_option=option.Optional if each.optional else option.Single
            )
            for each in spec.inputs
        ],
        outputs=[OpSchema.FormalParameter(each.name, each.type, each.doc) for each in spec.outputs],
        type_constraints=[(name, list(types), doc) for name, (types, doc) in spec.types.items()],
        attributes=[_attribute_of(each) for each in spec.attributes],
    )
    schema.set_type_and_shape_inference_function(spec.infer)
    return schema


def _attribute_of(attribute: Attribute) -> OpSchema.Attribute:
    if attribute.default is not None:
        default = onnx.helper.make_attribute(attribute.name, attribute.default)
        return OpSchema.Attribute(attribute.name, default, attribute.doc)
    return OpSchema.Attribute(
        attribute.name, _ATTRIBUTE_TYPES[attribute.type], attribute.doc, required=attribute.required
    )
