"""Reads sparse compressed models (W8A8SC, W16A16SC) as msModelSlim writes them."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.codec import stated_codec
from mcd_graph.ascend.description import COMPRESSED_TYPE, read_description, tensor_types
from mcd_graph.ascend.layers import CompressedLayer
from mcd_graph.ascend.tensors import read_tensors
from mcd_graph.errors import InputError

__all__ = ["read_safetensors"]


def read_safetensors(
    weights: str | os.PathLike[str], description: str | os.PathLike[str]
) -> tuple[dict[str, CompressedLayer], dict[str, npt.NDArray[Any]]]:
    """Read a compressed model and check all of it.

    Args:
        weights: path of the safetensors file.
        description: path of its JSON description.

    Returns:
        The compressed weights by name (``X.weight``), and the other tensors by name.

    Raises:
        FileNotFoundError: a file is missing.
        InputError: a file is damaged, the two do not fit each other, or streams are not of the codec that they say.

    Examples:
        >>> import numpy
        >>> from mcd_graph.ascend import CompressConfig, Compressor, read_safetensors
        >>> weight = {"query.weight": numpy.zeros((64, 128), numpy.int8)}
        >>> description = {"model_quant_type": "W8A8S", "query.weight": "W8A8S"}
        >>> compressor = Compressor(CompressConfig(), weight=weight, quant_model_description=description)
        >>> written = [compressor.run(), compressor.export_safetensors("sparse")]
        >>> layers, others = read_safetensors(
        ...     "sparse/quant_model_weight_w8a8sc.safetensors", "sparse/quant_model_description_w8a8sc.json"
        ... )
        >>> layers["query.weight"].decode().shape, others
        ((64, 128), {})
    """
    described = read_description(description)
    tensors, metadata = read_tensors(weights)
    types = tensor_types(described)
    if types.keys() != tensors.keys():
        name = sorted(types.keys() ^ tensors.keys())[0]
        raise InputError(f"tensor {name!r} is in only one of {os.fspath(weights)} and its description")
    stated = {codec for codec in (stated_codec(metadata), stated_codec(_metadata(described))) if codec is not None}
    if len(stated) > 1:
        raise InputError(f"{os.fspath(weights)} and its description say different codecs")
    layers = {}
    for name in [name for name, kind in types.items() if kind in COMPRESSED_TYPE.values()]:
        if not name.endswith(".weight"):
            continue
        base = name.removesuffix(".weight")
        parts = [tensors.pop(f"{base}.{part}", None) for part in ("weight", "index", "info")]
        if parts[1] is None or parts[2] is None:
            raise InputError(f"weight {name} is compressed, but has no index or no info")
        x2, index, info = (np.asarray(part) for part in parts)
        layers[name] = CompressedLayer.checked(name, x2, index, info, next(iter(stated), None))
    left = sorted(name for name in tensors if types[name] in COMPRESSED_TYPE.values())
    if left:
        raise InputError(f"tensor {left[0]!r} belongs to no compressed weight")
    return layers, tensors


def _metadata(description: dict[str, Any]) -> dict[str, Any] | None:
    metadata = description.get("metadata")
    return metadata if isinstance(metadata, dict) else None
