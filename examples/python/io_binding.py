"""Runs a compressed model with inputs and outputs bound to arrays of the caller's: a run copies and allocates none.

mcd compress model.onnx model.mcd.onnx
python io_binding.py model.mcd.onnx
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

import mcd_graph

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def bind(session: ort.InferenceSession, feed: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> ort.IOBinding:
    """Bind arrays to a session: it reads ``feed`` and writes ``outputs`` where they are, in each run."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding


def main(path: Path) -> None:
    """Run the model twice into the same array, and once as usual."""
    session = mcd_graph.InferenceSession(path)
    feed = {
        value.name: np.ones([dim if isinstance(dim, int) else 1 for dim in value.shape], TYPES[value.type])
        for value in session.get_inputs()
    }
    expected = session.run(None, feed)
    names = [value.name for value in session.get_outputs()]
    outputs = {name: np.zeros_like(array) for name, array in zip(names, expected, strict=True)}
    binding = bind(session, feed, outputs)
    for _ in range(2):
        session.run_with_iobinding(binding)
    for name, array in zip(names, expected, strict=True):
        print(f"{name}: {'the same' if outputs[name].tobytes() == array.tobytes() else 'it differs'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
