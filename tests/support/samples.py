"""Small quantised models for the tests of files and commands, and the real ones that the demo's package brings."""

import hashlib
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lowering import make_model
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[2]
K, N, TOKENS = 256, 128, 50


def gaussian_weight(k: int = K, n: int = N, *, sigma: float = 12.0, seed: int = 0) -> np.ndarray:
    """Return an int8 weight (k, n) with the histogram of a real one."""
    values = np.random.default_rng(seed).normal(0, sigma, (k, n)).round()
    return values.clip(-127, 127).astype(np.int8)


def uniform_weight(k: int = K, n: int = N, *, seed: int = 0) -> np.ndarray:
    """Return an int8 weight (k, n) that cannot be made smaller."""
    return np.random.default_rng(seed).integers(-128, 128, (k, n)).astype(np.int8)


def layer(source: str, weight: str, target: str) -> list[onnx.NodeProto]:
    """Return one dynamically quantised multiplication as onnxruntime's quantize_dynamic writes it."""
    return [
        helper.make_node("DynamicQuantizeLinear", [source], [f"{target}_q", f"{target}_s", f"{target}_z"]),
        helper.make_node(
            "MatMulInteger",
            [f"{target}_q", weight, f"{target}_z", "w_zero"],
            [f"{target}_acc"],
            name=f"/{target}/MatMul",
        ),
        helper.make_node("Cast", [f"{target}_acc"], [f"{target}_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{target}_s", "w_scale"], [f"{target}_scale"]),
        helper.make_node("Mul", [f"{target}_f", f"{target}_scale"], [target]),
    ]


def text_model(**weights: np.ndarray) -> onnx.ModelProto:
    """Return a model of token ids and a mask with three multiplications: by w1, by w2 and, shared, by w1 again.

    Shapes: ids and mask int64 (batch, length), output float32 (batch, length, N).
    """
    constants = {
        "table": np.random.default_rng(7).standard_normal((TOKENS, K)).astype(np.float32),
        "w1": gaussian_weight(seed=1),
        "w2": gaussian_weight(N, K, seed=2),
        "w_scale": np.array(0.01, np.float32),
        "w_zero": np.array(0, np.int8),
        "last": np.array([-1], np.int64),
        **weights,
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Cast", ["mask"], ["mask_f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_f", "last"], ["mask_1"]),
        helper.make_node("Mul", ["embedded", "mask_1"], ["hidden"]),
        *layer("hidden", "w1", "first"),
        *layer("first", "w2", "second"),
        *layer("second", "w1", "y"),
    ]
    ids = (np.int64, ("batch", "length"))
    model = make_model(nodes, {"ids": ids, "mask": ids}, {"y": (np.float32, ("batch", "length", N))}, constants)
    model.producer_name = "samples"
    model.metadata_props.add(key="author", value="nobody")
    return model


def encoder_model() -> onnx.ModelProto:
    """Return the text model with the names that encoders have for inputs and outputs."""
    model = text_model()
    names = {"ids": "input_ids", "mask": "attention_mask", "y": "last_hidden_state"}
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    return model


def float_model() -> onnx.ModelProto:
    """Return a model with nothing to compress."""
    constants = {"w": np.eye(4, dtype=np.float32)}
    shape = (np.float32, ("m", 4))
    return make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": shape}, {"y": shape}, constants)


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def write_external(model: onnx.ModelProto, path: Path, data: str, least: int = 1024) -> Path:
    """Write a model with its tensors of ``least`` bytes and more in the file ``data`` beside it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    with (path.parent / data).open("wb") as file:
        for tensor in copy.graph.initializer:
            if len(tensor.raw_data) < least:
                continue
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data), ("offset", file.tell()), ("length", len(tensor.raw_data))):
                tensor.external_data.add(key=key, value=str(value))
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
    return write(copy, path)


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory, hidden ones included."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def recipe() -> dict[str, Any]:
    """Return the recipe of the T5-small title model."""
    return tomllib.loads((ROOT / "models" / "t5-small-title.toml").read_text())


def real_model(name: str) -> Path:
    """Return the path of an installed model by its name in the recipe."""
    described = recipe()
    (path,) = (entry["path"] for entry in described["files"] if entry["name"] == name)
    spec = find_spec(described["source"]["module"])
    assert spec is not None, "pip install '.[test]' brings the models"
    assert spec.origin is not None
    return Path(spec.origin).parent / path
