"""Sessions with exact products of 8-bit integers, on processors where onnxruntime's saturate and on others."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import MS_DOMAIN, constant_nodes, floats, integers, make_model, node
from onnx import TensorProto, helper
from samples import write

import mcd_graph
from mcd_graph.cli import main
from mcd_graph.machine import saturates
from mcd_graph.saturation import exact_products
from mcd_graph.session import create_session

K, N = 64, 32
SETTINGS = pytest.mark.parametrize("optimize", [True, False])


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this processor taken for one on which onnxruntime's products saturate."""
    monkeypatch.setattr("mcd_graph.machine._flags", lambda: {"avx2"})


def large(kind: type, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return integers so large that two products do not fit into 16 bits."""
    drawn = integers(kind, shape, seed)
    drawn[: shape[0] // 2] = np.iinfo(kind).max
    return drawn


def product(op_type: str, activation: type, weight: type, *, zero_points: bool = True) -> onnx.ModelProto:
    """Return a product a (m, K) · w (K, N) whose result is the accumulator, as int32 or float32."""
    a_scale, w_scale = ("one", "one") if op_type != "MatMulInteger" else ("", "")
    inputs = {
        "MatMulInteger": ["a", "w", "za", "zw"],
        "MatMulIntegerToFloat": ["a", "w", a_scale, w_scale, "za", "zw"],
        "QGemm": ["a", a_scale, "za", "w", w_scale, "zw"],
    }[op_type]
    if not zero_points:
        inputs = [name for name in inputs if name not in ("za", "zw")]
    domain = "" if op_type == "MatMulInteger" else MS_DOMAIN
    constants = {
        "w": large(weight, (K, N), 1), "za": np.array(3, activation), "zw": np.array(2, weight),
        "one": np.array(1, np.float32),
    }  # fmt: skip
    return make_model(
        [helper.make_node(op_type, inputs, ["y"], domain=domain)],
        {"a": (activation, ["m", K])},
        {"y": (np.float32 if domain else np.int32, ["m", N])},
        constants,
    )


def accumulator(activation: np.ndarray, weight: type, *, zero_points: bool = True) -> np.ndarray:
    za, zw = (3, 2) if zero_points else (0, 0)
    return (activation.astype(np.int32) - za) @ (large(weight, (K, N), 1).astype(np.int32) - zw)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, optimize: bool) -> np.ndarray:
    (y,) = create_session(model.SerializeToString(), threads=1, optimize=optimize, precise=True).run(None, feeds)
    return y


@SETTINGS
@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("op_type", ["MatMulInteger", "MatMulIntegerToFloat", "QGemm"])
def test_products_are_exact(op_type: str, zero_points: bool, optimize: bool) -> None:
    if op_type == "QGemm" and not zero_points:
        pytest.skip("it needs them")
    model, a = product(op_type, np.uint8, np.int8, zero_points=zero_points), large(np.uint8, (5, K), 2)
    expected = accumulator(a, np.int8, zero_points=zero_points)
    assert np.array_equal(run(model, {"a": a}, optimize=optimize), expected)
    assert exact_products(model)
    assert not exact_products(model)


@SETTINGS
def test_signed_activations_stay(optimize: bool) -> None:
    """Products of two int8 are exact; only MatMulInteger multiplies int8 by uint8."""
    a = large(np.int8, (5, K), 2)
    model = product("MatMulInteger", np.int8, np.int8)
    assert np.array_equal(run(model, {"a": a}, optimize=optimize), accumulator(a, np.int8))
    for op_type, zero_points in (("QGemm", True), ("MatMulIntegerToFloat", True), ("MatMulIntegerToFloat", False)):
        assert not exact_products(product(op_type, np.int8, np.int8, zero_points=zero_points))


@SETTINGS
def test_images_of_integer_convolutions(optimize: bool) -> None:
    """There the image is the operand that must not be int8."""
    image, kernel = large(np.int8, (1, K, 3, 3), 1), large(np.uint8, (N, K, 1, 1), 2)
    model = make_model(
        [node("ConvInteger", "x w", "y")], {"x": (np.int8, image.shape)}, {"y": (np.int32, None)}, {"w": kernel}
    )
    expected = np.einsum("bchw,oc->bohw", image.astype(np.int32), kernel[:, :, 0, 0].astype(np.int32))
    assert np.array_equal(run(model, {"x": image}, optimize=optimize), expected)


@SETTINGS
@pytest.mark.parametrize("where", ["constant", "transposed", "branch", "function", "old"])
def test_weights_are_found(where: str, optimize: bool) -> None:
    weight, a = large(np.int8, (K, N), 1), large(np.uint8, (5, K), 2)
    multiply, inputs = node("MatMulInteger", "a w", "y"), {"a": (np.uint8, ["m", K])}
    outputs: dict = {"y": (np.int32, None)}
    if where == "constant":
        model = make_model([*constant_nodes({"w": weight}), multiply], inputs, outputs, {})
    elif where == "transposed":
        turn = node("Transpose", "t", "w", perm=[1, 0])
        model = make_model([turn, multiply], inputs, outputs, {"t": np.ascontiguousarray(weight.T)})
    elif where == "branch":
        value = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
        branches = {name: helper.make_graph([multiply], name, [], value) for name in ("then_branch", "else_branch")}
        model = make_model([node("If", "c", "z", **branches)], inputs, {"z": (np.int32, None)}, {"w": weight})
        model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    elif where == "function":
        opset = [helper.make_opsetid("", 18)]
        function = helper.make_function("local", "layer", ["a", "w"], ["y"], [multiply], opset)
        call = helper.make_node("layer", ["a", "w"], ["y"], domain="local")
        model = make_model([call], inputs, outputs, {"w": weight}, functions=[function])
    else:
        model = make_model([multiply], inputs | {"w": (np.int8, [K, N])}, outputs, {"w": weight}, ir_version=3)
    feeds = {"a": a} | ({"c": np.array(True)} if where == "branch" else {})
    expected = a.astype(np.int32) @ weight.astype(np.int32)
    assert np.array_equal(run(model, feeds, optimize=optimize), expected)
    assert exact_products(model)


def test_qdq_forms_are_those_of_default_settings() -> None:
    """onnxruntime's own remedy, session.x64quantprecision, makes this product one of integers, which it is not."""
    model = make_model(
        [
            node("QuantizeLinear", "x s", "q"),
            node("DequantizeLinear", "q s", "d"),
            node("DequantizeLinear", "w ws", "v"),
            node("MatMul", "v d", "y"),
        ],
        {"x": (np.float32, [K, "m"])},
        {"y": (np.float32, None)},
        {"w": integers(np.int8, (N, K), 1), "ws": np.array(0.01, np.float32), "s": np.array(0.02, np.float32)},
    )
    feeds = {"x": floats((K, 5), 3)}
    (expected,) = create_session(model.SerializeToString(), threads=1).run(None, feeds)
    assert run(model, feeds, optimize=True).tobytes() == expected.tobytes()


def saturating_model(folder: Path) -> Path:
    """Write a dynamically quantised product whose original saturates where there is no VNNI."""
    weight = np.clip(np.rint(floats((256, 256), 1) * 20), -127, 127).astype(np.int8)
    weight[:, 5], weight[:, 9] = 127, -127
    model = make_model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", "q w z", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "f s", "y"),
        ],
        {"x": (np.float32, ["m", 256])},
        {"y": (np.float32, ["m", 256])},
        {"w": weight},
    )
    return write(model, folder / "model.onnx")


@pytest.mark.usefixtures("without_vnni")
def test_a_model_that_saturates_is_compressed_and_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = saturating_model(tmp_path), tmp_path / "compressed.onnx"
    assert main(["compress", str(source), str(target)]) == 0
    assert "with exact products" in capsys.readouterr().out
    assert mcd_graph.verify_model(source, target, precise=True).identical
    feeds = {"x": np.abs(floats((4, 256), 5))}
    outputs = [create_session(path, threads=1).run(None, feeds)[0] for path in (source, target)]
    assert (outputs[0].tobytes() != outputs[1].tobytes()) == saturates_here()


def saturates_here() -> bool:
    """Tell whether this processor does, whatever it is taken for."""
    text = Path("/proc/cpuinfo").read_text()
    return "avx2" in text and "vnni" not in text and "amx_int8" not in text


@pytest.mark.skipif(not saturates(), reason="onnxruntime's products do not saturate on this processor")
def test_verify_says_that_saturation_is_the_only_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = saturating_model(tmp_path), tmp_path / "compressed.onnx"
    mcd_graph.compress_model(source, target)
    result = mcd_graph.verify_model(source, target, inputs={"x": np.abs(floats((4, 256), 5))})
    assert result.differences
    assert result.only_saturation
    assert main(["verify", str(source), str(target)]) == 1
    assert "the only difference" in capsys.readouterr().out
