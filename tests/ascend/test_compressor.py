"""CompressConfig, Compressor and `mcd ascend compress`: msModelSlim's calls and files, and every refusal."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ascend import stand_in_excutor
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mcd_graph import InputError, _native
from mcd_graph.ascend import (
    CompressConfig,
    Compressor,
    deq_scale_from_float,
    deq_scale_to_float,
    read_dat,
    read_safetensors,
)
from mcd_graph.ascend.codec import from_nz, to_nz
from mcd_graph.ascend.excutor import run_excutor
from mcd_graph.cli import main

DESCRIPTION = {
    "model_quant_type": "W8A8S",
    "a.weight": "W8A8S",
    "a.deq_scale": "W8A8S",
    "norm.weight": "W8A8S",
    "embed.weight": "FLOAT",
}


def sparse(n: int = 96, k: int = 320, seed: int = 0) -> np.ndarray:
    """Return an int8 weight (n, k) with many zeros."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(-9, 10, (n, k)) * (rng.random((n, k)) < 0.4), np.int8)


def tensors() -> dict[str, Any]:
    return {
        "a.weight": sparse(),
        "a.deq_scale": np.arange(96, dtype=np.int64),
        "norm.weight": np.ones(8, np.float32),
        "embed.weight": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A .npy as the operator's document makes it."""
    path = tmp_path / "weight.npy"
    np.save(path, {"b": sparse(70, 333, 1), "a": sparse()})  # type: ignore[arg-type]
    return path


def write_model(folder: Path, **changes: Any) -> tuple[Path, Path]:
    description = folder / "description.json"
    description.write_text(json.dumps(DESCRIPTION | changes))
    model = folder / "model.safetensors"
    save_file(tensors(), model)
    return model, description


# ---------------------------------------------------------------------------------------------------------------------
# .npy and .dat


def test_run_gives_streams_indices_and_infos(weights: Path) -> None:
    weight, index, info = Compressor(CompressConfig(multiprocess_num=2), weight_path=weights).run()
    assert list(weight) == list(index) == list(info) == ["a", "b"]
    for name, shape in {"a": (96, 320), "b": (70, 333)}.items():
        assert (weight[name].dtype, index[name].dtype, info[name].dtype) == (np.int8, np.int8, np.int64)
        assert info[name].tolist() == [8, 8, shape[1], shape[0], 1]
        assert index[name].size == 8 * -(-shape[0] // 128) * -(-shape[1] // 256)
    assert np.array_equal(_native.decode(weight["a"], index["a"], info["a"]), sparse())


def test_weight_transpose(weights: Path) -> None:
    weight, index, info = Compressor(CompressConfig(), weight_path=weights).run(weight_transpose=True)
    assert info["a"].tolist() == [8, 8, 96, 320, 1]
    assert np.array_equal(_native.decode(weight["a"], index["a"], info["a"]), sparse().T)


def test_the_command_writes_the_document_s_files(weights: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ascend", "compress", str(weights), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "a: 96 x 320, 30720 bytes became" in printed
    assert "the open codec: for the CPU, not for a device" in printed
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        *(f"{part}/{name}.dat" for part in ("index", "info") for name in "ab"),
        "mcd.json",
        *(f"weight/{name}.dat" for name in "ab"),
    ]
    info = np.fromfile(out / "info" / "a.dat", "<i8")
    assert info.tolist() == [8, 8, 320, 96, 1]
    x2, index = (np.fromfile(out / part / "a.dat", np.int8) for part in ("weight", "index"))
    assert np.array_equal(_native.decode(x2, index, info), sparse())
    layers = read_dat(out)
    assert np.array_equal(layers["b"].decode(), sparse(70, 333, 1))
    assert main(["ascend", "compress", str(weights), str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["ascend", "compress", str(weights), str(out), "--force", "--transpose", "--jobs", "2"]) == 0
    assert np.array_equal(read_dat(out)["a"].decode(), sparse().T)


def test_export_refuses_what_does_not_fit(weights: Path, tmp_path: Path) -> None:
    """msModelSlim's default dtype is int8, which would wrap k and n."""
    compressor = Compressor(CompressConfig(), weight_path=weights)
    weight, _, info = compressor.run()
    with pytest.raises(InputError, match=r"a: \[8, 8, 320, 96, 1\] does not fit int8; give dtype=np\.int64"):
        compressor.export(info, tmp_path / "info")
    with pytest.raises(InputError, match=r"dtype must be numpy\.int8 or numpy\.int64"):
        compressor.export(weight, tmp_path / "weight", np.float32)
    assert not (tmp_path / "info").exists()
    for name in ("", "../a", "a/b", ".a", "a\0"):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            compressor.export({name: weight["a"]}, tmp_path / "weight")


def test_export_replaces_files_and_names_may_have_dots(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    for value in (1, 2):
        Compressor.export({name: np.array([value], np.int8)}, str(tmp_path / "weight"))
    assert (tmp_path / "weight" / f"{name}.dat").read_bytes() == b"\2"


def test_disabled_layers_are_only_brought_into_fractals(weights: Path, tmp_path: Path) -> None:
    compressor = Compressor(CompressConfig(compress_disable_layers=("a",)), weight_path=weights)
    weight, index, info = compressor.run()
    assert weight["a"].shape == (10, 6, 16, 32)
    assert np.array_equal(from_nz(weight["a"], 96, 320), sparse())
    assert index["a"].shape == (0, 0)
    assert list(info) == ["b"]
    compressor.export(index, tmp_path)
    assert (tmp_path / "a.dat").stat().st_size == 0


def test_pseudo_sparsity(weights: Path) -> None:
    config = CompressConfig(do_pseudo_sparse=True, sparse_ratio=0.5)
    weight, index, info = Compressor(config, weight_path=weights).run()
    decoded = _native.decode(weight["a"], index["a"], info["a"])
    kept = decoded != 0
    assert np.array_equal(decoded[kept], sparse()[kept])
    assert 0.4 < np.count_nonzero(decoded) / np.count_nonzero(sparse()) < 0.6


def test_is_debug_logs_sizes(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mcd_graph")
    Compressor(CompressConfig(is_debug=True), weight_path=weights).run()
    assert "a: 30720 bytes became" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"do_pseudo_sparse": 1},
        {"do_pseudo_sparse": True, "sparse_ratio": 1.5},
        {"do_pseudo_sparse": True, "sparse_ratio": "x"},
        {"is_debug": "yes"},
        {"compress_disable_layers": "a"},
        {"compress_disable_layers": [1]},
        {"record_detail_root": None},
        {"multiprocess_num": 0},
        {"multiprocess_num": True},
    ],
)
def test_bad_configurations(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"CompressConfig: .* cannot be"):
        CompressConfig(**fields)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.zeros((2, 2), np.float32), "is float32 of shape"),
        (np.zeros((2, 2), np.uint8), "is uint8, not int8"),
        (np.zeros(4, np.int8), r"shape \(4,\), not a matrix"),
        (np.zeros((0, 4), np.int8), r"shape \(0, 4\), not a matrix"),
    ],
)
def test_weights_that_are_not_int8_matrices(tmp_path: Path, weight: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "w.npy", {"a": weight})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"weight a {reason}|weight a is .*{reason}"):
        Compressor(CompressConfig(), weight_path=tmp_path / "w.npy").run()


def test_weights_must_be_given() -> None:
    with pytest.raises(InputError, match="give weight_path, or weight and quant_model_description"):
        Compressor(CompressConfig())
    with pytest.raises(InputError, match="give weight_path"):
        Compressor(CompressConfig(), weight=tensors())
    with pytest.raises(InputError, match="config is a dict"):
        Compressor({}, weight=tensors())  # type: ignore[arg-type]


def damaged(folder: Path, part: str, change: Any) -> None:
    path = folder / part / "a.dat"
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("weight", lambda _: b"", "weight/a.dat has 0 bytes"),
        ("weight", lambda data: data[:-1], "weight a: .*"),
        ("weight", lambda data: data[:100] + b"\xff" + data[101:], "weight a: .*"),
        ("weight", lambda data: b"X" + data[1:], "a stream of codec 'cann', but its file says 'open'"),
        ("index", lambda data: data[:-8], "index/a.dat has 8 bytes, not 16"),
        ("index", lambda _: None, "index/a.dat is missing"),
        ("info", lambda data: data[:-8], "info/a.dat has 32 bytes, not 40"),
        ("info", lambda data: data[16:24] + data[8:], r"is \[320, 8, 320, 96, 1\], not \[8, 8, k, n, 1\]"),
        ("info", lambda data: data[:16] + b"\xff" * 8 + data[24:], r"is \[8, 8, -1, 96, 1\]"),
        ("info", lambda data: data[:24] + b"\xff" * 7 + b"\x7f" + data[32:], r"not \[8, 8, k, n, 1\]"),
        ("info", lambda data: data[:16] + b"\x41\x01" + data[18:], "weight a: .*"),
    ],
)
def test_damaged_dat_files(weights: Path, out: Path, part: str, change: Any, reason: str) -> None:
    assert main(["ascend", "compress", str(weights), str(out)]) == 0
    damaged(out, part, change)
    with pytest.raises(InputError, match=reason):
        read_dat(out)["a"].decode()


@pytest.mark.parametrize("note", [b"", b"[1]", b"{}", b'{"mcd.codec": 1}', b"[" * 100_000])
def test_a_note_must_name_a_codec(weights: Path, out: Path, note: bytes) -> None:
    assert main(["ascend", "compress", str(weights), str(out)]) == 0
    (out / "mcd.json").write_bytes(note)
    with pytest.raises(InputError, match="does not say which codec"):
        read_dat(out)


def test_an_empty_folder_has_no_weights(out: Path) -> None:
    with pytest.raises(InputError, match=r"has no weight/\*\.dat"):
        read_dat(out)


def test_the_document_s_folder_name(weights: Path, out: Path) -> None:
    assert main(["ascend", "compress", str(weights), str(out)]) == 0
    (out / "info").rename(out / "compress_info")
    assert np.array_equal(read_dat(out)["a"].decode(), sparse())


# ---------------------------------------------------------------------------------------------------------------------
# safetensors


def test_the_model_goes_there_and_back(tmp_path: Path, out: Path) -> None:
    model, description = write_model(tmp_path)
    assert main(["ascend", "compress", str(model), str(out), "--description", str(description)]) == 0
    written = (out / "quant_model_weight_w8a8sc.safetensors", out / "quant_model_description_w8a8sc.json")
    assert sorted(out.iterdir()) == sorted(written)
    layers, others = read_safetensors(*written)
    assert list(layers) == ["a.weight"]
    assert layers["a.weight"].codec == "open"
    assert np.array_equal(layers["a.weight"].decode(), sparse())
    expected = tensors()
    del expected["a.weight"]
    assert others.keys() == expected.keys()
    for name, array in others.items():
        assert array.dtype == expected[name].dtype
        assert array.tobytes() == expected[name].tobytes()
    described = json.loads(written[1].read_text())
    assert described == {
        "model_quant_type": "W8A8SC",
        **{f"a.{part}": "W8A8SC" for part in ("weight", "index", "info")},
        "a.deq_scale": "W8A8S",
        "norm.weight": "W8A8S",
        "embed.weight": "FLOAT",
        "metadata": {"mcd.codec": "open"},
    }


def test_keys_about_the_model_are_kept_and_a_version_changes_the_name(out: Path) -> None:
    about = {"version": "1.0.0", "group_size": 64, "kv_quant_type": "C8", "metadata": {"gone": 1}}
    compressor = Compressor(CompressConfig(), weight=tensors(), quant_model_description=DESCRIPTION | about)
    compressor.run()
    compressor.export_safetensors(str(out), "x.safetensors", "not json")
    described = json.loads((out / "quant_model_description.json").read_text())
    assert {key: described[key] for key in about} == {**about, "metadata": {"mcd.codec": "open"}}
    assert (out / "x.safetensors").is_file()


def test_sparse_float16_weights_are_taken_as_pairs_of_bytes(out: Path) -> None:
    half = sparse().astype(np.float16)
    compressor = Compressor(
        CompressConfig(),
        weight={"a.weight": half},
        quant_model_description={"model_quant_type": "W16A16S", "a.weight": "W16A16S"},
    )
    _, _, info = compressor.run()
    assert info["a.weight"].tolist() == [8, 8, 640, 96, 1]
    compressor.export_safetensors(out)
    names = ("quant_model_weight_w16a16sc.safetensors", "quant_model_description_w16a16sc.json")
    layers, _ = read_safetensors(*(out / name for name in names))
    assert np.array_equal(layers["a.weight"].decode().view(np.float16), half)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"a.weight": "W8A8"}, "there is no sparse weight"),
        ({"a.weight": "W9A9"}, "type 'W9A9', which does not exist"),
        ({"a.weight": 1}, "type 1, which does not exist"),
        ({"model_quant_type": None}, "has no model_quant_type"),
        ({"version": "1"}, "version is '1', not x.y.z"),
        ({"b.weight": "FLOAT"}, "'b.weight' is in only one"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path: Path, out: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Compressor(CompressConfig(), weight=tensors(), quant_model_description=DESCRIPTION | changes).run()
    assert main(["ascend", "compress", *(str(p) for p in (write_model(tmp_path, **changes)[0], out))]) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "3"])
def test_descriptions_that_are_none(
    tmp_path: Path, out: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, description = write_model(tmp_path)
    description.write_text(content)
    assert main(["ascend", "compress", str(model), str(out), "--description", str(description)]) == 2
    assert "description.json is not" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_tensors_that_are_none() -> None:
    with pytest.raises(InputError, match=r"tensor a\.weight is a list, not an array"):
        Compressor(
            CompressConfig(),
            weight={"a.weight": [1]},
            quant_model_description={"model_quant_type": "W8A8S", "a.weight": "W8A8S"},
        )


def test_export_needs_results_and_a_description(weights: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"weights from a \.npy have no description"):
        Compressor(CompressConfig(), weight_path=weights).export_safetensors(out)
    given = {"weight": tensors(), "quant_model_description": DESCRIPTION}
    with pytest.raises(InputError, match=r"weight a\.weight was not compressed"):
        Compressor(CompressConfig(), **given).export_safetensors(out)
    compressor = Compressor(CompressConfig(compress_disable_layers=["a.weight"]), **given)
    compressor.run()
    with pytest.raises(InputError, match=r"weight a\.weight was not compressed"):
        compressor.export_safetensors(out)


def rewrite(out: Path, change: Any) -> None:
    """Change the tensors and the description of a written model."""
    model, description = out / "quant_model_weight_w8a8sc.safetensors", out / "quant_model_description_w8a8sc.json"
    layers, others = read_safetensors(model, description)
    layer = layers["a.weight"]
    parts = {"weight": layer.x2, "index": layer.compress_index, "info": layer.compress_info}
    files = SimpleNamespace(
        tensors={**others, **{f"a.{part}": array.copy() for part, array in parts.items()}},
        described=json.loads(description.read_text()),
        metadata={"mcd.codec": "open"},
    )
    change(files)
    for path in (model, description):
        path.unlink()
    save_file(files.tensors, model, files.metadata)
    description.write_text(json.dumps(files.described))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f.tensors.pop("a.index"), f.described.pop("a.index")), "has no index or no info"),
        (lambda f: f.tensors.pop("a.index"), "'a.index' is in only one"),
        (lambda f: f.tensors.update({"a.info": f.tensors["a.info"][:4]}), r"int64 of shape \(4,\), not int64 \(5,\)"),
        (lambda f: f.tensors.update({"a.info": f.tensors["a.info"].astype(np.int32)}), "is int32"),
        (
            lambda f: f.tensors.update({"a.index": f.tensors["a.index"][:8]}),
            "has 8 bytes; a weight of 96 x 320 needs 16",
        ),
        (
            lambda f: f.tensors.update({"a.weight": f.tensors["a.weight"][None]}),
            "stream of weight a.weight is int8 of shape",
        ),
        (
            lambda f: f.tensors.update({"a.weight": f.tensors["a.weight"].view(np.uint8)}),
            "stream of weight a.weight is uint8",
        ),
        (lambda f: f.tensors["a.weight"].__setitem__(0, 1), "codec 'cann', but its file says 'open'"),
        (lambda f: f.metadata.update({"mcd.codec": "cann"}), "say different codecs"),
        (
            lambda f: (f.metadata.update({"mcd.codec": "cann"}), f.described["metadata"].update({"mcd.codec": "cann"})),
            "codec 'open', but its file says 'cann'",
        ),
        (
            lambda f: (f.tensors.pop("a.weight"), f.described.pop("a.weight")),
            "'a.index' belongs to no compressed weight",
        ),
    ],
)
def test_models_that_do_not_fit_their_description(tmp_path: Path, out: Path, change: Any, reason: str) -> None:
    model, description = write_model(tmp_path)
    assert main(["ascend", "compress", str(model), str(out), "--description", str(description)]) == 0
    rewrite(out, change)
    with pytest.raises(InputError, match=reason):
        read_safetensors(*(out / f"quant_model_{n}" for n in ("weight_w8a8sc.safetensors", "description_w8a8sc.json")))


def test_a_stream_in_a_larger_buffer(tmp_path: Path, out: Path) -> None:
    """vLLM-Ascend's parameter has n * k bytes, of which the loader fills the front."""
    model, description = write_model(tmp_path)
    assert main(["ascend", "compress", str(model), str(out), "--description", str(description)]) == 0

    def enlarge(files: Any) -> None:
        full = np.random.default_rng(0).integers(-128, 128, sparse().size, np.int8)
        full[: files.tensors["a.weight"].size] = files.tensors["a.weight"]
        files.tensors["a.weight"] = full

    rewrite(out, enlarge)
    layers, _ = read_safetensors(
        *(out / f"quant_model_{name}" for name in ("weight_w8a8sc.safetensors", "description_w8a8sc.json"))
    )
    assert layers["a.weight"].x2.size < sparse().size
    assert np.array_equal(layers["a.weight"].decode(), sparse())


def test_weights_that_do_not_compress_are_named(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(-128, 128, (128, 256), np.int8)
    np.save(tmp_path / "w.npy", {"noise": noise, "sparse": sparse()})  # type: ignore[arg-type]
    assert main(["ascend", "compress", str(tmp_path / "w.npy"), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "noise: does not compress; its stream exceeds n * k bytes" in printed
    assert "sparse: does not" not in printed


def test_weights_that_vllm_ascend_has_no_room_for_are_logged(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(-128, 128, (128, 256), np.int8)
    weights = {"a.weight": sparse(), "b.weight": noise}
    description = {"model_quant_type": "W8A8S", "a.weight": "W8A8S", "b.weight": "W8A8S"}
    compressor = Compressor(CompressConfig(), weight=weights, quant_model_description=description)
    compressor.run()
    assert compressor.grown == ("b.weight",)
    compressor.export_safetensors(out)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["b.weight: does not compress"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x40\0\0\0\0\0\0\0{",
        b'\x4c\0\0\0\0\0\0\0{"a":{"dtype":"I8","shape":[9999999999,9999999999],"data_offsets":[0,1]}}   x',
        b'\x36\0\0\0\0\0\0\0{"a":{"dtype":"I8","shape":[9],"data_offsets":[0,9]}}  x',
        b'\x36\0\0\0\0\0\0\0{"a":{"dtype":"Q8","shape":[1],"data_offsets":[0,1]}}  x',
    ],
)
def test_damaged_safetensors(tmp_path: Path, out: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    model, description = write_model(tmp_path)
    model.write_bytes(content)
    assert main(["ascend", "compress", str(model), str(out), "--description", str(description)]) == 2
    assert "is not a usable safetensors file" in capsys.readouterr().err


def test_arguments_that_do_not_go_together(
    tmp_path: Path, out: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, description = write_model(tmp_path)
    assert main(["ascend", "compress", str(model), str(out)]) == 2
    assert main(["ascend", "compress", str(weights), str(out), "--description", str(description)]) == 2
    assert main(["ascend", "compress", str(tmp_path / "none.npy"), str(out)]) == 2
    assert main(["ascend", "compress", str(tmp_path / "none.safetensors"), str(out), "--description", "x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == ["mcd"] * 4
    assert not list(out.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# compress_excutor


@given(st.integers(1, 70), st.integers(1, 70))
def test_fractals_there_and_back(n: int, k: int) -> None:
    w = sparse(n, k)
    fractals = to_nz(w)
    assert fractals.shape == (-(-k // 32), -(-n // 16), 16, 32)
    assert np.array_equal(from_nz(fractals, n, k), w)
    assert fractals[(k - 1) // 32, (n - 1) // 16, (n - 1) % 16, (k - 1) % 32] == w[-1, -1]
    assert np.count_nonzero(fractals) == np.count_nonzero(w)


def test_streams_of_an_excutor_with_the_open_codec_are_known_as_such(weights: Path, tmp_path: Path, out: Path) -> None:
    program = stand_in_excutor.install(tmp_path / "bin")
    assert main(["ascend", "compress", str(weights), str(out), "--compressor", str(program)]) == 0
    layers = read_dat(out)
    assert {layer.codec for layer in layers.values()} == {"open"}
    assert np.array_equal(layers["a"].decode(), sparse())
    assert np.array_equal(layers["b"].decode(), sparse(70, 333, 1)), "padding to whole fractals is cut off"


def test_the_device_s_codec_is_named_and_never_decoded(
    weights: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = stand_in_excutor.install(tmp_path / "bin", "device")
    assert main(["ascend", "compress", str(weights), str(out), "--compressor", str(program)]) == 0
    assert "CANN's codec: for a device only" in capsys.readouterr().out
    layers = read_dat(out)
    assert {layer.codec for layer in layers.values()} == {"cann"}
    with pytest.raises(InputError, match="CANN's codec, which only the device can read"):
        layers["a"].decode()
    (out / "mcd.json").write_text('{"mcd.codec": "open"}')
    with pytest.raises(InputError, match="codec 'cann', but its file says 'open'"):
        read_dat(out)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("silent", "left no output file, so it failed"),
        ("status", "failed with status 1: no device"),
        ("tiles", "used tiles of 8 x 4, not 8 x 8"),
        ("length", r"says \d+ bytes and wrote \d+"),
        ("index", "wrote an index of 8 bytes"),
        ("info", "wrote 2 numbers of info, not 3"),
    ],
)
def test_excutors_that_fail(tmp_path: Path, mode: str, reason: str) -> None:
    program = stand_in_excutor.install(tmp_path / "bin", mode)
    with pytest.raises(InputError, match=f"weight w: .*{reason}"):
        run_excutor(program, sparse(), name="w", scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"], "files that went to and fro are gone"


def test_excutors_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="cannot be run"):
            run_excutor(path, sparse(), name="w")


def test_weights_beyond_what_the_excutor_takes() -> None:
    with pytest.raises(InputError, match="larger than compress_excutor takes"):
        run_excutor("unused", np.zeros((1, 1_600_001), np.int8), name="w")


# ---------------------------------------------------------------------------------------------------------------------
# deqScale


@given(st.lists(st.floats(min_value=2.0**-149, width=32, allow_infinity=False), min_size=1))
def test_deq_scale_there_and_back(scales: list[float]) -> None:
    floats = np.array(scales, np.float32)
    words = deq_scale_from_float(floats)
    assert words.dtype == np.uint64
    assert words.tobytes() == np.stack([floats.view(np.uint32), np.zeros_like(floats, np.uint32)], axis=1).tobytes()
    assert np.array_equal(deq_scale_to_float(words), floats)
    assert np.array_equal(deq_scale_to_float(words.astype(np.int64)), floats)


def test_deq_scale_keeps_shapes() -> None:
    assert deq_scale_from_float(1.0).shape == ()
    assert int(deq_scale_from_float(1.0)) == 0x3F800000
    assert deq_scale_to_float(np.uint64(0x3F800000)) == 1.0
    assert deq_scale_from_float(np.ones((1, 4))).shape == (1, 4)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, -np.inf, np.nan, 1e39, 1e-50])
def test_scales_that_the_device_does_not_define(scale: float) -> None:
    with pytest.raises(InputError, match=r"scale 1 is .* finite and above zero"):
        deq_scale_from_float([1.0, scale])


@pytest.mark.parametrize(
    "words",
    [
        np.array([1.0], np.float32),
        np.array([0], np.uint64),
        np.array([1 << 46 | 0x3F800000], np.uint64),
        np.array([0xBF800000], np.uint64),
        np.array([-0x40800000], np.int64),
        np.array([0x7F800000], np.uint64),
        np.array([0x7FC00000], np.uint64),
    ],
)
def test_words_that_are_no_scales(words: np.ndarray) -> None:
    with pytest.raises(InputError, match="deqScale word"):
        deq_scale_to_float(words)
