"""Limits of Ascend's operator, and what its form takes of ONNX's operators."""

from __future__ import annotations

__all__ = [
    "ALLOW_ZERO_OPSET",
    "FLIP",
    "K_ABOVE",
    "K_STEP",
    "MAX_ACCUMULATOR",
    "MAX_FLOAT16",
    "MAX_ROWS",
    "MIN_N",
    "MIN_OPSET",
    "N_STEP",
    "SPLIT_OUTPUTS_OPSET",
    "TILING",
]

#: The most rows that CANN's document allows. Its published code does not check it.
MAX_ROWS = 256

#: Columns: at least so many, and a multiple of the step.
MIN_N, N_STEP = 128, 64
#: Rows of the weight: more than the first, and a multiple of the step.
K_ABOVE, K_STEP = 256, 64
#: tilingK and tilingN of compress_info.
TILING = (8, 8)
#: What is subtracted from uint8 to give int8.
FLIP = 128
MAX_FLOAT16 = 65504.0
MAX_ACCUMULATOR = 2.0**31
#: From this version of ONNX's operators on, Pad takes its pads as an input.
MIN_OPSET = 11
#: From this one on, Reshape has allowzero.
ALLOW_ZERO_OPSET = 14
#: From this one on, Split says how many outputs it has.
SPLIT_OUTPUTS_OPSET = 18
