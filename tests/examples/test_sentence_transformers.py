"""The example for sentence-transformers, where that is installed, with a folder as its own models have it."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from samples import ROOT, TOKENS, N, encoder_model, write

import mcd_graph

pytestmark = pytest.mark.skipif(
    find_spec("sentence_transformers") is None or find_spec("optimum") is None,
    reason="sentence-transformers is not installed: pip install 'mcd-graph[integrations]'",
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(ord("a") + index) for index in range(20))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert len(WORDS) <= TOKENS
    made = tmp_path / "folder"
    for name in ("onnx", "1_Pooling"):
        (made / name).mkdir(parents=True)
    write(encoder_model(), made / "onnx" / "model.onnx")
    module = "sentence_transformers.models"
    files = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_size": N, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": N, "vocab_size": TOKENS,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 16},
        "1_Pooling/config.json": {"word_embedding_dimension": N, "pooling_mode_mean_tokens": True},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 16},
    }  # fmt: skip
    for name, content in files.items():
        (made / name).write_text(json.dumps(content))
    (made / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return made


def test_it_embeds_the_same(folder: Path) -> None:
    mcd_graph.compress_model(folder / "onnx" / "model.onnx", folder / "onnx" / "model.mcd.onnx")
    script = ROOT / "examples" / "python" / "embed.py"

    def embed(model: str) -> str:
        command = [sys.executable, str(script), str(folder), model, "a b c", "t s"]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    plain, compressed = embed("onnx/model.onnx"), embed("onnx/model.mcd.onnx")
    assert [len(vector) for vector in json.loads(plain)] == [N, N]
    assert compressed == plain

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "sentence_transformers" in each]
    command = [sys.executable, "-P", "-c", f"{block}\nprint(model.encode(['a b c', 't s']).tolist())"]
    printed = subprocess.run(command, cwd=folder.parent, check=True, capture_output=True, text=True).stdout
    assert printed == plain
