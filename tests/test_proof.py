"""``mcd compress`` runs both models before it puts the new one in place, and keeps the nodes that give other bytes."""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import integers, make_model
from onnx import helper, numpy_helper

import mcd_graph
from mcd_graph import proof
from mcd_graph.cli import main
from mcd_graph.codec.packing import pack_all
from mcd_graph.codec.weights import CompressedWeight, pack_weight
from mcd_graph.compression import packed
from mcd_graph.passes import WeightJob

K = 64
LAYERS = 6


def layers(*extra: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """Multiplications in a row, named after their weights: w0, w1, …"""
    nodes, value = [], "x"
    constants = {}
    for layer in range(LAYERS):
        names = [f"{value}{part}" for part in ("q", "s", "z")]
        result = "y" if layer == LAYERS - 1 else f"h{layer}"
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [value], names),
            helper.make_node("MatMulInteger", [names[0], f"w{layer}", names[2]], [f"a{layer}"], name=f"w{layer}"),
            helper.make_node("Cast", [f"a{layer}"], [f"f{layer}"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"f{layer}", "scale"], [result]),
        ]
        constants[f"w{layer}"] = np.asarray(integers(np.int8, (K, K), layer) // 16, np.int8)
        value = result
    constants["scale"] = np.float32(0.01)
    return make_model(
        [*nodes, *extra],
        {"x": (np.float32, ("batch", "rows", K))},
        dict.fromkeys(outputs, (np.float32, ("batch", "rows", K))),
        {name: np.asarray(array) for name, array in constants.items()},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(layers().SerializeToString())
    return path


def spoil(monkeypatch: pytest.MonkeyPatch, names: Collection[str]) -> None:
    """Let some weights be compressed with one number changed, as a wrong lowering would."""

    def wrong(
        jobs: Collection[WeightJob], *given: object, **named: object
    ) -> Iterator[tuple[object, CompressedWeight]]:
        for job, weight in pack_all(jobs, *given, **named):
            if job.key not in names:
                yield job, weight
                continue
            array = job.array().copy()
            array[3, 5] += 1
            yield job, dataclasses.replace(weight, **vars_of(pack_weight(array)))

    def vars_of(weight: CompressedWeight) -> dict[str, object]:
        return {name: getattr(weight, name) for name in ("x2", "compress_index", "compress_info")}

    monkeypatch.setattr(packed, "pack_all", wrong)


def test_what_is_right_is_proved(source: Path) -> None:
    report = mcd_graph.compress_model(source, source.with_name("out.onnx"), force_larger=True)
    assert report.proof is not None
    assert (report.proof.proved, report.proof.reason) == (True, None)
    assert report.proof.settings == ("default", "no optimisations")
    assert report.proof.runs == len(proof._RUNS)
    assert report.proof.values > 1000
    assert json.loads(report.to_json())["proof"]["proved"] is True


@pytest.mark.parametrize("names", [{"w0"}, {"w5"}, {"w1", "w4"}, {"w2", "w3"}, {f"w{i}" for i in range(LAYERS - 1)}])
def test_what_differs_is_found_and_kept(source: Path, monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    spoil(monkeypatch, names)
    output = source.with_name("out.onnx")
    report = mcd_graph.compress_model(source, output, force_larger=True)
    assert {node.name for node in report.nodes if node.status == "kept"} == names
    kept = [node for node in report.nodes if node.status == "kept"]
    assert {node.code for node in kept} == {"differs"}
    assert all(node.reason is not None and "values differ" in node.reason for node in kept)
    assert report.proof is not None
    assert set(report.proof.differing) == names
    assert report.proof.proved
    assert mcd_graph.verify_model(source, output).identical


def called(own: bool) -> onnx.ModelProto:
    """Three calls of a function that multiplies by what it is given, or by what it has; then the results are added."""
    own_weight = numpy_helper.from_array(np.asarray(integers(np.int8, (K, K), 9) // 16, np.int8), "v")
    body = [
        *([helper.make_node("Constant", [], ["v"], value=own_weight)] if own else []),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "v" if own else "w", "z"], ["a"], name="product"),
        helper.make_node("Cast", ["a"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    function = helper.make_function("local", "Layer", ["x", "w"], ["y"], body, [helper.make_opsetid("", 18)])
    nodes = [helper.make_node("Layer", ["x", f"w{i}"], [f"y{i}"], domain="local", name=f"call{i}") for i in range(3)]
    nodes.append(helper.make_node("Sum", ["y0", "y1", "y2"], ["y"]))
    given = {f"w{i}": np.asarray(integers(np.int8, (K, K), i) // 16, np.int8) for i in range(3)}
    value = (np.float32, ("batch", "rows", K))
    return make_model(nodes, {"x": value}, {"y": value}, given, functions=[function])


def test_a_call_of_a_function_that_differs_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is a node of its own, so that the others are lowered."""
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(called(own=False).SerializeToString())
    spoil(monkeypatch, {"w1"})
    report = mcd_graph.compress_model(source, output, force_larger=True)
    assert [(node.weight, node.status, node.code) for node in report.nodes] == [
        ("w0", "lowered", None), (None, "kept", "differs"), ("w2", "lowered", None),
    ]  # fmt: skip
    assert mcd_graph.verify_model(source, output).identical


def test_a_function_whose_own_weight_makes_it_differ_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(called(own=True).SerializeToString())
    (node,) = mcd_graph.compress_model(source, output, force_larger=True).nodes
    assert (node.status, node.weight) == ("lowered", "v")
    spoil(monkeypatch, {"v"})
    with pytest.raises(mcd_graph.NothingToCompressError, match="differ from the original"):
        mcd_graph.compress_model(source, output, force_larger=True, force=True)


def test_no_tensor_becomes_an_array_of_floats(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which numpy.asarray makes of onnx_ir's tensors before NumPy 2.3: they are asked for their array."""
    spoil(monkeypatch, {"w1"})

    def asked(self: object, *_: object, **__: object) -> None:
        raise AssertionError(f"numpy.asarray of {type(self).__name__}")

    for kind in (ir.Tensor, ir.ExternalTensor):
        monkeypatch.setattr(kind, "__array__", asked)
    report = mcd_graph.compress_model(source, source.with_name("out.onnx"), force_larger=True)
    assert report.totals.kept == 1


def test_weights_are_compressed_once_however_often_it_is_tried(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As leaving out at once what differs, it gives the same bytes: in the model file, or in a data file."""
    spoil(monkeypatch, {"w1", "w4"})
    tried, spoiled = [], packed.pack_all

    def count(jobs: Collection[WeightJob], *given: object, **named: object) -> object:
        tried.append([job.key for job in jobs])
        return spoiled(jobs, *given, **named)

    monkeypatch.setattr(packed, "pack_all", count)
    outputs = [source.with_name(name) for name in ("tried.onnx", "left_out.onnx")]
    for inline in (False, True):
        tried.clear()
        mcd_graph.compress_model(source, outputs[0], force_larger=True, inline=inline, force=True)
        assert tried == [[f"w{i}" for i in range(LAYERS)], []]
        mcd_graph.compress_model(source, outputs[1], force_larger=True, inline=inline, force=True, exclude="w1|w4")
        parts = [[path, *([] if inline else [path.with_name(f"{path.name}_data")])] for path in outputs]
        first, second = ([path.read_bytes() for path in each] for each in parts)
        assert first[-1].replace(b"tried", b"left_out") == second[-1].replace(b"tried", b"left_out")


def test_nothing_is_written_where_all_differ(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {f"w{i}" for i in range(LAYERS)})
    with pytest.raises(mcd_graph.NothingToCompressError, match="differ from the original"):
        mcd_graph.compress_model(source, source.with_name("out.onnx"), force_larger=True)
    assert [path.name for path in source.parent.iterdir()] == ["model.onnx"]


def test_without_proof(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(monkeypatch, {"w1"})
    output = source.with_name("out.onnx")
    assert main(["compress", str(source), str(output), "--force-larger", "--no-verify"]) == 0
    assert "not proved: it was not asked for (--no-verify)" in capsys.readouterr().out
    assert not mcd_graph.verify_model(source, output).identical


def test_the_command_says_what_was_proved(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(source), str(source.with_name("out.onnx")), "--force-larger"]) == 0
    out = capsys.readouterr().out
    assert "proved: " in out
    assert "at default settings and with no optimisations" in out


def unknown_operator() -> onnx.ModelProto:
    model = layers(helper.make_node("Unheard", ["y"], ["z"], domain="of.nobody"), outputs=("z",))
    model.opset_import.append(helper.make_opsetid("of.nobody", 1))
    return model


def odd_input() -> onnx.ModelProto:
    model = layers(helper.make_node("StringNormalizer", ["t"], ["u"]), outputs=("y",))
    model.graph.input.append(helper.make_tensor_value_info("t", onnx.TensorProto.STRING, ["n"]))
    return model


def random_output() -> onnx.ModelProto:
    noise = helper.make_node("RandomNormalLike", ["y"], ["n"])
    return layers(noise, helper.make_node("Add", ["y", "n"], ["z"]), outputs=("z",))


def nan_output() -> onnx.ModelProto:
    minus = helper.make_node("Sqrt", ["negative"], ["n"])
    model = layers(minus, helper.make_node("Mul", ["y", "n"], ["z"]), outputs=("z",))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1), "negative"))
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unknown_operator, "of.nobody"),
        (odd_input, "no random values for input t"),
        (random_output, "not deterministic"),
        (nan_output, "nothing but NaN"),
    ],
)
def test_what_cannot_be_run_is_said(make: Callable[[], onnx.ModelProto], reason: str, tmp_path: Path) -> None:
    report = mcd_graph.compress_model(make(), tmp_path / "out.onnx", force_larger=True)
    assert report.proof is not None
    assert not report.proof.proved
    assert reason in (report.proof.reason or "")
    assert report.totals.lowered == LAYERS


def test_a_folder_that_onnxruntime_cannot_open(source: Path) -> None:
    folder = source.parent / os.fsdecode(b"\xff")
    folder.mkdir()
    report = mcd_graph.compress_model(source, folder / "out.onnx", min_saving=-1, force_larger=True)
    assert report.totals.lowered == LAYERS
    assert not report.proof.proved
    assert "UTF-8" in (report.proof.reason or "")


def test_a_random_output_beside_others(tmp_path: Path) -> None:
    model = layers(helper.make_node("RandomNormalLike", ["y"], ["n"]), outputs=("y", "n"))
    report = mcd_graph.compress_model(model, tmp_path / "out.onnx", force_larger=True)
    assert report.proof is not None
    assert report.proof.proved
    assert report.proof.not_deterministic == ("n",)


def test_a_model_that_is_too_large_to_run(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_bytes_limit", lambda: 1000)
    report = mcd_graph.compress_model(source, source.with_name("out.onnx"), force_larger=True)
    assert report.proof is not None
    assert "a quarter of the free memory" in (report.proof.reason or "")


def test_a_model_that_takes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_SECONDS", 0.3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["again"]), helper.make_node("Identity", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
         helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = layers(helper.make_node("Loop", ["", "yes", "y"], ["z"], body=body), outputs=("z",))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    report = mcd_graph.compress_model(model, tmp_path / "out.onnx", force_larger=True)
    assert report.proof is not None
    assert "took longer" in (report.proof.reason or "")


@pytest.mark.parametrize("culprits", [set(), {3}, {0, 7}, {1, 2, 3}, set(range(8))])
def test_bisection(culprits: set[int]) -> None:
    assert proof.find_culprits(range(8), lambda group: bool(culprits & set(group))) == (culprits or set(range(8)))


def test_bisection_where_two_differ_together() -> None:
    assert {2, 6} <= proof.find_culprits(range(8), lambda group: {2, 6} <= set(group))


def test_bisection_has_an_end() -> None:
    assert proof.find_culprits(range(100), lambda _: True, seconds=0) == set(range(100))


def test_saturating_inputs_are_among_those_that_are_run() -> None:
    """A difference that shows only where activations saturate is found."""
    specs = [spread for _, _, spread in proof._RUNS]
    assert max(specs) >= 100
    assert min(specs) < 0.1
