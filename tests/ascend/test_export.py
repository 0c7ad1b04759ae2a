"""`mcd ascend export`: what it writes, that the strict model runs, and when it calls the result device-ready."""

import ctypes
import gc
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from ascend import stand_in_excutor
from google.protobuf import json_format
from lowering import make_model
from onnx import helper
from samples import K, N, digests, float_model, gaussian_weight, layer, real_model, text_model, write

from mcd_graph import InputError, _native, compress_model, get_library_path
from mcd_graph.ascend import export_model
from mcd_graph.ascend.stand_in import get_aclnn_library_path
from mcd_graph.cli import main
from mcd_graph.session import create_session

STAND_IN = Path(__file__).with_name("cann_stand_in")
SHAPES = {"ids": (2, 7), "mask": (2, 7)}
OPEN = "the weights carry the open codec"
HALF_STEPS = 2.0**-11  # what one rounding to float16 may change, relative


def static_model(opset: int = 18) -> onnx.ModelProto:
    """Return a model that ATC's guide has nothing against: float input of a fixed shape."""
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    shapes = ({"x": (np.float32, (300, K))}, {"y": (np.float32, (300, N))})
    return make_model(layer("x", "w", "y"), *shapes, constants, opset=opset)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "README.md", folder / "convert.sh")}


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"ids": rng.integers(0, 50, SHAPES["ids"]), "mask": np.ones(SHAPES["mask"], np.int64)}


@pytest.mark.parametrize("compressed", [False, True])
def test_the_strict_model_runs_on_the_cpu(model: Path, out: Path, compressed: bool) -> None:
    source = model
    if compressed:
        source = out / "m.mcd.onnx"
        compress_model(model, source)
    result = export_model(source, out / "ascend")
    assert [(site.status, site.k, site.n) for site in result.sites] == [
        ("strict", K, N), ("strict", N, K), ("strict", K, N),
    ]  # fmt: skip
    (expected,) = create_session(model).run(None, feeds())
    (y,) = create_session(out / "ascend" / "model.onnx").run(None, feeds())
    # The first multiplication's float16 goes through two more with dynamic quantisation, which may move by a step each.
    assert np.abs(y - expected).max() < 0.05 * np.abs(expected).max()
    proto = onnx.load(out / "ascend" / "model.onnx", load_external_data=False)
    assert {entry.key: entry.value for entry in proto.metadata_props}["mcd.codec"] == "open"
    names = [node.name for node in proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_constants_that_are_decoded_for_other_operators_are_restored(tmp_path: Path) -> None:
    """Ascend has no operator that gives back a constant."""
    model = static_model()
    (last,) = [node for node in model.graph.node if "y" in node.output]
    last.output[0] = "product"
    model.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["table", "w_scale"], ["floats"], name="widen"),
            helper.make_node("ReduceMax", ["floats"], ["most"], keepdims=1),
            helper.make_node("Add", ["product", "most"], ["y"]),
        ]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(gaussian_weight(1024, 300, seed=5), "table"))
    source, compressed = write(model, tmp_path / "m.onnx"), tmp_path / "m.mcd.onnx"
    report = compress_model(source, compressed)
    assert {each.name: each.way for each in report.constants} == {"w": "run", "table": "run"}
    export_model(compressed, tmp_path / "ascend")
    nodes = onnx.load(tmp_path / "ascend" / "model.onnx", load_external_data=False).graph.node
    assert {node.op_type for node in nodes if node.domain == "mcd"} == {"MatmulCompressDequant"}
    assert [node.name for node in nodes if node.op_type == "DequantizeLinear"] == ["widen"]


def test_one_multiplication_is_within_half_a_float16_step(tmp_path: Path) -> None:
    source = write(static_model(), tmp_path / "m.onnx")
    export_model(source, tmp_path / "ascend", max_rows=256)
    x = np.random.default_rng(1).standard_normal((300, K)).astype(np.float32)
    (expected,), (y,) = (create_session(path).run(None, {"x": x}) for path in (source, tmp_path / "ascend/model.onnx"))
    assert (np.abs(y - expected) <= np.abs(expected) * HALF_STEPS * (1 + 2.0**-9)).all()
    proto = onnx.load(tmp_path / "ascend/model.onnx", load_external_data=False)
    assert [node.op_type for node in proto.graph.node].count("MatmulCompressDequant") == 2


def rounded_to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the result of each MatMulInteger rounded to float16, which is all that strict form loses.

    A power of two in front and behind changes no bit as long as the values stay in float16's normal range.
    """
    nodes: list[onnx.NodeProto] = []
    products = {node.output[0] for node in model.graph.node if node.op_type == "MatMulInteger"}
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Cast" or node.input[0] not in products:
            continue
        result, steps = node.output[0], [f"{node.output[0]}.{step}" for step in range(4)]
        node.output[0] = steps[0]
        nodes += [
            helper.make_node("Mul", [steps[0], "down"], [steps[1]]),
            helper.make_node("Cast", [steps[1]], [steps[2]], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Cast", [steps[2]], [steps[3]], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [steps[3], "up"], [result]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, value in (("down", 2.0**-9), ("up", 2.0**9)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    return model


@pytest.mark.skipif(
    _native.saturates_pairs(), reason="the original's products saturate on this processor; a device's do not"
)
def test_a_real_model_loses_nothing_but_the_rounding_to_float16(tmp_path: Path) -> None:
    source = real_model("t5-small-title-encoder")
    result = export_model(source, tmp_path / "ascend")
    assert {site.status for site in result.sites} == {"strict"}
    assert len(result.sites) > 50
    rounded = write(rounded_to_float16(onnx.load(source)), tmp_path / "rounded.onnx")
    ids = np.random.default_rng(0).integers(0, 32000, (2, 30))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (expected,), (y,) = (
        create_session(path, optimize=False).run(None, given) for path in (rounded, tmp_path / "ascend" / "model.onnx")
    )
    assert np.array_equal(y, expected)


def test_the_strict_model_runs_through_the_hand_off(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, run-time biases included, with the stand-in in the place of CANN; the bytes are the CPU's."""
    monkeypatch.setenv("MCD_ACLNN_STRICT", "1")
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", get_aclnn_library_path())
    export_model(model, out / "ascend")
    results = []
    for device in ("cpu", "ascend:0"):
        options = ort.SessionOptions()
        options.add_session_config_entry("mcd.device", device)
        options.register_custom_ops_library(get_library_path())
        session = ort.InferenceSession(out / "ascend" / "model.onnx", options, providers=["CPUExecutionProvider"])
        results += session.run(None, feeds())
    assert np.array_equal(*results)
    # Close the runtime like a program that ends: the library says so where one does not.
    del session
    gc.collect()
    assert ctypes.CDLL(get_aclnn_library_path()).aclFinalize() == 0


def test_it_is_not_device_ready_with_the_open_codec(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = out / "ascend"
    assert main(["ascend", "export", str(model), str(folder), "--soc", "Ascend310P1"]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 matrix multiplications are strict" in printed
    assert f"not device-ready:\n- {OPEN}" in printed
    assert "--compressor" in printed
    assert "input ids has no fixed shape: give it with --input-shape" in printed
    assert "doubtful: input ids is int64" in printed
    assert "ATC is not known to take it; the run-time hand-off is the recommended way:" in printed
    assert "- no parser for DynamicQuantizeLinear (3 nodes) in CANN's public sources; a third party's covers" in printed
    assert "not device-ready" in texts(folder)["README.md"]
    assert "atc --framework=5 --model=model.onnx --output=model --soc_version=Ascend310P1" in texts(folder)["README.md"]
    script = subprocess.run([folder / "convert.sh"], capture_output=True, text=True, check=False)
    assert script.returncode == 1
    assert script.stderr.startswith(f"not device-ready:\n- {OPEN}")


def test_a_stand_in_compressor_does_not_make_it_device_ready(tmp_path: Path) -> None:
    source = write(static_model(), tmp_path / "m.onnx")
    program = stand_in_excutor.install(tmp_path / "bin")
    result = export_model(source, tmp_path / "ascend", compressor=program)
    assert result.codec == "open"
    assert [obstacle.split(",")[0] for obstacle in result.obstacles] == [OPEN]
    assert "was not CANN's" in texts(tmp_path / "ascend")["README.md"]


def fake_tools(folder: Path) -> dict[str, str]:
    """Put an ``atc`` and a ``cmake`` on the path that write down how they were called."""
    folder.mkdir()
    for name in ("atc", "cmake"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" "$ASCEND_CUSTOM_OPP_PATH" >> "{folder}/calls"\n')
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    environment.pop("ASCEND_CUSTOM_OPP_PATH", None)
    return environment


def test_with_the_device_s_codec_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(static_model(), tmp_path / "m.onnx")
    program = stand_in_excutor.install(tmp_path / "bin", "device")
    folder = tmp_path / "ascend"
    assert main(["ascend", "export", str(source), str(folder), "--compressor", str(program)]) == 0
    printed = capsys.readouterr().out
    assert "not device-ready" not in printed
    assert "untested on hardware" in printed
    assert "It is untested on hardware" in texts(folder)["README.md"].replace("**", "")
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    assert {entry.key: entry.value for entry in proto.metadata_props}["mcd.codec"] == "cann"

    tools = fake_tools(tmp_path / "tools")
    script = subprocess.run([folder / "convert.sh"], env=tools, capture_output=True, text=True, check=False)
    assert script.returncode == 1
    assert script.stderr.startswith("ATC is not known to take this model:\n- CANN's list of operators marks")
    assert "Use the run-time hand-off" in script.stderr
    assert not (tmp_path / "tools" / "calls").exists()
    script = subprocess.run(
        [folder / "convert.sh"], env={**tools, "MCD_TRY_ATC": "1"}, capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    calls = (tmp_path / "tools" / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["cmake", "cmake", "atc"]
    assert calls[2] == (
        "atc --framework=5 --model=model.onnx --output=model --soc_version=Ascend310P3 --input_shape=x:300,256 "
        f"{folder}/plugin"
    )

    with pytest.raises(InputError, match="onnxruntime refuses"):
        create_session(folder / "model.onnx").run(None, {"x": np.zeros((300, K), np.float32)})
    with pytest.raises(InputError, match=r"model\.onnx: node /y/MatMul: "):
        export_model(folder / "model.onnx", tmp_path / "again")


@pytest.mark.parametrize("mode", ["silent", "status", "index"])
def test_a_compressor_that_fails_leaves_no_model(tmp_path: Path, mode: str) -> None:
    source = write(static_model(), tmp_path / "m.onnx")
    program = stand_in_excutor.install(tmp_path / "bin", mode)
    with pytest.raises(InputError, match="weight w: "):
        export_model(source, tmp_path / "ascend", compressor=program)
    assert digests(tmp_path / "ascend") == {}


def test_opsets_that_atc_does_not_take(tmp_path: Path) -> None:
    source = write(static_model(opset=21), tmp_path / "m.onnx")
    assert "ATC takes opset 11 to 18; the model's is 21" in export_model(source, tmp_path / "ascend").atc_obstacles


def test_operators_that_public_parsers_do_not_know_are_listed(tmp_path: Path) -> None:
    model = static_model()
    model.graph.node.extend(
        [helper.make_node("Gelu", [model.graph.output[0].name], ["z"], domain="com.microsoft")],
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    result = export_model(write(model, tmp_path / "m.onnx"), tmp_path / "ascend")
    listed = [line for line in result.atc_obstacles if line.startswith("no parser for ")]
    assert listed == [
        "no parser for DynamicQuantizeLinear (1 nodes) in CANN's public sources; a third party's covers opset 10 to 15",
        "no parser for com.microsoft::Gelu (1 nodes) in CANN's public sources",
    ]
    readme = texts(tmp_path / "ascend")["README.md"]
    assert all(line in readme for line in result.atc_obstacles)
    assert readme.index("hand-off (recommended)") < readme.index("ATC (unproven)")


def test_weights_that_do_not_compress_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(-128, 128, (320, 128)).astype(np.int8)
    constants = {"w": noise, "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    shapes = ({"x": (np.float32, (4, 320))}, {"y": (np.float32, (4, 128))})
    model = write(make_model(layer("x", "w", "y"), *shapes, constants, opset=18), tmp_path / "noise.onnx")
    assert main(["ascend", "export", str(model), str(tmp_path / "ascend")]) == 0
    assert "w does not compress: its stream is larger than the weight" in capsys.readouterr().out
    assert "These do not compress, and are larger than they were: w." in texts(tmp_path / "ascend")["README.md"]


def test_nodes_that_stay_are_obstacles(tmp_path: Path) -> None:
    weights = {"w2": gaussian_weight(N, K, seed=2), "w_zero": np.array(-100, np.int8)}
    model = text_model(**weights)
    first = next(node for node in model.graph.node if node.op_type == "MatMulInteger")
    del first.input[3]  # its weight has no zero point
    source = write(model, tmp_path / "m.onnx")
    result = export_model(source, tmp_path / "ascend")
    kept = [site for site in result.sites if site.status == "kept"]
    assert 0 < len(kept) < len(result.sites)
    assert f"node {kept[0].name} is not strict: {kept[0].reason}" in result.obstacles


def test_shapes_from_the_command_line(model: Path, out: Path) -> None:
    text = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in SHAPES.items())
    assert main(["ascend", "export", str(model), str(out / "a"), "--input-shape", text, "--max-rows", "4"]) == 0
    proto = onnx.load(out / "a" / "model.onnx", load_external_data=False)
    assert [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input] == [[2, 7]] * 2
    assert "'--input_shape=ids:2,7;mask:2,7'" in texts(out / "a")["README.md"]
    assert [node.op_type for node in proto.graph.node].count("MatmulCompressDequant") == 3 * 4
    (y,) = create_session(out / "a" / "model.onnx").run(None, feeds())
    export_model(model, out / "whole")
    (whole,) = create_session(out / "whole" / "model.onnx").run(None, feeds())
    assert np.array_equal(y, whole)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ("ids:2,x", "--input-shape takes NAME:1,8"),
        ("2,3", "--input-shape takes NAME:1,8"),
        ("ids:", "--input-shape takes NAME:1,8"),
        ("none:2,3", "the model has no input 'none'; it has ids, mask"),
        ("ids:2", r"input 'ids' has shape .* which is not (2,)"),
    ],
)
def test_shapes_that_do_not_fit(
    model: Path, out: Path, shapes: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ascend", "export", str(model), str(out / "a"), "--input-shape", shapes]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in reason.split(" .* "))
    assert not (out / "a").exists()


def test_models_without_anything_for_the_operator(tmp_path: Path) -> None:
    source = write(float_model(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="nothing to export: the model has no matrix multiplication"):
        export_model(source, tmp_path / "ascend")
    assert digests(tmp_path / "ascend") == {}


def test_files_are_not_replaced_without_force(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ascend", "export", str(model), str(out)]
    assert main(arguments) == 0
    before = digests(out)
    assert main([*arguments, "--soc", "other"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert digests(out) == before
    assert main([*arguments, "--soc", "other", "--force"]) == 0
    assert "--soc_version=other" in texts(out)["README.md"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function(
        "local", "Layer", ["x", "w", "w_zero", "w_scale"], ["y"], layer("x", "w", "y"), opsets
    )
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    node = helper.make_node("Layer", ["x", "w", "w_zero", "w_scale"], ["y"], domain="local")
    shapes = ({"x": (np.float32, (3, K))}, {"y": (np.float32, (3, N))})
    source = write(make_model([node], *shapes, constants, functions=[function]), tmp_path / "m.onnx")
    result = export_model(source, tmp_path / "ascend")
    assert [site.status for site in result.sites] == ["strict"]


# ---------------------------------------------------------------------------------------------------------------------
# The plugin


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that registers the exported plugin with stand-ins for CANN's headers and calls it."""
    folder = tmp_path_factory.mktemp("plugin")
    export_model(write(static_model(), folder / "m.onnx"), folder / "ascend")
    sources = [folder / "ascend" / "plugin" / "mcd_onnx_plugin.cpp", STAND_IN / "main.cpp"]
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{STAND_IN}", *map(str, sources)]
    subprocess.run([*command, "-o", str(folder / "parser")], check=True)
    return folder


def parse(parser: Path, json_text: str) -> list[str]:
    done = subprocess.run([parser / "parser"], input=json_text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def exported_node(parser: Path) -> onnx.NodeProto:
    proto = onnx.load(parser / "ascend" / "model.onnx", load_external_data=False)
    (node,) = (node for node in proto.graph.node if node.op_type == "MatmulCompressDequant")
    return node


def test_the_plugin_maps_the_exported_node_to_all_five_attributes(parser: Path) -> None:
    node = exported_node(parser)
    proto = onnx.load(parser / "ascend" / "model.onnx", load_external_data=False)
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    lines = parse(parser, json_format.MessageToJson(node))
    assert lines[:2] == ["MatMulV2CompressDequant 5 1", f"{node.domain}::{versions[node.domain]}::{node.op_type}"]
    assert lines[2:] == [
        "status 0",
        "alg = weight_unzip",
        f"compress_info = [{' '.join(str(number) for number in node.attribute[0].ints)}]",
        "offset_x = 0",
        "transpose_x1 = false",
        "transpose_x2 = false",
    ]


def attribute(ints: Any, name: str = "compress_info") -> str:
    return json.dumps(
        {"attribute": [{"name": "other", "i": 3}, {"ints": ints, "type": 7, "name": name}, {"ints": [1]}]}
    )


def test_the_plugin_takes_integers_with_and_without_quotes(parser: Path) -> None:
    expected = "compress_info = [8 8 320 128 1]"
    assert expected in parse(parser, attribute([8, 8, 320, 128, 1]))
    assert expected in parse(parser, attribute(["8", "8", "320", "128", "1"]))


@pytest.mark.parametrize(
    "json_text",
    [
        "",
        "{}",
        "compress_info",
        '"compress_info"',
        '{"name": "compress_info"',
        '{"name": "compress_info"}',
        '{"name": "compress_info", "ints": 8}',
        '{"name": "compress_info", "ints": [8, 8, 320, 128, 1',
        '{"name": "compress_info", "ints" [8, 8, 320, 128, 1]}',
        attribute([]),
        attribute([8, 8, 320, 128]),
        attribute([8, 8, 320, 128, 1, 1]),
        attribute([8, 4, 320, 128, 1]),
        attribute([8, 8, 0, 128, 1]),
        attribute([8, 8, 320, -128, 1]),
        attribute([8, 8, 320, 128, 2]),
        attribute([8, 8, 320, 1.5, 1]),
        attribute([8, 8, 10**30, 128, 1]),
        attribute([8, 8, 320, 128, 1], name="compress_inf"),
    ],
)
def test_the_plugin_refuses_anything_else(parser: Path, json_text: str) -> None:
    assert parse(parser, json_text)[2:] == ["status 1"]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_cmake_file_builds_the_plugin(parser: Path, tmp_path: Path) -> None:
    home = tmp_path / "cann"
    shutil.copytree(STAND_IN, home / "include")
    (home / "lib64").mkdir()
    for name in ("register", "graph"):
        subprocess.run(["g++", "-shared", "-x", "c++", "/dev/null", "-o", home / "lib64" / f"lib{name}.so"], check=True)
    plugin = tmp_path / "plugin"
    shutil.copytree(parser / "ascend" / "plugin", plugin)
    environment = {**os.environ, "ASCEND_HOME_PATH": str(home)}
    for command in (
        ["cmake", "-S", str(plugin), "-B", str(plugin / "build")],
        ["cmake", "--build", str(plugin / "build")],
    ):
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (plugin / "framework" / "onnx" / "libmcd_onnx_plugin.so").is_file()
