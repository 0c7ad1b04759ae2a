"""Drives the real msModelSlim, in a process of its own because it asks questions on standard input and logs a lot.

Arguments: a folder that has ``compress_graph/build/compress_excutor`` (where msModelSlim looks beside its own code),
``weight.npy``, ``weight.npz`` and ``description.json``; the results go into it.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Compress both ways that msModelSlim knows."""
    package = importlib.import_module("msmodelslim.pytorch.weight_compression")
    torch = importlib.import_module("torch")
    utils = importlib.import_module("msmodelslim.pytorch.weight_compression.compress_utils")
    utils.__file__ = str(folder / "compress_utils.py")

    config = package.CompressConfig(record_detail_root=str(folder / "scratch"))
    compressor = package.Compressor(config, weight_path=str(folder / "weight.npy"))
    weight, index, info = compressor.run()
    compressor.export(weight, str(folder / "weight"))
    compressor.export(index, str(folder / "index"))
    compressor.export(info, str(folder / "info"), dtype=np.int64)

    with np.load(folder / "weight.npz") as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    tensors["embed.weight"] = tensors["embed.weight"].to(torch.bfloat16)
    description = json.loads((folder / "description.json").read_text())
    compressor = package.Compressor(config, weight=tensors, quant_model_description=description)
    compressor.run()
    compressor.export_safetensors(str(folder / "sc"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
