"""Models whose products of 8-bit integers are exact where onnxruntime's saturate: on x86 processors without VNNI.

There onnxruntime multiplies uint8 by int8 with an instruction that adds two products in 16 bits. The session config
entry ``session.x64quantprecision`` is its remedy, but no reference: without optimisations it does nothing; it leaves
weights that a branch or loop reads from an outer graph; models with int8 activations fail to load; and onnxruntime
fuses other QDQ forms with it than without. So the int8 operand of each operator that saturates is given 128 more here,
and its zero point as well: nodes in front of it do that, and the difference, which is what is multiplied, is the same.
"""

import dataclasses
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from mcd_graph.model.at_open import FUNCTION
from mcd_graph.model.walk import Contents, graphs_in
from mcd_graph.operators.spec import DOMAIN

__all__ = ["exact_products", "is_qdq"]

_MS = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class _Operand:
    """The operand of an operator that must not be int8 where the other one is uint8; numbers of its inputs.

    Attributes:
        value: the operand.
        zero_point: its zero point.
        other: the other operand and its zero point, of one type; empty if that need not be known.
    """

    value: int
    zero_point: int
    other: tuple[int, ...] = ()


_OPERANDS = {
    ("", "ConvInteger"): (_Operand(0, 2),),
    ("", "MatMulInteger"): (_Operand(1, 3),),
    ("", "QLinearConv"): (_Operand(3, 5, other=(0, 2)),),
    ("", "QLinearMatMul"): (_Operand(3, 5, other=(0, 2)),),
    (_MS, "DynamicQuantizeLSTM"): (_Operand(1, 9), _Operand(2, 11)),
    (_MS, "DynamicQuantizeMatMul"): (_Operand(1, 3),),
    (_MS, "MatMulIntegerToFloat"): (_Operand(1, 5, other=(0, 4)),),
    (_MS, "QAttention"): (_Operand(1, 7, other=(0, 6)),),
    (_MS, "QGemm"): (_Operand(3, 5, other=(0, 2)),),
    (_MS, "QLinearConv"): (_Operand(3, 5, other=(0, 2)),),
}

_HAND_ON = frozenset({
    "Clip", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Max", "MaxPool", "Min", "Pad", "Relu",
    "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators whose outputs are of the type of their first input."""

_FROM_INPUT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7}
"""Operators whose output is of the type of another input, the zero point; uint8 where that is absent."""

Types = MutableMapping[str, int]


def is_qdq(model: onnx.ModelProto) -> bool:
    """Tell whether onnxruntime may make products of 8-bit integers of a model that are not in it yet."""
    return any(node.op_type == "DequantizeLinear" for node in Contents.of(model).nodes)


def exact_products(model: onnx.ModelProto) -> bool:
    """Have the products of 8-bit integers be exact that are in a model: those of a processor that does not saturate.

    Args:
        model: a model; it is changed. Its external data is not looked at.

    Returns:
        Whether it was changed.

    Examples:
        >>> import onnx
        >>> from mcd_graph.saturation import exact_products
        >>> model = onnx.load("model.onnx")
        >>> exact_products(model), exact_products(model)
        (True, False)
    """
    if any((node.domain, node.op_type) in _OPERANDS for _, nodes in Contents.of(model).functions for node in nodes):
        model.CopyFrom(onnx.inliner.inline_selected_functions(model, [(DOMAIN, FUNCTION)], exclude=True))
    widener = _Widener()
    widener.go(model.graph, {})
    return widener.count > 0


class _Widener:
    """Puts nodes in front of operands, and counts the operands."""

    def __init__(self) -> None:
        self.count = 0

    def go(self, graph: onnx.GraphProto, outer: Mapping[str, int]) -> None:
        """Change a graph and those inside of it; ``outer`` has the types of values of the graphs around it."""
        types: Types = ChainMap({}, outer)  # type: ignore[arg-type]
        types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
        types.update({tensor.values.name: tensor.values.data_type for tensor in graph.sparse_initializer})
        types.update({
            value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
        })  # fmt: skip
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            _note_types(node, types)
            for inner in graphs_in([node]):
                self.go(inner, types)
            for operand in _OPERANDS.get((node.domain, node.op_type), ()):
                graph.node.extend(self._widened(node, operand, types))
            graph.node.append(node)

    def _widened(self, node: onnx.NodeProto, operand: _Operand, types: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
        """Have an operand be uint8; yield the nodes that make it so."""
        if _type_of(node.input, operand.value, types) != TensorProto.INT8:
            return
        if any(_type_of(node.input, number, types) == TensorProto.INT8 for number in operand.other):
            return  # exact, and no other int8 operand is implemented
        for number in (operand.value, operand.zero_point):
            node.input.extend([""] * (number + 1 - len(node.input)))
            self.count += 1
            stem = f"exact products {self.count}"
            name, made = node.input[number], f"{stem} uint8"
            node.input[number] = made
            if not name:
                yield _constant(np.array(128, np.uint8), made)
                continue
            yield _constant(np.array(128, np.int32), f"{stem} 128")
            yield helper.make_node("Cast", [name], [f"{stem} int32"], to=TensorProto.INT32)
            yield helper.make_node("Add", [f"{stem} int32", f"{stem} 128"], [f"{stem} sum"])
            yield helper.make_node("Cast", [f"{stem} sum"], [made], to=TensorProto.UINT8)


def _note_types(node: onnx.NodeProto, types: Types) -> None:
    """Note of what types the outputs of a node are, as far as that matters here."""
    kind: int = TensorProto.UNDEFINED
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant" and "value" in attributes:
        kind = attributes["value"].t.data_type
    elif node.op_type == "Cast" and "to" in attributes:
        kind = attributes["to"].i
    elif node.op_type == "DynamicQuantizeLinear":
        kind = TensorProto.UINT8
    elif node.op_type in _HAND_ON:
        kind = _type_of(node.input, 0, types)
    elif node.op_type in _FROM_INPUT:
        number = _FROM_INPUT[node.op_type]
        absent = len(node.input) <= number or not node.input[number]
        kind = TensorProto.UINT8 if absent else _type_of(node.input, number, types)
    if kind != TensorProto.UNDEFINED:
        types.update(dict.fromkeys(filter(None, node.output), kind))


def _type_of(names: Sequence[str], number: int, types: Mapping[str, int]) -> int:
    return types.get(names[number], TensorProto.UNDEFINED) if number < len(names) else TensorProto.UNDEFINED


def _constant(array: np.ndarray, name: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
