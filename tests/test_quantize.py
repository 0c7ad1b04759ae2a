"""Float models that are quantised on the way: onnxruntime's quantiser, then ours; sizes and outputs are compared."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from samples import write

import mcd_graph
from mcd_graph.report.html import render_report


def float_model(*, operator: str = "MatMul", row: float = 0.0) -> onnx.ModelProto:
    """A table and two layers in float32, weights as trained ones are distributed."""
    rng = np.random.default_rng(3)
    constants = {
        "table": rng.standard_normal((500, 64)),
        "w1": rng.standard_normal((64, 256)) * 0.1,
        "w2": rng.standard_normal((256, 64)) * 0.1,
    }
    constants["table"][499] += row
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node(operator, ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node(operator, ["r", "w2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The float model in a file."""
    return write(float_model(), tmp_path / "float.onnx")


@pytest.mark.parametrize("form", ["dynamic", "dynamic-per-channel"])
def test_a_float_model_is_quantized_and_compressed(path: Path, out: Path, form: str) -> None:
    report = mcd_graph.compress_model(path, out / "m.onnx", quantize=form)
    assert report.input == str(path)
    assert report.totals.lowered >= 2
    assert report.proof is not None
    assert report.proof.proved
    found = report.quantization
    assert found is not None
    assert (found.form, found.float_bytes) == (form, path.stat().st_size)
    assert report.totals.file_bytes_before == found.int8_bytes < found.float_bytes / 3
    by_form = {each.form: each for each in found.forms}
    assert by_form["dynamic"].entropy_bytes < by_form["dynamic-per-channel"].entropy_bytes
    assert all(0.99 < (each.cosine or 0) <= 1 for each in found.forms)
    feed = {"ids": np.arange(7)}
    ours = mcd_graph.InferenceSession(out / "m.onnx").run(None, feed)[0]
    (float_y,) = mcd_graph.InferenceSession(path).run(None, feed)
    assert 0 < np.abs(ours - float_y).max() < 0.2 * np.abs(float_y).max()


def test_what_is_compressed_is_what_onnxruntime_makes(path: Path, out: Path) -> None:
    quant_pre_process(path, out / "prepared.onnx", skip_symbolic_shape=True)
    quantize_dynamic(out / "prepared.onnx", out / "int8.onnx")
    mcd_graph.compress_model(path, out / "m.onnx", quantize="dynamic")
    assert mcd_graph.verify_model(out / "int8.onnx", out / "m.onnx").identical


def test_a_proto(out: Path) -> None:
    report = mcd_graph.compress_model(float_model(), out / "m.onnx", quantize="dynamic")
    assert report.totals.lowered >= 2


def test_an_int8_model_is_not_quantized_again(model: Path, out: Path) -> None:
    with pytest.raises(mcd_graph.InputError, match="holds int8 weights already"):
        mcd_graph.compress_model(model, out / "m.onnx", quantize="dynamic")
    assert not list(out.iterdir())


def test_another_form_is_refused(path: Path, out: Path) -> None:
    with pytest.raises(mcd_graph.InputError, match="dynamic-per-channel"):
        mcd_graph.compress_model(path, out / "m.onnx", quantize="static")  # type: ignore[arg-type]


def test_the_float_model_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(mcd_graph.InputError):
        mcd_graph.compress_model(path, path, quantize="dynamic")
    assert path.read_bytes() == before


def test_a_model_that_the_quantizer_cannot_take(tmp_path: Path, out: Path) -> None:
    write(float_model(operator="NoSuchOperator"), tmp_path / "odd.onnx")
    with pytest.raises(mcd_graph.InputError) as error:
        mcd_graph.compress_model(tmp_path / "odd.onnx", out / "m.onnx", quantize="dynamic")
    assert str(tmp_path / "odd.onnx") in str(error.value)
    assert "mcd-" not in str(error.value)
    assert not list(out.iterdir())


def mcd(*arguments: object) -> str:
    """Run the command line; return what it prints."""
    command = [sys.executable, "-P", "-m", "mcd_graph", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("row", [0.0, -np.inf])
def test_the_page_compares_both_forms(out: Path, row: float) -> None:
    report = mcd_graph.compress_model(float_model(row=row), out / "m.onnx", quantize="dynamic")
    page = render_report(title="t", report=report)
    section = page.partition("<h2>Quantised first</h2>")[2].partition("</section>")[0]
    assert section.count("<tr><td>dynamic") == 2
    assert ("not numbers" in section) == (row != 0)


def test_a_quantized_model_that_computes_no_numbers(out: Path) -> None:
    report = mcd_graph.compress_model(float_model(row=-np.inf), out / "m.onnx", quantize="dynamic")
    assert report.quantization is not None
    assert all("not numbers" in (form.not_compared or "") for form in report.quantization.forms)


def test_the_command_compares_both_forms(path: Path, out: Path) -> None:
    command = ["compress", path, out / "m.onnx", "--quantize", "dynamic"]
    printed = mcd(*command)
    assert "dynamic *" in printed
    assert "dynamic-per-channel" in printed
    assert "mcd-" not in printed
    forms = json.loads(mcd(*command, "--force", "--json"))["quantization"]["forms"]
    assert [each["form"] for each in forms] == ["dynamic", "dynamic-per-channel"]
