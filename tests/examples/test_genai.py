"""The onnxruntime-genai example: genai itself generates with a tiny decoder, plain and compressed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import pytest
from lowering import make_model
from onnx import helper
from samples import ROOT, gaussian_weight, layer, write_external

VOCABULARY, HIDDEN, HEADS, HEAD_SIZE = 256, 128, 4, 32
PROMPT = [3, 5, 7]
LENGTH = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder, its weights in a file beside the model.

    The decoder has the inputs and outputs of a real one, and one layer that averages over what it has seen.
    """
    random = np.random.default_rng(7)
    constants = {
        "table": random.standard_normal((VOCABULARY, HIDDEN)).astype(np.float32),
        "w_kv": gaussian_weight(HIDDEN, HIDDEN, seed=1),
        "w_out": gaussian_weight(HIDDEN, VOCABULARY, seed=2),
        "w_scale": np.array(0.01, np.float32),
        "w_zero": np.array(0, np.int8),
        "heads": np.array([0, 0, HEADS, HEAD_SIZE]),
        "rows": np.array([0, 1, -1]),
        "length": np.array([2]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
        *layer("hidden", "w_kv", "kv"),
        helper.make_node("Reshape", ["kv", "heads"], ["kv_heads"]),
        helper.make_node("Transpose", ["kv_heads"], ["new"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
        helper.make_node("ReduceMean", ["present.0.value", "length"], ["mean"], keepdims=1),
        helper.make_node("Transpose", ["mean"], ["context_heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["context_heads", "rows"], ["context"]),
        helper.make_node("Add", ["hidden", "context"], ["mixed"]),
        *layer("mixed", "w_out", "logits"),
    ]
    ids = (np.int64, ("batch", "length"))
    past = (np.float32, ("batch", HEADS, "past", HEAD_SIZE))
    present = (np.float32, ("batch", HEADS, "total", HEAD_SIZE))
    caches = {"past_key_values.0.key": past, "past_key_values.0.value": past}
    model = make_model(
        nodes,
        {"input_ids": ids, "attention_mask": (np.int64, ("batch", "total")), **caches},
        {
            "logits": (np.float32, ("batch", "length", VOCABULARY)),
            "present.0.key": present,
            "present.0.value": present,
        },
        constants,
    )
    made = tmp_path / "plain"
    made.mkdir()
    write_external(model, made / "model.onnx", "model.onnx.data")
    decoder = {
        "filename": "model.onnx",
        "session_options": {"provider_options": []},
        "head_size": HEAD_SIZE,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": 1,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": VOCABULARY}
    config = {"model": {"type": "llama", "context_length": 64, **tokens, "decoder": decoder}, "search": {}}
    (made / "genai_config.json").write_text(json.dumps(config))
    (made / "tokenizer.json").write_text("{}")
    return made


def generate(folder: Path) -> tuple[list[int], bytes]:
    """Return the tokens that genai generates greedily, and the last logits."""
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=LENGTH, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(PROMPT)
    logits = b""
    while not generator.is_done():
        generator.generate_next_token()
        logits = np.asarray(generator.get_output("logits")).tobytes()
    return [int(token) for token in generator.get_sequence(0)], logits


def test_genai_generates_the_same_from_the_compressed_folder(folder: Path, tmp_path: Path) -> None:
    script = ROOT / "examples" / "genai" / "compress_folder.py"
    command = [sys.executable, str(script), "plain", "compressed"]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.startswith("2 of 2 multiplications compressed, to 1/1.")

    compressed = tmp_path / "compressed"
    assert sorted(path.name for path in compressed.iterdir()) == [
        "genai_config.json",
        "libmcd_ort.so",
        "model.onnx",
        "model.onnx_data",
        "tokenizer.json",
    ]
    config = json.loads((compressed / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"]["custom_ops_library"] == "libmcd_ort.so"

    tokens, logits = generate(folder)
    assert tokens[: len(PROMPT)] == PROMPT
    assert len(tokens) > len(PROMPT) + 2
    assert generate(compressed) == (tokens, logits)
