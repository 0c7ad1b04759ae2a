"""msModelSlim's ``weight_compression``: the same calls, the same files, without an NPU.

``Compressor`` writes the open codec, which runs on the CPU. Given the path of an installed ``compress_excutor``, it
writes the device's codec by means of that. Unlike msModelSlim it asks nothing on standard input (its .npy reader runs
no foreign code), refuses weights that are not int8 instead of casting them, and refuses to write k and n as int8.
"""

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph import _native
from mcd_graph.ascend.codec import CODEC_KEY, Codec, codec_of, to_nz
from mcd_graph.ascend.description import COMPRESSED_TYPE, about_model, check_description, read_description, tensor_types
from mcd_graph.ascend.excutor import run_excutor
from mcd_graph.ascend.files import PARTS, write_dat, write_note
from mcd_graph.ascend.pickles import load_weights
from mcd_graph.ascend.tensors import as_array, read_tensors, write_tensors
from mcd_graph.errors import InputError
from mcd_graph.model.files import write_bytes
from mcd_graph.model.replacement import refuse_existing

__all__ = ["CompressConfig", "Compressor", "compress_file"]

logger = logging.getLogger(__name__)

_Arrays = dict[str, npt.NDArray[Any]]
_GROWN = (
    "%s: does not compress; its stream exceeds n * k bytes, all that vLLM-Ascend has room for: leave it uncompressed"
)


@dataclasses.dataclass
class CompressConfig:
    """How to compress; the fields and defaults are msModelSlim's.

    Attributes:
        do_pseudo_sparse: set random weights to zero before, to see what sparsity would gain. It changes the model.
        sparse_ratio: share of the weights that stays then.
        is_debug: log each weight's ratio.
        compress_disable_layers: names of weights that are only brought into fractals, as the device wants them.
        record_detail_root: folder for temporary files.
        multiprocess_num: weights at a time.

    Raises:
        InputError: a field has a value that msModelSlim refuses as well.

    Examples:
        >>> from mcd_graph.ascend import CompressConfig
        >>> CompressConfig(multiprocess_num=2).sparse_ratio
        1
    """

    do_pseudo_sparse: bool = False
    sparse_ratio: float = 1
    is_debug: bool = False
    compress_disable_layers: Iterable[str] | None = None
    record_detail_root: str = "./"
    multiprocess_num: int = 1

    def __post_init__(self) -> None:
        names = self.compress_disable_layers
        self.compress_disable_layers = [] if names is None else names
        checks = {
            "do_pseudo_sparse": isinstance(self.do_pseudo_sparse, bool),
            "sparse_ratio": not self.do_pseudo_sparse
            or (isinstance(self.sparse_ratio, int | float) and 0 <= self.sparse_ratio <= 1),
            "is_debug": isinstance(self.is_debug, bool),
            "compress_disable_layers": isinstance(self.compress_disable_layers, list | tuple)
            and all(isinstance(name, str) for name in self.compress_disable_layers),
            "record_detail_root": isinstance(self.record_detail_root, str),
            "multiprocess_num": type(self.multiprocess_num) is int and self.multiprocess_num > 0,
        }
        for field, valid in checks.items():
            if not valid:
                raise InputError(f"CompressConfig: {field} cannot be {getattr(self, field)!r}")


class Compressor:
    """Compresses weights as msModelSlim's class of this name does.

    Args:
        config: how.
        weight_path: path of a .npy file with a dict of int8 weights (n, k).
        weight: tensors of a sparse model by name (NumPy or torch), with ``quant_model_description``.
        quant_model_description: their types by name, and the model's.
        compressor: path of an installed ``compress_excutor``, for the device's codec.

    Raises:
        InputError: there are no weights, or they cannot be used.

    Examples:
        >>> import numpy
        >>> from mcd_graph.ascend import CompressConfig, Compressor
        >>> numpy.save("weight.npy", {"query": numpy.zeros((64, 128), numpy.int8)})
        >>> compressor = Compressor(CompressConfig(), weight_path="weight.npy")
        >>> weight, index, info = compressor.run()
        >>> info["query"].tolist()
        [8, 8, 128, 64, 1]
        >>> compressor.export(weight, "out/weight")
        >>> compressor.export(index, "out/index")
        >>> compressor.export(info, "out/info", dtype=numpy.int64)
    """

    def __init__(
        self,
        config: CompressConfig,
        weight_path: str | os.PathLike[str] | None = None,
        weight: Mapping[str, Any] | None = None,
        quant_model_description: Mapping[str, Any] | None = None,
        *,
        compressor: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(config, CompressConfig):
            raise InputError(f"config is a {type(config).__name__}, not a CompressConfig")
        self.config = config
        self.compress_result_weight: _Arrays = {}
        self.compress_result_index: _Arrays = {}
        self.compress_result_info: _Arrays = {}
        self._compressor = compressor
        self._description: dict[str, Any] | None = None
        if weight_path is not None:
            self._weights = load_weights(weight_path)
        elif weight and quant_model_description:
            check_description(quant_model_description)
            self._description = dict(quant_model_description)
            self._weights = {name: as_array(name, tensor) for name, tensor in weight.items()}
            types = tensor_types(self._description)
            if types.keys() != self._weights.keys():
                name = sorted(types.keys() ^ self._weights.keys())[0]
                raise InputError(f"tensor {name!r} is in only one of the weights and their description")
        else:
            raise InputError("give weight_path, or weight and quant_model_description")

    def run(self, weight_transpose: bool = False) -> tuple[_Arrays, _Arrays, _Arrays]:
        """Compress the weights.

        Args:
            weight_transpose: the weights are (k, n), as ONNX has them.

        Returns:
            Three dicts by name: x2 int8 (c,), compress_index int8 (8 * tiles,), compress_info int64 (5,).

        Raises:
            InputError: a weight is not a matrix of int8 (float16 for W16A16S), none is there, or ``compress_excutor``
                failed.
        """
        jobs: dict[str, npt.NDArray[np.int8]] = {}
        for name in self._names():
            matrix = self._matrix(name, weight_transpose=weight_transpose)
            if name in (self.config.compress_disable_layers or ()):
                self.compress_result_weight[name] = to_nz(matrix)
                self.compress_result_index[name] = np.empty((0, 0), np.int8)
            else:
                jobs[name] = matrix
        with ThreadPoolExecutor(self.config.multiprocess_num) as pool:
            results = pool.map(self._compress, jobs, jobs.values())
            for (name, matrix), (x2, index, info) in zip(jobs.items(), results, strict=True):
                self.compress_result_weight[name] = x2
                self.compress_result_index[name] = index
                self.compress_result_info[name] = info
                if self.config.is_debug:
                    logger.info("%s: %d bytes became %d", name, matrix.size, x2.size)
        return self.compress_result_weight, self.compress_result_index, self.compress_result_info

    @classmethod
    def export(
        cls, arr: Mapping[str, npt.NDArray[Any]], path: str | os.PathLike[str], dtype: type[np.generic] = np.int8
    ) -> None:
        """Write ``path/NAME.dat`` for each array: raw little-endian numbers without a header.

        Args:
            arr: one of the dicts that :meth:`run` returns.
            path: folder, made if it is missing; files in it are replaced.
            dtype: ``numpy.int8``, or ``numpy.int64`` for the infos.

        Raises:
            InputError: ``dtype`` is another one, or a number does not fit it.
            OSError: a file cannot be written.
        """
        if dtype not in (np.int8, np.int64):
            raise InputError("dtype must be numpy.int8 or numpy.int64")
        write_dat(path, arr, dtype)

    def export_safetensors(
        self, path: str | os.PathLike[str], safetensors_name: str | None = None, json_name: str | None = None
    ) -> None:
        """Write the compressed model as safetensors and description, after :meth:`run`.

        Args:
            path: folder, made if it is missing; the files in it are replaced. Weights of :attr:`grown` are written all
                the same, as msModelSlim does, and logged as warnings.
            safetensors_name: ``quant_model_weight_w8a8sc.safetensors`` by default.
            json_name: ``quant_model_description_w8a8sc.json`` by default; ``quant_model_description.json`` when the
                description has a version.

        Raises:
            InputError: the weights came from a .npy, were not compressed yet, or a layer was excluded.
            OSError: a file cannot be written.
        """
        if self._description is None:
            raise InputError("weights from a .npy have no description; use export")
        kind = "W16A16SC" if self._description["model_quant_type"] == "W16A16S" else "W8A8SC"
        if safetensors_name is None or not safetensors_name.endswith(".safetensors"):
            safetensors_name = f"quant_model_weight_{kind.lower()}.safetensors"
        if json_name is None or not json_name.endswith(".json"):
            versioned = self._description.get("version", "0.0.0") != "0.0.0"
            json_name = "quant_model_description" + ("" if versioned else f"_{kind.lower()}") + ".json"
        tensors: _Arrays = {}
        description = {**about_model(self._description), "model_quant_type": kind}
        for name in self.grown:
            logger.warning(_GROWN, name)
        for name, quant_type in tensor_types(self._description).items():
            if not self._is_sparse(name):
                tensors[name] = self._weights[name]
                description[name] = quant_type
                continue
            if name not in self.compress_result_info:
                raise InputError(f"weight {name} was not compressed, so it cannot be written as {kind}")
            results = (self.compress_result_weight, self.compress_result_index, self.compress_result_info)
            for part, result in zip(("weight", "index", "info"), results, strict=True):
                full = f"{name.removesuffix('.weight')}.{part}"
                if full in tensors:
                    raise InputError(f"tensor {full} is there already")
                tensors[full] = result[name]
                description[full] = COMPRESSED_TYPE[quant_type]
        note = {CODEC_KEY: self.codec}
        description["metadata"] = note
        folder = Path(path)
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_tensors(folder / safetensors_name, tensors, dict(note))
        write_bytes(folder / json_name, json.dumps(description, indent=2).encode(), force=True, mode=0o600)

    @property
    def grown(self) -> tuple[str, ...]:
        """Weights whose streams are larger than themselves, which vLLM-Ascend has no room for."""
        infos = self.compress_result_info
        return tuple(name for name in infos if self.compress_result_weight[name].size > infos[name][2] * infos[name][3])

    @property
    def codec(self) -> Codec:
        """Codec of what :meth:`run` compressed, told by the streams themselves.

        Raises:
            InputError: nothing was compressed, or streams of two codecs are there.
        """
        codecs = {codec_of(self.compress_result_weight[name]) for name in self.compress_result_info}
        if len(codecs) != 1:
            raise InputError("nothing was compressed" if not codecs else "the weights are of two codecs")
        return codecs.pop()

    def _names(self) -> list[str]:
        names = sorted(self._weights) if self._description is None else list(filter(self._is_sparse, self._weights))
        if not names:
            raise InputError("there is no sparse weight: none is called *.weight and typed W8A8S or W16A16S")
        return names

    def _is_sparse(self, name: str) -> bool:
        kind = None if self._description is None else self._description.get(name)
        return name.endswith(".weight") and "norm" not in name and kind in COMPRESSED_TYPE

    def _is_half(self, name: str) -> bool:
        return self._description is not None and self._description.get(name) == "W16A16S"

    def _matrix(self, name: str, *, weight_transpose: bool) -> npt.NDArray[np.int8]:
        """Return one weight as int8 (n, k); pairs of bytes of a float16 matrix as (n, 2k)."""
        array = self._weights[name]
        itemsize = 2 if self._is_half(name) else 1
        if array.ndim != 2 or not array.size or array.dtype.itemsize != itemsize:
            raise InputError(
                f"weight {name} is {array.dtype} of shape {array.shape}, not a matrix of {itemsize}-byte numbers"
            )
        if itemsize == 1 and array.dtype != np.int8:
            raise InputError(f"weight {name} is {array.dtype}, not int8")
        if self.config.do_pseudo_sparse:
            kept = np.random.default_rng(0).random(array.shape) < self.config.sparse_ratio
            array = np.where(kept, array, array.dtype.type(0))
        if weight_transpose:
            array = array.T
        return np.ascontiguousarray(array).view(np.int8)

    def _compress(
        self, name: str, matrix: npt.NDArray[np.int8]
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.int64]]:
        if self._compressor is None:
            return _native.encode(matrix)
        scratch = Path(self.config.record_detail_root)
        scratch.mkdir(mode=0o750, parents=True, exist_ok=True)
        return run_excutor(self._compressor, matrix, name=name, high_sparse=self._is_half(name), scratch=scratch)


def compress_file(
    source: Path,
    out: Path,
    *,
    description: Path | None = None,
    transpose: bool = False,
    compressor: Path | None = None,
    jobs: int = 1,
    force: bool = False,
) -> list[str]:
    """Do what ``mcd ascend compress`` does: read a file, compress, write msModelSlim's files.

    Args:
        source: .npy with a dict of weights, or .safetensors.
        out: folder to write to.
        description: JSON description, for a .safetensors.
        transpose: the weights are (k, n).
        compressor: path of ``compress_excutor``, for the device's codec.
        jobs: weights at a time.
        force: replace files that are there.

    Returns:
        A line for each weight, and one about the codec.

    Raises:
        FileExistsError: a file is there and ``force`` is not set.
        InputError: the input cannot be used.
        OSError: a file cannot be read or written.
    """
    # The scratch folder is the system's own.
    config = CompressConfig(multiprocess_num=jobs, record_detail_root=tempfile.gettempdir())
    if source.suffix == ".safetensors":
        if description is None:
            raise InputError("a .safetensors needs its description: --description D.json")
        tensors, _ = read_tensors(source)
        worker = Compressor(
            config, weight=tensors, quant_model_description=read_description(description), compressor=compressor
        )
        for pattern in ("*.safetensors", "*.json"):
            for path in out.glob(pattern):
                refuse_existing(path, force=force)
    else:
        if description is not None:
            raise InputError("--description is for a .safetensors")
        worker = Compressor(config, weight_path=source, compressor=compressor)
        for part in PARTS:
            for path in (out / part).glob("*.dat"):
                refuse_existing(path, force=force)
    weights, indices, infos = worker.run(weight_transpose=transpose)
    if source.suffix == ".safetensors":
        worker.export_safetensors(out)
    else:
        for (part, dtype), arrays in zip(PARTS.items(), (weights, indices, infos), strict=True):
            worker.export(arrays, out / part, dtype)
        write_note(out, worker.codec)
    lines = []
    for name, info in infos.items():
        k, n = int(info[2]), int(info[3])
        lines.append(f"{name}: {n} x {k}, {n * k} bytes became {weights[name].size + indices[name].size}")
    if source.suffix != ".safetensors":  # of those it was logged
        lines += [_GROWN % name for name in worker.grown]
    whose = (
        "the open codec: for the CPU, not for a device" if worker.codec == "open" else "CANN's codec: for a device only"
    )
    return [*lines, f"written with {whose}"]
