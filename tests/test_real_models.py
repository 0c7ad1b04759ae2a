"""The T5-small title model, end to end: everything lowered, every byte the same, damage noticed."""

import functools
import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from lowering import assert_same_bytes
from samples import real_model, recipe

import mcd_graph
from mcd_graph.bench import bench_models
from mcd_graph.demo import run_demo
from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs
from mcd_graph.inspection import inspect_model
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import size_of
from mcd_graph.report.forecast import forecast
from mcd_graph.session import create_session

FILES = {entry["name"]: entry for entry in recipe()["files"]}
SHAPES = [(1, 1), (1, 23), (2, 16), (5, 3), (3, 40)]
"""Batch sizes and lengths."""


@pytest.fixture(
    scope="module",
    params=["t5-small-title-encoder", pytest.param("t5-small-title-decoder", marks=pytest.mark.slow)],
)
def compressed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name of a real model, and its compressed form."""
    path = tmp_path_factory.mktemp(request.param) / "model.mcd.onnx"
    mcd_graph.compress_model(real_model(request.param), path)
    return request.param, path


@pytest.mark.parametrize("name", FILES)
def test_the_recipe_describes_the_installed_file(name: str) -> None:
    content = real_model(name).read_bytes()
    assert len(content) == FILES[name]["bytes"]
    assert hashlib.sha256(content).hexdigest() == FILES[name]["sha256"]


def test_the_forecast_is_within_one_per_cent(compressed: tuple[str, Path]) -> None:
    name, path = compressed
    expected = forecast(inspect_model(real_model(name)))
    assert expected.compressed == pytest.approx(size_of(path), rel=0.01)
    assert expected.at_open == expected.compressed, "nothing is left"


def test_everything_is_lowered(compressed: tuple[str, Path]) -> None:
    name, path = compressed
    totals = inspect_model(path).totals
    assert (totals.nodes, totals.lowered) == (FILES[name]["nodes"], FILES[name]["lowered"])
    assert totals.payload_bytes <= 1.06 * totals.entropy_bytes
    assert totals.compressed_bytes < totals.weight_bytes


def test_every_payload_is_close_to_its_entropy(compressed: tuple[str, Path]) -> None:
    for node in inspect_model(compressed[1]).nodes:
        assert node.payload_bytes is not None
        assert node.entropy_bits is not None
        assert node.weight_bytes is not None
        assert 8 * node.payload_bytes <= 1.06 * node.entropy_bits * node.weight_bytes, node.name


def test_bytes_are_those_of_the_original(compressed: tuple[str, Path]) -> None:
    name, path = compressed
    specs = input_specs(load_model(real_model(name)))
    rng = np.random.default_rng(11)
    feeds = [
        random_inputs(specs, bind_dimensions(specs, batch, iter((length, length + 4))), rng) for batch, length in SHAPES
    ]
    original = create_session(real_model(name), threads=1, optimize=False)
    expected = [original.run(None, feed) for feed in feeds]
    for threads in (1, 2):
        session = create_session(path, threads=threads, optimize=False)
        for feed, theirs in zip(feeds, expected, strict=True):
            assert_same_bytes(session.run(None, feed), theirs)
            assert_same_bytes(session.run(None, feed), theirs)


def test_the_way_back(compressed: tuple[str, Path], tmp_path: Path) -> None:
    name, path = compressed
    result = mcd_graph.restore_model(path, tmp_path / "plain.onnx")
    assert (result.restored, result.kept) == (FILES[name]["lowered"], {})
    assert mcd_graph.verify_model(real_model(name), tmp_path / "plain.onnx", runs=2).identical
    restored = load_model(tmp_path / "plain.onnx").graph.initializers
    weights = 0
    for value_name, value in load_model(real_model(name)).graph.initializers.items():
        if value_name in restored and value.const_value is not None and value.const_value.nbytes > 1024:
            theirs = restored[value_name].const_value
            assert theirs is not None
            assert value.const_value.tobytes() == theirs.tobytes()
            weights += 1
    assert weights >= FILES[name]["lowered"]


def test_damage_in_the_payload_is_an_error_before_any_result(compressed: tuple[str, Path], tmp_path: Path) -> None:
    name, path = compressed
    specs = input_specs(load_model(real_model(name)))
    feed = random_inputs(specs, bind_dimensions(specs, 1, iter((5, 5))), np.random.default_rng(0))
    options = ort.SessionOptions()
    options.add_session_config_entry("mcd.verify", "load")
    options.register_custom_ops_library(mcd_graph.get_library_path())
    (tmp_path / "model.mcd.onnx").write_bytes(path.read_bytes())
    content = bytearray(path.with_name("model.mcd.onnx_data").read_bytes())
    model = load_model(path)
    rng = np.random.default_rng(3)
    nodes = [node for node in model.graph if node.domain == "mcd"]
    for node in rng.choice(np.array(nodes, object), 3):
        x2 = node.inputs[1].const_value
        position = x2.offset + rng.integers(128, x2.length)
        content[position] ^= 1 << rng.integers(8)
        (tmp_path / "model.mcd.onnx_data").write_bytes(content)
        with pytest.raises(Exception, match=f"{re.escape(node.name)}.*weight"):
            create_session(tmp_path / "model.mcd.onnx").run(None, feed)
        with pytest.raises(Exception, match=f'"{node.name}"'):
            ort.InferenceSession(tmp_path / "model.mcd.onnx", options)
        content[position] = path.with_name("model.mcd.onnx_data").read_bytes()[position]


def test_plain_onnxruntime_opens_it(compressed: tuple[str, Path]) -> None:
    """As the README says, and with graph optimisations on."""
    name, path = compressed
    options = ort.SessionOptions()
    options.register_custom_ops_library(mcd_graph.get_library_path())
    session = ort.InferenceSession(path, options)
    original = ort.InferenceSession(real_model(name))
    specs = input_specs(load_model(real_model(name)))
    feed = random_inputs(specs, bind_dimensions(specs, 2, iter((9, 12))), np.random.default_rng(0))
    for ours, theirs in zip(session.run(None, feed), original.run(None, feed), strict=True):
        assert ours.shape == theirs.shape
        assert np.isfinite(ours).all()


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcd_graph.bench.can_measure", lambda: False)  # twelve processes; test_bench has two
    monkeypatch.setattr("mcd_graph.demo.bench_models", functools.partial(bench_models, repeats=2))
    seen: list[tuple[str, int, int]] = []
    (tmp_path / "encoder.mcd.onnx").write_text("an earlier demonstration's, which is replaced")
    result = run_demo(tmp_path, progress=lambda *step: seen.append(step))
    assert result.verification.identical
    assert result.report.totals.lowered == FILES["t5-small-title-encoder"]["lowered"]
    assert result.compressed.is_file()
    assert {(row.contestant, row.m, row.threads) for row in result.bench.rows} == set(
        itertools.product(("fast", "balanced", "small"), (1, 8, 64), (0, 1))
    )
    for stage in ("compressing", "measuring"):
        done, total = [step[1:] for step in seen if step[0] == stage][-1]
        assert done == total
    page = result.page.read_text()
    for heading in ("Size against speed", "Latency against m", "Histogram of the weights", "Saving per layer"):
        assert f"<h2>{heading}</h2>" in page
