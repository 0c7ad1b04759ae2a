"""Constants that are compressed in the file and restored when a session is created."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcd_graph
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model
from mcd_graph.model.at_open import AT_OPEN_KEY, SENTENCE
from mcd_graph.model.source import size_of
from mcd_graph.passes.engine.whole import matrix_of
from mcd_graph.proof import Prover
from mcd_graph.report.forecast import forecast

X = np.random.default_rng(9).integers(0, 256, (2, 32, 9, 8)).astype(np.uint8)

WEIGHTS = {"w0": (64, 32, 3, 3), "w1": (48, 64, 3, 3), "w2": (64, 48, 1, 1)}


def bell(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, 14, shape)), -127, 127).astype(np.int8)


def convolutions(seed: int = 0) -> onnx.ModelProto:
    """Three QLinearConv of com.microsoft, which no rule takes; the weight of the last is uint8."""
    constants: dict[str, np.ndarray] = {"wz": np.array(0, np.int8), "xz": np.array(3, np.uint8)}
    nodes = []
    source = "x"
    for number, name in enumerate(("w0", "w1")):
        constants |= {name: bell(WEIGHTS[name], seed + number), f"{name}s": np.float32(0.01)}
        constants |= {f"{name}x": np.float32(0.05), f"{name}y": np.float32(0.6), f"{name}yz": np.array(99, np.uint8)}
        inputs = [source, f"{name}x", "xz", name, f"{name}s", "wz", f"{name}y", f"{name}yz"]
        nodes.append(convolution(inputs, f"y{number}", pads=[1, 1, 1, 1]))
        source = f"y{number}"
    constants |= {"w2": (bell(WEIGHTS["w2"], seed + 2).astype(np.int16) + 128).astype(np.uint8), "uz": np.uint8(128)}
    nodes.append(convolution([source, "w0x", "xz", "w2", "w0s", "uz", "w0y", "w0yz"], "y"))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["b", 32, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["b", 64, "h", "w"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def convolution(inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    name = f"conv{output.removeprefix('y') or 2}"
    return helper.make_node("QLinearConv", inputs, [output], name=name, domain="com.microsoft", **attributes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "convolutions.onnx"
    path.write_bytes(convolutions().SerializeToString())
    return path


@pytest.fixture
def compressed(source: Path) -> Path:
    mcd_graph.compress_model(source, source.with_name("c.mcd.onnx"), at_open=True)
    return source.with_name("c.mcd.onnx")


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    yield
    mcd_graph.disable()


def run(session: onnxruntime.InferenceSession) -> bytes:
    return session.run(None, {"x": X})[0].tobytes()


def test_all_constants_are_compressed_and_the_bytes_are_the_same(source: Path, tmp_path: Path) -> None:
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True)
    assert {each.name: (each.status, each.way) for each in report.constants} == dict.fromkeys(
        WEIGHTS, ("lowered", "open")
    )
    totals = report.totals
    assert totals.constant_bytes_lowered == totals.constant_bytes == sum(map(np.prod, WEIGHTS.values()))
    assert totals.compressed_bytes == sum(each.bytes_after or 0 for each in report.constants)
    assert report.proof is not None
    assert report.proof.proved
    expected = run(onnxruntime.InferenceSession(source))
    assert run(mcd_graph.InferenceSession(tmp_path / "c.onnx")) == expected
    assert run(mcd_graph.InferenceSession(tmp_path / "c.onnx", residency="plain")) == expected
    options = mcd_graph.session_options(model=tmp_path / "c.onnx")
    assert run(onnxruntime.InferenceSession(tmp_path / "c.onnx", options)) == expected
    mcd_graph.enable()
    assert run(onnxruntime.InferenceSession(tmp_path / "c.onnx")) == expected
    assert mcd_graph.verify_model(source, tmp_path / "c.onnx", runs=2).identical


def test_what_onnxruntime_runs_is_what_it_runs_of_the_original(source: Path, compressed: Path) -> None:
    """Its optimised graph has the same operators, so weights are packed and layouts chosen as ever."""

    def operators(path: Path) -> list[str]:
        options = mcd_graph.session_options(model=path)
        options.optimized_model_filepath = str(path.with_suffix(".optimised"))
        mcd_graph.InferenceSession(path, options)
        return [node.op_type for node in onnx.load(path.with_suffix(".optimised"), load_external_data=False).graph.node]

    assert operators(compressed) == operators(source)
    assert "DecompressWeight" not in operators(source)


def test_the_forecast_says_what_it_brings(source: Path, compressed: Path) -> None:
    expected = forecast(inspect_model(source))
    assert expected.compressed == source.stat().st_size
    assert expected.at_open == pytest.approx(size_of(compressed), rel=0.05), "small weights, in a small file"


def test_without_help_the_error_says_what_to_do(compressed: Path) -> None:
    with pytest.raises(Exception, match=r"compressed by mcd-graph, open it with mcd_graph\.InferenceSession"):
        onnxruntime.InferenceSession(compressed)


def test_the_model_says_how_it_is_opened(compressed: Path) -> None:
    assert "set the session config entry mcd.model" in onnx.load(compressed, load_external_data=False).doc_string


def test_inspect_restore_and_check(source: Path, compressed: Path, tmp_path: Path) -> None:
    report = inspect_model(compressed)
    assert {each.name: (each.way, each.read_by) for each in report.constants} == {
        "w0": ("open", "QLinearConv"), "w1": ("open", "QLinearConv"), "w2": ("open", "QLinearConv"),
    }  # fmt: skip
    assert not check_model(compressed).problems
    mcd_graph.restore_model(compressed, tmp_path / "back.onnx")
    before = {each.name: each for each in convolutions().graph.initializer}
    after = {each.name: each for each in onnx.load(tmp_path / "back.onnx").graph.initializer}
    for name in WEIGHTS:
        assert numpy_helper.to_array(after[name]).tobytes() == numpy_helper.to_array(before[name]).tobytes()
    assert run(onnxruntime.InferenceSession(tmp_path / "back.onnx")) == run(onnxruntime.InferenceSession(source))


def test_a_model_that_onnxruntime_saved_beside_our_operators(source: Path, tmp_path: Path) -> None:
    """It imports our domain then, in a version that there is none of."""
    model = onnx.load(source)
    model.opset_import.add(domain="mcd", version=1000)
    source.write_bytes(model.SerializeToString())
    mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True)
    assert not check_model(tmp_path / "c.onnx").problems
    mcd_graph.restore_model(tmp_path / "c.onnx", tmp_path / "back.onnx")
    assert run(onnxruntime.InferenceSession(tmp_path / "back.onnx")) == run(onnxruntime.InferenceSession(source))


def test_again_over_itself(source: Path, compressed: Path) -> None:
    """The data file of a model that is replaced goes, and the new one stays and gets its name."""
    for _ in range(2):
        mcd_graph.compress_model(source, compressed, at_open=True, force=True)
        assert sorted(path.name for path in compressed.parent.glob("c.mcd*")) == ["c.mcd.onnx", "c.mcd.onnx_data"]
        run(mcd_graph.InferenceSession(compressed))


def test_options_are_for_one_model(compressed: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    for _ in range(2):
        mcd_graph.InferenceSession(compressed, options)
    (tmp_path / "other.onnx").write_bytes(convolutions(7).SerializeToString())
    mcd_graph.compress_model(tmp_path / "other.onnx", tmp_path / "o.mcd.onnx", at_open=True)
    for other in ("other.onnx", "o.mcd.onnx"):
        with pytest.raises(Exception, match="the constants of another model"):
            mcd_graph.InferenceSession(tmp_path / other, options)


def test_a_model_that_was_replaced_is_restored_anew(compressed: Path, tmp_path: Path) -> None:
    before = run(mcd_graph.InferenceSession(compressed))
    (tmp_path / "other.onnx").write_bytes(convolutions(7).SerializeToString())
    mcd_graph.compress_model(tmp_path / "other.onnx", compressed, at_open=True, force=True)
    after = run(mcd_graph.InferenceSession(compressed))
    assert after == run(onnxruntime.InferenceSession(tmp_path / "other.onnx")) != before


@pytest.mark.parametrize("position", [100, 40_000])
def test_damage_is_an_error_that_names_the_constant(compressed: Path, position: int) -> None:
    data = compressed.with_name("c.mcd.onnx_data")
    content = bytearray(data.read_bytes())
    content[position % len(content)] ^= 16
    data.write_bytes(content)
    with pytest.raises(Exception, match=r"mcd\.model: .*constant \"w\d\""):
        mcd_graph.InferenceSession(compressed)
    assert not check_model(compressed).intact


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["constants"][0].update(name="nobody"),
        lambda said: said["constants"][0].update(shape=[1, 2]),
        lambda said: said["constants"][0].update(dtype="float32"),
        lambda said: said["constants"][0].update(x2=["a", -1, 5]),
        lambda said: said["constants"][0].pop("compress_info"),
        lambda said: said.update(constants=5),
        lambda said: said.update(data=["a"]),
        lambda said: said.update(data="../elsewhere"),
        lambda said: said["constants"][1].update(compress_index=["i", 1 << 40, 8]),
    ],
)
def test_forged_metadata(compressed: Path, change) -> None:  # type: ignore[no-untyped-def]
    model = onnx.load(compressed, load_external_data=False)
    (entry,) = [each for each in model.metadata_props if each.key == AT_OPEN_KEY]
    said = json.loads(entry.value)
    change(said)
    entry.value = json.dumps(said)
    compressed.write_bytes(model.SerializeToString())
    with pytest.raises(InputError):
        inspect_model(compressed)
    with pytest.raises(Exception, match=r"mcd\.model|compressed by mcd-graph|nobody"):
        mcd_graph.InferenceSession(compressed)


def test_names_that_are_excluded_and_small_savings(source: Path, tmp_path: Path) -> None:
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True, exclude="conv0|w2")
    assert {each.name: each.status for each in report.constants} == {"w0": "kept", "w1": "lowered", "w2": "kept"}
    with pytest.raises(NothingToCompressError):
        mcd_graph.compress_model(source, tmp_path / "d.onnx", at_open=True, min_saving=0.5)


@pytest.fixture
def one_file(source: Path) -> Path:
    """The model with the compressed constants inside of it."""
    path = source.with_name("one.mcd.onnx")
    report = mcd_graph.compress_model(source, path, at_open=True, inline=True)
    assert {(each.status, each.way) for each in report.constants} == {("lowered", "open")}
    assert report.proof is not None
    assert report.proof.proved
    assert [each.name for each in source.parent.glob("one*")] == ["one.mcd.onnx"]
    assert report.totals.file_bytes_after == path.stat().st_size < 0.9 * source.stat().st_size
    return path


def test_one_file_by_its_path(source: Path, one_file: Path) -> None:
    (function,) = onnx.load(one_file, load_external_data=False).functions
    assert not function.input
    expected = run(onnxruntime.InferenceSession(source))
    assert run(mcd_graph.InferenceSession(one_file)) == expected
    assert run(mcd_graph.InferenceSession(one_file, residency="plain")) == expected
    options = mcd_graph.session_options(model=one_file)  # the session config entry mcd.model, as in C++
    assert run(onnxruntime.InferenceSession(one_file, options)) == expected
    assert mcd_graph.verify_model(source, one_file, runs=2).identical
    with pytest.raises(Exception, match=r"compressed by mcd-graph, open it with mcd_graph\.InferenceSession"):
        onnxruntime.InferenceSession(one_file)


def test_one_file_in_bytes(source: Path, one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    expected = run(onnxruntime.InferenceSession(source))
    content = one_file.read_bytes()
    options = onnxruntime.SessionOptions()
    for _ in range(2):
        assert run(mcd_graph.InferenceSession(content, options)) == expected
    assert run(mcd_graph.InferenceSession(content, residency="plain")) == expected
    assert run(onnxruntime.InferenceSession(content, mcd_graph.session_options(model=one_file))) == expected
    assert run(mcd_graph.InferenceSession(content, mcd_graph.session_options(model=one_file))) == expected
    mcd_graph.enable()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: run(onnxruntime.InferenceSession(content)), range(8))) == {expected}
    assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(Exception, match="the constants of another model"):
        mcd_graph.InferenceSession(source.read_bytes(), options)
    damaged = content.replace(b"mcd_at_open_data", b"mcd_at_open_dat.")
    with pytest.raises(Exception, match="not in the model: another program has written it anew"):
        mcd_graph.InferenceSession(damaged)
    assert not list((tmp_path / "temporary").iterdir())


def test_one_file_is_inspected_checked_and_restored(source: Path, one_file: Path, tmp_path: Path) -> None:
    report = inspect_model(one_file)
    assert {(each.name, each.way, each.read_by) for each in report.constants} == {
        (name, "open", "QLinearConv") for name in WEIGHTS
    }
    assert not check_model(one_file).problems
    restored = mcd_graph.restore_model(one_file, tmp_path / "back.onnx", inline=True)
    assert restored.file_bytes_after == pytest.approx(source.stat().st_size, abs=200)
    back, original = onnx.load(tmp_path / "back.onnx"), convolutions()
    assert not back.functions
    assert back.ir_version == original.ir_version
    assert run(onnxruntime.InferenceSession(tmp_path / "back.onnx")) == run(onnxruntime.InferenceSession(source))
    # And on to a model with a data file.
    mcd_graph.restore_model(one_file, tmp_path / "apart.onnx")
    assert run(onnxruntime.InferenceSession(tmp_path / "apart.onnx")) == run(onnxruntime.InferenceSession(source))


def test_an_old_version_of_the_format_comes_back(tmp_path: Path) -> None:
    """Functions came with version 8 of the IR."""
    model = convolutions()
    model.ir_version = 6
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    mcd_graph.compress_model(tmp_path / "m.onnx", tmp_path / "c.onnx", at_open=True, inline=True)
    assert onnx.load(tmp_path / "c.onnx", load_external_data=False).ir_version == 8
    mcd_graph.restore_model(tmp_path / "c.onnx", tmp_path / "r.onnx", inline=True)
    assert onnx.load(tmp_path / "r.onnx").ir_version == 6


def test_damage_in_one_file_is_an_error(one_file: Path) -> None:
    content = bytearray(one_file.read_bytes())
    (function,) = onnx.load(one_file, load_external_data=False).functions
    data = function.node[0].attribute[0].t.raw_data
    start = content.find(data)
    for position in (start + 100, start + len(data) - 100):
        changed = bytearray(content)
        changed[position] ^= 16
        one_file.write_bytes(changed)
        with pytest.raises(Exception, match=r"mcd\.model: .*constant \"w\d\""):
            mcd_graph.InferenceSession(one_file)
        assert not check_model(one_file).intact


@pytest.mark.parametrize(
    "change",
    [
        lambda said, _: said.pop("ir_version"),
        lambda said, _: said.update(ir_version="8"),
        lambda said, _: said["constants"][1].update(x2=["", 1 << 20, 8]),
        lambda _, model: model.functions.pop(),
        lambda _, model: model.functions[0].node.pop(),
        lambda _, model: model.functions[0].node[0].attribute[0].t.ClearField("raw_data"),
    ],
)
def test_forged_metadata_of_one_file(one_file: Path, change) -> None:  # type: ignore[no-untyped-def]
    model = onnx.load(one_file, load_external_data=False)
    (entry,) = [each for each in model.metadata_props if each.key == AT_OPEN_KEY]
    said = json.loads(entry.value)
    change(said, model)
    entry.value = json.dumps(said, separators=(",", ":"))
    one_file.write_bytes(model.SerializeToString())
    with pytest.raises(InputError):
        inspect_model(one_file)
    if "ir_version" in said and said["ir_version"] == 8:
        with pytest.raises(Exception, match=r"mcd\.model"):
            mcd_graph.InferenceSession(one_file)


def test_beside_multiplications(model: Path, out: Path) -> None:
    """What a rule refused is restored at opening."""
    report = mcd_graph.compress_model(model, out / "m.onnx", exclude="second", at_open=False)
    assert report.totals.constant_bytes_left
    proto = onnx.load(out / "m.onnx", load_external_data=False)
    assert AT_OPEN_KEY not in {each.key for each in proto.metadata_props}
    assert all(SENTENCE not in {e.value for e in t.external_data} for t in proto.graph.initializer)


@pytest.mark.parametrize(
    ("count", "expected"), [(1024, (32, 32)), (64 * 32 * 9, (144, 128)), (384 * 384, (384, 384)), (1031, (1, 1031))]
)
def test_the_matrix_that_a_constant_is_seen_as(count: int, expected: tuple[int, int]) -> None:
    rows, columns = matrix_of(count)
    assert rows * columns == count
    assert (rows, columns) == expected


def _branches(then: np.ndarray, other: np.ndarray, *, as_nodes: bool) -> onnx.ModelProto:
    """An If whose branches hold a table each, of the same name, beside one in the main graph that both read."""

    def branch(name: str, table: np.ndarray) -> onnx.GraphProto:
        held = numpy_helper.from_array(table, "t")
        nodes = [helper.make_node("Constant", [], ["t"], value=held)] if as_nodes else []
        nodes += [
            helper.make_node("Add", ["t", "shared"], ["s"]),
            helper.make_node("Add", ["s", "x"], [f"{name}_y"]),
        ]
        output = helper.make_tensor_value_info(f"{name}_y", TensorProto.INT8, [64, 120])
        return helper.make_graph(nodes, name, [], [output], [] if as_nodes else [held])

    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch("a", then), else_branch=branch("b", other))],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.INT8, [64, 120]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [64, 120])],
        [numpy_helper.from_array(bell((64, 120), 8), "shared")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run_branches(session: onnxruntime.InferenceSession) -> list[bytes]:
    x = np.arange(64 * 120).reshape(64, 120).astype(np.int8)
    return [session.run(None, {"c": np.array(c), "x": x})[0].tobytes() for c in (True, False)]


@pytest.mark.parametrize("as_nodes", [False, True])
def test_constants_inside_of_branches(tmp_path: Path, as_nodes: bool) -> None:
    """They move to the main graph, where onnxruntime lets them be replaced; the branches read them from there."""
    source = tmp_path / "m.onnx"
    source.write_bytes(_branches(bell((64, 120), 1), bell((64, 120), 2), as_nodes=as_nodes).SerializeToString())
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True)
    assert [(each.name, each.status, each.way) for each in report.constants] == [
        (name, "lowered", "open") for name in ("shared", "t", "t")
    ]
    expected = _run_branches(onnxruntime.InferenceSession(source))
    assert expected[0] != expected[1]
    assert _run_branches(mcd_graph.InferenceSession(tmp_path / "c.onnx")) == expected
    assert mcd_graph.verify_model(source, tmp_path / "c.onnx", runs=2).identical
    assert mcd_graph.restore_model(tmp_path / "c.onnx", tmp_path / "r.onnx").restored == 3
    assert _run_branches(onnxruntime.InferenceSession(tmp_path / "r.onnx")) == expected


def test_a_constant_that_changes_the_result_is_kept_and_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a branch, of the name that another has in the other branch; both would move to the main graph."""
    source = tmp_path / "m.onnx"
    source.write_bytes(_branches(bell((64, 120), 1), bell((64, 120), 2), as_nodes=False).SerializeToString())
    prove = Prover.difference

    def difference(self: Prover, path: str) -> str | None:
        said = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        names = [each["name"] for each in json.loads(said[AT_OPEN_KEY])["constants"]] if AT_OPEN_KEY in said else []
        moved = mcd_graph.restore_model(path, tmp_path / "trial.onnx", force=True).restored
        assert moved == len(names)
        held = {each.raw_data for each in onnx.load(tmp_path / "trial.onnx").graph.initializer}
        return "y: it differs" if bell((64, 120), 2).tobytes() in held else prove(self, path)

    monkeypatch.setattr(Prover, "difference", difference)
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True)
    assert sorted((each.name, each.status, str(each.code)) for each in report.constants) == [
        ("shared", "lowered", "None"), ("t", "kept", "differs"), ("t", "lowered", "None")
    ]  # fmt: skip
    assert any("restored at opening" in str(each.reason) for each in report.constants)
    assert report.proof is not None
    assert report.proof.proved
    assert list(report.proof.differing) == ["t"]
    assert [each.weight for each in report.nodes] == ["shared", "t"]
    monkeypatch.undo()
    expected = _run_branches(onnxruntime.InferenceSession(source))
    assert _run_branches(mcd_graph.InferenceSession(tmp_path / "c.onnx")) == expected


def _function(calls: int) -> onnx.ModelProto:
    """A function that adds a table, called several times."""
    held = numpy_helper.from_array(bell((64, 40), 3), "t")
    nodes = [helper.make_node("Constant", [], ["t"], value=held), helper.make_node("Add", ["t", "a"], ["b"])]
    function = helper.make_function("local", "shift", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    names = ["x", *(f"h{number}" for number in range(calls - 1)), "y"]
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, [64, 40]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("shift", [a], [b], domain="local") for a, b in itertools.pairwise(names)],
        "g", values[:1], values[1:],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])


def test_constants_inside_of_functions(tmp_path: Path) -> None:
    """Calls are inlined, as onnxruntime does before all else, and share one constant."""
    source = tmp_path / "m.onnx"
    source.write_bytes(_function(3).SerializeToString())
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True, force_larger=True)
    assert {(each.status, each.way) for each in report.constants} == {("lowered", "open")}
    proto = onnx.load(tmp_path / "c.onnx", load_external_data=False)
    assert [tensor.external_data[0].value for tensor in proto.graph.initializer] == [SENTENCE]
    x = {"x": np.arange(64 * 40).reshape(64, 40).astype(np.int8)}
    (expected,) = onnxruntime.InferenceSession(source).run(None, x)
    (found,) = mcd_graph.InferenceSession(tmp_path / "c.onnx").run(None, x)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(17, 1031), (1031,), (2, 3, 5, 7, 11), (1, 1, 4099), (7, 1, 13, 29)])
def test_any_rank_and_any_number_of_elements(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, list(shape)) for name in ("x", "y")]
    constant = numpy_helper.from_array(bell(shape, 4) // 4, "t")
    graph = helper.make_graph([helper.make_node("Add", ["t", "x"], ["y"])], "g", values[:1], values[1:], [constant])
    source = tmp_path / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source.write_bytes(model.SerializeToString())
    report = mcd_graph.compress_model(source, tmp_path / "c.onnx", at_open=True, min_saving=-1, force_larger=True)
    (stored,) = report.constants
    assert stored.way == "open"
    assert (stored.bytes_after or 0) < stored.bytes_before * stored.entropy_bits / 8 + 300
    x = {"x": np.arange(np.prod(shape)).reshape(shape).astype(np.int8)}
    (expected,) = onnxruntime.InferenceSession(source).run(None, x)
    (found,) = mcd_graph.InferenceSession(tmp_path / "c.onnx").run(None, x)
    assert found.tobytes() == expected.tobytes()


def test_a_memory_limit_holds_for_restored_constants(compressed: Path) -> None:
    needed = sum(int(np.prod(shape)) for shape in WEIGHTS.values())
    with pytest.raises(Exception, match=r"restored at opening: out of memory: .*mcd\.memory_limit"):
        mcd_graph.session_options(model=compressed, memory_limit=needed - 1)
    mcd_graph.InferenceSession(compressed, memory_limit=2 * needed)
    with pytest.raises(Exception, match=r"mcd\.memory_limit"):  # though they are there already
        mcd_graph.session_options(model=compressed, memory_limit=needed - 1)
    with pytest.raises(InputError, match="the memory limit is 1000"):
        mcd_graph.InferenceSession(compressed, residency="plain", memory_limit=1000)


def test_a_system_that_refuses_threads(compressed: Path) -> None:
    code = "import sys, mcd_graph; mcd_graph.InferenceSession(sys.argv[1])"
    environment = {**os.environ, "RUST_MIN_STACK": str(1 << 60)}  # no thread of the library has room for its stack
    command = [sys.executable, "-P", "-c", code, str(compressed)]
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_nothing_lies_between_streams(compressed: Path) -> None:
    """They are read, not mapped: padding to a line of the cache was 0.1 % of a model of 200 KB."""
    props = onnx.load(compressed, load_external_data=False).metadata_props
    stated = json.loads({each.key: each.value for each in props}[AT_OPEN_KEY])
    places = sorted(tuple(each[part][1:]) for each in stated["constants"] for part in ("x2", "compress_index"))
    assert len(places) > 2
    assert all(begin + size == following for (begin, size), (following, _) in itertools.pairwise(places))
