"""Lets every session of this process open compressed models, whichever library creates it."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import onnxruntime as ort

from mcd_graph.opening import dropping_pages
from mcd_graph.runtime.sessions import InferenceSession, Residency, check_residency, opened_with

__all__ = ["disable", "enable"]

_lock = threading.Lock()
_original: Callable[..., None] | None = None
_ours: Callable[..., None] | None = None
_settings: dict[str, Any] | None = None
"""Of the sessions that follow, as :func:`enable` takes them; ``None`` while it is not enabled."""


def enable(
    *,
    residency: Residency | None = None,
    device: str | None = None,
    memory_limit: int | None = None,
    decoded_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Let every ``onnxruntime.InferenceSession`` of this process know the operators of compressed models.

    For libraries that create their sessions themselves. It holds for sessions that are created from now on, also where
    the class was imported before. A session of a plain model computes as ever. Calling it again changes the settings
    for the sessions that follow.

    Args:
        residency: as :class:`InferenceSession` takes it, for all these sessions.
        device: as :func:`session_options` takes it.
        memory_limit: as :class:`InferenceSession` takes it, for each of these sessions.
        decoded_folder: as :class:`InferenceSession` takes it.

    Raises:
        ValueError: ``residency`` is none of its values.

    Examples:
        >>> import onnxruntime, mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> mcd_graph.enable()
        >>> session = onnxruntime.InferenceSession("model.mcd.onnx")
        >>> mcd_graph.disable()
    """
    check_residency(residency)
    global _original, _ours, _settings  # noqa: PLW0603 - the class that is changed is the process's own, too
    with _lock:
        _settings = {
            "residency": residency,
            "device": device,
            "memory_limit": memory_limit,
            "decoded_folder": decoded_folder,
        }
        if _original is not None:
            return
        original: Callable[..., None] = ort.InferenceSession.__init__

        @functools.wraps(original)
        def init(self: Any, path_or_bytes: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
            settings = _settings  # which another thread may change
            if settings is not None and not isinstance(self, InferenceSession):  # which has seen to it itself
                path_or_bytes, sess_options = opened_with(path_or_bytes, sess_options, **settings)
            ours = settings is not None and settings["residency"] != "plain"
            with dropping_pages() if ours else contextlib.nullcontext():
                original(self, path_or_bytes, sess_options, *args, **kwargs)

        ort.InferenceSession.__init__ = init
        _original, _ours = original, init


def disable() -> None:
    """Undo :func:`enable`; sessions that are open stay as they are. Without :func:`enable` before, do nothing.

    Examples:
        >>> import mcd_graph
        >>> mcd_graph.enable()
        >>> mcd_graph.disable()
    """
    global _original, _ours, _settings  # noqa: PLW0603 - as above
    with _lock:
        _settings = None
        # What another library has put around ours stays; ours then hands everything on as it is.
        if _ours is not None and ort.InferenceSession.__init__ is _ours:
            ort.InferenceSession.__init__ = _original
            _original = _ours = None
