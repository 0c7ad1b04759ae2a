"""Convolutions with compressed kernels: to the byte, with everything that onnxruntime's convolutions take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lowering import assert_exact, integers, lower, make_model, scales
from onnx import helper

from mcd_graph.passes import ReasonCode

C, N = 24, 40
"""Channels in and out."""

IMAGES = {1: (29,), 2: (11, 9), 3: (5, 6, 7)}
KERNELS = {1: (5,), 2: (3, 3), 3: (2, 3, 2)}


def conv_integer(
    rank: int = 2,
    x_type: type = np.uint8,
    w_type: type = np.int8,
    *,
    zero_points: int = 2,
    image: tuple[int | str, ...] | None = None,
    kernel: tuple[int, ...] | None = None,
    channels: int = C,
    **attributes: object,
) -> onnx.ModelProto:
    constants = {
        "w": integers(w_type, (N, channels, *(kernel or KERNELS[rank])), 1),
        "xz": np.array(-7 if x_type is np.int8 else 120, x_type),
        "wz": integers(w_type, (), 2),
    }
    names = ["w", "xz", "wz"][: 1 + zero_points]
    node = helper.make_node("ConvInteger", ["x", *names], ["y"], name="conv", **attributes)
    return make_model(
        [node],
        {"x": (x_type, ("b", C, *(image or IMAGES[rank])))},
        {"y": (np.int32, ("b", N, *(None,) * len(kernel or KERNELS[rank])))},
        {name: constants[name] for name in names},
    )


def qlinear_conv(
    rank: int = 2,
    x_type: type = np.uint8,
    w_type: type = np.int8,
    size: tuple[int, ...] = (),
    *,
    bias: bool = True,
    **attributes: object,
) -> onnx.ModelProto:
    constants = {
        "xs": scales((), 1), "xz": integers(x_type, (), 2), "w": integers(w_type, (N, C, *KERNELS[rank]), 3),
        "ws": scales(size, 4), "wz": np.full(size, 3, w_type), "ys": scales((), 6, 20), "yz": integers(x_type, (), 7),
    }  # fmt: skip
    if bias:
        constants["b"] = np.random.default_rng(8).integers(-50000, 50000, N).astype(np.int32)
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv", **attributes)
    return make_model(
        [node], {"x": (x_type, ("b", C, *IMAGES[rank]))}, {"y": (x_type, ("b", N, *(None,) * rank))}, constants
    )


def feed(rank: int, x_type: type, batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": integers(x_type, (batch, C, *IMAGES[rank]), 9)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
@pytest.mark.parametrize("zero_points", [0, 1, 2])
def test_conv_integer(rank: int, x_type: type, zero_points: int) -> None:
    model = conv_integer(rank, x_type, zero_points=zero_points, pads=[1] * 2 * rank)
    lowered = assert_exact(model, feed(rank, x_type))
    assert lowered.outcome == [("ConvInteger", None)]
    assert lowered.op_types == ["ConvCompressDequant"]
    assert (lowered.plan.sites[0].k, lowered.plan.sites[0].n) == (C * int(np.prod(KERNELS[rank])), N)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("size", [(), (N,)], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_qlinear_conv(rank: int, x_type: type, w_type: type, size: tuple[int, ...], bias: bool) -> None:
    model = qlinear_conv(rank, x_type, w_type, size, bias=bias, pads=[1] * rank + [0] * rank)
    lowered = assert_exact(model, feed(rank, x_type))
    assert lowered.outcome == [("QLinearConv", None)]
    assert lowered.op_types == ["ConvCompressDequant"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 3]},
        {"dilations": [3, 2], "pads": [4, 0, 1, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [1, 2]},
        {"auto_pad": "VALID"},
        {"pads": [2, 2, 2, 2], "kernel_shape": [3, 3], "strides": [4, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [conv_integer, qlinear_conv])
def test_attributes(make: object, attributes: dict[str, object]) -> None:
    lowered = assert_exact(make(**attributes), feed(2, np.uint8))
    assert [code for _, code in lowered.outcome] == [None]


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (conv_integer(channels=C // 2, group=2), ReasonCode.CONVOLUTION_GROUPS),
        (conv_integer(strides=[0, 1]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(dilations=[-1, 1]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(pads=[-1, 0, 0, 0]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(pads=[0, 0, 0]), ReasonCode.CONVOLUTION_ATTRIBUTE),
        (conv_integer(kernel_shape=[3, 1]), ReasonCode.SHAPE_MISMATCH),
        (conv_integer(channels=C + 1), ReasonCode.SHAPE_MISMATCH),
        (conv_integer(rank=2, kernel=(2, 2, 2, 2)), ReasonCode.CONVOLUTION_RANK),
    ],
)
def test_refusals(model: onnx.ModelProto, code: ReasonCode) -> None:
    assert lower(model).outcome == [("ConvInteger", code)]


def test_small_kernels_are_not_looked_at() -> None:
    assert lower(conv_integer(kernel=(1, 1))).outcome == []
