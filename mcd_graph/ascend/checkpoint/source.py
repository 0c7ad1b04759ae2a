"""A model folder of the Hugging Face kind: sharded safetensors, msModelSlim's description, config, tokenizer."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mcd_graph.ascend.checkpoint.element_types import NUMPY_NAMES
from mcd_graph.ascend.description import read_description, tensor_types
from mcd_graph.errors import InputError

__all__ = ["INDEX_SUFFIX", "Checkpoint", "Part"]

INDEX_SUFFIX = ".safetensors.index.json"
"""What the name of an index ends in."""

_MAX_JSON = 1 << 28
_QUANTIZED = "W8A8S"
_BLOCK = 1 << 26  # bytes of a tensor that are in memory at a time
_FULL = slice(None)


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

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the block's shape, from that of the tensor."""
        if self.dim is None:
            return whole
        return (*whole[: self.dim], self.stop - self.start + self.zeros, *whole[self.dim + 1 :])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model folder whose tensors are read when they are asked for.

    Attributes:
        folder: where.
        files: the safetensors file of each tensor.
        shapes: of the tensors.
        types: of their elements, as safetensors files call them.
        description: msModelSlim's.
        description_path: its file.
        config: the model's.
    """

    folder: Path
    files: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
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
        files, shapes, element_types = _tensors(folder)
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
        return cls(folder, files, shapes, element_types, description, found[0], _json(folder / "config.json"))

    def kind(self, name: str) -> str:
        """Return a tensor's type, as the description has it."""
        return str(self.description[name])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a tensor's elements.

        Raises:
            InputError: NumPy lacks it.
        """
        found = NUMPY_NAMES.get(self.types[name])
        if found is None:
            raise InputError(
                f"tensor {name} of {self.folder / self.files[name]} is {self.types[name]}, which NumPy lacks"
            )
        return np.dtype(found)

    def array(self, part: Part, rows: slice = _FULL) -> npt.NDArray[Any]:
        """Read a block of a tensor, and no more than that.

        Args:
            part: the block.
            rows: of the block, along its first dimension; all by default.

        Raises:
            InputError: the file has changed, or has a type that NumPy lacks.
        """
        path = self.folder / self.files[part.name]
        shape = part.shape(self.shapes[part.name])
        if part.dim is None and rows == _FULL:
            return self._read(path, part.name, None)
        wanted = range(*rows.indices(shape[0]))
        first, last = wanted.start, wanted.stop
        if part.dim == 0:
            first, last = part.start + first, min(part.start + last, part.stop)
        if first >= last:  # a rank whose share of a padded vocabulary is padding only
            return np.zeros((len(wanted), *shape[1:]), self.dtype(part.name))
        columns = (slice(part.start, part.stop),) if part.dim == 1 else ()
        array = self._read(path, part.name, (slice(first, last), *columns))
        behind = len(wanted) - array.shape[0]
        return np.pad(array, [(0, behind), *[(0, 0)] * (array.ndim - 1)]) if behind else array

    def _read(self, path: Path, name: str, cut: tuple[slice, ...] | None) -> npt.NDArray[Any]:
        try:
            with safe_open(path, "numpy") as file:
                return np.asarray(file.get_tensor(name) if cut is None else file.get_slice(name)[cut])
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"tensor {name} of {path} cannot be read: {error}") from None

    def blocks(self, part: Part) -> Iterator[npt.NDArray[Any]]:
        """Read a block of a tensor in pieces, one behind another along its first dimension.

        Raises:
            InputError: the file has changed, or has a type that NumPy lacks.
        """
        shape = part.shape(self.shapes[part.name])
        row = math.prod(shape[1:]) * self.dtype(part.name).itemsize
        step = max(1, _BLOCK // max(1, row))
        if not shape or shape[0] <= step:
            yield self.array(part)
            return
        for start in range(0, shape[0], step):
            yield self.array(part, slice(start, start + step))

    def fingerprint(self) -> str:
        """Return what changes when a file of the folder does."""
        names = sorted({*self.files.values(), self.description_path.name, "config.json"})
        status = [(name, (self.folder / name).stat()) for name in names]
        text = json.dumps([(name, found.st_size, found.st_mtime_ns) for name, found in status])
        return hashlib.sha256(text.encode()).hexdigest()


def _tensors(folder: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the file, the shape and the type of each tensor."""
    index, listed = _index(folder)
    names = (
        sorted(path.name for path in folder.glob("*.safetensors")) if listed is None else sorted(set(listed.values()))
    )
    files: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{folder} has no file {name!r}")
        try:
            with safe_open(folder / name, "numpy") as file:
                for tensor in file.keys():  # noqa: SIM118 - it is no dict
                    if tensor in files:
                        raise InputError(f"tensor {tensor!r} is in {files[tensor]} and in {name}")
                    found = file.get_slice(tensor)
                    files[tensor], shapes[tensor], types[tensor] = name, tuple(found.get_shape()), found.get_dtype()
        except SafetensorError as error:
            raise InputError(f"{folder / name} is not a usable safetensors file: {error}") from None
    if not files:
        raise InputError(f"{folder} has no *.safetensors")
    if listed is not None and listed != files:
        name = sorted(name for name in {*listed, *files} if listed.get(name) != files.get(name))[0]
        raise InputError(f"{index} says that tensor {name!r} is in {listed.get(name)}, and it is in {files.get(name)}")
    return files, shapes, types


def _index(folder: Path) -> tuple[Path | None, dict[str, str] | None]:
    """Return the index and the file of each tensor by it; ``None`` where there is no index.

    msModelSlim calls it ``quant_model_weights.safetensors.index.json``, others ``model.safetensors.index.json``.
    """
    found = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if not found:
        return None, None
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} has {len(found)} indices, {names}: remove the one that is not of the W8A8S weights")
    listed = _json(found[0]).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise InputError(f"{found[0]} has no weight_map")
    return found[0], listed


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
