"""A model folder of the Hugging Face kind: sharded safetensors, msModelSlim's description, config, tokenizer."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mcd_graph.ascend.description import read_description, tensor_types
from mcd_graph.errors import InputError

__all__ = ["Checkpoint", "Part"]

_MAX_JSON = 1 << 28
_QUANTIZED = "W8A8S"


@dataclasses.dataclass(frozen=True)
class Part:
    """A block of a tensor: all of it, or what lies between two indices of one dimension, with zeros behind.

    Attributes:
        name: of the tensor.
        dim: that is cut; ``None`` for all of it.
        start: first index.
        stop: index behind the last one.
        zeros: indices of zeros to add behind, along ``dim``.
    """

    name: str
    dim: int | None = None
    start: int = 0
    stop: int = 0
    zeros: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model folder whose tensors are read when they are asked for.

    Attributes:
        folder: where.
        files: the safetensors file of each tensor.
        shapes: of the tensors.
        description: msModelSlim's.
        description_path: its file.
        config: the model's.
    """

    folder: Path
    files: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    description: dict[str, Any]
    description_path: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Checkpoint":
        """Read everything but the tensors, and check that it fits together.

        Raises:
            InputError: a file is missing, damaged, or does not fit the others.
            OSError: a file cannot be read.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(2, os.strerror(2), str(folder))
        files, shapes = _tensors(folder)
        found = sorted(folder.glob("quant_model_description*.json"))
        if len(found) != 1:
            raise InputError(f"{folder} has {len(found)} quant_model_description*.json; there must be one")
        description = read_description(found[0])
        if description["model_quant_type"] != _QUANTIZED:
            kind = description["model_quant_type"]
            raise InputError(f"{found[0]} is of a {kind} model; only {_QUANTIZED} can be compressed here")
        types = tensor_types(description)
        if types.keys() != files.keys():
            name = sorted(types.keys() ^ files.keys())[0]
            raise InputError(f"tensor {name!r} is in only one of {folder} and its description")
        return cls(folder, files, shapes, description, found[0], _json(folder / "config.json"))

    def kind(self, name: str) -> str:
        """Return a tensor's type, as the description has it."""
        return str(self.description[name])

    def array(self, part: Part) -> npt.NDArray[Any]:
        """Read a block of a tensor, and no more than that.

        Raises:
            InputError: the file has changed, or has a type that NumPy lacks.
        """
        path = self.folder / self.files[part.name]
        try:
            with safe_open(path, "numpy") as file:
                if part.dim is None:
                    return np.asarray(file.get_tensor(part.name))
                window = slice(part.start, part.stop)
                cut = (window,) if part.dim == 0 else (slice(None), window)
                array = np.asarray(file.get_slice(part.name)[cut])
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"tensor {part.name} of {path} cannot be read: {error}") from None
        if part.zeros:
            array = np.pad(array, [(0, part.zeros if dim == part.dim else 0) for dim in range(array.ndim)])
        return array

    def fingerprint(self) -> str:
        """Return what changes when a file of the folder does."""
        names = sorted({*self.files.values(), self.description_path.name, "config.json"})
        status = [(name, (self.folder / name).stat()) for name in names]
        text = json.dumps([(name, found.st_size, found.st_mtime_ns) for name, found in status])
        return hashlib.sha256(text.encode()).hexdigest()


def _tensors(folder: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the file and the shape of each tensor."""
    index = folder / "model.safetensors.index.json"
    listed: dict[str, str] | None = None
    if index.is_file():
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise InputError(f"{index} has no weight_map")
    names = (
        sorted(path.name for path in folder.glob("*.safetensors")) if listed is None else sorted(set(listed.values()))
    )
    files: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{folder} has no file {name!r}")
        try:
            with safe_open(folder / name, "numpy") as file:
                for tensor in file.keys():  # noqa: SIM118 - it is no dict
                    if tensor in files:
                        raise InputError(f"tensor {tensor!r} is in {files[tensor]} and in {name}")
                    files[tensor], shapes[tensor] = name, tuple(file.get_slice(tensor).get_shape())
        except SafetensorError as error:
            raise InputError(f"{folder / name} is not a usable safetensors file: {error}") from None
    if not files:
        raise InputError(f"{folder} has no *.safetensors")
    if listed is not None and listed != files:
        name = sorted(name for name in {*listed, *files} if listed.get(name) != files.get(name))[0]
        raise InputError(f"{index} says that tensor {name!r} is in {listed.get(name)}, and it is in {files.get(name)}")
    return files, shapes


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    if path.stat().st_size > _MAX_JSON:
        raise InputError(f"{path} is too large")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value
