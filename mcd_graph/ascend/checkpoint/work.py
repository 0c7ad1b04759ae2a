"""What is done for one layer of one rank, wherever an executor runs it: compress, run, compare."""

import dataclasses
import importlib.metadata
import os
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph import _native
from mcd_graph.ascend.checkpoint.blocks import output_array
from mcd_graph.ascend.checkpoint.limits import layer_faults
from mcd_graph.ascend.checkpoint.plan import Linear
from mcd_graph.ascend.checkpoint.report import LayerResult
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.ascend.codec import Codec, codec_of
from mcd_graph.ascend.excutor import run_excutor
from mcd_graph.ascend.torch_npu import multiply, npu_matmul_compress_dequant
from mcd_graph.errors import InputError

__all__ = ["Settings", "compress_layer", "package_version"]

_Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a layer's result depends on besides the model.

    Attributes:
        compressor: path of ``compress_excutor``; ``None`` for the open codec.
        rows: rows of random activations that a layer is run with; 0 for none.
        version: of this package, which workers must have.
    """

    compressor: str | None
    rows: int
    version: str


def package_version() -> str:
    """Return the version of this package."""
    return importlib.metadata.version("mcd-graph")


def compress_layer(
    checkpoint: Checkpoint, rank: int, linear: Linear, settings: Settings
) -> tuple[dict[str, _Array], LayerResult]:
    """Compress one layer of a rank, and rehearse it.

    Returns:
        Its tensors ``weight``, ``index`` and ``info``, and what is known of it.

    Raises:
        InputError: the layer cannot be used, ``compress_excutor`` failed, or a worker has another version.
    """
    if settings.version != package_version():
        raise InputError(f"a worker has mcd-graph {package_version()} installed, and not {settings.version}")
    w = np.ascontiguousarray(_typed(checkpoint, linear, "weight", np.int8))
    bias, scale = _typed(checkpoint, linear, "bias", np.int32), _typed(checkpoint, linear, "scale", np.int64)
    if settings.compressor is None:
        x2, index, info = _native.encode(w)
    else:
        x2, index, info = run_excutor(settings.compressor, w, name=linear.name)
    codec: Codec = codec_of(x2)
    result = LayerResult(
        name=linear.name,
        rank=rank,
        n=linear.n,
        k=linear.k,
        zeros=int(w.size - np.count_nonzero(w)),
        stream_bytes=x2.size,
        index_bytes=index.size,
        codec=codec,
        rows=settings.rows if codec == "open" else 0,
        differing=_differing(linear, (x2, index), (w, bias, scale), settings.rows) if codec == "open" else 0,
        faults=tuple(layer_faults(linear.n, linear.k, x2.size, bias, scale)),
    )
    return {"weight": x2, "index": index, "info": info}, result


def _typed(checkpoint: Checkpoint, linear: Linear, what: str, dtype: type[np.generic]) -> _Array:
    output = getattr(linear, what)
    array = output_array(checkpoint, output)
    if array.dtype != dtype:
        hint = (
            "; msModelSlim writes float32 for bfloat16 models, which the chip does not run" if what == "scale" else ""
        )
        raise InputError(f"{output.name} is {array.dtype}, not {np.dtype(dtype)}{hint}")
    wanted = (linear.n, linear.k) if what == "weight" else (linear.n,)
    if array.shape != wanted:
        raise InputError(f"{output.name} has shape {array.shape}, not {wanted}")
    return array


def _differing(
    linear: Linear, packed: tuple[_Array, _Array], operands: tuple[_Array, _Array, _Array], rows: int
) -> int:
    """Run the layer as vLLM-Ascend does, and count results that differ from the uncompressed product."""
    if not rows:
        return 0
    (x2, index), (w, bias, scale) = packed, operands
    rng = np.random.default_rng(zlib.crc32(os.fsencode(linear.name)))
    x1 = rng.integers(-128, 128, (rows, linear.k), np.int8)
    # The parameter has n * k bytes; the loader fills the front and leaves the rest as it was.
    parameter = rng.integers(-128, 128, max(linear.n * linear.k, x2.size), np.int8)
    parameter[: x2.size] = x2
    found = npu_matmul_compress_dequant(x1, parameter, index, bias[None], scale[None].astype(np.uint64))
    expected = multiply(x1, w, bias, scale)
    return int(np.count_nonzero(found.view(np.uint16) != expected.view(np.uint16)))
