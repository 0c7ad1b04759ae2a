"""The inputs, output and attributes of ``mcd::ConvCompressDequant``, and what it computes, in words."""

import onnx_ir as ir

from mcd_graph.operators.spec import Attribute, Input, Output

__all__ = ["ATTRIBUTES", "DOC", "INPUTS", "INPUT_NAMES", "NUMBERS", "OP_TYPE", "OUTPUTS", "TYPES", "WINDOW_NAMES"]

OP_TYPE = "ConvCompressDequant"

DOC = """
Convolves x1 (batch, channels, pixels ...) with a compressed int8 or uint8 kernel, over one to three dimensions:

  acc = sum over taps and channels of (x1 - x1_zero_point) * (w - w_zero_point) + bias       (int32, wraps around)

where a pixel beside the image is x1_zero_point. As MatmulCompressDequant does it:

Without deq_scale: y = acc.
With deq_scale: y = float32(acc) * deq_scale [+ addend], each step rounded to nearest even.
With y_zero_point: y = saturate(round_half_even(float32(acc) * deq_scale) + y_zero_point).
With x1_scale: deq_scale stands for float32(x1_scale * deq_scale) in all of this.

kernel_shape, strides, dilations, pads and group are those of ONNX's Conv; same = 1 is its auto_pad SAME_UPPER, 2 its
SAME_LOWER. Of group groups, each n / group output channels see their own channels / group input channels.

On x86 processors without VNNI, products of uint8 x1 and int8 w saturate in pairs where y is requantised, unless each
group has one channel of either side: as those of onnxruntime's QLinearConv do (MatmulCompressDequant says more). There,
and with channels_last = 1, the output channels of each of several groups must fill the tiles of compress_info.

With channels_last = 1, x1 is (batch, pixels ..., channels) and y (batch, pixels ..., n).

compress_info declares the kernel as a matrix of n rows, the output channels, with k = taps * channels / group columns:
the channels of a tap beside each other, the taps in row-major order. It is the kernel (n, channels / group, taps ...)
with its second dimension last.
"""

INPUTS = (
    Input("x1", "T1", "images (batch, channels, pixels ...), or as channels_last says"),
    Input("x2", "tensor(int8)", "compressed stream of the kernel, constant"),
    Input("compress_index", "tensor(int8)", "8 bytes for each tile of the kernel, constant"),
    Input("deq_scale", "tensor(float)", "one scale or one per output channel", optional=True),
    Input("bias", "tensor(int32)", "(n), added to the integer sum", optional=True),
    Input("x1_zero_point", "T1", "one value", optional=True),
    Input("w_zero_point", "TW", "one value or one per output channel, of the kernel's type", optional=True),
    Input("addend", "tensor(float)", "one value or one per output channel, added to the scaled result", optional=True),
    Input("y_zero_point", "TQ", "one value; present: the output is quantised, with this type", optional=True),
    Input("x1_scale", "tensor(float)", "one value, multiplied by deq_scale before that is used", optional=True),
)

#: The inputs by position; all behind ``compress_index`` are optional.
INPUT_NAMES = tuple(each.name for each in INPUTS)

OUTPUTS = (Output("y", "TY", "result (batch, n, pixels ...), or as channels_last says"),)

TYPES = {
    "T1": (("tensor(int8)", "tensor(uint8)"), "activation"),
    "TW": (("tensor(int8)", "tensor(uint8)"), "kernel"),
    "TQ": (("tensor(int8)", "tensor(uint8)"), "quantised output"),
    "TY": (("tensor(int32)", "tensor(float)", "tensor(int8)", "tensor(uint8)"), "output"),
}

ATTRIBUTES = (
    Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
    Attribute("kernel_shape", ir.AttributeType.INTS, "size of the kernel, without channels", required=True),
    Attribute("strides", ir.AttributeType.INTS, "steps in each dimension; 1 by default"),
    Attribute("dilations", ir.AttributeType.INTS, "distance of taps in each dimension; 1 by default"),
    Attribute("pads", ir.AttributeType.INTS, "pixels before each dimension, then those behind; 0 by default"),
    Attribute("same", ir.AttributeType.INT, "0: pads count; 1: SAME_UPPER; 2: SAME_LOWER", default=0),
    Attribute("group", ir.AttributeType.INT, "groups of channels", default=1),
    Attribute("channels_last", ir.AttributeType.INT, "1: the channels of images and results come last", default=0),
    Attribute("output_type", ir.AttributeType.INT, "ONNX data type of the output"),
)

#: The attributes that say how a kernel goes over an image: first the lists, then those that are one number each.
NUMBERS = ("same", "group", "channels_last")
WINDOW_NAMES = ("kernel_shape", "strides", "dilations", "pads", *NUMBERS)
