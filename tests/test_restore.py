"""restore_model and inspect_model: restoring standard operators, and a look inside."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples import K, N, digests, gaussian_weight
from saved import damage

from mcd_graph import InputError, compress_model, restore_model, verify_model
from mcd_graph.inspection import inspect_model
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import size_of


def test_weights_and_bits_come_back(model: Path, out: Path) -> None:
    compress_model(model, out / "m.mcd.onnx")
    result = restore_model(out / "m.mcd.onnx", out / "plain.onnx")
    assert (result.restored, result.kept) == (3, {})
    restored = load_model(out / "plain.onnx")
    assert {node.domain for node in restored.graph.all_nodes()} == {""}
    assert "mcd" not in restored.opset_imports
    for name, expected in (("w1", gaussian_weight(seed=1)), ("w2", gaussian_weight(N, K, seed=2))):
        tensor = restored.graph.initializers[name].const_value
        assert tensor is not None
        assert np.array_equal(tensor.numpy(), expected)
    assert verify_model(model, out / "plain.onnx").identical
    assert result.file_bytes_after > result.file_bytes_before


def test_restored_models_can_be_compressed_again(model: Path, out: Path) -> None:
    first = compress_model(model, out / "a.onnx")
    restore_model(out / "a.onnx", out / "b.onnx")
    second = compress_model(out / "b.onnx", out / "c.onnx")
    assert second.totals.compressed_bytes == first.totals.compressed_bytes
    assert (out / "a.onnx_data").read_bytes() == (out / "c.onnx_data").read_bytes()


def test_nothing_to_restore(model: Path, out: Path) -> None:
    with pytest.raises(InputError, match="nothing to restore"):
        restore_model(model, out / "m.onnx")
    assert digests(out) == {}


def test_damage_is_seen_and_nothing_written(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    damage(out / "m.onnx")
    before = digests(out)
    with pytest.raises(InputError, match=r"m\.onnx: node /first/MatMul: tile 0 is damaged"):
        restore_model(out / "m.onnx", out / "plain.onnx")
    with pytest.raises(InputError, match=r"m\.onnx: node /first/MatMul: tile 0 is damaged"):
        inspect_model(out / "m.onnx")
    assert digests(out) == before


def test_inspection_agrees_with_the_report(model: Path, out: Path) -> None:
    report = compress_model(model, out / "m.onnx")
    inspected = inspect_model(out / "m.onnx")
    for ours, theirs in zip(inspected.nodes, report.nodes, strict=True):
        for field in (
            "name", "status", "weight", "k", "n", "weight_bytes", "compressed_bytes", "payload_bytes", "entropy_bits",
            "codec",
        ):  # fmt: skip
            assert getattr(ours, field) == getattr(theirs, field), field
    assert inspected.totals.file_bytes_before == report.totals.file_bytes_after


def test_inspection_of_an_original(model: Path) -> None:
    report = inspect_model(model)
    assert [node.status for node in report.nodes] == ["lowerable"] * 3
    assert (report.totals.lowerable, report.totals.lowered, report.totals.ratio) == (3, 0, None)
    assert all(node.entropy_bits for node in report.nodes)


def test_inspection_of_a_mixture(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx", include="second")
    assert [(node.name, node.status) for node in inspect_model(out / "m.onnx").nodes] == [
        ("/second/MatMul", "lowered"),
        ("/first/MatMul", "lowerable"),
        ("/y/MatMul", "lowerable"),
    ]


def _branches_that_share(form: str) -> onnx.ModelProto:
    """An If whose branches multiply by one constant of the graph around it."""
    rng = np.random.default_rng(1)
    weight = np.clip(np.rint(rng.normal(0, 14, (640, 640))), -127, 127).astype(np.int8)
    dequantize = helper.make_node("DequantizeLinear", ["w", "s"], ["d"])

    def branch(name: str) -> onnx.GraphProto:
        inner, value = ([], "d")
        if form == "read as floats in both":
            inner, value = [helper.make_node("Cast", ["w"], [f"{name}f"], to=TensorProto.FLOAT)], f"{name}f"
        nodes = [*inner, helper.make_node("MatMul", ["x", value], [f"{name}y"])]
        output = helper.make_tensor_value_info(f"{name}y", TensorProto.FLOAT, [512, 640])
        return helper.make_graph(nodes, name, [], [output])

    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    graph = helper.make_graph(
        [dequantize, choice] if form == "dequantized outside" else [choice],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [512, 640]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [512, 640])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(0.01, np.float32), "s")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("dequantized outside", {}),
        ("dequantized outside", {"inline": True}),
        ("read as floats in both", {"at_open": True}),
    ],
)
def test_what_branches_share_is_restored_once(
    form: str, options: dict[str, bool], inline: bool, tmp_path: Path
) -> None:
    source, target, back = (tmp_path / f"{name}.onnx" for name in ("source", "target", "back"))
    source.write_bytes(_branches_that_share(form).SerializeToString())
    report = compress_model(source, target, **options)
    assert [each.status for each in report.constants] == ["lowered"]
    assert restore_model(target, back, inline=inline).restored == 1
    assert size_of(back) <= source.stat().st_size + 256
