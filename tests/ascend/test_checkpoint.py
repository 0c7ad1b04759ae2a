"""`mcd ascend checkpoint`: a small real model of two ranks, loaded and run as vLLM-Ascend does."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acl_runtime import Problem
from ascend import stand_in_excutor
from ascend.small_checkpoint import HEAD, HEADS, HIDDEN, KEYS, LAYERS, MIDDLE, VOCABULARY, Model, load, run, small_model
from safetensors import safe_open

from mcd_graph import InputError, Progress, WorkerError, pack_weight
from mcd_graph.ascend import npu_matmul_compress_dequant, write_checkpoint
from mcd_graph.ascend.checkpoint import run as checkpoint_run
from mcd_graph.ascend.checkpoint import source as source_module
from mcd_graph.ascend.checkpoint import work
from mcd_graph.ascend.checkpoint.writer import write_safetensors
from mcd_graph.ascend.torch_npu import multiply
from mcd_graph.cli import main


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def source(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("w8a8s"))


def product(model: Model, name: str, x1: np.ndarray, *, bias: bool = True) -> np.ndarray:
    """A layer of the source, uncompressed."""
    added = model.tensors[f"{name}.quant_bias"]
    scale = model.tensors[f"{name}.deq_scale"]
    return multiply(x1, model.tensors[f"{name}.weight"], added if bias else np.zeros_like(added), scale)


def tensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def activations(k: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-128, 128, (3, k), np.int8)


# ---------------------------------------------------------------------------------------------------------------------
# vLLM-Ascend


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_compute_what_the_model_computes(model: Model, source: Path, out: Path, ranks: int) -> None:
    report = write_checkpoint(source, out, ranks=ranks)
    assert report.differing == 0
    assert len(report.layers) == 4 * LAYERS * ranks
    states = [load(out, rank, ranks) for rank in range(ranks)]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        x1 = activations(HIDDEN)
        results = [run(state, f"{prefix}.self_attn.qkv_proj", x1, rank) for rank, state in enumerate(states)]
        keys = max(1, KEYS // ranks) * HEAD
        cuts = [HEADS * HEAD // ranks, HEADS * HEAD // ranks + keys]
        q, k, v = ([np.split(result, cuts, axis=1)[at] for result in results] for at in range(3))
        repeated = max(1, ranks // KEYS)
        for name, parts in {"q": q, "k": k[::repeated], "v": v[::repeated]}.items():
            assert (
                np.concatenate(parts, axis=1).tobytes()
                == product(model, f"{prefix}.self_attn.{name}_proj", x1).tobytes()
            )
        results = [run(state, f"{prefix}.mlp.gate_up_proj", x1, rank) for rank, state in enumerate(states)]
        for at, name in enumerate(("gate", "up")):
            found = np.concatenate([np.split(result, 2, axis=1)[at] for result in results], axis=1)
            assert found.tobytes() == product(model, f"{prefix}.mlp.{name}_proj", x1).tobytes()
        for name, size in {"self_attn.o_proj": HEADS * HEAD, "mlp.down_proj": MIDDLE}.items():
            x1 = activations(size)
            parts = np.split(x1, ranks, axis=1)
            results = [
                run(state, f"{prefix}.{name}", part, rank)
                for rank, (state, part) in enumerate(zip(states, parts, strict=True))
            ]
            total = np.sum([result.astype(np.float64) for result in results], axis=0)
            whole = product(model, f"{prefix}.{name}", x1).astype(np.float64)
            # Each rank rounds to float16 once.
            assert (
                np.abs(total - whole).max() <= ranks * 2.0**-11 * max(np.abs(result).max() for result in results) + 1e-3
            )


def test_what_is_not_compressed_is_taken_over(model: Model, source: Path, out: Path) -> None:
    write_checkpoint(source, out, ranks=2)
    states = [load(out, rank, 2) for rank in range(2)]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        whole = np.concatenate([state[name] for state in states])
        assert np.array_equal(whole[:VOCABULARY], model.tensors[name])
        assert not whole[VOCABULARY:].any()
    for state in states:
        for name in ("model.norm.weight", "model.layers.1.self_attn.q_norm.weight"):
            assert np.array_equal(state[name], model.tensors[name])
        assert state["model.layers.0.self_attn.qkv_proj.input_scale"].tolist() == [0.0625]
        assert state["model.layers.0.mlp.down_proj.info"].tolist() == [8, 8, MIDDLE // 2, HIDDEN, 1]
    assert (out / "chat" / "template.jinja").read_text() == "{{ messages }}"
    for name in ("config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("chat", "config.json", "tokenizer.json", "mcd_checkpoint.json", "quant_model_description.json"),
        *(f"model-rank-{rank}-part-0.safetensors" for rank in range(2)),
    }
    types = json.loads((out / "quant_model_description.json").read_text())
    assert types["model.layers.0.self_attn.k_proj.weight"] == "W8A8SC"
    assert types["model.layers.0.self_attn.k_proj.deq_scale"] == "W8A8S"
    assert types["lm_head.weight"] == "FLOAT"


def test_the_names_that_msmodelslim_gives(model: Model, out: Path, tmp_path: Path) -> None:
    """Its index is called otherwise, and is not copied: it names files that are not there."""
    folder = model.save(tmp_path / "w8a8s")
    index = folder / "model.safetensors.index.json"
    renamed = index.read_text().replace('"model-0', '"quant_model_weights-0')
    for path in folder.glob("model-0*.safetensors"):
        path.rename(folder / path.name.replace("model-", "quant_model_weights-"))
    (folder / "quant_model_weights.safetensors.index.json").write_text(renamed)
    with pytest.raises(InputError, match=r"has 2 indices, model\.safetensors\.index\.json, quant_model_weights"):
        write_checkpoint(folder, out)
    index.unlink()
    write_checkpoint(folder, out)
    assert load(out, 0, 1)
    assert not list(out.glob("*.index.json"))


def test_large_tensors_are_written_in_pieces(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a vocabulary whose last rank has nothing but padding."""
    odd = small_model()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        odd.tensors[name] = odd.tensors[name][:65]
    folder = odd.save(tmp_path / "odd")
    for layout in ("vllm", "mindie"):
        write_checkpoint(folder, out / "whole" / layout, ranks=4, layout=layout)
        with monkeypatch.context() as patched:
            patched.setattr(source_module, "_BLOCK", 5000)
            write_checkpoint(folder, out / "pieces" / layout, ranks=4, layout=layout)
    files = [path.relative_to(out / "whole") for path in (out / "whole").rglob("*.safetensors")]
    assert len(files) == 8
    for path in files:
        assert (out / "whole" / path).read_bytes() == (out / "pieces" / path).read_bytes()
    table = [tensors(out / f"whole/vllm/model-rank-{rank}-part-0.safetensors")["lm_head.weight"] for rank in range(4)]
    assert [len(part) for part in table] == [32] * 4
    assert np.array_equal(np.concatenate(table)[:65], odd.tensors["lm_head.weight"])
    assert not table[3].any()


def test_one_embedding_by_two_names(out: Path, tmp_path: Path) -> None:
    """vLLM's files have a tied embedding by the name that sorts first."""
    model = small_model()
    model.config["tie_word_embeddings"] = True
    for name in ("tensors", "description"):
        del getattr(model, name)["lm_head.weight"]
    write_checkpoint(model.save(tmp_path / "tied"), out)
    names = tensors(out / "model-rank-0-part-0.safetensors")
    assert "model.embed_tokens.weight" not in names
    assert np.array_equal(names["lm_head.weight"][:VOCABULARY], model.tensors["model.embed_tokens.weight"])


def test_layers_that_do_not_compress_stay_as_they_are(out: Path, tmp_path: Path) -> None:
    """Their streams exceed n * k bytes, which the loader has no room for: on every rank they stay W8A8S."""
    model = small_model()
    noise = np.random.default_rng(0).integers(-128, 128, (HIDDEN, MIDDLE), np.int8)
    noise[:, : MIDDLE // 2] = 0  # one rank's half would fit
    model.tensors["model.layers.1.mlp.down_proj.weight"] = noise
    report = write_checkpoint(model.save(tmp_path / "noise"), out, ranks=2)
    assert report.kept == ("model.layers.1.mlp.down_proj",)
    assert any("loaders have room for n * k" in fault for layer in report.faulty for fault in layer.faults)
    found = np.concatenate([load(out, rank, 2)["model.layers.1.mlp.down_proj.weight"] for rank in range(2)], axis=1)
    assert np.array_equal(found, noise)


# ---------------------------------------------------------------------------------------------------------------------
# MindIE


def test_mindies_layout(model: Model, source: Path, out: Path) -> None:
    report = write_checkpoint(source, out, ranks=2, layout="mindie")
    assert report.differing == 0
    parts = [tensors(out / f"part{rank}-of-2" / "quant_model_weight_w8a8sc.safetensors") for rank in range(2)]
    for rank, part in enumerate(parts):
        types = json.loads((out / f"part{rank}-of-2" / "quant_model_description.json").read_text())
        assert types.keys() - {"model_quant_type", "version", "metadata"} == part.keys()
        for name in ("attn.c_attn", "attn.c_proj", "mlp.w2_w1", "mlp.c_proj"):
            assert types[f"transformer.h.1.{name}.index"] == "W8A8SC"
            assert types[f"transformer.h.1.{name}.quant_bias"] == "W8A8S"
        assert part["transformer.h.0.mlp.c_proj.quant_bias"].any() == (rank == 0)
    table = np.concatenate([part["transformer.wte.weight"] for part in parts], axis=1)
    assert np.array_equal(table, model.tensors["model.embed_tokens.weight"])
    config = json.loads((out / "config.json").read_text())
    assert config["quantize"] == "w8a8sc"
    x1 = activations(HIDDEN)
    found = []
    for part in parts:
        values = {
            name: part[f"transformer.h.0.mlp.w2_w1.{name}"] for name in ("weight", "index", "quant_bias", "deq_scale")
        }
        bias, scale = values["quant_bias"][None], values["deq_scale"][None]
        found.append(
            np.split(npu_matmul_compress_dequant(x1, values["weight"], values["index"], bias, scale), 2, axis=1)
        )
    for at, name in enumerate(("gate", "up")):
        whole = np.concatenate([halves[at] for halves in found], axis=1)
        assert whole.tobytes() == product(model, f"model.layers.0.mlp.{name}_proj", x1).tobytes()


def test_models_that_mindie_names_otherwise(tmp_path: Path, out: Path) -> None:
    model = small_model()
    model.config["model_type"] = "llama"
    with pytest.raises(InputError, match="what MindIE calls the layers of a 'llama' model is not known"):
        write_checkpoint(model.save(tmp_path / "llama"), out, layout="mindie")


# ---------------------------------------------------------------------------------------------------------------------
# How it runs


def test_a_run_that_was_interrupted_goes_on(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.weight)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(source, out, ranks=2, jobs=1, progress=stop)
    assert not list(out.glob("*.safetensors"))
    (out / ".model-rank-0-part-0.safetensors.mcd-tmp-0").touch()  # as kill -9 leaves it while that file is written
    report = write_checkpoint(source, out, ranks=2, jobs=1)
    assert report.resumed >= 5
    assert f"{report.resumed} of these layers were done by a run that was interrupted" in report.lines()
    whole = write_checkpoint(source, tmp_path / "whole", ranks=2, jobs=3)
    assert whole.resumed == 0
    assert whole.as_json() == report.as_json()
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert not list(out.glob(".m*"))


def test_a_run_that_was_interrupted_while_it_wrote_goes_on(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(path: Path, *given: Any, **options: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        write_safetensors(path, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_run, "write_safetensors", write)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(source, out, ranks=2)
    assert [path.name for path in out.glob("*.safetensors")] == ["model-rank-0-part-0.safetensors"]
    with pytest.raises(FileExistsError):
        write_checkpoint(source, out, ranks=2, rows=1)  # another run's
    assert write_checkpoint(source, out, ranks=2).resumed == 8 * LAYERS
    assert load(out, 1, 2)


def test_files_of_another_number_of_ranks_are_not_left_beside(source: Path, out: Path) -> None:
    write_checkpoint(source, out, ranks=2)
    with pytest.raises(InputError, match=r"model-rank-1-part-0.safetensors is of another number of ranks: remove it"):
        write_checkpoint(source, out, ranks=1, force=True)
    write_checkpoint(source, out / "m", ranks=2, layout="mindie")
    with pytest.raises(InputError, match=r"part0-of-2.* is of another number of ranks"):
        write_checkpoint(source, out / "m", ranks=1, layout="mindie", force=True)


def test_what_was_done_for_another_number_of_ranks_is_done_again(source: Path, out: Path) -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(source, out, ranks=2, jobs=1, progress=stop)
    assert write_checkpoint(source, out, ranks=1).resumed == 0


def test_progress_and_processes(source: Path, out: Path) -> None:
    seen: list[Progress] = []
    with ProcessPoolExecutor(2) as executor:
        report = write_checkpoint(source, out, ranks=2, executor=executor, jobs=2, progress=seen.append)
    assert report.differing == 0
    assert [progress.weights_done for progress in seen] == list(range(1, 8 * LAYERS + 1))
    assert seen[-1].bytes_done == seen[-1].bytes_total == sum(layer.n * layer.k for layer in report.layers)


def test_dask_on_the_command_line(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(processes=True, **options) as cluster:
        arguments = ["--ranks", "2", "--dask", cluster.scheduler_address, "--json"]
        assert main(["ascend", "checkpoint", str(source), str(out / "there"), *arguments]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 8 * LAYERS
    write_checkpoint(source, out / "here", ranks=2)
    for path in (out / "here").glob("*.safetensors"):
        assert path.read_bytes() == (out / "there" / path.name).read_bytes()


class Broken:
    """An executor whose workers are gone, or are of another version."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit(self, *_: Any) -> "Broken":
        return self

    def result(self) -> Any:
        raise self.error

    def cancel(self) -> None:
        pass


def test_workers_that_fail(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerError, match="gate_up_proj could not be compressed: lost"):
        write_checkpoint(source, out, executor=Broken(RuntimeError("lost")))  # type: ignore[arg-type]
    monkeypatch.setattr(work, "package_version", lambda: "9.9.9")
    with pytest.raises(InputError, match=r"a worker has mcd-graph 9\.9\.9 installed, and not "):
        write_checkpoint(source, out)


def test_the_device_s_codec_is_written_and_not_run(source: Path, out: Path, tmp_path: Path) -> None:
    program = stand_in_excutor.install(tmp_path / "bin", "device")
    report = write_checkpoint(source, out, compressor=program, jobs=2)
    assert report.codec == "cann"
    assert all(layer.rows == 0 for layer in report.layers)
    assert "for a device. Nothing was run here" in "\n".join(report.lines())
    with safe_open(out / "model-rank-0-part-0.safetensors", "numpy") as file:
        assert file.metadata()["mcd.codec"] == "cann"


def test_a_layer_that_differs_is_reported(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work, "multiply", lambda *given: -multiply(*given))
    assert main(["ascend", "checkpoint", str(source), str(out)]) == 1
    assert "results differ from the uncompressed product" in capsys.readouterr().out


def test_the_command(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ascend", "checkpoint", str(source), str(out), "--ranks", "2"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "16 layers of 2 ranks: " in text
    assert "a rehearsal. No device reads these weights, and the device's codec gives other sizes" in text
    assert "each gave the bytes of the uncompressed product" in text
    assert "every layer meets the limits of the operator's document" in text
    assert main(command) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*command, "--force", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "mcd_checkpoint.json").read_text())
    assert printed["mcd.codec"] == "open"


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be done, and what does not fit


def test_limits_of_the_document(tmp_path: Path, out: Path) -> None:
    model = small_model()
    scale = model.tensors["model.layers.0.mlp.down_proj.deq_scale"]
    scale[0], scale[1] = np.float32(-1).view(np.int32), np.float32(1).view(np.int32)
    model.tensors["model.layers.1.self_attn.q_proj.quant_bias"][0] = (1 << 31) - 1
    report = write_checkpoint(model.save(tmp_path / "odd"), out, ranks=4)
    assert report.differing == 0
    text = "\n".join(report.lines())
    assert "rank 3: model.layers.0.self_attn.o_proj: k is 256; the document wants a multiple of 64 above 256" in text
    assert "model.layers.0.mlp.down_proj: a deq_scale is not above zero" in text
    assert "rank 0: model.layers.1.self_attn.qkv_proj: the sums may exceed int32" in text


CHANGES: dict[str, tuple[Any, str]] = {
    "fused numbers": (
        lambda m: m.tensors.update({"model.layers.0.self_attn.k_proj.input_scale": np.array([1], np.float16)}),
        "differ: layers that are fused read the same activations",
    ),
    "fused types": (
        lambda m: m.description.update({"model.layers.0.self_attn.k_proj.weight": "W8A8"}),
        "qkv_proj cannot be fused: its weight is W8A8 and W8A8S",
    ),
    "missing": (
        lambda m: (
            m.tensors.pop("model.layers.0.mlp.up_proj.deq_scale"),
            m.description.pop("model.layers.0.mlp.up_proj.deq_scale"),
        ),
        "up_proj.deq_scale is missing",
    ),
    "bfloat16": (
        lambda m: m.tensors.update({"model.layers.0.mlp.down_proj.deq_scale": np.ones(HIDDEN, np.float32)}),
        "deq_scale is float32, not int64; msModelSlim writes float32 for bfloat16 models",
    ),
    "heads": (lambda m: m.config.update(num_attention_heads=7), "7 attention heads cannot be split among 2 ranks"),
    "no heads": (lambda m: m.config.pop("num_attention_heads"), "has None attention heads"),
    "rows": (
        lambda m: m.tensors.update({"model.layers.0.mlp.down_proj.weight": np.zeros((HIDDEN, 1023), np.int8)}),
        r"down_proj.weight of shape \(512, 1023\) cannot be split into 2 along dimension 1",
    ),
    "unknown layers": (
        lambda m: [
            target.update({key.replace("o_proj", "out"): target.pop(key) for key in list(target) if "o_proj" in key})
            for target in (m.tensors, m.description)
        ],
        r"it is not known how model.layers.0.self_attn.out.weight of shape \(512, 1024\) is split among ranks",
    ),
    "kind": (lambda m: m.description.update(model_quant_type="W8A8"), "is of a W8A8 model; only W8A8S"),
    "undescribed": (lambda m: m.description.pop("model.norm.weight"), "'model.norm.weight' is in only one of"),
    "experts": (
        lambda m: [
            target.update(
                {
                    key.replace("layers.1.mlp", "layers.1.mlp.experts.0"): target.pop(key)
                    for key in list(target)
                    if "layers.1.mlp" in key
                }
            )
            for target in (m.tensors, m.description)
        ],
        "W8A8SC is for linear layers, not for experts",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_models_that_cannot_be_used(tmp_path: Path, out: Path, case: str) -> None:
    change, reason = CHANGES[case]
    model = small_model()
    change(model)
    with pytest.raises(InputError, match=reason):
        write_checkpoint(model.save(tmp_path / "model"), out, ranks=2)
    assert not list(out.glob("*.safetensors"))
    if case == "fused numbers":
        assert not list(out.iterdir())  # before any layer is compressed


def test_folders_that_cannot_be_used(source: Path, tmp_path: Path, out: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_checkpoint(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \*\.safetensors"):
        write_checkpoint(tmp_path / "empty", out)
    with pytest.raises(InputError, match="lies in the folder that is read"):
        write_checkpoint(source, source / "sub")
    with pytest.raises(InputError, match="layout 'x' is not one of vllm, mindie"):
        write_checkpoint(source, out, layout="x")
    broken = small_model().save(tmp_path / "broken")
    index = json.loads((broken / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../model-00001-of-00002.safetensors"
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"has no file '\.\./model"):
        write_checkpoint(broken, out)


# ---------------------------------------------------------------------------------------------------------------------
# The stand-in operator


@pytest.mark.parametrize("m", [1, 33])
def test_the_operator_gives_numpys_product(m: int) -> None:
    problem = Problem.random(m, 320, 300)
    assert problem.bias is not None
    packed = pack_weight(problem.w)
    x2 = np.concatenate([np.asarray(packed.x2), np.full(99, 7, np.int8)])
    found = npu_matmul_compress_dequant(problem.x1, x2, packed.compress_index, problem.bias[None], problem.words())
    assert found.tobytes() == problem.expected().tobytes()


def test_arguments_that_torch_npu_refuses() -> None:
    x1, x2, index = np.ones((1, 320), np.int8), np.zeros(64, np.int8), np.zeros(16, np.int8)
    bias, scale = np.zeros((1, 128), np.int32), np.ones((1, 128), np.uint64)
    for given, reason in [
        ((x1[0], x2, index, bias, scale), r"x1 has shape \(320,\); torch_npu takes 2 dimensions"),
        ((x1, x2[None], index, bias, scale), "x2 has shape"),
        ((x1, x2, index, bias[0], scale), "bias has shape"),
        ((x1, x2, index, bias, scale[0]), "scale has shape"),
        ((x1, x2, index, bias, scale), "CANN's codec, which only the device can read"),
    ]:
        with pytest.raises(InputError, match=reason):
            npu_matmul_compress_dequant(*given)
    with pytest.raises(InputError, match="torch_npu rejects others"):
        npu_matmul_compress_dequant(x1, x2, index, bias, scale, offset_x=1)
