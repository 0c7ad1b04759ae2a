"""Session options as this package needs them for sessions of its own."""

import os
from collections.abc import Iterable
from pathlib import Path

import onnxruntime as ort

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.library import get_library_path

__all__ = ["check_kernel", "check_libraries", "quiet_options"]

_FATAL_ONLY = 4


def quiet_options(
    *,
    threads: int | None = None,
    model: str | None = None,
    precise: bool = False,
    custom_ops: Iterable[str | os.PathLike[str]] = (),
) -> ort.SessionOptions:
    """Return session options that know the custom operators and print nothing: errors arrive as exceptions.

    Args:
        threads: threads within one operator; onnxruntime's own choice by default.
        model: path of the model that they are for, whose constants are restored if it has such.
        precise: have products of 8-bit integers be exact where they saturate otherwise.
        custom_ops: libraries of other operators that the model needs.

    Raises:
        InputError: onnxruntime refuses one of those libraries.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if model is not None:
        options.add_session_config_entry("mcd.model", model)
    if precise:  # before the library is registered, which reads it then
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.register_custom_ops_library(get_library_path())
    for library in custom_ops:
        _register(options, library)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def check_kernel() -> None:
    """Refuse a kernel that this processor does not run: no session of a compressed model would open.

    Raises:
        InputError: ``MCD_KERNEL`` names a kernel that does not run here.
    """
    kernel, available = os.environ.get("MCD_KERNEL"), _native.kernels()
    if kernel and kernel not in available:
        raise InputError(f"MCD_KERNEL is {kernel!r}, which does not run here; these do: {', '.join(available)}")


def check_libraries(libraries: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse libraries of operators that onnxruntime cannot load, before the work that would end without them.

    Raises:
        InputError: there is no such file, or onnxruntime refuses it.
    """
    for library in libraries:
        if not Path(library).is_file():
            raise InputError(f"onnxruntime refuses {os.fspath(library)}: there is no such file")
        _register(ort.SessionOptions(), library)


def _register(options: ort.SessionOptions, library: str | os.PathLike[str]) -> None:
    try:
        options.register_custom_ops_library(os.fspath(Path(library).absolute()))
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"onnxruntime refuses {os.fspath(library)}: {' '.join(str(error).split())}") from error
