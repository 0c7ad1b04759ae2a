"""Saves a compressed model in onnxruntime's own format (.ort) and opens that again.

    mcd compress model.onnx model.mcd.onnx --inline
    python ort_format.py model.mcd.onnx model.ort

A file in this format holds its weights itself, so the model is compressed with ``--inline``, and it opens with the
operators' library as the ONNX model does. It is tied to the version of onnxruntime that wrote it; mcd reads only ONNX.
"""

import sys
from pathlib import Path

import onnxruntime as ort

import mcd_graph


def save(model: Path, saved: Path) -> None:
    """Write a model in onnxruntime's format, optimised as it would be at opening."""
    options = mcd_graph.session_options()
    options.optimized_model_filepath = str(saved)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(model: Path, saved: Path) -> None:
    """Save a model, open it again, and say what it takes."""
    save(model, saved)
    session = mcd_graph.InferenceSession(saved)
    print(f"{saved}: {[value.name for value in session.get_inputs()]}, {saved.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
