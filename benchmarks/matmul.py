"""One multiplication after another: 8 layers of 4096 x 4096 int8 weights, so that the weights come from memory.

    python benchmarks/matmul.py [--m 1,8,64] [--threads 1,2] [--profiles fast,balanced,small] [--activation uint8]

Contestants are onnxruntime on the uncompressed model and the compressed one, all optimisations on, in one process
and in turns; the figure is the ratio of the median times (below 1: the compressed model is faster). Outputs are
compared byte for byte first. `--json FILE` appends the rows to a record.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import mcd_graph
from mcd_graph import bench
from mcd_graph.machine import this_machine


def gaussian_weights(k: int, n: int, sigma: float, seed: int) -> npt.NDArray[np.int8]:
    """(k, n) int8, normally distributed."""
    values = np.random.default_rng(seed).normal(0.0, sigma, (k, n))
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def layers_model(path: Path, *, layers: int, k: int, n: int, sigma: float, activation: str) -> None:
    """Writes a model of independent MatMulInteger -> Cast -> Mul chains that share their input."""
    zero_point = np.array(3, dtype=activation)
    initializers = [
        numpy_helper.from_array(zero_point, "x_zero_point"),
        numpy_helper.from_array(np.array(0.01, np.float32), "scale"),
    ]
    nodes, outputs = [], []
    for i in range(layers):
        weights = gaussian_weights(k, n, sigma, seed=i)
        initializers.append(numpy_helper.from_array(weights, f"w{i}"))
        nodes += [
            helper.make_node("MatMulInteger", ["x", f"w{i}", "x_zero_point"], [f"acc{i}"], name=f"matmul{i}"),
            helper.make_node("Cast", [f"acc{i}"], [f"float{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"float{i}", "scale"], [f"y{i}"]),
        ]
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["m", n]))
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(zero_point.dtype), ["m", k])
    graph = helper.make_graph(nodes, "layers", [x], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")


def session(path: Path, threads: int, residency: str = "compressed", *, spinning: bool = False) -> ort.InferenceSession:
    """A session with all optimisations on and `threads` intra-op threads.

    Idle threads that spin are onnxruntime's default, but those of one contestant would take the cores that the other
    one needs: contestants with such threads must run `in_bursts`.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("mcd.residency", residency)
    options.register_custom_ops_library(mcd_graph.get_library_path())
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def interleaved(
    sessions: dict[str, ort.InferenceSession], feed: dict[str, npt.NDArray[np.generic]], seconds: float
) -> dict[str, float]:
    """Median seconds of a run of each session; they take turns until the time is up, at least five each."""
    times = bench.interleaved(list(sessions.values()), feed, repeats=5, seconds=seconds)
    return dict(zip(sessions, (np.median(times, axis=1) / 1e3).tolist(), strict=True))


def in_bursts(
    sessions: dict[str, ort.InferenceSession], feed: dict[str, npt.NDArray[np.generic]], seconds: float
) -> dict[str, float]:
    """As `interleaved`, in turns of many runs, before each of which the others' threads have stopped spinning."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    deadline = time.perf_counter() + seconds * len(sessions)
    while not all(times.values()) or time.perf_counter() < deadline:
        for name, contestant in sessions.items():
            time.sleep(0.05)
            for _ in range(3):
                contestant.run(None, feed)
            end = time.perf_counter() + 0.3
            while time.perf_counter() < end:
                start = time.perf_counter()
                contestant.run(None, feed)
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def processor() -> str:
    """Name of this machine's processor."""
    return this_machine().processor


def append(record: Path, rows: list[dict[str, object]]) -> None:
    """Adds rows to a record, each with the machine that it was measured on."""
    machine = this_machine()
    with record.open("a") as file:
        for row in rows:
            file.write(json.dumps(row | {"processor": machine.processor, "onnxruntime": machine.onnxruntime}) + "\n")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", default="1,8,64,256,1024")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--profiles", default="fast,balanced,small")
    parser.add_argument("--activation", default="uint8", choices=["uint8", "int8"])
    parser.add_argument("--residency", default="compressed", choices=["compressed", "decoded"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--sigma", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    profiles = arguments.profiles.split(",")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original.onnx"
        layers_model(
            original,
            layers=arguments.layers,
            k=arguments.k,
            n=arguments.n,
            sigma=arguments.sigma,
            activation=arguments.activation,
        )
        paths = {}
        for profile in profiles:
            paths[profile] = Path(folder) / f"{profile}.onnx"
            mcd_graph.compress_model(original, paths[profile], profile=profile)
        print(f"{processor()}, {os.cpu_count()} cores, onnxruntime {ort.__version__}")
        print(f"{'m':>5} {'threads':>7} {'onnxruntime':>12} " + " ".join(f"{p:>22}" for p in profiles))
        for threads in map(int, arguments.threads.split(",")):
            sessions = {"onnxruntime": session(original, threads)}
            for profile, path in paths.items():
                sessions[profile] = session(path, threads, arguments.residency)
            for m in map(int, arguments.m.split(",")):
                dtype = np.dtype(arguments.activation)
                x = np.random.default_rng(m).integers(np.iinfo(dtype).min, 256 + np.iinfo(dtype).min, (m, arguments.k))
                x = x.astype(dtype)
                expected = sessions["onnxruntime"].run(None, {"x": x})
                for profile in profiles:
                    for a, b in zip(expected, sessions[profile].run(None, {"x": x}), strict=True):
                        assert a.tobytes() == b.tobytes(), f"{profile} differs at m = {m}"
                medians = interleaved(sessions, {"x": x}, arguments.seconds)
                base = medians["onnxruntime"]
                weights = arguments.layers * arguments.k * arguments.n
                cells = []
                for profile in profiles:
                    ratio = medians[profile] / base
                    cells.append(f"{ratio:6.3f} ({weights / medians[profile] / 1e9:5.1f} GB/s)".rjust(22))
                    rows.append(
                        {
                            "benchmark": "matmul",
                            "m": m,
                            "threads": threads,
                            "profile": profile,
                            "activation": arguments.activation,
                            "residency": arguments.residency,
                            "ratio": ratio,
                            "onnxruntime_ms": base * 1e3,
                            "mcd_ms": medians[profile] * 1e3,
                        }
                    )
                print(f"{m:>5} {threads:>7} {base * 1e3:>9.2f} ms " + " ".join(cells), flush=True)
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
