"""The Python example."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT

import mcd_graph


def test_it_runs_a_model_from_its_file_and_from_bytes(model: Path, out: Path) -> None:
    compressed = out / "model.mcd.onnx"
    mcd_graph.compress_model(model, compressed)
    script = ROOT / "examples" / "python" / "from_bytes.py"
    # From another folder than the model's: the bytes do not know where they come from.
    command = [sys.executable, str(script), str(compressed)]
    result = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "y float32 (1, 1, 128): the same both ways\n"


def test_bytes_are_enough_when_the_weights_are_inline(
    example: Callable[[str], ModuleType], model: Path, out: Path
) -> None:
    compressed = out / "model.mcd.onnx"
    mcd_graph.compress_model(model, compressed, inline=True)
    assert [path.name for path in out.iterdir()] == ["model.mcd.onnx"]
    module = example("python/from_bytes.py")
    session, original = module.from_bytes(compressed.read_bytes()), module.from_file(model)
    feed = module.ones(original)
    (ours,), (theirs,) = session.run(None, feed), original.run(None, feed)
    assert ours.tobytes() == theirs.tobytes()


def test_bytes_alone_lack_the_weights(example: Callable[[str], ModuleType], model: Path, out: Path) -> None:
    compressed = out / "model.mcd.onnx"
    mcd_graph.compress_model(model, compressed)
    module = example("python/from_bytes.py")
    with pytest.raises(Exception, match=r"model\.mcd\.onnx_data"):
        module.from_bytes(compressed.read_bytes())


def run(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / "python" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_bound_memory(model: Path, out: Path) -> None:
    mcd_graph.compress_model(model, out / "model.mcd.onnx")
    assert run("io_binding.py", "model.mcd.onnx", cwd=out) == "y: the same\n"


def test_onnxruntimes_own_format(example: Callable[[str], ModuleType], model: Path, out: Path) -> None:
    mcd_graph.compress_model(model, out / "model.mcd.onnx", inline=True)
    assert run("ort_format.py", "model.mcd.onnx", "model.ort", cwd=out).startswith("model.ort: ['ids', 'mask'], ")
    module = example("python/from_bytes.py")
    session, original = module.from_file(out / "model.ort"), module.from_file(model)
    feed = module.ones(original)
    (ours,), (theirs,) = session.run(None, feed), original.run(None, feed)
    assert ours.tobytes() == theirs.tobytes()
    assert (out / "model.ort").stat().st_size < model.stat().st_size
