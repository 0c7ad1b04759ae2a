"""onnxruntime sessions as this package needs them: quiet, on the CPU, with the custom operator registered."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from mcd_graph.errors import InputError
from mcd_graph.in_memory import as_file
from mcd_graph.model.loading import read_proto
from mcd_graph.optimized_copy import optimized_copy
from mcd_graph.options import quiet_options
from mcd_graph.saturation import exact_products, is_qdq

__all__ = ["create_session"]

_FOLDER = "session.model_external_initializers_file_folder_path"
_PROVIDERS = ["CPUExecutionProvider"]


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
        precise: have 8-bit integers multiplied exactly on processors without VNNI, where onnxruntime's products
            saturate otherwise; a changed copy of the model is run then, which is in memory as a whole.
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

    def options_for(path: str | None) -> ort.SessionOptions:
        options = quiet_options(threads=threads, model=path, custom_ops=custom_ops)
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    try:
        with as_file(model) if isinstance(model, bytes) else contextlib.nullcontext(name) as path:
            options = options_for(path)
    except InputError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error
    source = model if isinstance(model, bytes) else name
    if also or precise:
        proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else read_proto(model)
        proto.graph.output.extend(onnx.ValueInfoProto(name=each) for each in also)
        source = proto.SerializeToString()
        if not isinstance(model, bytes):
            options.add_session_config_entry(_FOLDER, str(Path(name).parent))
    try:
        if precise:
            return _exact_session(proto, options, options_for(None))
        return ort.InferenceSession(source, options, providers=_PROVIDERS)
    except Exception as error:  # as above
        raise InputError(f"onnxruntime refuses {name}: {' '.join(str(error).split())}") from error


def _exact_session(
    proto: onnx.ModelProto, options: ort.SessionOptions, without_model: ort.SessionOptions
) -> ort.InferenceSession:
    """Open a model with exact products of 8-bit integers; it is changed.

    Of a QDQ model onnxruntime makes such products when it optimises, so that has to be done first.

    Args:
        proto: the model.
        options: for a session of it.
        without_model: the same without constants to be restored.
    """
    if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL or not is_qdq(proto):
        exact_products(proto)
        return ort.InferenceSession(proto.SerializeToString(), options, providers=_PROVIDERS)
    with tempfile.TemporaryDirectory(prefix="mcd-") as folder:
        optimized = optimized_copy(proto, options, Path(folder))
        exact_products(optimized)
        without_model.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        without_model.add_session_config_entry(_FOLDER, folder)
        return ort.InferenceSession(optimized.SerializeToString(), without_model, providers=_PROVIDERS)
