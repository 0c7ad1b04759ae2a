"""Constants that are restored at opening need no memory of their own, once a session has read them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from lowering import floats, make_model, node

import mcd_graph

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

K, N = 1024, 1536


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a weight of 1.5 MiB that onnxruntime folds into floats."""
    folder = tmp_path_factory.mktemp("opening")
    weight = np.clip(np.rint(floats((K, N), 1) * 12), -127, 127).astype(np.int8)
    nodes = [node("Cast", "w", "f", to=1), node("Mul", "f s", "d"), node("MatMul", "x d", "y")]
    values = {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}
    model = make_model(nodes, *values, {"w": weight, "s": np.float32(0.02)})
    (folder / "plain.onnx").write_bytes(model.SerializeToString())
    mcd_graph.compress_model(folder / "plain.onnx", folder / "m.onnx", at_open=True)
    return folder / "m.onnx"


def resident() -> list[int]:
    """Return, of each file without a name that is mapped, how many kilobytes of it are in memory."""
    found, ours = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            ours = line.endswith("(deleted)") and "/mcd-" not in line and " r--s " in line
        elif ours and line.startswith("Rss:"):
            found.append(int(line.split()[1]))
    return found


def in_process(compressed: Path, code: str, **environment: str) -> str:
    """Run code in a process of its own; return what it prints."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); path = {str(compressed)!r}\n"
    start += f"sys.path.insert(0, {str(Path(__file__).parent / 'support')!r})\n"
    start += "import numpy as np, onnxruntime, mcd_graph\nfrom test_opening import K, resident\n"
    end = "\nx = np.ones((2, K), np.float32)\nprint(resident(), float(session.run(None, {'x': x})[0].sum()))"
    command = [sys.executable, "-P", "-c", start + code + end]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def total(compressed: Path) -> float:
    plain = onnxruntime.InferenceSession(compressed.with_name("plain.onnx"), providers=["CPUExecutionProvider"])
    return float(plain.run(None, {"x": np.ones((2, K), np.float32)})[0].sum())


@pytest.mark.parametrize("how", ["class", "enable"])
def test_sessions_let_go_of_their_pages(compressed: Path, how: str) -> None:
    code = {
        "class": "session = mcd_graph.InferenceSession(path)",
        "enable": "mcd_graph.enable(); session = onnxruntime.InferenceSession(path)",
    }[how]
    assert in_process(compressed, code) == f"[0] {total(compressed)}\n"


def test_pages_that_are_dropped_come_back(compressed: Path) -> None:
    code = """options = mcd_graph.session_options(model=path)
first = onnxruntime.InferenceSession(path, options)
assert resident()[0] >= 1536
from mcd_graph.opening import dropping_pages
with dropping_pages(): assert resident() != []
assert resident() == [0]
session = onnxruntime.InferenceSession(path, options)
assert resident()[0] >= 1536"""
    with_pages = in_process(compressed, code)
    assert with_pages.split("] ")[1] == f"{total(compressed)}\n"


def test_without_a_place_for_the_file_they_are_in_memory(compressed: Path) -> None:
    code = "session = mcd_graph.InferenceSession(path)"
    assert in_process(compressed, code, TMPDIR="/nowhere/at/all") == f"[] {total(compressed)}\n"
