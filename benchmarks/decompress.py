"""How fast `DecompressWeight` writes a weight: GB/s of decoded bytes by kernel, profile, size and threads.

    python benchmarks/decompress.py [--sizes 64K,1M,64M] [--threads 1,2] [--kernels avx512,avx2,scalar]
                                    [--profiles fast,balanced,small] [--bits 5.5] [--seconds 0.5] [--columns]
                                    [--json FILE]

Each case is a model of one `DecompressWeight` and a `Gather` behind it, which reads one row, at onnxruntime's default
settings but for the threads. What the same model takes for 1 KiB is taken off: it is onnxruntime's own time for a run.
Sizes are of the decoded weight, a square matrix; the best of all runs counts. 64 KiB stay in the first cache or the
second, 1 MiB in the second, 64 MiB in none. With `--columns` the weight comes back transposed, as the (k, n) that most
products read. A process runs one kernel, so each has one of its own.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import onnxruntime as ort
from matmul import append, processor
from onnx import TensorProto, helper, numpy_helper

import mcd_graph
from mcd_graph import _native
from mcd_graph.codec.weights import Profile

UNITS = {"K": 1 << 10, "M": 1 << 20}


def model_of(size: int, profile: Profile, bits: float, *, columns: bool = False) -> bytes:
    """A model that decodes so many weights, of so many bits of entropy, in either order, and picks a row of them."""
    side = math.isqrt(size)
    sigma = 2**bits / math.sqrt(2 * math.pi * math.e)
    draw = np.random.default_rng(0).normal(0, sigma, (side, side))
    packed = mcd_graph.pack_weight(np.clip(np.rint(draw), -127, 127).astype(np.int8), profile=profile)
    constants = {"stream": np.asarray(packed.x2), "index": np.asarray(packed.compress_index)}
    nodes = [
        helper.make_node(
            "DecompressWeight",
            list(constants),
            ["w"],
            domain="mcd",
            compress_info=packed.compress_info.tolist(),
            shape=[side, side],
            dtype=TensorProto.INT8,
            transposed=int(not columns),
        ),
        helper.make_node("Gather", ["w", "i"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT8, [side])]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "decompress", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("mcd", 1)]
    content: bytes = helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    return content


def best_seconds(model: bytes, threads: int, seconds: float) -> float:
    """The shortest run of a session within that time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(mcd_graph.get_library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"i": np.array(1)}
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return best


def rows_of(arguments: argparse.Namespace, kernel: str) -> list[dict[str, Any]]:
    """All cases of the kernel that this process runs."""
    rows = []
    for threads in arguments.threads:
        empty = best_seconds(model_of(1 << 10, "balanced", arguments.bits), threads, arguments.seconds)
        for size in arguments.sizes:
            for profile in arguments.profiles:
                model = model_of(size, profile, arguments.bits, columns=arguments.columns)
                taken = best_seconds(model, threads, arguments.seconds) - empty
                rows.append(
                    {
                        "benchmark": "decompress", "kernel": kernel, "profile": profile, "bytes": size,
                        "threads": threads, "bits": arguments.bits, "columns": arguments.columns,
                        "gb_s": size / taken / 1e9, "gb_s_thread": size / taken / 1e9 / threads,
                    }
                )  # fmt: skip
    return rows


def bytes_of(text: str) -> int:
    """64K, 1M or a number of bytes."""
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64K,1M,64M", type=lambda text: [bytes_of(size) for size in text.split(",")])
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(count) for count in text.split(",")])
    parser.add_argument("--kernels", default=",".join(_native.kernels()))
    parser.add_argument("--profiles", default=",".join(get_args(Profile)), type=lambda text: text.split(","))
    parser.add_argument("--bits", type=float, default=5.5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--columns", action="store_true", help="transposed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        print(json.dumps(rows_of(arguments, os.environ["MCD_KERNEL"])))
        return
    print(processor())
    rows: list[dict[str, Any]] = []
    for kernel in arguments.kernels.split(","):
        command = [sys.executable, *sys.argv, "--in-process"]
        environment = {**os.environ, "MCD_KERNEL": kernel}
        found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows += cast("list[dict[str, Any]]", json.loads(found.stdout))
    print("GB/s a thread")
    titles = [f"{profile}, {threads}" for profile in arguments.profiles for threads in arguments.threads]
    print(f"{'kernel':8s} {'bytes':>10s} " + " ".join(f"{title:>12s}" for title in titles))
    for kernel in arguments.kernels.split(","):
        for size in arguments.sizes:
            cells = [
                next(
                    row["gb_s_thread"]
                    for row in rows
                    if (row["kernel"], row["bytes"], row["profile"], row["threads"]) == (kernel, size, profile, threads)
                )
                for profile in arguments.profiles
                for threads in arguments.threads
            ]
            print(f"{kernel:8s} {size:10d} " + " ".join(f"{cell:12.2f}" for cell in cells))
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
