"""Memory and load time of a session on 256 MiB of int8 weights, and of four processes on one model.

    python benchmarks/memory.py [--layers 16] [--processes 4] [--json FILE]

Each figure comes from fresh processes that open the model, run it once, and read their own /proc/self/smaps_rollup:
private is what no other process can share, proportional (PSS) splits shared pages among those who map them. Load
times are medians of interleaved processes, from before the session is created until it is ready.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from matmul import append, layers_model, processor

import mcd_graph
from mcd_graph.footprint import Footprint, measure_footprints

FIGURES = ("anonymous_bytes", "private_bytes", "proportional_bytes", "resident_bytes")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="of 4096 x 4096, 16 MiB each")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mib = 1 << 20
    feed = {"x": np.ones((1, 4096), np.uint8)}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original.onnx"
        layers_model(original, layers=arguments.layers, k=4096, n=4096, sigma=12.0, activation="uint8")
        compressed = Path(folder) / "balanced.onnx"
        mcd_graph.compress_model(original, compressed)
        models = {"onnxruntime": original, "balanced": compressed}
        print(f"{processor()}, weights {arguments.layers * 16} MiB; MiB added by a session")
        taken: dict[str, list[Footprint]] = {name: [] for name in models}
        for _ in range(arguments.turns):
            for name, path in models.items():
                taken[name] += measure_footprints(path, feed)
        for processes in (1, arguments.processes):
            print(f"{processes} at a time, sum over all:")
            for name, path in models.items():
                if processes == 1:
                    sums = {
                        figure: statistics.median(getattr(one, figure) for one in taken[name]) for figure in FIGURES
                    }
                else:
                    together = measure_footprints(path, feed, processes=processes)
                    sums = {figure: sum(getattr(one, figure) for one in together) for figure in FIGURES}
                load_ms = statistics.median(one.load_ms for one in taken[name])
                print(
                    f"{name:>12} "
                    + ", ".join(f"{figure.removesuffix('_bytes')} {sums[figure] / mib:.1f}" for figure in FIGURES)
                    + (f", load {load_ms:.0f} ms" if processes == 1 else "")
                )
                row = {"benchmark": "memory", "model": name, "weights": arguments.layers << 24, "processes": processes}
                rows.append(row | sums | ({"load_ms": load_ms} if processes == 1 else {}))
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
