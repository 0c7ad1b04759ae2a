"""The T5-small title encoder end to end: batch 1, several lengths, against onnxruntime on the original.

    python benchmarks/t5.py [--lengths 8,64,256] [--threads 1,2] [--profiles balanced] [--spinning] [--json FILE]

All optimisations on, in one process and in turns; the figure is the ratio of the median times (below 1: the
compressed model is faster). Idle threads sleep, unless `--spinning` leaves onnxruntime's default. What the outputs
differ by, if at all, is printed too: optimised graphs are fused differently.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import traceforge_title_model
from matmul import append, in_bursts, interleaved, processor, session

import mcd_graph


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8,64,256")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--profiles", default="fast,balanced,small")
    parser.add_argument("--residency", default="compressed", choices=["compressed", "decoded"])
    parser.add_argument("--spinning", action="store_true", help="threads that spin, and turns of many runs")
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    profiles = arguments.profiles.split(",")
    rows: list[dict[str, object]] = []
    original = Path(traceforge_title_model.__file__).parent / "data" / "span" / "encoder.onnx"
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for profile in profiles:
            paths[profile] = Path(folder) / f"{profile}.onnx"
            mcd_graph.compress_model(original, paths[profile], profile=profile)
        print(f"{processor()}, onnxruntime {ort.__version__}")
        print(f"{'length':>6} {'threads':>7} {'onnxruntime':>12} " + " ".join(f"{p:>18}" for p in profiles))
        for threads in map(int, arguments.threads.split(",")):
            spinning = arguments.spinning
            sessions = {"onnxruntime": session(original, threads, spinning=spinning)}
            for profile, path in paths.items():
                sessions[profile] = session(path, threads, arguments.residency, spinning=spinning)
            for length in map(int, arguments.lengths.split(",")):
                ids = np.random.default_rng(length).integers(0, 32000, (1, length))
                feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                expected = sessions["onnxruntime"].run(None, feed)[0]
                worst = {p: float(np.abs(sessions[p].run(None, feed)[0] - expected).max()) for p in profiles}
                medians = (in_bursts if spinning else interleaved)(sessions, feed, arguments.seconds)
                base = medians["onnxruntime"]
                rows += [
                    {
                        "benchmark": "t5",
                        "length": length,
                        "threads": threads,
                        "profile": profile,
                        "residency": arguments.residency,
                        "spinning": spinning,
                        "ratio": medians[profile] / base,
                        "onnxruntime_ms": base * 1e3,
                        "mcd_ms": medians[profile] * 1e3,
                    }
                    for profile in profiles
                ]
                cells = [f"{medians[p] / base:6.3f} (|Δ| {worst[p]:.0e})".rjust(18) for p in profiles]
                print(f"{length:>6} {threads:>7} {base * 1e3:>9.2f} ms " + " ".join(cells), flush=True)
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
