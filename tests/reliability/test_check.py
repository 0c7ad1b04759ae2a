"""mcd inspect, with and without --check: what it prints, and its exit status."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from reliability import small
from rich.console import Console
from samples import digests, text_model, uniform_weight, write

import mcd_graph
from mcd_graph.cli import main
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model
from mcd_graph.model.loading import read_proto
from mcd_graph.report.tables import layer_tables


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main(["inspect", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_a_whole_file(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd_graph.compress_model(model, out / "m.onnx")
    before = digests(out)
    assert inspect(capsys, out / "m.onnx", "--check").startswith("intact: 2 compressed weights")
    found = json.loads(inspect(capsys, out / "m.onnx", "--check", "--json"))
    assert (found["schema"], found["intact"], found["nodes"], found["weights"]) == ("mcd-check", True, 3, 2)
    assert found["problems"] == []
    assert digests(out) == before


def test_what_is_said_while_weights_are_looked_at(model: Path, out: Path) -> None:
    report = mcd_graph.compress_model(model, out / "m.onnx")
    said: list[mcd_graph.Progress] = []
    check = check_model(out / "m.onnx", progress=said.append)
    assert (check.nodes, check.weights) == (3, report.totals.weights)
    assert [(each.weights_done, each.weights_total) for each in said] == [(1, 2), (2, 2)]
    assert {each.weight for each in said} == {"w1.x2", "w2.x2"}
    assert said[0].bytes_done < said[1].bytes_done == said[1].bytes_total == check.compressed_bytes


def test_damage_is_status_1_and_names_every_node(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weight that two nodes share is reported for both."""
    mcd_graph.compress_model(model, out / "m.onnx")
    data = bytearray((out / "m.onnx_data").read_bytes())
    data[100] ^= 1
    (out / "m.onnx_data").write_bytes(data)
    printed = inspect(capsys, out / "m.onnx", "--check", status=1)
    assert [line.split(": ")[:3] for line in printed.splitlines()] == [
        ["damaged", "node /first/MatMul", "tensor w1.x2"],
        ["damaged", "node /y/MatMul", "tensor w1.x2"],
    ]
    found = json.loads(inspect(capsys, out / "m.onnx", "--check", "--json", status=1))
    assert found["intact"] is False
    assert [problem["tensor"] for problem in found["problems"]] == ["w1.x2", "w1.x2"]
    assert all("damaged" in problem["reason"] for problem in found["problems"])


def test_files_that_are_not_whole(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd_graph.compress_model(model, out / "m.onnx")
    (out / "m.onnx_data").write_bytes((out / "m.onnx_data").read_bytes()[:-1000])
    assert "but the file has only" in inspect(capsys, out / "m.onnx", "--check", status=1)
    (out / "m.onnx").write_bytes((out / "m.onnx").read_bytes()[:-100])
    assert "is not an ONNX model" in inspect(capsys, out / "m.onnx", "--check", status=1)
    found = json.loads(inspect(capsys, out / "m.onnx", "--check", "--json", status=1))
    assert (found["nodes"], found["weights"], found["compressed_bytes"], found["schema_version"]) == (0, 0, 0, 1)
    assert main(["inspect", str(out / "absent.onnx"), "--check"]) == 2


def test_graphs_that_the_checker_refuses(out: Path) -> None:
    broken = small.plain_model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    (problem,) = check_model(write(broken, out / "m.onnx")).problems
    assert problem.reason.startswith("onnx's checker: ")
    assert (problem.node, problem.tensor) == (None, None)


def test_a_limit_of_memory(model: Path, out: Path) -> None:
    mcd_graph.compress_model(model, out / "m.onnx")
    with pytest.raises(mcd_graph.InputError, match="memory"):
        check_model(out / "m.onnx", memory_limit=100)


@pytest.mark.parametrize("what", ["computed", "no info", "float stream"])
def test_nodes_without_a_compressed_weight(what: str, out: Path) -> None:
    model = small.lowered_model()
    node = model.graph.node[-1]
    if what == "computed":
        model.graph.initializer.remove(small.tensor(model, "w.x2"))
        model.graph.input.append(onnx.helper.make_tensor_value_info("w.x2", onnx.TensorProto.INT8, ["c"]))
    elif what == "no info":
        node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "compress_info"))
    else:
        small.tensor(model, "w.x2").CopyFrom(onnx.numpy_helper.from_array(np.ones(1728, np.float32), "w.x2"))
    problems = check_model(write(model, out / "m.onnx")).problems
    assert any(problem.node == "/y/MatMul" for problem in problems)
    with pytest.raises(mcd_graph.InputError, match="/y/MatMul"):
        inspect_model(out / "m.onnx")


def table(path: Path) -> list[str]:
    """Return what a terminal of 80 columns shows."""
    text = io.StringIO()
    console = Console(file=text, width=80, color_system=None)
    for part in layer_tables(inspect_model(path).nodes):
        console.print(part)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return [" ".join(line.split()) for line in lines]


def test_layers_of_a_compressed_model(out: Path, tmp_path: Path) -> None:
    source = write(text_model(w2=uniform_weight(128, 256)), tmp_path / "source.onnx")
    report = mcd_graph.compress_model(source, out / "m.onnx")
    lines = table(out / "m.onnx")
    headings = [line for line in lines if line[:1].isdigit()]
    assert headings[0].startswith("2 lowered: MatMulInteger")
    assert headings[0].endswith("coded as balanced plane-golomb")
    first = report.nodes[0]
    assert first.weight_bytes is not None
    assert first.compressed_bytes is not None
    ratio = f"{first.weight_bytes / first.compressed_bytes:.3f}"
    assert f"/first/MatMul 256 x 128 {first.entropy_bits:.2f} {ratio}" in lines
    # What min_saving kept could still be tried; its entropy tells that it is in vain.
    assert headings[1].startswith("1 lowerable: MatMulInteger")


def test_layers_of_an_original(out: Path) -> None:
    proto = text_model()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w2")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w2", onnx.TensorProto.INT8, list(weight.dims)))
    path = write(proto, out / "m.onnx")
    kept = next(node for node in inspect_model(path).nodes if node.status == "kept")
    lines = table(path)
    assert kept.reason is not None
    assert any(line.startswith("1 kept: MatMulInteger, because ") for line in lines)
    assert "/second/MatMul 128 x 256" in lines or "/second/MatMul" in lines
    assert any(line.startswith("/first/MatMul 256 x 128 ") for line in lines)


def test_what_onnxruntime_accepts_is_not_called_damaged(model: Path, out: Path) -> None:
    """An output without a shape, and data behind a link, of which onnx's checker wants to know nothing."""
    proto = read_proto(model)
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    mcd_graph.compress_model(write(proto, out / "plain.onnx"), out / "m.onnx")
    (out / "another name").hardlink_to(out / "m.onnx_data")
    assert check_model(out / "m.onnx").problems == ()
    damage = bytearray((out / "m.onnx_data").read_bytes())
    damage[::1000] = bytes(byte ^ 1 for byte in damage[::1000])
    (out / "m.onnx_data").write_bytes(damage)
    assert not check_model(out / "m.onnx").intact


def test_what_onnxruntime_infers_may_be_undeclared(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd_graph.compress_model(model, out / "m.onnx", inline=True)
    undeclared = onnx.load(out / "m.onnx")
    for value in (*undeclared.graph.input, *undeclared.graph.output):
        value.type.tensor_type.ClearField("shape")
    undeclared.graph.output[0].ClearField("type")
    write(undeclared, out / "u.onnx")
    mcd_graph.InferenceSession(out / "u.onnx")
    assert inspect(capsys, out / "u.onnx", "--check").startswith("intact")


def test_operators_that_onnxruntime_has_in_the_domain_of_onnx(
    model: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = read_proto(model)
    result = proto.graph.output[0].name
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "gain"))
    proto.graph.node.append(onnx.helper.make_node("SimplifiedLayerNormalization", [result, "gain"], ["n"], axis=-1))
    proto.graph.output.append(onnx.ValueInfoProto(name="n"))
    mcd_graph.compress_model(write(proto, out / "normalised.onnx"), out / "m.onnx")
    assert inspect(capsys, out / "m.onnx", "--check").startswith("intact")
    proto.graph.node[-1].op_type = "SimplifiedLayerNormalizatiom"
    assert "No Op registered" in str(check_model(write(proto, out / "typo.onnx")).problems)


def test_functions_of_another_version(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """onnxruntime runs a QuantizeLinear of opset 21 in a function that a model of opset 18 calls."""
    proto = read_proto(model)
    (version,) = (opset.version for opset in proto.opset_import if not opset.domain)
    result = proto.graph.output[0].name
    pair = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    opsets = [onnx.helper.make_opsetid("", 21)]
    proto.functions.append(onnx.helper.make_function("local", "Pair", ["x", "s", "z"], ["y"], pair, opsets))
    proto.opset_import.add(domain="local", version=1)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in (("s", np.float32(0.1)), ("z", np.uint8(128)))
    )
    proto.graph.node.append(onnx.helper.make_node("Pair", [result, "s", "z"], ["called"], domain="local"))
    proto.graph.output.append(onnx.ValueInfoProto(name="called"))
    proto.ir_version = max(proto.ir_version, 8)
    assert version < 21
    mcd_graph.compress_model(write(proto, out / "called.onnx"), out / "m.onnx")
    assert inspect(capsys, out / "m.onnx", "--check").startswith("intact")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda info: info.ints.append(7), "its compress_info holds 6 instead of 5 integers"),
        (lambda info: info.CopyFrom(onnx.helper.make_attribute(info.name, "8")), "is of the type STRING instead of 5"),
        (
            lambda info: info.CopyFrom(onnx.helper.make_attribute(info.name, [1.5])),
            "is of the type FLOATS instead of 5",
        ),
        (lambda info: setattr(info, "name", "other"), "its compress_info is missing instead of 5 integers"),
    ],
)
def test_attributes_of_another_type(model: Path, out: Path, change: Any, reason: str) -> None:
    mcd_graph.compress_model(model, out / "m.onnx", inline=True)
    wrong = onnx.load(out / "m.onnx")
    node = next(node for node in wrong.graph.node if node.domain == "mcd")
    change(next(attribute for attribute in node.attribute if attribute.name == "compress_info"))
    check = check_model(write(wrong, out / "w.onnx"))
    assert any(reason in problem.reason and problem.node == node.name for problem in check.problems), check.problems
