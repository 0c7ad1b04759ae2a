"""Models that need another library of operators as well: onnxruntime is asked, and both models run, with it at hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import floats, integers, make_model, scales
from onnx import helper
from onnxruntime_extensions import get_library_path
from samples import write
from typer.testing import CliRunner

import mcd_graph
import mcd_graph.bench
from mcd_graph.cli.app import app
from mcd_graph.inspection import inspect_model
from mcd_graph.passes import ReasonCode

OTHERS = "ai.onnx.contrib"  # the domain of onnxruntime-extensions
K, N = 256, 128


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A QDQ multiplication, whose arithmetic is onnxruntime's to say, in front of another library's operator."""
    constants = {
        "xs": scales((), 1, 0.1), "xz": np.array(117, np.uint8), "w": integers(np.int8, (K, N), 3) // 8,
        "ws": scales((), 4), "wz": np.zeros((), np.int8), "ys": scales((), 6, 4), "yz": np.array(120, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["r"], name="product"),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
        helper.make_node("NegPos", ["y"], ["negative", "positive"], domain=OTHERS),
    ]
    shape = (np.float32, ("m", N))
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, dict.fromkeys(("negative", "positive"), shape), constants)
    model.opset_import.append(helper.make_opsetid(OTHERS, 1))
    return write(model, tmp_path / "foreign.onnx")


def test_with_the_library_it_is_lowered_and_proved(foreign: Path, out: Path) -> None:
    report = mcd_graph.compress_model(foreign, out / "c.onnx", custom_ops=[get_library_path()])
    assert [(node.name, node.status) for node in report.nodes] == [("product", "lowered")]
    assert report.proof is not None
    assert report.proof.proved
    options = mcd_graph.session_options()
    options.register_custom_ops_library(get_library_path())
    feed = {"x": floats((5, K), 1)}
    ours, theirs = (
        mcd_graph.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feed)
        for path in (out / "c.onnx", foreign)
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def test_without_it_the_reason_names_the_option(foreign: Path, out: Path) -> None:
    (node,) = inspect_model(foreign).nodes
    assert node.code == ReasonCode.CANNOT_ASK
    assert "--custom-ops" in ReasonCode.CANNOT_ASK.remedy
    (node,) = inspect_model(foreign, custom_ops=[get_library_path()]).nodes
    assert node.status == "lowerable"
    with pytest.raises(mcd_graph.NothingToCompressError):
        mcd_graph.compress_model(foreign, out / "c.onnx")


@pytest.mark.parametrize("command", ["compress", "inspect", "verify"])
def test_on_the_command_line(foreign: Path, out: Path, command: str) -> None:
    library, compressed = ["--custom-ops", get_library_path()], str(out / "c.onnx")
    runner = CliRunner()
    arguments = {
        "compress": [str(foreign), compressed],
        "inspect": [str(foreign)],
        "verify": [str(foreign), str(foreign)],
    }[command]
    result = runner.invoke(app, [command, *arguments, *library])
    assert result.exit_code == 0, result.output
    assert {"compress": "proved", "inspect": "1 lowerable", "verify": "identical"}[command] in result.output


def test_a_library_that_is_none(foreign: Path, out: Path) -> None:
    with pytest.raises(mcd_graph.InputError, match=r"nothing\.so"):
        mcd_graph.compress_model(foreign, out / "c.onnx", custom_ops=["nothing.so"])
    assert not list(out.iterdir())
    assert onnx.load(foreign).graph.node


def test_bench_makes_the_compressed_model_with_it(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compressed model, one is made: with the library, or nothing of it would be compressed."""
    seen: list[object] = []
    monkeypatch.setattr("mcd_graph.bench.compress_model", lambda *_, **given: seen.append(given["custom_ops"]))
    monkeypatch.setattr("mcd_graph.bench._setups", lambda *_: pytest.skip("made"))
    with pytest.raises(pytest.skip.Exception):
        mcd_graph.bench.bench_models(foreign, m=[1], custom_ops=[get_library_path()])
    assert seen == [[get_library_path()]]
