"""Memory and load time of a session on 256 MiB of int8 weights, and of four processes on one model.

    python benchmarks/memory.py [--layers 16] [--processes 4]

Each figure comes from fresh processes that open the model, run it once, and read their own /proc/self/smaps_rollup:
private is what no other process can share, proportional (PSS) splits shared pages among those who map them. Load
times are medians of interleaved processes, from before the session is created until it is ready.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from matmul import layers_model, processor

import mcd_graph

_CHILD = """
import json, sys, time
import numpy as np, onnxruntime as ort, mcd_graph
def rollup():
    fields = {}
    for line in open("/proc/self/smaps_rollup"):
        if line.endswith("kB\\n"):
            name, value = line[:-3].split(":")
            fields[name] = int(value) * 1024
    return fields
path, wait = sys.argv[1], sys.argv[2] == "wait"
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.register_custom_ops_library(mcd_graph.get_library_path())
before = rollup()
start = time.perf_counter()
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
load = time.perf_counter() - start
session.run(None, {"x": np.ones((1, 4096), np.uint8)})
if wait:
    print("ready", flush=True)
    sys.stdin.readline()
after = rollup()
private = lambda f: f["Private_Clean"] + f["Private_Dirty"]
print(json.dumps({
    "load": load,
    "anonymous": after["Anonymous"] - before["Anonymous"],
    "resident": after["Rss"] - before["Rss"],
    "proportional": after["Pss"] - before["Pss"],
    "private": private(after) - private(before),
}), flush=True)
if wait:
    sys.stdin.readline()
"""


def measure(path: Path) -> dict[str, float]:
    """Figures of one process."""
    result = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), "alone"], check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def together(path: Path, processes: int) -> list[dict[str, float]]:
    """Figures of several processes that hold the model open at the same time."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    figures = []
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("measure\n")
        child.stdin.flush()
        figures.append(json.loads(child.stdout.readline()))
    for child in children:
        child.communicate("stop\n")
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="of 4096 x 4096, 16 MiB each")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    mib = 1 << 20
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original.onnx"
        layers_model(original, layers=arguments.layers, k=4096, n=4096, sigma=12.0, activation="uint8")
        compressed = Path(folder) / "balanced.onnx"
        mcd_graph.compress_model(original, compressed)
        models = {"onnxruntime": original, "balanced": compressed}
        print(f"{processor()}, weights {arguments.layers * 16} MiB; MiB added by a session")
        print(f"{'':>12} {'anonymous':>10} {'private':>10} {'resident':>10} {'load':>10}")
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        for _ in range(arguments.turns):
            for name, path in models.items():
                taken[name].append(measure(path))
        for name, rows in taken.items():
            median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            print(
                f"{name:>12} {median['anonymous'] / mib:>10.1f} {median['private'] / mib:>10.1f} "
                f"{median['resident'] / mib:>10.1f} {median['load'] * 1e3:>7.0f} ms"
            )
        print(f"{arguments.processes} processes at once, sum over all:")
        for name, path in models.items():
            rows = together(path, arguments.processes)
            total = {key: sum(row[key] for row in rows) / mib for key in ("private", "proportional")}
            print(f"{name:>12} private {total['private']:.1f}, proportional {total['proportional']:.1f}")


if __name__ == "__main__":
    main()
