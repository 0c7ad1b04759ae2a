"""Which values of a model are constant: nobody can change them at run time."""

from typing import cast

import numpy as np
import onnx_ir as ir

__all__ = ["constant_tensor"]


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a value that nobody can change at run time: a pure initialiser or a Constant node."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or (node.domain, node.op_type) != ("", "Constant") or len(node.attributes) != 1:
        return None
    # Not ir.convenience.get_const_tensor: that one names the tensor after the value, and so changes the model.
    (attribute,) = node.attributes.values()
    if attribute.is_ref():  # an argument of the function around it
        return None
    form = (attribute.name, attribute.type)
    if form == ("value", ir.AttributeType.TENSOR):
        return cast("ir.TensorProtocol", attribute.value)  # as_tensor() compares every member of the protocol
    if form in (("value_float", ir.AttributeType.FLOAT), ("value_floats", ir.AttributeType.FLOATS)):
        return ir.tensor(np.array(attribute.value, np.float32))
    if form in (("value_int", ir.AttributeType.INT), ("value_ints", ir.AttributeType.INTS)):
        return ir.tensor(np.array(attribute.value, np.int64))
    return None
