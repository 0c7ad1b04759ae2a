"""Runs a compressed model from its file, and from bytes that somebody else has read.

    mcd compress model.onnx model.mcd.onnx
    python from_bytes.py model.mcd.onnx

onnxruntime finds the weights beside the model's file. A session made of bytes does not know where that was, so it is
told; or the weights are in the model itself, after ``mcd compress --inline``.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

import mcd_graph


def options() -> ort.SessionOptions:
    """Return session options with the custom operator registered."""
    made = ort.SessionOptions()
    made.register_custom_ops_library(mcd_graph.get_library_path())
    return made


def from_file(path: Path) -> ort.InferenceSession:
    """Open a model; its weights stay in the mapped file."""
    return ort.InferenceSession(str(path), options(), providers=["CPUExecutionProvider"])


def from_bytes(model: bytes, data_folder: Path | None = None) -> ort.InferenceSession:
    """Open a model that was read before.

    Args:
        model: the model file's bytes.
        data_folder: where its data file is; not needed when the weights are in the model itself.
    """
    made = options()
    if data_folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        made.add_session_config_entry(key, str(data_folder))
    return ort.InferenceSession(model, made, providers=["CPUExecutionProvider"])


def ones(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """Return ones for every input, one of everything that has no fixed size."""
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    return {
        value.name: np.ones([dim if isinstance(dim, int) else 1 for dim in value.shape], types[value.type])
        for value in session.get_inputs()
    }


def main(path: Path) -> None:
    """Run the model both ways and compare."""
    first, second = from_file(path), from_bytes(path.read_bytes(), path.absolute().parent)
    feed = ones(first)
    for value, ours, theirs in zip(first.get_outputs(), first.run(None, feed), second.run(None, feed), strict=True):
        same = ours.tobytes() == theirs.tobytes()
        print(f"{value.name} {ours.dtype} {ours.shape}: {'the same both ways' if same else 'they differ'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
