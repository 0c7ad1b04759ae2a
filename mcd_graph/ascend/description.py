"""msModelSlim's JSON description of a quantised model: the type of every tensor, and some keys about the whole."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcd_graph.errors import InputError

__all__ = ["COMPRESSED_TYPE", "about_model", "check_description", "read_description", "tensor_types"]

COMPRESSED_TYPE = {"W8A8S": "W8A8SC", "W16A16S": "W16A16SC"}
"""Types of sparse weights that can be compressed, and what they are called then."""

_ABOUT_MODEL = (
    "version",
    "model_quant_type",
    "kv_cache_type",
    "kv_quant_type",
    "fa_quant_type",
    "group_size",
    "reduce_quant_type",
    "metadata",
)
_TYPES = {
    *("UNKNOWN", "FLOAT", "W8A16", "W4A16", "W8A8", "W8A8S", "W8A8SC", "W16A16S", "W16A16SC", "C8", "FAQuant", "NF4"),
    *("W8A8_DYNAMIC", "W4A8_DYNAMIC", "W8A8_TIMESTEP", "W8A8_MIX", "W4A4_FLATQUANT_DYNAMIC"),
}
_MAX_BYTES = 1 << 28


def check_description(description: Mapping[str, Any]) -> None:
    """Check a description.

    Raises:
        InputError: it has no ``model_quant_type``, a malformed version, or a tensor of no known type.
    """
    if not isinstance(description.get("model_quant_type"), str):
        raise InputError("the description has no model_quant_type")
    version = description.get("version")
    if version is not None and not (isinstance(version, str) and re.fullmatch(r"[1-9]\d*\.\d+\.\d+", version)):
        raise InputError(f"the description's version is {version!r}, not x.y.z")
    for name, kind in tensor_types(description).items():
        if not isinstance(kind, str) or kind not in _TYPES:
            raise InputError(f"the description gives tensor {name!r} the type {kind!r}, which does not exist")


def tensor_types(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of the tensors, by name."""
    return {name: kind for name, kind in description.items() if name not in _ABOUT_MODEL}


def about_model(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys about the whole model that a compressed one keeps: all but its type and metadata."""
    gone = ("model_quant_type", "metadata")
    return {key: description[key] for key in _ABOUT_MODEL if key in description and key not in gone}


def read_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a description.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a description.
    """
    if Path(path).stat().st_size > _MAX_BYTES:
        raise InputError(f"{os.fspath(path)} is too large for a description")
    try:
        description = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        raise InputError(f"{os.fspath(path)} is not JSON") from None
    if not isinstance(description, dict):
        raise InputError(f"{os.fspath(path)} is not a description: it holds no object")
    try:
        check_description(description)
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None
    return description
