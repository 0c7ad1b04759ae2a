"""Every int8 and uint8 constant of a model that is large enough to be a weight, and who reads it."""

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["WORTH_NAMING", "EightBitConstant", "eight_bit_constants", "is_per_channel", "readers_of"]

WORTH_NAMING = 1024
"""Smaller constants, in bytes, are scales and zero points rather than weights."""

_EIGHT_BIT = (ir.DataType.INT8, ir.DataType.UINT8)
_LOOKED_THROUGH = frozenset(
    ("Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose")
) | {"Unsqueeze"}
"""Operators that do not say what a constant is for; their readers do."""


_PARAMETER = {
    ("DequantizeLinear", 0): 1,
    ("QLinearConv", 3): 4,
    ("QLinearMatMul", 3): 4,
    ("MatMulInteger", 1): 3,
    ("ConvInteger", 1): 3,
    ("QGemm", 3): 4,
    ("DynamicQuantizeMatMul", 1): 2,
    ("MatMulIntegerToFloat", 1): 3,
}
"""By operator and input of a weight, the input that has several values if the weight is quantised per channel."""


@dataclasses.dataclass(frozen=True, eq=False)
class EightBitConstant:
    """A constant of bytes.

    Attributes:
        value: the initialiser, or the output of the Constant node.
        tensor: what it holds.
        readers: the nodes that compute with it, behind those that merely pass it on, each with the operators on the way
            and its own, as in ``DequantizeLinear+Conv``.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    readers: tuple[tuple[ir.Node, str], ...]


def eight_bit_constants(model: ir.Model, *, least: int | None = None) -> Iterator[EightBitConstant]:
    """Yield the constants of the main graph, of subgraphs and of functions, in a fixed order, each of them once.

    Args:
        model: the model.
        least: bytes of the smallest that count, if not :data:`WORTH_NAMING`.
    """
    least = WORTH_NAMING if least is None else least
    for owner in (model.graph, *(function.graph for function in model.functions.values())):
        for graph in (owner, *owner.subgraphs()):
            values = [(value, value.const_value) for value in graph.initializers.values()]
            values += [(node.outputs[0], _held(node)) for node in graph if node.op_type == "Constant"]
            for value, tensor in values:
                if tensor is not None and tensor.dtype in _EIGHT_BIT and tensor.nbytes >= least:
                    yield EightBitConstant(value, tensor, tuple(readers_of(value)))


def _held(node: ir.Node) -> ir.TensorProtocol | None:
    attribute = node.attributes.get("value")
    return attribute.as_tensor() if attribute is not None and attribute.type == ir.AttributeType.TENSOR else None


def is_per_channel(value: ir.Value) -> bool:
    """Tell whether a constant has a scale, or zero point, for each of its channels, as far as its readers show that."""
    for node, index in value.uses():
        position = _PARAMETER.get((node.op_type, index), len(node.inputs))
        parameter = node.inputs[position] if position < len(node.inputs) else None
        tensor = None if parameter is None else parameter.const_value
        if tensor is not None and tensor.size > 1:
            return True
    return False


def readers_of(value: ir.Value) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes that compute with a value, each with the operators on the way; see :class:`EightBitConstant`."""
    yield from _readers(value, "")


def _readers(value: ir.Value, path: str) -> Iterator[tuple[ir.Node, str]]:
    for node, index in value.uses():
        label = path + node.op_type
        through = index == 0 and node.op_type in _LOOKED_THROUGH and any(node.outputs[0].uses())
        if through:
            yield from _readers(node.outputs[0], label + "+")
        else:
            yield node, label
