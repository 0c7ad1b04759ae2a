"""ConvCompressDequant in real onnxruntime sessions, against the operator in NumPy and ONNX's convolutions."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sessions import corrupt, session

from mcd_graph import _native
from mcd_graph.operators.conv_compress_dequant import ConvCompressDequant

KINDS = st.sampled_from((np.int8, np.uint8))


def kernel(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return values as real kernels have them: a bell around the middle of the type."""
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).normal((limits.min + limits.max + 1) // 2, 12, shape)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def model_of(
    nodes: list[onnx.NodeProto], x: np.ndarray, tensors: dict[str, np.ndarray], output: int
) -> onnx.ModelProto:
    dims = [f"d{i}" for i in range(x.ndim)]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x1", onnx_type(x.dtype), dims)],
        [helper.make_tensor_value_info("y", output, [f"y{i}" for i in range(x.ndim)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mcd", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


INPUTS = ("deq_scale", "bias", "x1_zero_point", "w_zero_point", "addend", "y_zero_point", "x1_scale")


def compressed(
    w: np.ndarray,
    x: np.ndarray,
    *,
    tiling: tuple[int, int] = (8, 8),
    operands: dict[str, np.ndarray] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node; ``attributes`` overrides its own, ``None`` leaves one out."""
    matrix = np.ascontiguousarray(np.moveaxis(w, 1, -1)).reshape(w.shape[0], -1)
    x2, index, info = _native.encode(matrix, "balanced", tiling)
    operands = operands or {}
    names = ["x1", "x2", "compress_index", *(name if name in operands else "" for name in INPUTS)]
    while not names[-1]:
        names.pop()
    given_ = {"compress_info": [int(number) for number in info], "kernel_shape": list(w.shape[2:]), **attributes}
    given_ = {name: attribute for name, attribute in given_.items() if attribute is not None}
    node = helper.make_node("ConvCompressDequant", names, ["y"], name="block/conv", domain="mcd", **given_)
    output = TensorProto.INT32 if "deq_scale" not in operands else TensorProto.FLOAT
    if "y_zero_point" in operands:
        output = onnx_type(operands["y_zero_point"].dtype)
    return model_of([node], x, {"x2": x2, "compress_index": index, **operands}, output)


def run(model: onnx.ModelProto, x: np.ndarray, *, threads: int = 1, residency: str = "compressed") -> np.ndarray:
    return session(model, threads, {"mcd.residency": residency}).run(None, {"x1": x})[0]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_it_gives_what_numpy_gives(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3), "rank")
    some = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    size, strides, dilations = (data.draw(some, name) for name in ("kernel", "strides", "dilations"))
    pads = data.draw(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank), "pads")
    reach = [dilation * (extent - 1) + 1 for dilation, extent in zip(dilations, size, strict=True)]
    image = [data.draw(st.integers(length, length + 8), "image") for length in reach]
    group = data.draw(st.sampled_from((1, 1, 2)), "group")
    channels, n = data.draw(st.integers(1, 40), "channels"), data.draw(st.integers(1, 40), "n")
    if group == 2:
        n = 32 * (1 + n // 16)
    x_type, w_type = data.draw(KINDS, "x"), data.draw(KINDS, "w")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    x = rng.integers(0, 256, (data.draw(st.integers(0, 2), "batch"), channels * group, *image)).astype(np.uint8)
    x = x.view(x_type)
    operands: dict[str, np.ndarray] = {}
    if data.draw(st.booleans(), "x1_zero_point"):
        operands["x1_zero_point"] = rng.integers(0, 100, ()).astype(x_type)
    if data.draw(st.booleans(), "w_zero_point"):
        operands["w_zero_point"] = rng.integers(0, 100, data.draw(st.sampled_from(((), (n,))), "each")).astype(w_type)
    if data.draw(st.booleans(), "bias"):
        operands["bias"] = rng.integers(-(2**31), 2**31, n).astype(np.int32)
    form = data.draw(st.sampled_from(("sums", "floats", "bytes")), "form")
    if form != "sums":
        operands["deq_scale"] = rng.random(data.draw(st.sampled_from(((), (n,))), "scale")).astype(np.float32) / 99
        if data.draw(st.booleans(), "x1_scale"):
            operands["x1_scale"] = np.float32(0.3)
    if form == "floats" and data.draw(st.booleans(), "addend"):
        operands["addend"] = rng.standard_normal(n).astype(np.float32)
    if form == "bytes":
        operands["y_zero_point"] = np.array(7, data.draw(KINDS, "y"))
    w = kernel(w_type, (n, channels, *size))
    settings_ = {
        "tiling": (4, 1) if group == 2 else (8, 8), "operands": operands,
        "strides": strides, "dilations": dilations, "pads": pads, "group": group,
    }  # fmt: skip
    expected = ReferenceEvaluator(compressed(w, x, **settings_), new_ops=[ConvCompressDequant]).run(None, {"x1": x})[0]
    last, turned = (np.ascontiguousarray(np.moveaxis(each, 1, -1)) for each in (x, expected))
    for image, result, channels_last in ((x, expected, None), (last, turned, 1)):
        model = compressed(w, image, **settings_, channels_last=channels_last)
        if channels_last:
            reference = ReferenceEvaluator(model, new_ops=[ConvCompressDequant]).run(None, {"x1": image})[0]
            assert (reference.shape, reference.tobytes()) == (result.shape, result.tobytes())
        for threads in (1, 2):
            found = run(model, image, threads=threads)
            assert (found.dtype, found.shape) == (result.dtype, result.shape)
            assert found.tobytes() == result.tobytes()


@pytest.mark.parametrize("same", [1, 2])
def test_padding_that_the_image_settles(same: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (2, 8, 13, 10)).astype(np.uint8)
    w = kernel(np.int8, (20, 8, 4, 3))
    ours = compressed(w, x, same=same, strides=[2, 3], operands={"x1_zero_point": np.uint8(9)})
    auto_pad = {1: "SAME_UPPER", 2: "SAME_LOWER"}[same]
    node = helper.make_node("ConvInteger", ["x1", "w", "zero"], ["y"], auto_pad=auto_pad, strides=[2, 3])
    theirs = model_of([node], x, {"w": w, "zero": np.uint8(9)}, TensorProto.INT32)
    expected = run(theirs, x)
    assert run(ours, x).tobytes() == expected.tobytes()
    assert ReferenceEvaluator(ours, new_ops=[ConvCompressDequant]).run(None, {"x1": x})[0].tobytes() == (
        expected.tobytes()
    )


HUGE = 2**62


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"kernel_shape": None}, "kernel_shape"),
        ({"kernel_shape": [3]}, "x1: has shape"),
        ({"kernel_shape": [5, 5]}, "kernel_shape is [5, 5], and the weight has 72 values"),
        ({"kernel_shape": [3, 0]}, "kernel_shape is [3, 0] instead of numbers that are 1 or more"),
        ({"kernel_shape": [3, 3, 1, 1]}, "kernel_shape is [3, 3, 1, 1] instead of one to 3 numbers"),
        ({"strides": [0, 1]}, "strides is [0, 1] instead of numbers that are 1 or more"),
        ({"strides": [-HUGE, 1]}, "strides is"),
        ({"strides": [1]}, "strides is [1] instead of 2 numbers"),
        ({"dilations": [1, 0]}, "dilations is [1, 0] instead of numbers that are 1 or more"),
        ({"dilations": [HUGE, 1]}, "kernel"),
        ({"dilations": [2**63 - 1, 1]}, "kernel"),
        ({"pads": [-1, 0, 0, 0]}, "pads is [-1, 0, 0, 0] instead of numbers that are 0 or more"),
        ({"pads": [HUGE, 0, HUGE, 0]}, ""),
        ({"pads": [0, 0]}, "pads is [0, 0] instead of 4 numbers"),
        ({"same": 7}, "same is 7 instead of 0, 1 or 2"),
        ({"channels_last": 2}, "channels_last is 2 instead of 0 or 1"),
        ({"channels_last": 1}, "x1: has shape [1, 8, 9, 7] instead of (batch, …, 8) of 4 dimensions"),
        ({"same": 1, "pads": [0, 0, 0, 0]}, "pads must be absent where same is not 0"),
        ({"group": 0}, "group is 0 instead of 1 or more"),
        ({"group": -1}, "group is -1 instead of 1 or more"),
        ({"group": HUGE}, ""),
        ({"group": 2}, "x1: has shape"),
        ({"output_type": TensorProto.FLOAT}, "output_type"),
        ({"compress_info": [8, 8, 72]}, "compress_info"),
    ],
    ids=str,
)
def test_hostile_attributes_are_errors(attributes: dict[str, Any], text: str) -> None:
    x = np.zeros((1, 8, 9, 7), np.uint8)
    model = compressed(kernel(np.int8, (16, 8, 3, 3)), x, **attributes)
    with pytest.raises(Exception) as error:  # noqa: PT011  (onnxruntime's exceptions have no common base)
        run(model, x)
    assert text in str(error.value)


@pytest.mark.parametrize(
    "operands",
    [
        {"y_zero_point": np.uint8(3)},
        {"addend": np.zeros(16, np.float32)},
        {"x1_scale": np.float32(1)},
        {"deq_scale": np.float32(1), "y_zero_point": np.uint8(3), "addend": np.zeros(16, np.float32)},
        {"deq_scale": np.float64(1)},
        {"deq_scale": np.ones(15, np.float32)},
        {"bias": np.zeros(15, np.int32)},
        {"x1_zero_point": np.int8(1)},
        {"w_zero_point": np.uint8(1)},
        {"x1_zero_point": np.zeros(8, np.uint8)},
    ],
    ids=str,
)
def test_operands_that_do_not_go_together_are_errors(operands: dict[str, np.ndarray]) -> None:
    x = np.zeros((1, 8, 9, 7), np.uint8)
    model = compressed(kernel(np.int8, (16, 8, 3, 3)), x, operands=operands)
    with pytest.raises(Exception, match=r"ConvCompressDequant|block/conv"):
        run(model, x)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 7, 9, 9), (1, 8, 2, 9), (8,)])
def test_images_that_do_not_fit_are_errors(shape: tuple[int, ...]) -> None:
    model = compressed(kernel(np.int8, (16, 8, 3, 3)), np.zeros((1, 8, 9, 7), np.uint8))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match="x1"):
        run(model, np.zeros(shape, np.uint8))


def test_a_damaged_kernel_is_an_error_that_names_it() -> None:
    x = np.zeros((1, 64, 9, 7), np.uint8)
    model = compressed(kernel(np.int8, (64, 64, 3, 3)), x)
    for damaged in corrupt(model, "x2"):
        with pytest.raises(Exception, match="x2"):
            run(damaged, x)


@pytest.mark.parametrize("residency", ["compressed", "decoded", "auto"])
def test_every_residency_gives_the_same_bytes(residency: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (1, 96, 30, 17)).astype(np.uint8)
    operands = {"deq_scale": np.float32(0.001), "y_zero_point": np.uint8(100), "x1_zero_point": np.uint8(120)}
    model = compressed(kernel(np.int8, (200, 96, 3, 3)), x, pads=[1] * 4, operands=operands)
    expected = ReferenceEvaluator(model, new_ops=[ConvCompressDequant]).run(None, {"x1": x})[0]
    for threads in (1, 2):
        assert run(model, x, threads=threads, residency=residency).tobytes() == expected.tobytes()
