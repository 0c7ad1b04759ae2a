"""The Triton example, read with the server's own schema. No server is run: it is not to be had as a package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf import text_format
from samples import ROOT, N
from tritonclient.grpc import model_config_pb2

from mcd_graph.session import create_session


def test_the_repository_is_what_the_server_reads(model: Path, out: Path) -> None:
    script = ROOT / "examples" / "triton" / "make_repository.py"
    command = [sys.executable, str(script), str(model), "repository", "--name", "text", "--seen-at", "/models"]
    subprocess.run(command, cwd=out, check=True)
    entry = out / "repository" / "text"
    assert sorted(str(path.relative_to(entry)) for path in entry.rglob("*.*")) == [
        "1/model.onnx",
        "1/model.onnx_data",
        "config.pbtxt",
        "libmcd_ort.so",
    ]

    config = text_format.Parse((entry / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == "text"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 0
    int64, fp32 = model_config_pb2.TYPE_INT64, model_config_pb2.TYPE_FP32
    assert [(value.name, value.data_type, list(value.dims)) for value in config.input] == [
        ("ids", int64, [-1, -1]),
        ("mask", int64, [-1, -1]),
    ]
    assert [(value.name, value.data_type, list(value.dims)) for value in config.output] == [("y", fp32, [-1, -1, N])]
    (library,) = config.model_operations.op_library_filename
    assert library == "/models/text/libmcd_ort.so"

    # The backend does no more than this: it registers each library, and opens the model's file.
    options = ort.SessionOptions()
    options.register_custom_ops_library(library.replace("/models", str(out / "repository")))
    session = ort.InferenceSession(str(entry / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {"ids": np.array([[1, 2, 3]]), "mask": np.ones((1, 3), np.int64)}
    (ours,), (theirs,) = session.run(None, feed), create_session(model).run(None, feed)
    assert ours.tobytes() == theirs.tobytes()


def test_dynamic_batching(model: Path, out: Path) -> None:
    """The first dimension is the server's, in inputs and outputs; a model that fixes it is refused."""
    script = ROOT / "examples" / "triton" / "make_repository.py"
    command = [sys.executable, str(script), str(model), "repository", "--batch", "32"]
    subprocess.run(command, cwd=out, check=True)
    text = (out / "repository" / "model" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert [list(value.dims) for value in (*config.input, *config.output)] == [[-1], [-1], [-1, N]]

    fixed = onnx.load(model)
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, out / "fixed.onnx")  # noqa: TID251 - a throw-away model
    command[2:4] = ["fixed.onnx", "other"]
    result = subprocess.run(command, cwd=out, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "no dynamic batching: the first dimension of y is not free: [1, " in result.stderr
