"""restore_model and inspect_model: restoring standard operators, and a look inside."""

from pathlib import Path

import numpy as np
import pytest
from samples import K, N, digests, gaussian_weight
from saved import damage

from mcd_graph import InputError, compress_model, restore_model, verify_model
from mcd_graph.inspection import inspect_model
from mcd_graph.model.loading import load_model


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
