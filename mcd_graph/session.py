"""onnxruntime sessions as this package needs them: quiet, on the CPU, with the custom operator registered."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from mcd_graph.errors import InputError
from mcd_graph.in_memory import as_file
from mcd_graph.model.loading import read_proto
from mcd_graph.opening import dropping_pages
from mcd_graph.options import quiet_options

__all__ = ["create_session"]


def create_session(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    optimize: bool = True,
    spin: bool = True,
    precise: bool = False,
    also: Sequence[str] = (),
    custom_ops: Iterable[str | os.PathLike[str]] = (),
) -> ort.InferenceSession:
    """Open a model on the CPU, with the custom operator at hand.

    Args:
        model: path of the model, or the model itself.
        threads: threads within one operator; onnxruntime's own choice by default.
        optimize: let onnxruntime rewrite the graph.
        precise: have 8-bit integers multiplied exactly on processors without VNNI, where products saturate otherwise;
            takes effect when onnxruntime optimises.
        also: names of further values to make outputs of, for a model in a file.
        custom_ops: libraries of other operators that the model needs.
        spin: let idle threads wait busily; off where several sessions share the processor.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: onnxruntime refuses the model; the message is its reason.

    Examples:
        >>> import numpy
        >>> from mcd_graph.session import create_session
        >>> session = create_session("model.onnx", threads=1)
        >>> feed = {"ids": numpy.array([[1, 2, 3]]), "mask": numpy.ones((1, 3), numpy.int64)}
        >>> (y,) = session.run(None, feed)
        >>> y.dtype.name, y.shape
        ('float32', (1, 3, 128))
    """
    name = "the given model" if isinstance(model, bytes) else os.fspath(model)
    if not isinstance(model, bytes) and not os.path.isfile(model):  # noqa: PTH113 - onnxruntime would bury it in a longer message
        raise FileNotFoundError(2, os.strerror(2), name)
    if os.fsencode(name).decode(errors="replace") != name:
        raise InputError(f"{name}: onnxruntime opens no file whose name is not UTF-8")
    try:
        with as_file(model) if isinstance(model, bytes) else contextlib.nullcontext(name) as path:
            options = quiet_options(threads=threads, model=path, precise=precise, custom_ops=custom_ops)
    except InputError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else name
    if also:
        source = _with_outputs(Path(name), also)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(name).parent))
    try:
        with dropping_pages():
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise InputError(f"onnxruntime refuses {name}: {' '.join(str(error).split())}") from error


def _with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """Return a model with further values among its outputs."""
    proto = read_proto(path)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    content: bytes = proto.SerializeToString()
    return content
