"""Decoded weights in a folder, for all processes that name it (`mcd.decoded_folder`)."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from lowering import make_model
from onnx import TensorProto, helper
from samples import write

import mcd_graph

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file there can be removed while it is mapped")

ROWS, K, N = 700, 128, 640
FEEDS = {"ids": np.arange(0, ROWS, 9)}

# Argv: the model and the folder. Prints of a run the first bytes, and which files with weights are mapped; then waits.
CHILD = """
import re, sys
from pathlib import Path
import numpy as np
import mcd_graph

session = mcd_graph.InferenceSession(sys.argv[1], residency="decoded", decoded_folder=sys.argv[2])
outputs = session.run(None, {"ids": np.arange(0, 700, 9)})
maps = re.findall(r"(\\d+) +(/\\S+mcd-decoded)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
print(outputs[0].tobytes().hex()[:64], sorted(set(maps)), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table whose rows are looked up and multiplied, each of more than 64 KiB; original and compressed."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "ts", "tz"], ["x"]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["y"]),
    ]
    constants = {
        "table": np.asarray(random.normal(0, 12, (ROWS, K)), np.int8), "ts": np.float32(0.1), "tz": np.int8(0),
        "w": np.asarray(random.normal(0, 12, (K, N)), np.int8), "wz": np.int8(0), "ws": np.float32(0.01),
    }  # fmt: skip
    constants = {name: np.asarray(array) for name, array in constants.items()}
    model = make_model(nodes, {"ids": (np.int64, ("m",))}, {"y": (np.float32, ("m", N))}, constants)
    folder = tmp_path_factory.mktemp("models")
    original, compressed = folder / "m.onnx", folder / "m.mcd.onnx"
    write(model, original)
    assert mcd_graph.compress_model(original, compressed).totals.lowered == 2
    return original, compressed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decoded"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("residency", ["auto", "decoded", "compressed"])
def test_results_are_the_same_and_files_go_with_the_session(
    models: tuple[Path, Path], folder: Path, residency: Any
) -> None:
    original, compressed = models
    expected = ort.InferenceSession(original).run(None, FEEDS)[0]
    session = mcd_graph.InferenceSession(compressed, residency=residency, decoded_folder=folder)
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, FEEDS)[0], expected)
    assert len(files(folder)) == (0 if residency == "compressed" else 2)
    assert folder.stat().st_mode & 0o777 == 0o700
    del session
    gc.collect()
    assert files(folder) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what a process has mapped")
def test_processes_share_files_and_what_a_killed_one_leaves_is_removed(models: tuple[Path, Path], folder: Path) -> None:
    command = [sys.executable, "-P", "-c", CHILD, str(models[1]), str(folder)]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        lines = [child.stdout.readline() for child in children if child.stdout]
        assert lines[0].count("mcd-decoded") == 2
        assert lines == [lines[0]] * 3
        there = files(folder)
        assert len(there) == 2
        children[0].communicate("")
        assert files(folder) == there
        for child in children[1:]:
            child.kill()
            child.wait()
    assert files(folder) == there
    session = mcd_graph.InferenceSession(models[1], residency="decoded", decoded_folder=folder)
    assert files(folder) == []
    del session


def test_every_session_of_a_process(models: tuple[Path, Path], folder: Path) -> None:
    mcd_graph.enable(residency="decoded", decoded_folder=folder)
    try:
        session = ort.InferenceSession(models[1])
    finally:
        mcd_graph.disable()
    session.run(None, FEEDS)
    assert len(files(folder)) == 2


def test_weights_stay_in_memory_where_the_folder_has_gone(
    models: tuple[Path, Path], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = mcd_graph.InferenceSession(models[1], residency="auto", decoded_folder=folder)
    shutil.rmtree(folder)
    expected = ort.InferenceSession(models[0]).run(None, FEEDS)[0]
    np.testing.assert_array_equal(session.run(None, FEEDS)[0], expected)
    if "MCD_KERNEL" not in os.environ:
        assert f'mcd.decoded_folder "{folder}"' in capfd.readouterr().err


def test_a_folder_that_others_may_write_to_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Exception, match=r"mcd\.decoded_folder is .*: others than its owner"):
        mcd_graph.InferenceSession(models[1], decoded_folder=tmp_path)
