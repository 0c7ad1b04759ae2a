"""Session options as this package needs them for sessions of its own."""

import onnxruntime as ort

from mcd_graph.library import get_library_path

__all__ = ["quiet_options"]

_FATAL_ONLY = 4


def quiet_options(*, threads: int | None = None, model: str | None = None) -> ort.SessionOptions:
    """Return session options that know the custom operators and print nothing: errors arrive as exceptions.

    Args:
        threads: threads within one operator; onnxruntime's own choice by default.
        model: path of the model that they are for, whose constants are restored if it has such.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if model is not None:
        options.add_session_config_entry("mcd.model", model)
    options.register_custom_ops_library(get_library_path())
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
