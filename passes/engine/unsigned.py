"""int8 activations of QDQ models become uint8, as onnxruntime's optimiser for x86 makes them.

onnxruntime has no fast int8 kernels on x86: there it turns each QuantizeLinear and its DequantizeLinear from int8 into
uint8 first, flipping the top bit and moving the zero point by 128, which changes no number. It can do so no more when
one of the two has become part of a MatmulCompressDequant; whatever else reads the other would then be computed in
float. So the rewrite does it itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph.operators.registry import find
from mcd_graph.passes.engine.emit import place_constant
from mcd_graph.passes.engine.facts import MS_DOMAIN, constant_array, get_input, is_op

if TYPE_CHECKING:
    from mcd_graph.passes.engine.emit import Names

__all__ = ["make_unsigned"]


def make_unsigned(node: ir.Node, names: Names, *, in_function: bool) -> None:
    """Turn the int8 activation and result of a compressed node into uint8, where all who see them can be told.

    These are QuantizeLinear, DequantizeLinear and compressed nodes whose zero point is an int8 constant;
    with anybody else at the other end nothing is changed.
    """
    for value in (node.inputs[0], node.outputs[0]):
        zero_points = None if value is None else _zero_points(value)
        if value is None or zero_points is None:
            continue
        for owner, index, array in zero_points:
            old = get_input(owner, index)
            name = names.unique(f"{old.name if old is not None else 'zero_point'}.uint8")
            shifted = ir.tensor((array.astype(np.int16) + 128).astype(np.uint8), name=name)
            owner.replace_input_with(index, place_constant(shifted, name, owner, as_node=in_function))
        value.dtype = ir.DataType.UINT8


def _zero_points(value: ir.Value) -> list[tuple[ir.Node, int, np.ndarray]] | None:
    """Return where the zero points of ``value`` stand, at producer and readers; ``None`` unless all are int8."""
    producer = value.producer()
    if producer is None or value.is_graph_output():
        return None
    found: list[tuple[ir.Node, int, np.ndarray]] = []
    for index, (user, position) in enumerate([(producer, 0), *value.uses()]):
        if position != 0:
            return None
        if (spec := find(user.domain, user.op_type)) is not None:
            name = "x1_zero_point" if index else "y_zero_point"
            if name not in spec.input_names:
                return None
            place = spec.input_names.index(name)
        elif _is_qdq(user, "DequantizeLinear" if index else "QuantizeLinear"):
            place = 2
        else:
            return None
        array = constant_array(get_input(user, place))
        if array is None or array.dtype != np.int8 or array.size != 1:
            return None
        found.append((user, place, array))
    return found


def _is_qdq(node: ir.Node, op_type: str) -> bool:
    return is_op(node, op_type) or is_op(node, op_type, MS_DOMAIN)
