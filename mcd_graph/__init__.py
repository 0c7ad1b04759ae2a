"""Lossless compression of quantised ONNX models, run from the compressed form."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mcd_graph.requirements import explain_missing

if TYPE_CHECKING:
    from mcd_graph.codec.weights import CompressedWeight, pack_weight, unpack_weight
    from mcd_graph.compress import compress_model
    from mcd_graph.errors import InputError, NothingToCompressError, WorkerError
    from mcd_graph.library import get_library_path
    from mcd_graph.progress import Progress
    from mcd_graph.report.data import Report
    from mcd_graph.restore import restore_model
    from mcd_graph.runtime import InferenceSession, disable, enable, session_options
    from mcd_graph.verify import Verification, verify_model

__all__ = [
    "CompressedWeight",
    "InferenceSession",
    "InputError",
    "NothingToCompressError",
    "Progress",
    "Report",
    "Verification",
    "WorkerError",
    "compress_model",
    "disable",
    "enable",
    "get_library_path",
    "pack_weight",
    "restore_model",
    "session_options",
    "unpack_weight",
    "verify_model",
]

# Imported when first asked for: a program that only wants the library's path should not wait for onnx.
_HOMES = {
    "CompressedWeight": "codec.weights",
    "InferenceSession": "runtime",
    "InputError": "errors",
    "NothingToCompressError": "errors",
    "Progress": "progress",
    "Report": "report.data",
    "Verification": "verify",
    "WorkerError": "errors",
    "compress_model": "compress",
    "disable": "runtime",
    "enable": "runtime",
    "get_library_path": "library",
    "pack_weight": "codec.weights",
    "restore_model": "restore",
    "session_options": "runtime",
    "unpack_weight": "codec.weights",
    "verify_model": "verify",
}


def __getattr__(name: str) -> Any:
    if name != "passes" and name not in _HOMES:
        raise AttributeError(f"module 'mcd_graph' has no attribute {name!r}")
    try:
        if name == "passes":
            return import_module("mcd_graph.passes")
        return getattr(import_module(f"mcd_graph.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        reason = explain_missing(error.name)
        if reason is None:
            raise
        raise ModuleNotFoundError(f"mcd_graph.{name}: {reason}", name=error.name) from None


def __dir__() -> list[str]:
    return [*__all__, "passes"]
