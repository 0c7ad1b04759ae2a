"""What `mcd inspect` says that compression would bring, and what it brings."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import make_model, node, scales
from onnx import helper

import mcd_graph
from mcd_graph.inspection import inspect_model
from mcd_graph.report.forecast import forecast


def bell(shape: tuple[int, ...], seed: int, spread: float) -> np.ndarray:
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, spread, shape)), -127, 127).astype(np.int8)


def products() -> onnx.ModelProto:
    """A large weight, of which a part is looked at, and one that is 3 bits wide."""
    constants = {"v": bell((512, 2304), 1, 14), "w": bell((2304, 100), 2, 2)}
    dynamic = [helper.make_node("DynamicQuantizeLinear", [x], [f"{x}q", f"{x}s", f"{x}z"]) for x in ("x", "f")]
    nodes = [
        dynamic[0], node("MatMulInteger", "xq v xz", "i"), node("Cast", "i", "f", to=1),
        dynamic[1], node("MatMulInteger", "fq w fz", "j"), node("Cast", "j", "y", to=1),
    ]  # fmt: skip
    return make_model(nodes, {"x": (np.float32, ["m", 512])}, {"y": (np.float32, ["m", 100])}, constants)


def convolutions() -> onnx.ModelProto:
    constants = {"v": bell((128, 64, 3, 3), 3, 20), "w": bell((200, 128, 3, 3), 4, 6), "s": np.float32(1e-3)}
    constants |= {"z": np.uint8(128)}
    nodes = [
        node("ConvInteger", "x v z", "i"), node("Cast", "i", "f", to=1), node("QuantizeLinear", "f s z", "q"),
        node("ConvInteger", "q w z", "y"),
    ]  # fmt: skip
    image = (1, 64, 12, 12)
    return make_model(nodes, {"x": (np.uint8, image)}, {"y": (np.int32, (1, 200, 8, 8))}, constants)


def decoded_constants() -> onnx.ModelProto:
    """A batch of weights and a kernel that onnxruntime computes with in float."""
    constants = {"v": bell((6, 256, 256), 5, 9), "vs": scales((1,), 6)[0], "w": bell((96, 6, 5, 5), 7, 11)}
    constants |= {"ws": scales((96,), 8), "wz": np.zeros(96, np.int8)}
    nodes = [
        node("DequantizeLinear", "v vs", "a"), node("MatMul", "x a", "p"),
        node("DequantizeLinear", "w ws wz", "b", axis=0), node("Conv", "p b", "y"),
    ]  # fmt: skip
    return make_model(nodes, {"x": (np.float32, (1, 6, 64, 256))}, {"y": (np.float32, (1, 96, 60, 252))}, constants)


def one_weight_in_six_layers() -> onnx.ModelProto:
    """Each of them has scales of its own, one for each column."""
    constants = {"w": bell((1024, 1024), 9, 25), "ws": scales((1024,), 10), "wz": np.zeros(1024, np.int8)}
    constants |= {"s": np.float32(0.02), "z": np.uint8(128)}
    names = ["x", *"abcde", "y"]
    nodes = [node("QLinearMatMul", f"{x} s z w ws wz s z", y) for x, y in itertools.pairwise(names)]
    return make_model(nodes, {"x": (np.uint8, ["m", 1024])}, {"y": (np.uint8, ["m", 1024])}, constants)


def narrow_tables() -> onnx.ModelProto:
    """Look-ups in tables of 64 and of 256 columns, whose tiles are larger where the file is to be small."""
    constants = {"v": bell((20000, 64), 11, 20), "w": bell((6000, 256), 12, 20)}
    nodes = [node("Gather", "v i", "a"), node("Gather", "w i", "b")]
    return make_model(
        nodes, {"i": (np.int64, ["m"])}, {"a": (np.int8, ["m", 64]), "b": (np.int8, ["m", 256])}, constants
    )


def quantized_convolutions() -> onnx.ModelProto:
    """With a scale for each of many channels, for few weights each."""
    constants = {"s": np.float32(0.02), "z": np.uint8(128)}
    nodes = []
    for number, (x, y) in enumerate((("x", "a"), ("a", "y"))):
        constants |= {f"w{number}": bell((448, 448, 1, 1), number, 25), f"s{number}": scales((448,), number)}
        constants |= {f"z{number}": np.zeros(448, np.int8)}
        nodes.append(node("QLinearConv", f"{x} s z w{number} s{number} z{number} s z", y))
    image = (np.uint8, (1, 448, 8, 8))
    return make_model(nodes, {"x": image}, {"y": image}, constants)


@pytest.mark.parametrize(
    ("make", "lowered"),
    [
        (products, 2),
        (convolutions, 2),
        (decoded_constants, 2),
        (one_weight_in_six_layers, 6),
        (quantized_convolutions, 2),
        (narrow_tables, 2),
    ],
)
@pytest.mark.parametrize("at_open", [False, True])
def test_the_forecast_is_within_one_per_cent(make: object, lowered: int, at_open: bool, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(make().SerializeToString())  # type: ignore[operator]
    expected = forecast(inspect_model(source))
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=at_open, verify=False)
    assert report.totals.file_bytes_after is not None
    assert report.totals.lowered == lowered
    size = expected.at_open if at_open else expected.compressed
    assert size == pytest.approx(report.totals.file_bytes_after, rel=0.01)


@pytest.mark.parametrize("make", [products, convolutions, decoded_constants])
def test_every_byte_of_a_constant_is_accounted_for(make: object, tmp_path: Path) -> None:
    """Each int8 or uint8 constant of 1 KiB or more is listed, whatever became of it."""
    model = make()  # type: ignore[operator]
    source = tmp_path / "m.onnx"
    source.write_bytes(model.SerializeToString())
    held = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer if tensor.data_type in (2, 3)}
    large = {name: count for name, count in held.items() if count >= 1 << 10}
    for at_open in (False, True):
        report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=at_open, verify=False, force=True)
        assert {each.name: each.bytes_before for each in report.constants} == large
        assert report.totals.constant_bytes == sum(large.values())
    assert {each.name: each.bytes_before for each in inspect_model(source).constants} == large


def test_a_small_file_has_little_beside_its_narrow_tables(tmp_path: Path) -> None:
    """With one panel a tile, the table of 64 columns takes 3.4 % more than its entropy."""
    source = tmp_path / "m.onnx"
    source.write_bytes(narrow_tables().SerializeToString())
    for at_open, share in ((False, 1.06), (True, 1.02)):
        report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=at_open, force=True)
        assert report.proof is not None
        assert report.proof.proved
        for each in report.constants:
            assert (each.bytes_after or 0) < share * each.bytes_before * each.entropy_bits / 8
