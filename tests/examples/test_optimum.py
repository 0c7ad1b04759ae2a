"""README's lines and the example for optimum, where that is installed, with the T5 that the demonstration has."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from samples import ROOT, real_model

import mcd_graph

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("optimum", "transformers", "torch", "traceforge_title_model")),
    reason="optimum is not installed: pip install 'mcd-graph[demo,integrations]'",
)

CONFIG = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 512, "d_ff": 1024, "d_kv": 64,
    "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6, "vocab_size": 32128, "decoder_start_token_id": 0,
    "pad_token_id": 0, "eos_token_id": 1, "is_encoder_decoder": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as optimum keeps it, as it was shipped."""
    made = tmp_path / "int8"
    made.mkdir()
    for name in ("encoder", "decoder"):
        shutil.copy(real_model(f"t5-small-title-{name}"), made / f"{name}_model.onnx")
    shutil.copy(real_model("t5-small-title-encoder").with_name("tokenizer.json"), made)
    for file, content in (
        ("config.json", CONFIG),
        ("generation_config.json", {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}),
    ):
        (made / file).write_text(json.dumps(content))
    return made


def run(*arguments: object, cwd: Path) -> str:
    """Run Python; return what it prints."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_it_generates_the_same(folder: Path) -> None:
    small = folder.parent / "folder"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.onnx"))
    for path in folder.glob("*.onnx"):
        mcd_graph.compress_model(path, small / path.name)
    script = ROOT / "examples" / "python" / "translate.py"
    text = "summarize: the parser fails on empty lines and on lines of blanks"
    plain, compressed = (run(script, each.name, text, cwd=folder.parent) for each in (folder, small))
    assert plain.strip()
    assert compressed == plain

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "optimum" in each]
    assert "ORTModelForSeq2SeqLM" in run("-P", "-c", f"{block}\nprint(type(model).__name__)", cwd=folder.parent)
