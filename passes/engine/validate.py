"""Models that contradict themselves: inputs that are known to be of another type or size than the operator takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes.engine.facts import (
    get_input,
    int_attribute,
    ints_attribute,
    is_op,
    known_dtype,
    known_shape,
    shape_source,
    shape_text,
)
from mcd_graph.passes.engine.match import NewConstant
from mcd_graph.passes.engine.operands import WEIGHT_TYPES
from mcd_graph.passes.engine.shapes import infer_shapes
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcd_graph.passes.engine.match import Operand

__all__ = ["check_compatibility", "check_node", "check_opset", "infer_inputs"]

#: Types of the operator's inputs, but for the stream of the weight.
_INPUT_TYPES = {
    "x1": (*WEIGHT_TYPES, ir.DataType.FLOAT),
    "deq_scale": (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT64),
    "bias": (ir.DataType.INT32,),
    "x1_zero_point": WEIGHT_TYPES,
    "w_zero_point": WEIGHT_TYPES,
    "addend": (ir.DataType.FLOAT, ir.DataType.FLOAT16),
    "y_zero_point": WEIGHT_TYPES,
    "x1_scale": (ir.DataType.FLOAT,),
    "y_scale": (ir.DataType.FLOAT,),
    "x1_shape": (ir.DataType.INT64,),
    "y_shape": (ir.DataType.INT64,),
    "gate": (ir.DataType.FLOAT,),
    "residual": (ir.DataType.FLOAT,),
}

_PAIR = ("x1", "x1_zero_point")

_SHAPES = ("x1_shape", "y_shape")

_ELEMENTWISE = ("gate", "residual")

_ONE_VALUE = ("x1_zero_point", "y_zero_point", "x1_scale", "y_scale")

#: The first version of ONNX with MatMulInteger, QLinearMatMul, QuantizeLinear and DequantizeLinear.
_QUANTIZATION_OPSET = 10

#: The first version with DynamicQuantizeLinear and Round.
_YOUNGER_OPSET = 11


def check_compatibility(inputs: Mapping[str, Operand], *, k: int, n: int, weight_type: ir.DataType) -> None:
    """Refuse if inputs of the operator, by name, are known to be of another type or size than it takes.

    Nothing else sees it early: checkers know nothing of the types of another domain's operators, and compare no sizes.
    """
    types = {**_INPUT_TYPES, "w_zero_point": (weight_type,)}
    for name, allowed in types.items():
        operand = inputs.get(name)
        if isinstance(operand, ir.Value):
            label, dtype, shape = operand.name, known_dtype(operand), known_shape(operand)
        elif isinstance(operand, NewConstant):
            label, dtype, shape = operand.hint, ir.DataType.from_numpy(operand.array.dtype), operand.array.shape
        else:
            continue
        if dtype is not None and dtype not in allowed:
            raise Refusal(ReasonCode.TYPE_MISMATCH, f"its {name} {label} is {dtype.name.lower()}")
        if shape is None or name in (*_SHAPES, *_ELEMENTWISE) or (name == "x1" and inputs.get("x1_shape") is not None):
            continue
        if name == "x1":
            if not shape or shape[-1] not in (k, None):
                raise Refusal(
                    ReasonCode.SHAPE_MISMATCH, f"{label} of shape {shape_text(shape)} does not fit a weight of {k} rows"
                )
            continue
        sizes = (1,) if name in _ONE_VALUE else (n,) if name == "bias" else (1, n)
        *leading, last = shape or (1,)
        if (
            last not in (*sizes, None)
            or any(dim not in (1, None) for dim in leading)
            or (last == n != 1 < len(leading))
        ):
            raise Refusal(
                ReasonCode.SHAPE_MISMATCH, f"its {name} {label} has shape {shape_text(shape)}, for {n} columns"
            )
    x1, zero_point = (inputs.get(name) for name in _PAIR)
    if not isinstance(x1, ir.Value) or not isinstance(zero_point, ir.Value):
        return
    x1_type, zero_type = known_dtype(x1), known_dtype(zero_point)
    if x1_type is not None and zero_type is not None and x1_type != zero_type:
        raise Refusal(
            ReasonCode.TYPE_MISMATCH,
            f"its activation is {x1_type.name.lower()}, the zero point of that {zero_type.name.lower()}",
        )
    if shape_source(x1) is shape_source(zero_point):
        raise Refusal(
            ReasonCode.SHAPE_MISMATCH,
            f"zero point {zero_point.name} must be a scalar; it has the shape of the activation",
        )


def infer_inputs(model: ir.Model) -> None:
    """Infer shapes and types if the model does not say those of an input of a MatmulCompressDequant node.

    Checkers know none for that operator's inputs, but do for those of the operators that take its place.
    """
    inputs = (value for node in model.graph.all_nodes() if is_op(node, OP_TYPE, OP_DOMAIN) for value in node.inputs)
    if any(value is not None and (known_shape(value) is None or known_dtype(value) is None) for value in inputs):
        infer_shapes(model)


def check_node(node: ir.Node, *, k: int, n: int, weight_type: ir.DataType) -> None:
    """Refuse if inputs or attributes of a MatmulCompressDequant node contradict each other or its weight.

    Raises:
        AttributeUnknownError: its output_type is set by those who call the function around it.
    """
    inputs = {name: get_input(node, index) for index, name in enumerate(INPUT_NAMES)}
    if inputs["x1"] is None:
        raise Refusal(ReasonCode.INPUT_MISSING, "it has no activation input")
    check_compatibility(inputs, k=k, n=n, weight_type=weight_type)
    for shape, perm in (("x1_shape", "x1_perm"), ("y_shape", "y_perm")):
        if (inputs[shape] is None) != (ints_attribute(node, perm) is None):
            raise Refusal(ReasonCode.INPUTS_CONTRADICT, f"it has only one of {shape} and {perm}")
    scale, y_zero_point = inputs["deq_scale"], inputs["y_zero_point"]
    scale_type = known_dtype(scale)
    if known_dtype(inputs["x1"]) == ir.DataType.FLOAT and scale_type not in (ir.DataType.FLOAT, None):
        raise Refusal(ReasonCode.INPUTS_CONTRADICT, "its x1 is float, and its deq_scale is not")
    if scale is None and y_zero_point is not None:
        raise Refusal(ReasonCode.INPUTS_CONTRADICT, "it has a y_zero_point, but no deq_scale")
    if scale is None:
        allowed: Sequence[ir.DataType] = (ir.DataType.INT32,)
    elif inputs["y_scale"] is not None:
        allowed = (ir.DataType.FLOAT,)
    elif y_zero_point is not None:
        dtype = known_dtype(y_zero_point)
        allowed = WEIGHT_TYPES if dtype is None else (dtype,)
    elif scale_type is not None:
        allowed = (ir.DataType.FLOAT if scale_type == ir.DataType.FLOAT else ir.DataType.FLOAT16,)
    else:
        allowed = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    output_type = int_attribute(node, "output_type", int(allowed[0]))
    if output_type not in allowed:
        raise Refusal(ReasonCode.INPUTS_CONTRADICT, f"its output_type {output_type} contradicts its inputs")
    for name in _ELEMENTWISE:
        if inputs[name] is None:
            continue
        if scale_type not in (ir.DataType.FLOAT, None) or scale is None or y_zero_point is not None:
            raise Refusal(ReasonCode.INPUTS_CONTRADICT, f"it has a {name}, and its result is not a float32 product")
        if inputs["y_shape"] is not None:
            raise Refusal(ReasonCode.INPUTS_CONTRADICT, f"it has a {name} and a y_perm")


def check_opset(owner: ir.Model | ir.Function, younger: str | None = None) -> None:
    """Refuse if ``owner`` imports ONNX's operators in a version without the quantised ones, or not at all.

    ``younger``: an operator that is needed as well and came a version later, DynamicQuantizeLinear or Round.
    """
    needed = _QUANTIZATION_OPSET if younger is None else _YOUNGER_OPSET
    version = owner.opset_imports.get("")
    if version is not None and version >= needed:
        return
    imported = (
        "does not import ONNX's operators" if version is None else f"imports version {version} of ONNX's operators"
    )
    raise Refusal(ReasonCode.OPSET, f"the model {imported}; {younger or 'the quantised ones'} came with {needed}")
