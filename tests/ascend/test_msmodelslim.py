"""The real msModelSlim with a stand-in for CANN's compressor: what it writes we read exactly, and write alike.

Skipped where msModelSlim is not installed: ``pip install msmodelslim torch 'transformers<5'``, some gigabytes.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ascend import stand_in_excutor

from mcd_graph.ascend import CompressConfig, Compressor, read_dat, read_safetensors
from mcd_graph.ascend.tensors import read_tensors

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("msmodelslim", "torch", "transformers")),
    reason="msModelSlim is not installed",
)

DRIVER = Path(__file__).with_name("drive_msmodelslim.py")


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder where msModelSlim has run, with the weights of the .npy and the tensors of the model."""
    folder = tmp_path_factory.mktemp("msmodelslim")
    rng = np.random.default_rng(0)
    dense = {
        name: rng.integers(-9, 10, shape).astype(np.int8)
        for name, shape in {"even": (128, 256), "uneven": (70, 333), "small": (1, 1)}.items()
    }
    np.save(folder / "weight.npy", dense)  # type: ignore[arg-type]  # a dict, as the operator's document has it
    sparse = rng.integers(-9, 10, (96, 320)) * (rng.random((96, 320)) < 0.4)
    tensors: dict[str, Any] = {
        "layer.weight": sparse.astype(np.int8),
        "layer.deq_scale": np.full(96, 0x3F800000, np.int64),
        "layer.quant_bias": rng.integers(-99, 100, 96).astype(np.int32),
        "layer.input_scale": np.array([0.5], np.float32),
        "embed.weight": rng.integers(-9, 10, (5, 4)).astype(np.float32),
    }
    np.savez(folder / "weight.npz", **tensors)
    kinds = {name: "FLOAT" if name == "embed.weight" else "W8A8S" for name in tensors}
    (folder / "description.json").write_text(json.dumps({"model_quant_type": "W8A8S", **kinds}))
    (folder / "scratch").mkdir(mode=0o750)
    stand_in_excutor.install(folder / "compress_graph" / "build")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder)],
        input="yes\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, dense, tensors


def test_dat_files_are_read_back_exactly(driven: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    folder, dense, _ = driven
    layers = read_dat(folder)
    assert layers.keys() == dense.keys()
    for name, layer in layers.items():
        assert layer.codec == "open"
        assert layer.compress_info.tolist() == [8, 8, *dense[name].shape[::-1], 1]
        assert np.array_equal(layer.decode(), dense[name])


def test_dat_files_are_those_that_we_write(driven: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    folder, _, _ = driven
    compressor = Compressor(
        CompressConfig(),
        weight_path=folder / "weight.npy",
        compressor=folder / "compress_graph" / "build" / "compress_excutor",
    )
    for part, arrays in zip(("weight", "index", "info"), compressor.run(), strict=True):
        compressor.export(arrays, tmp_path / part, dtype=np.int64 if part == "info" else np.int8)
        theirs = {path.name: path for path in (folder / part).iterdir()}
        ours = {path.name: path for path in (tmp_path / part).iterdir()}
        assert ours.keys() == theirs.keys()
        for name, path in ours.items():
            assert path.read_bytes() == theirs[name].read_bytes()
            assert path.stat().st_mode == theirs[name].stat().st_mode


def test_the_model_is_read_back_exactly(driven: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    folder, _, tensors = driven
    paths = [folder / "sc" / f"quant_model_{what}" for what in ("weight_w8a8sc.safetensors", "description_w8a8sc.json")]
    layers, others = read_safetensors(*paths)
    assert list(layers) == ["layer.weight"]
    assert np.array_equal(layers["layer.weight"].decode(), tensors["layer.weight"])
    assert others.keys() == tensors.keys() - {"layer.weight"}
    for name, array in others.items():
        assert np.array_equal(array.astype(np.float64), tensors[name].astype(np.float64))


def test_the_model_is_the_one_that_we_write(
    driven: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    folder, _, _ = driven
    (theirs_path,) = (folder / "sc").glob("*.safetensors")
    theirs, _ = read_tensors(theirs_path)
    with np.load(folder / "weight.npz") as file:
        tensors = {name: file[name] for name in file.files}
    tensors["embed.weight"] = theirs["embed.weight"]
    description = json.loads((folder / "description.json").read_text())
    compressor = Compressor(CompressConfig(), weight=tensors, quant_model_description=description)
    compressor.run()
    compressor.export_safetensors(tmp_path)
    ours, _ = read_tensors(tmp_path / theirs_path.name)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.tobytes() == theirs[name].tobytes()
    (json_path,) = (folder / "sc").glob("*.json")
    for path in (theirs_path, json_path):
        assert (tmp_path / path.name).stat().st_mode == path.stat().st_mode
    described = json.loads((tmp_path / json_path.name).read_text())
    assert described.pop("metadata") == {"mcd.codec": "open"}
    assert described == json.loads(json_path.read_text())
