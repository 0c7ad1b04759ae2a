"""Tensors in and out of safetensors files, without torch."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mcd_graph.errors import InputError
from mcd_graph.model.files import write_bytes

__all__ = ["as_array", "read_tensors", "write_tensors"]


def as_array(name: str, tensor: Any) -> npt.NDArray[Any]:
    """Return a NumPy array or torch tensor as an array; bfloat16 as ml_dtypes' type.

    Raises:
        InputError: it is neither.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    torch = sys.modules.get("torch")  # whoever gave us a tensor has imported it
    if torch is None or not isinstance(tensor, torch.Tensor):
        raise InputError(f"tensor {name} is a {type(tensor).__name__}, not an array")
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: npt.NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Read a safetensors file; the package checks header, names, types, offsets and sizes.

    Returns:
        The tensors by name, and the file's metadata.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a safetensors file, or has a type that NumPy lacks.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(2, os.strerror(2), os.fspath(path))
    try:
        with safe_open(os.fspath(path), "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{os.fspath(path)} is not a usable safetensors file: {error}") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, npt.NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file, readable by the owner only, replacing what is there.

    Raises:
        OSError: it cannot be written.
    """
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)
    write_bytes(path, content, force=True, mode=0o400)
