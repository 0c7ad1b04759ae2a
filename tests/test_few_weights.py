"""Models whose weights are few: sessions decode these once, so that they are stored in as few bytes as can be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import assert_same_bytes, floats, make_model, node, run, scales
from onnx import numpy_helper

import mcd_graph
from mcd_graph.runtime.sessions import Residency

TAIL = 2
"""The bit of a header's byte 48 that says that there is no tail."""


def bell(shape: tuple[int, ...], seed: int, spread: float = 9) -> np.ndarray:
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, spread, shape)), -127, 127).astype(np.int8)


def model_of(n: int) -> onnx.ModelProto:
    """A look-up, a convolution, a multiplication with ``n`` columns, and a weight that is decoded at every run."""
    constants = {"table": bell((300, 72), 1), "kernel": bell((40, 3, 3, 3), 2), "w": bell((72, n), 3)}
    constants |= {"ts": np.float32(0.02), "one": np.uint8(1), "shape": np.array([1, 3, -1, 8])}
    constants |= {"batch": bell((4, 72, 1000), 4), "bs": scales((), 5)}
    nodes = [
        node("Gather", "table ids", "rows"), node("DequantizeLinear", "rows ts", "x"),
        node("DynamicQuantizeLinear", "x", "q"),
        node("MatMulInteger", "q w qz", "i"), node("Cast", "i", "f", to=1),
        node("DequantizeLinear", "batch bs", "floats"), node("MatMul", "x floats", "z"),
        node("Reshape", "q shape", "image"), node("ConvInteger", "image kernel one", "c"),
    ]  # fmt: skip
    nodes[2].output.extend(["qs", "qz"])
    outputs = {"f": (np.float32, ("m", n)), "z": (np.float32, (4, "m", 1000)), "c": (np.int32, (1, 40, "h", 6))}
    return make_model(nodes, {"ids": (np.int64, ["m"])}, outputs, constants)


def left_out(path: Path) -> dict[str, int]:
    """Return what the streams of a compressed model leave out, by name."""
    tensors = onnx.load(path).graph.initializer
    return {
        each.name.removesuffix(".x2"): int(numpy_helper.to_array(each).view(np.uint8)[48])
        for each in tensors
        if each.name.endswith(".x2")
    }


@pytest.mark.parametrize("profile", ["balanced", "small", "fast"])
def test_what_is_decoded_once_is_stored_without_a_tail(tmp_path: Path, profile: str) -> None:
    (tmp_path / "plain.onnx").write_bytes(model_of(100).SerializeToString())
    mcd_graph.compress_model(tmp_path / "plain.onnx", tmp_path / "m.onnx", profile=profile)
    once = {name for name, bits in left_out(tmp_path / "m.onnx").items() if bits & TAIL}
    assert once == (set() if profile == "fast" else {"table", "kernel", "w"})
    assert "batch" in left_out(tmp_path / "m.onnx")


def test_of_many_weights_none_is(tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(model_of(60_000).SerializeToString())
    mcd_graph.compress_model(tmp_path / "plain.onnx", tmp_path / "m.onnx")
    assert not any(bits & TAIL for bits in left_out(tmp_path / "m.onnx").values())


@pytest.mark.parametrize("residency", ["auto", "compressed", "decoded"])
@pytest.mark.parametrize("inline", [False, True])
def test_the_bytes_are_the_same(tmp_path: Path, residency: Residency, inline: bool) -> None:
    model = model_of(100)
    (tmp_path / "plain.onnx").write_bytes(model.SerializeToString())
    mcd_graph.compress_model(tmp_path / "plain.onnx", tmp_path / "m.onnx", inline=inline)
    session = mcd_graph.InferenceSession(tmp_path / "m.onnx", residency=residency)
    for rows in (1, 4, 70):
        feeds = {"ids": np.abs(floats((rows * 8,), rows) * 80).astype(np.int64) % 300}
        assert_same_bytes(session.run(None, feeds), run(model, feeds, optimize=True))
