"""A small W8A8S model folder as msModelSlim leaves it, and a simulation of vLLM-Ascend's loader and its layers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from mcd_graph.ascend import npu_matmul_compress_dequant

HIDDEN, HEADS, KEYS, HEAD, MIDDLE, LAYERS, VOCABULARY = 512, 8, 2, 128, 1024, 2, 200
SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": (KEYS * HEAD, HIDDEN),
    "self_attn.v_proj": (KEYS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (MIDDLE, HIDDEN),
    "mlp.up_proj": (MIDDLE, HIDDEN),
    "mlp.down_proj": (HIDDEN, MIDDLE),
}
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "head_dim": HEAD,
    "intermediate_size": MIDDLE,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}


@dataclasses.dataclass
class Model:
    """What is in the folder; change it before ``save``."""

    tensors: dict[str, np.ndarray]
    description: dict[str, Any]
    config: dict[str, Any]

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(self.tensors)
        shards = {f"model-0000{at + 1}-of-00002.safetensors": names[at::2] for at in range(2)}
        for file, members in shards.items():
            save_file({name: self.tensors[name] for name in members}, folder / file, {"format": "pt"})
        index = {name: file for file, members in shards.items() for name in members}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        (folder / "quant_model_description.json").write_text(json.dumps(self.description))
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "chat").mkdir(exist_ok=True)
        (folder / "chat" / "template.jinja").write_text("{{ messages }}")
        return folder


def small_model(seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    description: dict[str, Any] = {"model_quant_type": "W8A8S", "version": "1.0.0"}

    def add(name: str, array: np.ndarray, kind: str) -> None:
        tensors[name], description[name] = array, kind

    for name, shape in {"model.embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN)}.items():
        add(f"{name}.weight", rng.normal(size=shape).astype(np.float16), "FLOAT")
    add("model.norm.weight", np.ones(HIDDEN, np.float16), "FLOAT")
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm, size in {
            "input_layernorm": HIDDEN,
            "post_attention_layernorm": HIDDEN,
            "self_attn.q_norm": HEAD,
        }.items():
            add(f"{prefix}.{norm}.weight", rng.normal(size=size).astype(np.float16), "FLOAT")
        for name, (n, k) in SHAPES.items():
            sparse = rng.integers(-9, 10, (n, k)) * (rng.random((n, k)) < 0.5)
            shared = np.array([0.0625 if "proj" in name and name[0] == "s" else 0.125], np.float16)
            add(f"{prefix}.{name}.weight", sparse.astype(np.int8), "W8A8S")
            add(f"{prefix}.{name}.input_scale", shared, "W8A8S")
            add(f"{prefix}.{name}.input_offset", np.array([3], np.int8), "W8A8S")
            add(f"{prefix}.{name}.quant_bias", rng.integers(-999, 999, n, np.int32), "W8A8S")
            scale = rng.uniform(1e-4, 1e-3, n).astype(np.float32)
            add(f"{prefix}.{name}.deq_scale", scale.view(np.int32).astype(np.int64), "W8A8S")
    return Model(tensors, description, dict(CONFIG))


# ---------------------------------------------------------------------------------------------------------------------
# vLLM-Ascend's side, by its public sources: parameters of W8A8SC layers and their shapes, the loader, the calls.


def parameters(ranks: int, types: dict[str, str]) -> dict[str, np.ndarray]:
    """The parameters of one rank's model before they are loaded, filled with noise."""
    rng = np.random.default_rng(99)
    keys = max(1, KEYS // ranks) * HEAD
    sizes = {
        "self_attn.qkv_proj": (HEADS * HEAD // ranks + 2 * keys, HIDDEN, "self_attn.q_proj"),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD // ranks, "self_attn.o_proj"),
        "mlp.gate_up_proj": (2 * MIDDLE // ranks, HIDDEN, "mlp.gate_proj"),
        "mlp.down_proj": (HIDDEN, MIDDLE // ranks, "mlp.down_proj"),
    }
    padded = VOCABULARY + -VOCABULARY % 64
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "model.embed_tokens.weight": ((padded // ranks, HIDDEN), np.float16),
        "lm_head.weight": ((padded // ranks, HIDDEN), np.float16),
        "model.norm.weight": ((HIDDEN,), np.float16),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm, size in {
            "input_layernorm": HIDDEN,
            "post_attention_layernorm": HIDDEN,
            "self_attn.q_norm": HEAD,
        }.items():
            shapes[f"{prefix}.{norm}.weight"] = ((size,), np.float16)
        for name, (n, k, first) in sizes.items():
            base = f"{prefix}.{name}"
            if types[f"{prefix}.{first}.weight"] == "W8A8SC":
                shapes[f"{base}.weight"] = ((n * k,), np.int8)
                shapes[f"{base}.index"] = ((-(-k // 256) * -(-n // 128) * 8,), np.int8)
                shapes[f"{base}.info"] = ((5,), np.int64)
            else:
                shapes[f"{base}.weight"] = ((n, k), np.int8)
            for part, one, dtype in (
                ("input_scale", 1, np.float16),
                ("input_offset", 1, np.int8),
                ("quant_bias", n, np.int32),
                ("deq_scale", n, np.int64),
            ):
                shapes[f"{base}.{part}"] = ((one,), dtype)
    return {name: rng.integers(-100, 100, shape).astype(dtype) for name, (shape, dtype) in shapes.items()}


def load(folder: Path, rank: int, ranks: int) -> dict[str, np.ndarray]:
    """Load a rank as the sharded-state loader does: into the front of each parameter, and none may be left."""
    types = json.loads((folder / "quant_model_description.json").read_text())
    assert types["model_quant_type"] == "W8A8SC"
    state = parameters(ranks, types)
    left = set(state)
    files = sorted(folder.glob(f"model-rank-{rank}-part-*.safetensors"))
    assert files
    for path in files:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                window = state[name]  # a KeyError there, and here
                for dim, size in enumerate(tensor.shape):
                    if size < state[name].shape[dim]:
                        window = window[(slice(None),) * dim + (slice(size),)]
                assert tensor.shape == window.shape, (name, tensor.shape, window.shape)
                window[...] = tensor
                left.remove(name)
    assert not left, f"Missing keys {left} in loaded state!"
    return state


def run(state: dict[str, np.ndarray], name: str, x1: np.ndarray, rank: int) -> np.ndarray:
    """Call a W8A8SC layer of a rank: only rank 0 adds the bias of a layer whose results are added up."""
    bias, scale = state[f"{name}.quant_bias"][None], state[f"{name}.deq_scale"][None].astype(np.uint64)
    if rank and name.endswith(("o_proj", "down_proj")):
        bias = np.zeros_like(bias)
    return npu_matmul_compress_dequant(x1, state[f"{name}.weight"], state[f"{name}.index"], bias, scale)
