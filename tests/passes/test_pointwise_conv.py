"""1x1 convolutions as multiplications: only on request, and then to the byte."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_exact, floats, integers, lower, make_model, pack_all, scales
from onnx import helper

import mcd_graph
from mcd_graph.cli import main
from mcd_graph.model.loading import load_model
from mcd_graph.passes import ReasonCode, plan_lowering

K, N = 30, 22
"""Channels in and out."""


def spatial(rank: int) -> tuple[int, ...]:
    return (5, 4, 3)[:rank]


def qlinear_conv(
    rank: int, x_type: type, w_type: type, size: tuple[int, ...], *, bias: bool, **attributes: object
) -> onnx.ModelProto:
    constants = {
        "xs": scales((), 1), "xz": integers(x_type, (), 2), "w": integers(w_type, (N, K, *(1,) * rank), 3),
        "ws": scales(size, 4), "wz": np.zeros(size, w_type), "ys": scales((), 6, 10), "yz": integers(x_type, (), 7),
    }  # fmt: skip
    if bias:
        constants["b"] = np.random.default_rng(8).integers(-5000, 5000, N).astype(np.int32)
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv", **attributes)
    return make_model(
        [node], {"x": (x_type, ("b", K, *spatial(rank)))}, {"y": (x_type, ("b", N, *spatial(rank)))}, constants
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("size", [(), (N,)], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_qlinear_conv(rank: int, x_type: type, w_type: type, size: tuple[int, ...], bias: bool) -> None:
    model = qlinear_conv(rank, x_type, w_type, size, bias=bias, kernel_shape=[1] * rank)
    lowered = assert_exact(model, {"x": integers(x_type, (2, K, *spatial(rank)), 9)}, convolutions=True)
    assert lowered.outcome == [("QLinearConv", None)]
    assert lowered.op_types == ["Transpose", "MatmulCompressDequant", "Transpose"]
    assert (lowered.plan.sites[0].k, lowered.plan.sites[0].n) == (K, N)


def conv(**attributes: object) -> onnx.ModelProto:
    return qlinear_conv(2, np.uint8, np.int8, (), bias=True, **attributes)


def test_neutral_attributes() -> None:
    model = conv(strides=[1, 1], pads=[0] * 4, dilations=[1, 1], group=1)
    lowered = assert_exact(model, {"x": integers(np.uint8, (2, K, *spatial(2)), 9)}, convolutions=True)
    assert lowered.outcome == [("QLinearConv", None)]


def test_without_the_option_nothing_happens() -> None:
    lowered = lower(conv())
    assert lowered.outcome == []
    assert not lowered.modified


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"strides": [2, 1]}, ReasonCode.KERNEL_SIZE),
        ({"pads": [0, 0, 0, 1]}, ReasonCode.KERNEL_SIZE),
        ({"dilations": [2, 2]}, ReasonCode.KERNEL_SIZE),
        ({"group": 2}, ReasonCode.KERNEL_SIZE),
    ],
)
def test_refusals(attributes: dict[str, object], code: ReasonCode) -> None:
    assert lower(conv(**attributes), convolutions=True, rules=()).outcome == [("QLinearConv", code)]


def test_larger_kernels_are_kept() -> None:
    model = conv()
    (w,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    w.CopyFrom(onnx.numpy_helper.from_array(integers(np.int8, (N, K, 3, 1), 1), "w"))
    assert lower(model, convolutions=True, rules=()).outcome == [("QLinearConv", ReasonCode.KERNEL_SIZE)]
    assert lower(model, convolutions=True).outcome == [("QLinearConv", ReasonCode.CONVOLUTION_SMALL)]


def test_command_line_option(tmp_path: Path) -> None:
    model = conv()
    w = np.rint(floats((N, K, 1, 1), 3) * 9).astype(np.int8)
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").CopyFrom(
        onnx.numpy_helper.from_array(w, "w")
    )
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    source.write_bytes(model.SerializeToString())
    arguments = ["compress", str(source), str(target), "--min-saving", "-10", "--force-larger"]
    assert main(arguments) == 2
    assert main([*arguments, "--convolutions"]) == 0
    assert mcd_graph.verify_model(source, target).identical


def test_an_input_with_other_channels_is_kept() -> None:
    model = conv()
    channels = model.graph.input[0].type.tensor_type.shape.dim[1]
    channels.dim_value += 1
    assert lower(model, convolutions=True).outcome == [("QLinearConv", ReasonCode.SHAPE_MISMATCH)]


def test_minus_one_channels_are_any_number() -> None:
    model = conv()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    loaded = load_model(model)
    plan = plan_lowering(loaded, convolutions=True)
    assert plan.apply(pack_all(plan))
    onnx.checker.check_model(ir.to_proto(loaded), full_check=True, check_custom_domain=True)
