"""Originals that end the process inside of onnxruntime: what is asked, and what is proved, goes on without them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import integers, lower, make_model, scales
from onnx import helper

import mcd_graph
from mcd_graph import proof, verify
from mcd_graph.inspection import inspect_model
from mcd_graph.isolation import death_of
from mcd_graph.passes import ReasonCode
from mcd_graph.passes.engine import optimized

K, N = 64, 96


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def model(*, qdq: bool) -> onnx.ModelProto:
    constants = {
        "w": np.asarray(integers(np.int8, (K, N), 1) // 16, np.int8), "ws": scales((), 2), "xs": scales((), 3, 0.1),
        "xz": np.array(120, np.uint8), "wz": np.array(0, np.int8),
    }  # fmt: skip
    static = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="mm"),
    ]
    dynamic = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["a"], name="mm"),
        helper.make_node("Cast", ["a"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "ws"], ["y"]),
    ]
    nodes = static if qdq else dynamic
    used = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in constants.items() if name in used}
    return make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def test_ctrl_c_while_the_process_forks_is_not_lost() -> None:
    """Modules have something done then, such as logging its locks; Python prints what that raises, and goes on."""
    script = """
import os, signal
from mcd_graph.isolation import death_of
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    death_of(lambda: None, seconds=30)
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")


@pytest.mark.parametrize(
    ("work", "death"),
    [(os.abort, "SIGABRT"), (die, "SIGSEGV"), (lambda: 1 // 0, None), (lambda: None, None)],
    ids=["abort", "segmentation fault", "exception", "nothing"],
)
def test_a_death_is_told(work: Callable[[], object], death: str | None) -> None:
    assert death_of(work, seconds=30) == death


def test_work_that_takes_too_long_is_ended() -> None:
    begin = time.monotonic()
    assert death_of(lambda: time.sleep(60), seconds=0.1) is None
    assert time.monotonic() - begin < 30


def test_what_onnxruntime_says_of_every_lowered_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no session of a lowered node opens, whatever the reason, the site has it."""
    monkeypatch.setenv("MCD_KERNEL", "abacus")
    (site,) = lower(model(qdq=False)).plan.sites
    assert (site.status, site.code) == ("kept", ReasonCode.CANNOT_ASK)
    assert "abacus" in (site.reason or "")


def test_what_ends_the_process_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the answer is kept, and the rest is lowered."""
    monkeypatch.setattr(optimized, "_optimize", die)
    (site,) = lower(model(qdq=True)).plan.sites
    assert (site.status, site.code) == ("kept", ReasonCode.CANNOT_ASK)
    assert "it ends its process (SIGSEGV)" in (site.reason or "")
    (site,) = lower(model(qdq=False)).plan.sites
    assert site.status == "lowered"


def test_inspect_and_compress_outlive_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(model(qdq=False).SerializeToString())
    monkeypatch.setattr(optimized, "_optimize", die)
    monkeypatch.setattr(proof, "_run", die)
    assert [node.status for node in inspect_model(source).nodes] == ["lowerable"]
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", force_larger=True)
    assert [node.status for node in report.nodes] == ["lowered"]
    assert report.proof is not None
    assert report.proof.reason == "onnxruntime ends its process when it runs the original (SIGSEGV)"


@pytest.mark.parametrize("which", ["original", "compressed"])
def test_verify_outlives_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    paths = {name: tmp_path / f"{name}.onnx" for name in ("original", "compressed")}
    for path in paths.values():
        path.write_bytes(model(qdq=False).SerializeToString())
    run = verify._run

    def deadly(session: object, path: object, feed: object) -> object:
        return die() if str(path) == str(paths[which]) else run(session, path, feed)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "_run", deadly)
    with pytest.raises(mcd_graph.InputError, match=f"{which}.onnx, the {which}: .*SIGSEGV"):
        mcd_graph.verify_model(*paths.values())
