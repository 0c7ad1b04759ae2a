"""A small lowered model whose weight has every kind of tile, and sessions on it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from lowering import make_model
from samples import layer

import mcd_graph
from mcd_graph.passes import plan_lowering

K, N = 64, 32
X = np.random.default_rng(1).standard_normal((3, K)).astype(np.float32)


def weight() -> np.ndarray:
    """Return an int8 weight (K, N): of its four fractals two are coded, one raw and one constant."""
    rng = np.random.default_rng(0)
    w = np.full((K, N), 5, np.int8)
    w[:32, :16] = rng.normal(0, 3, (32, 16)).round()
    w[32:, :16] = rng.integers(-128, 128, (32, 16))
    w[32:, 16:] = rng.normal(0, 6, (32, 16)).round()
    return w


def plain_model() -> onnx.ModelProto:
    """Return the model before it is lowered, as quantize_dynamic writes it."""
    constants = {"w": weight(), "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    return make_model(layer("x", "w", "y"), {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def lowered_model() -> onnx.ModelProto:
    """Return the lowered model, its weight inside, with one fractal a tile."""
    model = ir.from_proto(plain_model())
    plan = plan_lowering(model)
    assert plan.apply({key: mcd_graph.pack_weight(job.array(), tiling=(1, 1)) for key, job in plan.weights.items()})
    return ir.to_proto(model)


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)


def options(
    *, threads: int = 1, spin: bool = False, optimize: bool = True, config: Mapping[str, str] | None = None
) -> ort.SessionOptions:
    """Return options with the operator registered; weights stay compressed unless ``config`` says otherwise."""
    result = ort.SessionOptions()
    result.log_severity_level = 4
    result.intra_op_num_threads = threads
    result.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if not optimize:
        result.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in {"mcd.residency": "compressed", **(config or {})}.items():
        result.add_session_config_entry(key, value)
    result.register_custom_ops_library(mcd_graph.get_library_path())
    return result


def session(source: bytes | Path, given: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """Open a model; what onnxruntime's Python part prints when it refuses one goes nowhere."""
    with contextlib.redirect_stdout(None):
        return ort.InferenceSession(source, given or options(), providers=["CPUExecutionProvider"])
