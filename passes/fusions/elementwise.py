"""A Mul or an Add behind a multiplication goes into its node: gates of feed-forward layers, and residual streams.

The result of the projection back is added to the residual stream, and one of two projections is multiplied with what
an activation function made of the other. MatmulCompressDequant takes the second tensor as ``residual`` or ``gate``
and does the step while its result is still in registers. Each step is rounded as before, so no bit changes.

onnxruntime, when it optimises, may make something else of such a node: SkipLayerNormalization of an Add and the
LayerNormalization that alone reads the sum, Div of a Mul and the 1 / x in front of it, Gemm of MatMul and Add, for
instance. There it stays, so that both models go on to change alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes import ort_behaviour
from mcd_graph.passes.engine.emit import set_input, take_over
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.facts import (
    AttributeUnknownError,
    constant_tensor,
    get_input,
    int_attribute,
    is_op,
    known_dtype,
    known_shape,
    only_consumer,
)
from mcd_graph.passes.fusions.protocol import Fusion

if TYPE_CHECKING:
    from mcd_graph.passes.engine.emit import Names

__all__ = ["FUSION", "absorb_elementwise", "expose_elementwise"]

_POSITIONS = {name: position for position, name in enumerate(INPUT_NAMES)}
#: What each of the two inputs stands for, in the order in which the node does it.
_STEPS = (("gate", "Mul"), ("residual", "Add"))

#: Readers of a sum with which onnxruntime joins the Add; it knows LayerNormalization by the steps of it as well.
_NORMALIZING = ort_behaviour.FUSES_NORMALIZATION.operators
#: First steps of a GELU, with which it joins the Add of a bias.
_ACTIVATING = ort_behaviour.FUSES_BIAS_AND_GELU.operators
#: What it joins with an Add or a Mul behind.
_JOINED = {"Add": ("Conv", "Gemm", "MatMul"), "Mul": ort_behaviour.FUSES_RECIPROCAL.operators}
#: They read no elements: what is computed of their results alone is a constant where shapes are.
_SHAPE_READERS = ("Shape", "Size")
#: Attributes that may read values as well, of graphs around them.
_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def absorb_elementwise(node: ir.Node) -> bool:
    """Let a MatmulCompressDequant do a Mul with another tensor of its result's shape behind it, and then an Add.

    Only where nobody else reads what is in between. The node then stands where the last of them stood, for the other
    tensor may be computed just in front of that.

    Returns:
        Whether there was any; it is removed.
    """
    if not _gives_float(node):
        return False
    absorbed = False
    for name, op_type in _STEPS:
        reader = only_consumer(node.outputs[0], node.graph)
        graph = node.graph
        other = None if reader is None or not is_op(reader, op_type) else _other(reader, node)
        if reader is None or other is None or graph is None:
            continue
        graph.remove(node)
        reader.prepend(node)
        set_input(node, _POSITIONS[name], other)
        take_over(reader.outputs[0], node.outputs[0])
        graph.remove(reader, safe=True)
        absorbed = True
    return absorbed


def expose_elementwise(node: ir.Node, names: Names) -> bool:
    """Put Mul and Add back behind a MatmulCompressDequant that does what they do.

    Returns:
        Whether there were any.
    """
    base = node.name or node.op_type
    last = node
    for name, op_type in _STEPS:
        other = get_input(node, _POSITIONS[name])
        if other is None:
            continue
        result, moved = last.outputs[0], ir.Value()
        take_over(result, moved)
        result.name, result.shape = names.unique(f"{base}.{'result' if last is node else 'product'}"), None
        made = ir.node(op_type, [result, other], outputs=[moved], name=names.unique(f"{base}.{op_type}"))
        last.append(made)
        set_input(node, _POSITIONS[name], None)
        last = made
    return last is not node


def _gives_float(node: ir.Node) -> bool:
    """Tell whether a node's result is a float32 product, in the order in which it is computed."""
    absent = ("y_zero_point", "y_shape", "gate", "residual")
    if any(get_input(node, _POSITIONS[name]) is not None for name in absent):
        return False
    scale, result = get_input(node, _POSITIONS["deq_scale"]), node.outputs[0]
    try:
        output_type = int_attribute(node, "output_type", int(ir.DataType.FLOAT))
    except AttributeUnknownError:
        return False
    return (
        known_dtype(scale) == ir.DataType.FLOAT
        and output_type == ir.DataType.FLOAT
        and known_dtype(result) in (ir.DataType.FLOAT, None)
    )


def _other(reader: ir.Node, node: ir.Node) -> ir.Value | None:
    """Return what a Mul or Add takes beside the node's result; ``None`` if it has to stay."""
    result = node.outputs[0]
    others = [value for value in reader.inputs if value is not result]
    if len(reader.inputs) != 2 or len(others) != 1 or len(result.uses()) != 1 or (other := others[0]) is None:
        return None
    if known_dtype(other) not in (ir.DataType.FLOAT, None) or not _computed(other):
        return None
    producer = other.producer()
    if producer is not None and not producer.domain and producer.op_type in _JOINED[reader.op_type]:
        return None
    ours, theirs = known_shape(result), known_shape(other)
    if theirs is not None and (len(theirs) < 2 or theirs[-1] not in (_columns(node), None)):
        return None
    if ours is not None and theirs is not None and not _same_shape(ours, theirs):
        return None
    return None if is_op(reader, "Add") and _joined(reader.outputs[0], theirs) else other


def _columns(node: ir.Node) -> int:
    """Return n of a MatmulCompressDequant node that was just built."""
    return int(node.attributes["compress_info"].as_ints()[3])


def _same_shape(ours: tuple[int | None, ...], theirs: tuple[int | None, ...]) -> bool:
    """Tell whether two shapes are equal, as far as they are known."""
    return len(ours) == len(theirs) and all(
        one is None or other is None or one == other for one, other in zip(ours, theirs, strict=True)
    )


def _joined(total: ir.Value, shape: tuple[int | None, ...] | None) -> bool:
    """Tell whether onnxruntime may do something else with the Add that computes ``total``.

    ``shape`` is that of what is added: a bias has one dimension, and this one may have if it is not known.
    """
    readers = [use.node for use in total.uses()]
    if shape is None and any(reader.op_type in _ACTIVATING for reader in readers):
        return True
    if not any(reader.op_type in _NORMALIZING for reader in readers):
        return False
    # It joins none whose sum has another reader; one that cannot go away is the next Add of the stream.
    residual = _POSITIONS["residual"]
    return not any(
        is_op(reader, "Add") or (is_op(reader, OP_TYPE, OP_DOMAIN) and get_input(reader, residual) is total)
        for reader in readers
    )


def _computed(value: ir.Value) -> bool:
    """Tell whether a value depends on what a model is given, and so cannot become a constant when it is loaded."""
    waiting, seen = [value], {value}
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if producer is None:
            if not value.is_initializer() or value.is_graph_input():
                return True
            continue
        if constant_tensor(value) is not None or producer.op_type in _SHAPE_READERS:
            continue
        if any(attribute.type in _BODIES for attribute in producer.attributes.values()):
            return True
        for read in producer.inputs:
            if read is not None and read not in seen:
                seen.add(read)
                waiting.append(read)
    return False


def _fuse(node: ir.Node, *, in_function: bool = False) -> list[ir.Node] | None:
    return [] if not in_function and absorb_elementwise(node) else None


FUSION = Fusion("Mul or Add", _fuse, expose_elementwise, Extent.ALL)
