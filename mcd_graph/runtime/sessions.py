"""Session options and sessions with the operator library registered."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import onnxruntime as ort

from mcd_graph.in_memory import as_file, was_file
from mcd_graph.library import get_library_path
from mcd_graph.opening import dropping_pages
from mcd_graph.requirements import explain_missing

__all__ = ["InferenceSession", "Residency", "check_residency", "opened_with", "session_options"]

Residency = Literal["auto", "compressed", "decoded", "plain"]
"""What a weight occupies while a session lives; ``plain`` is the original, restored when the session opens."""


def session_options(
    options: ort.SessionOptions | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    residency: Residency | None = None,
    device: str | None = None,
    memory_limit: int | None = None,
    decoded_folder: str | os.PathLike[str] | None = None,
) -> ort.SessionOptions:
    """Return session options that open compressed models as well as plain ones.

    Args:
        options: your own options, which are changed in place and returned; new ones by default. They may have been
            given here before.
        model: path of the model that they are for, and no other. Constants that ``mcd compress --at-open`` compressed
            are restored for it, in memory that the options share with its sessions. ``mcd.model``.
        residency: what a weight occupies while the session lives: ``auto`` (``decoded`` for weights that fit the
            processor's caches, ``compressed`` for others; the default), ``compressed`` (it is decoded in each
            multiplication, from the mapped file) or ``decoded`` (once, at the first run). ``mcd.residency``.
        device: where compressed multiplications run, ``cpu`` or ``ascend:N``. ``mcd.device``.
        memory_limit: bytes of memory that the compressed weights of a session may take, for untrusted models; a model
            that needs more is refused. ``mcd.memory_limit``.
        decoded_folder: a folder for the weights that are decoded, which processes that name the same one then have in
            memory once. It is made if its parent is there; on Linux and macOS. ``mcd.decoded_folder``.

    Raises:
        FileNotFoundError: the package was installed without the library.
        RuntimeError: onnxruntime cannot load the library, the options were given here before with other settings, or
            with another model, the model's constants are damaged, or ``decoded_folder`` cannot be used.
        ValueError: ``residency`` is none of its values; or it is ``plain``: options alone cannot restore a model.

    Examples:
        >>> import onnxruntime, mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> session = onnxruntime.InferenceSession("model.mcd.onnx", mcd_graph.session_options())
    """
    check_residency(residency)
    if residency == "plain":
        raise ValueError(
            "residency 'plain' restores the model when it is opened, which options cannot: "
            "give it to mcd_graph.InferenceSession or mcd_graph.enable"
        )
    options = ort.SessionOptions() if options is None else options
    # Before the library is registered, which reads them.
    entries = {
        "mcd.model": model,
        "mcd.residency": residency,
        "mcd.device": device,
        "mcd.memory_limit": None if memory_limit is None else str(memory_limit),
        "mcd.decoded_folder": decoded_folder,
    }
    for key, value in entries.items():
        if value is not None and _entry(options, key) != os.fspath(value):
            options.add_session_config_entry(key, os.fspath(value))
    options.register_custom_ops_library(get_library_path())
    return options


def check_residency(residency: Residency | None) -> None:
    """Raise ValueError for a residency that there is not; the library knows nothing of ``plain``."""
    if residency is not None and residency not in (values := get_args(Residency)):
        raise ValueError(f"residency is one of {', '.join(map(repr, values))}, not {residency!r}")


def _entry(options: ort.SessionOptions, key: str) -> str | None:
    """Return a session config entry; onnxruntime prints a warning where one is set that is there already."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def opened_with(
    model: str | bytes | os.PathLike[str],
    options: ort.SessionOptions | None,
    *,
    residency: Residency | None,
    device: str | None,
    memory_limit: int | None = None,
    decoded_folder: str | os.PathLike[str] | None = None,
) -> tuple[str | bytes | os.PathLike[str], ort.SessionOptions | None]:
    """Return the model and the options to give to onnxruntime for a session with these settings."""
    if residency != "plain":
        with _path_of(model, options) as path:
            return model, session_options(
                options,
                model=path,
                residency=residency,
                device=device,
                memory_limit=memory_limit,
                decoded_folder=decoded_folder,
            )
    try:
        from mcd_graph.restore import restored_bytes  # noqa: PLC0415 - takes onnx, which no other session needs
    except ModuleNotFoundError as error:
        if (reason := explain_missing(error.name)) is None:
            raise
        raise ModuleNotFoundError(f"residency 'plain': {reason}", name=error.name) from None

    restored = restored_bytes(model, memory_limit=memory_limit)
    return (model if restored is None else restored), options


def _path_of(
    model: str | bytes | os.PathLike[str], options: ort.SessionOptions | None
) -> contextlib.AbstractContextManager[str | os.PathLike[str] | None]:
    """Return the path of a model; of one in bytes, where it is while options are made, unless they say a path."""
    if not isinstance(model, bytes):
        return contextlib.nullcontext(model)
    said = None if options is None else _entry(options, "mcd.model")
    return as_file(model) if said is None or was_file(said) else contextlib.nullcontext()


class InferenceSession(ort.InferenceSession):  # type: ignore[misc] # onnxruntime brings no types
    """``onnxruntime.InferenceSession`` that opens compressed models; arguments and methods are the same.

    Args:
        path_or_bytes: path of a model, or a model in bytes.
        sess_options: as onnxruntime takes them; they are given to :func:`session_options`.
        providers: execution providers, best first.
        provider_options: their options.
        residency: as :func:`session_options` takes it, or ``plain``: the original is restored in memory, below 2 GiB,
            and onnxruntime opens that, without any custom operator. So only the files are smaller.
        device: as :func:`session_options` takes it.
        memory_limit: as :func:`session_options` takes it; with ``plain``, of all restored weights.
        decoded_folder: as :func:`session_options` takes it; with ``plain`` nothing is put there.
        **kwargs: whatever else onnxruntime takes.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> session = mcd_graph.InferenceSession("model.mcd.onnx")
        >>> [value.name for value in session.get_inputs()]
        ['ids', 'mask']
        >>> session = mcd_graph.InferenceSession("model.mcd.onnx", residency="plain")
    """

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: ort.SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        residency: Residency | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
        decoded_folder: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        model, options = opened_with(
            path_or_bytes,
            sess_options,
            residency=residency,
            device=device,
            memory_limit=memory_limit,
            decoded_folder=decoded_folder,
        )
        with contextlib.nullcontext() if residency == "plain" else dropping_pages():
            super().__init__(model, options, providers, provider_options, **kwargs)
