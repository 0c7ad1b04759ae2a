"""Products of uint8 and int8 that saturate in pairs: the formula, and onnxruntime on processors without VNNI."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import sessions
from lowering import assert_exact, lower
from onnx import TensorProto, helper, numpy_helper
from sessions import session

from mcd_graph import _native
from mcd_graph.passes import ReasonCode

SATURATING = {"mcd.products": "saturating"}


def weight(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return int8 weights of which most pairs saturate with large activations."""
    return np.random.default_rng(seed).choice([-128, -90, 100, 127], shape).astype(np.int8)


def activation(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 1) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


def pairs(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the products (m, n) of (m, k) and (n, k), saturated in pairs."""
    if x.shape[1] % 2:
        x, w = (np.pad(side, ((0, 0), (0, 1))) for side in (x, w))
    products = x[:, None].astype(np.int32) * w.astype(np.int32)
    sums = products[..., ::2] + products[..., 1::2]
    return np.clip(sums, -(1 << 15), (1 << 15) - 1).sum(-1, dtype=np.int32)


def one_node(w: np.ndarray, dtype: Any, zero_point: int) -> onnx.ModelProto:
    """Return a model of one compressed multiplication, of integers by the weight (n, k)."""
    x2, index, info = _native.encode(w, "balanced")
    tensors = {"x2": x2, "index": index, "z": np.array(zero_point, dtype)}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatmulCompressDequant",
                ["x1", "x2", "index", "", "", "", "z"],
                ["y"],
                domain="mcd",
                compress_info=[int(number) for number in info],
            )
        ],
        "product",
        [helper.make_tensor_value_info("x1", kind, ["m", w.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["m", w.shape[0]])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mcd", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("kernel", ["scalar", "avx2", "avx2-nopdep"])
@pytest.mark.parametrize("residency", ["compressed", "decoded"])
@pytest.mark.parametrize(("n", "k"), [(5, 33), (70, 515)])
def test_pairs_saturate_where_it_is_asked_for(
    kernel: str, residency: str, n: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel not in _native.kernels():
        pytest.skip("not a kernel of this processor")
    monkeypatch.setenv("MCD_KERNEL", kernel)
    w = weight((n, k))
    opened = session(one_node(w, np.uint8, 7), config={**SATURATING, "mcd.residency": residency})
    for m in (1, 13, 40):
        x = activation((m, k))
        (y,) = opened.run(None, {"x1": x})
        assert np.array_equal(y, pairs(x, w) - 7 * w.sum(1, dtype=np.int32))
        assert not np.array_equal(y, x.astype(np.int32) @ w.T.astype(np.int32) - 7 * w.sum(1, dtype=np.int32))


def test_other_products_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", "scalar")
    for x, w in [
        (activation((9, 64), np.int8), weight((20, 64))),
        (activation((9, 64)), activation((20, 64), seed=2)),
    ]:
        (y,) = session(one_node(w, x.dtype, 0), config=SATURATING).run(None, {"x1": x})
        assert np.array_equal(y, x.astype(np.int32) @ w.T.astype(np.int32))


def test_precision_is_onnxruntimes_own_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """``session.x64quantprecision`` makes products exact, unless ``mcd.products`` says something else."""
    monkeypatch.setenv("MCD_KERNEL", "scalar")
    w, x = weight((20, 64)), activation((9, 64))
    exact = x.astype(np.int32) @ w.T.astype(np.int32)
    for products, expected in [("auto", exact), ("exact", exact), ("saturating", pairs(x, w))]:
        config = {"mcd.products": products, "session.x64quantprecision": "1"}
        (y,) = session(one_node(w, np.uint8, 0), config=config).run(None, {"x1": x})
        assert np.array_equal(y, expected), products


def test_a_kernel_without_such_products_says_so() -> None:
    fastest = _native.kernels()[0]
    if fastest in ("avx2", "avx2-nopdep", "scalar"):
        pytest.skip("the fastest kernel of this processor has them")
    with pytest.raises(Exception, match=r"mcd\.products"):
        session(one_node(weight((20, 64)), np.uint8, 0), config=SATURATING).run(None, {"x1": activation((9, 64))})


def of_onnx(
    op_type: str, inputs: dict[str, np.ndarray], x: np.ndarray, output: int, **attributes: Any
) -> onnx.ModelProto:
    """Return a model of one node of x and constants; one named "x" marks its place."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), ["y"], name="node", **attributes)],
        "original",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", output, [None] * x.ndim)],
        [numpy_helper.from_array(array, name) for name, array in inputs.items() if name != "x"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def originals(dtype: Any) -> list[tuple[str, onnx.ModelProto, np.ndarray, bool]]:
    """Return models with their inputs; whether products saturate where onnxruntime's do."""
    x, image = activation((17, 260), dtype), activation((1, 24, 9, 9), dtype)
    zero, mixed = np.array(3, dtype), np.dtype(dtype) == np.uint8
    requantised = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    outputs = {"ys": scale(40.0), "yz": np.array(5, dtype)}
    product = {"x": x, "xs": scale(0.1), "xz": zero, "w": weight((260, 96)), "ws": scale(0.1), "wz": np.int8(0)}
    tensors = {name: np.asarray(array) for name, array in {**product, **outputs}.items()}
    found = [
        (
            "MatMulInteger",
            of_onnx("MatMulInteger", {"x": x, "w": weight((260, 96)), "xz": zero}, x, TensorProto.INT32),
            x,
            mixed,
        ),
        ("QLinearMatMul", of_onnx("QLinearMatMul", tensors, x, requantised), x, mixed),
    ]
    for taps, group, saturates in [(1, 1, mixed), (3, 1, mixed), (3, 4, mixed), (3, 24, False)]:
        kernel = weight((48 if group < 24 else 24, 24 // group, taps, taps))
        tensors = {
            "x": image,
            "xs": scale(0.1),
            "xz": zero,
            "w": kernel,
            "ws": scale(0.1),
            "wz": np.zeros((), np.int8),
            **outputs,
        }
        model = of_onnx("QLinearConv", tensors, image, requantised, group=group, pads=[taps // 2] * 4)
        found.append((f"QLinearConv {taps} {group}", model, image, saturates))
    kernel = weight((48, 24, 3, 3))
    model = of_onnx("ConvInteger", {"x": image, "w": kernel, "xz": zero}, image, TensorProto.INT32, pads=[1] * 4)
    return [*found, ("ConvInteger", model, image, False)]


CASES = [case for dtype in (np.uint8, np.int8) for case in originals(dtype)]


@pytest.mark.parametrize(
    ("model", "x", "saturates"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]} {case[2].dtype}".replace(" ", "-") for case in CASES],
)
def test_originals_and_lowered_ones_saturate_alike(
    model: onnx.ModelProto, x: np.ndarray, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this processor has: the bytes of the original. That it saturates is known of one without VNNI."""
    monkeypatch.delitem(sessions.CONFIG, "mcd.products")
    assert_exact(model, {"x": x})
    assert_exact(model, {"x": x}, optimized=True)
    if x.dtype == np.int8:
        return  # with the entry, onnxruntime refuses such models
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    by = [ort.InferenceSession(model.SerializeToString(), each) for each in (ort.SessionOptions(), options)]
    plain, exact = (each.run(None, {"x": x})[0] for each in by)
    assert np.array_equal(plain, exact) == (not (saturates and _native.saturates_pairs()))


@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
def test_a_pointwise_conv_integer_is_no_multiplication(w_type: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is its first operand: of uint8 images its products are exact, of a multiplication they saturate."""
    monkeypatch.delitem(sessions.CONFIG, "mcd.products")
    image, kernel = activation((1, 64, 9, 9)), weight((48, 64, 1, 1)).astype(w_type)
    tensors = {"x": image, "w": kernel, "xz": np.array(3, np.uint8)}
    model = of_onnx("ConvInteger", tensors, image, TensorProto.INT32)
    lowered = assert_exact(model, {"x": image}, convolutions=True)
    assert lowered.op_types == ["ConvCompressDequant"]


def test_conv_integer_of_int8_with_a_uint8_kernel_stays() -> None:
    """Its products saturate where the operator's do not."""
    image, kernel = activation((1, 24, 9, 9), np.int8), activation((48, 24, 3, 3))
    model = of_onnx("ConvInteger", {"x": image, "w": kernel}, image, TensorProto.INT32)
    assert lower(model).outcome == [("ConvInteger", ReasonCode.CONVOLUTION_TYPES)]
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": image})
    patches = np.lib.stride_tricks.sliding_window_view(image[0].astype(np.int32), (3, 3), axis=(1, 2))
    exact = np.einsum("chwij,ncij->nhw", patches, kernel.astype(np.int32))
    assert np.array_equal(y[0], exact) == (not _native.saturates_pairs())
