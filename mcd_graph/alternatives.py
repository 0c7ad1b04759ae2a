"""What onnxruntime itself offers to those whose memory is short: other ways to open the original.

- ``unpacked``: weights lie in external data, and pre-packing is off. They are read in place from the mapped file, which
  processes share, and a session opens fast; kernels that want packed weights pack them at every run.
- ``saved``: the optimised model is saved with the weights as the kernels want them, which processes then share as well.
  The files are larger, and fit one kind of processor and one version of onnxruntime.
"""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort

from mcd_graph.errors import InputError

__all__ = ["ALTERNATIVES", "CONFIG", "written"]

ALTERNATIVES = ("unpacked", "saved")

CONFIG = {"unpacked": {"session.disable_prepacking": "1"}, "saved": {}}
"""The session config entries that a model which was written for a way is opened with."""

_SMALLEST = 1024
"""Bytes of the smallest tensor that goes into external data."""


def written(way: str, model: str | os.PathLike[str], folder: Path) -> Path:
    """Write a model as a way of :data:`ALTERNATIVES` needs it; return its path.

    onnxruntime does it, in a process of its own.

    Args:
        way: one of :data:`ALTERNATIVES`.
        model: path of the original.
        folder: where to write.

    Raises:
        InputError: onnxruntime cannot.
    """
    target = folder / f"{way}.onnx"
    command = [sys.executable, "-P", "-m", __spec__.name, way, os.fspath(model), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode or not target.exists():
        said = done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"]
        raise InputError(f"{os.fspath(model)}: onnxruntime does not write it as {way!r}: {said[-1]}")
    return target


def _write(way: str, model: str, target: str) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.optimized_model_filepath = target
    entries = {
        "optimized_model_external_initializers_file_name": Path(target).name + "_data",
        "optimized_model_external_initializers_min_size_in_bytes": str(_SMALLEST),
    }
    if way == "saved":
        entries["save_external_prepacked_constant_initializers"] = "1"
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    _write(*sys.argv[1:])
