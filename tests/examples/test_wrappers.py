"""Libraries that hide the session's options, where they are installed: ``enable()`` is all that they need."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import make_model, node
from onnx import TensorProto
from samples import N, encoder_model, gaussian_weight, write

import mcd_graph


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    mcd_graph.enable()
    yield
    mcd_graph.disable()


def test_fastembed(tmp_path: Path) -> None:
    fastembed = pytest.importorskip("fastembed")
    tokenizers = pytest.importorskip("tokenizers")
    described = pytest.importorskip("fastembed.common.model_description")
    words = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "a", "b", "c", "d"))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"pad_token_id": 0, "model_max_length": 16, "pad_token": "[PAD]"}
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_text(json.dumps(settings))
    write(encoder_model(), tmp_path / "model.onnx")
    mcd_graph.compress_model(tmp_path / "model.onnx", tmp_path / "model.mcd.onnx")

    def embed(file: str) -> np.ndarray:
        fastembed.TextEmbedding.add_custom_model(
            model=f"tests/{file}", model_file=file, dim=N, pooling=described.PoolingType.MEAN, normalization=True,
            sources=described.ModelSource(hf="tests/none"),
        )  # fmt: skip
        model = fastembed.TextEmbedding(f"tests/{file}", specific_model_path=str(tmp_path))
        return np.array(list(model.embed(["a b c", "d a"])))

    plain = embed("model.onnx")
    assert plain.shape == (2, N)
    assert embed("model.mcd.onnx").tobytes() == plain.tobytes()


def segmentation() -> onnx.ModelProto:
    """An image of 320 x 320 to a mask, by two dynamically quantised convolutions."""
    constants = {"s1": np.float32(0.01), "s2": np.float32(0.002), "zero": np.array(0, np.int8)}
    nodes, x = [], "image"
    for number, (channels, features) in enumerate(((3, 64), (64, 1)), 1):
        weight = gaussian_weight(channels * 9, features, seed=number)
        constants[f"w{number}"] = weight.T.reshape(features, channels, 3, 3)
        quantize = node("DynamicQuantizeLinear", x, f"q{number}")
        quantize.output.extend([f"qs{number}", f"qz{number}"])
        nodes += [
            quantize,
            node("ConvInteger", f"q{number} w{number} qz{number} zero", f"acc{number}", pads=[1] * 4),
            node("Cast", f"acc{number}", f"f{number}", to=TensorProto.FLOAT),
            node("Mul", f"qs{number} s{number}", f"scale{number}"),
            node("Mul", f"f{number} scale{number}", f"y{number}"),
        ]
        x = f"y{number}"
    side = 320
    return make_model(
        nodes, {"image": (np.float32, (1, 3, side, side))}, {x: (np.float32, (1, 1, side, side))}, constants
    )


def test_rembg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rembg = pytest.importorskip("rembg")
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))  # it opens no model outside of it
    write(segmentation(), tmp_path / "model.onnx")
    report = mcd_graph.compress_model(tmp_path / "model.onnx", tmp_path / "model.mcd.onnx", force_larger=True)
    assert report.totals.lowered
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)

    def mask(file: str) -> bytes:
        session = rembg.new_session("u2net_custom", model_path=str(tmp_path / file))
        (found,) = session.predict(image.fromarray(pixels))
        assert len(set(found.tobytes())) > 1
        return bytes(found.tobytes())

    assert mask("model.mcd.onnx") == mask("model.onnx")
