"""ConvInteger and what follows it, as onnxruntime's quantize_dynamic writes it.

::

    q, x_scale, x_zp = DynamicQuantizeLinear(x)
    acc = ConvInteger(q, W, x_zp, w_zp)                    ConvCompressDequant(
    y = Cast<float>(acc) * (x_scale * w_scale)        ->       q, W', w_scale, x_zp, w_zp, bias, x_scale
    z = y + Reshape(bias, [1, -1, 1, 1])                   )

========================================  ====================================================================
what follows the ConvInteger              what the new node computes
========================================  ====================================================================
Cast to float, Mul, Add                   all of it, when the Add's other side has one value or one per channel
Cast to float, Mul                        up to the Mul, when the other side is one scale or one per channel
anything else, or several consumers       the int32 result; what follows stays as it is
========================================  ====================================================================

Where the scale is the product of one number and a constant (x_scale * w_scale), the new node takes the two and
multiplies them itself, with the same rounding; another Mul that computes a scale stays. Operands of Mul and Add may
stand in either order.

It is accepted over one to three dimensions, with strides, dilations, pads and auto_pad, int8 or uint8 images and
kernels, zero points for the whole kernel or per channel. It stays, with the reason, where the kernel is not constant,
the image is int8 and the kernel uint8, or a group has 17, 18, … output channels that are no multiple of 16.

ConvInteger has the kernel as its first operand. So on x86 processors without VNNI its products are exact where those of
other operators saturate, and those of a uint8 kernel and an int8 image saturate, in pairs of neighbours that the
operator does not have.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from mcd_graph.operators import conv_compress_dequant
from mcd_graph.passes.engine.constants import fold
from mcd_graph.passes.engine.facts import (
    dimensions,
    get_input,
    int_attribute,
    is_op,
    known_dtype,
    known_shape,
    only_consumer,
)
from mcd_graph.passes.engine.match import Family, Match, NewConstant, Operand, Rule
from mcd_graph.passes.engine.operands import quantization_vector
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.convolution import Convolution, Kernel, find_kernel, window_of
from mcd_graph.passes.rules.scales import Scale, other_side, require_one_value, split_product

__all__ = ["FAMILY"]


def _match_alone(node: ir.Node) -> Match | None:
    x, w, x_zero_point, w_zero_point = (get_input(node, index) for index in range(4))
    kernel = find_kernel(node, w)
    if kernel is None:
        return None
    if kernel.tensor.dtype == ir.DataType.UINT8 and known_dtype(x) != ir.DataType.UINT8:
        text = "its kernel is uint8 and its image is not: onnxruntime's products may saturate, the operator's do not"
        raise Refusal(ReasonCode.CONVOLUTION_TYPES, text)
    convolution = Convolution(
        x,
        x1_zero_point=x_zero_point,
        w_zero_point=quantization_vector(w_zero_point, kernel.n),
        window=window_of(node, kernel, x, narrow_groups=True),
        output_type=ir.DataType.INT32,
    )
    require_one_value(x_zero_point, "zero point")
    return Match("ConvInteger", kernel, convolution, node.outputs[0], (node,))


def _match(node: ir.Node) -> Match | None:
    match = _match_alone(node)
    if match is None or not isinstance(match.fused, Convolution) or not isinstance(match.weight, Kernel):
        return match
    cast = only_consumer(node.outputs[0], node.graph)
    if cast is None or not is_op(cast, "Cast") or int_attribute(cast, "to", 0) != ir.DataType.FLOAT:
        return match
    mul = only_consumer(cast.outputs[0], node.graph)
    scale = _scale(other_side(mul, "Mul", cast.outputs[0]), match.weight)
    if mul is None or scale is None:
        return match
    scaled = dataclasses.replace(
        match.fused, deq_scale=scale.deq_scale, x1_scale=scale.x1_scale, output_type=ir.DataType.FLOAT
    )
    add = only_consumer(mul.outputs[0], node.graph)
    addend = _along_channels(other_side(add, "Add", mul.outputs[0]), match.weight)
    nodes = (node, cast, mul)
    if add is None or addend is None:
        return Match("ConvInteger+Cast+Mul", match.weight, scaled, mul.outputs[0], nodes)
    added = dataclasses.replace(scaled, addend=addend)
    return Match("ConvInteger+Cast+Mul+Add", match.weight, added, add.outputs[0], (*nodes, add))


def _scale(value: ir.Value | None, kernel: Kernel) -> Scale | None:
    """Return the factor of the sums, if it is one number or one per channel."""
    if value is not None and known_shape(value) in ((), (1,)):
        return split_product(value, 1, 1) or Scale(value)
    scale = _along_channels(value, kernel)
    return None if scale is None else Scale(scale)


def _along_channels(value: ir.Value | None, kernel: Kernel) -> Operand:
    """Return floats, one or one per output channel in the place of a result's channels, as a vector.

    Those of all channels have to be constant.
    """
    constant = None if value is None else fold(value)
    if value is None or (known_dtype(value) if constant is None else constant.tensor.dtype) != ir.DataType.FLOAT:
        return None
    shape = known_shape(value) if constant is None else dimensions(constant.tensor)
    if shape in ((), (1,)):
        return value
    of_channel = (1, kernel.n, *(1,) * (len(dimensions(kernel.tensor)) - 2))
    if constant is None or shape is None or len(shape) > len(of_channel):
        return None
    if shape not in ((1,) * len(shape), of_channel[-len(shape) :]):
        return None
    return NewConstant(np.ascontiguousarray(constant.tensor.numpy().reshape(-1)), f"{value.name}.vector")


conv_integer_rule = Rule(
    "conv_integer_rule", "", "ConvInteger", _match, alone=_match_alone, spec=conv_compress_dequant.SPEC
)

FAMILY = Family(
    "ConvInteger",
    "ConvInteger, with Cast, Mul and Add behind it",
    "`ConvInteger` [`Cast` `Mul` [`Add`]]",
    "a `ConvCompressDequant`, up to the last operator that fits, the int32 result at least",
    (conv_integer_rule,),
)
