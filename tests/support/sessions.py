"""onnxruntime sessions of models made by tests, with the operators' library."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

import mcd_graph
from mcd_graph.machine import saturates
from mcd_graph.session import create_session


def session_options(
    threads: int = 1, config: Mapping[str, str] | None = None, *, optimized: bool = False
) -> ort.SessionOptions:
    """Return options without the library; ``config`` are session config entries.

    Weights stay compressed unless these say otherwise: by default, small ones would be decoded at the first run.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in {"mcd.residency": "compressed", **(config or {})}.items():
        options.add_session_config_entry(key, value)
    return options


def session(
    model: onnx.ModelProto | Path, threads: int = 1, config: Mapping[str, str] | None = None, *, optimized: bool = False
) -> ort.InferenceSession:
    """Open a model on the CPU with the library registered.

    Where onnxruntime's products saturate, it is opened with exact ones, unless ``config`` says something.
    """
    if saturates() and config is None and not isinstance(model, Path):
        return create_session(model.SerializeToString(), threads=threads, optimize=optimized, precise=True)
    options = session_options(threads, config, optimized=optimized)
    options.register_custom_ops_library(mcd_graph.get_library_path())
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def exact_or_default(model: bytes | Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a model as applications do, but with exact products where onnxruntime's saturate."""
    if not saturates():
        source = model if isinstance(model, bytes) else str(model)
        return mcd_graph.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    off = options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return create_session(model, threads=options.intra_op_num_threads, optimize=not off, precise=True)


def corrupt(model: onnx.ModelProto, tensor: str) -> Iterator[onnx.ModelProto]:
    """Yield a model with one bit of an initializer flipped, at 60 places in turns; it is the same object each time."""
    (found,) = (one for one in model.graph.initializer if one.name == tensor)
    intact = found.raw_data
    for position in np.random.default_rng(5).permutation(len(intact))[:60]:
        found.raw_data = intact[:position] + bytes([intact[position] ^ 4]) + intact[position + 1 :]
        yield model


def save_unaligned(model: onnx.ModelProto, folder: Path, tensors: int | None = None) -> Path:
    """Write a model whose first initializers, all by default, lie in a file three bytes beyond any alignment."""
    with (folder / "model.data").open("wb") as file:
        for tensor in model.graph.initializer[:tensors]:
            file.write(b"\x55" * (4096 - file.tell() % 4096 + 3))
            offset, length = file.tell(), file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": "model.data", "offset": offset, "length": length}.items():
                tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
