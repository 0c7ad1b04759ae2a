"""Convolutions of groups of channels, as depthwise ones: from the compressed kernel, and by onnxruntime's ConvInteger.

    python benchmarks/groups.py [--threads 1,2] [--seconds 1]

Each is a model of one node. Both sessions run in turns, in one process; a speed-up is onnxruntime's time over ours.
"""

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import mcd_graph
from mcd_graph import bench
from mcd_graph.machine import this_machine


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a convolution: channels in and out, groups, image and kernel."""

    channels: int
    outputs: int
    groups: int
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return them as a row of the table begins."""
        each = f"{self.channels // self.groups} → {self.outputs // self.groups}"
        image, kernel = ("x".join(map(str, sizes)) for sizes in (self.image, self.kernel))
        strides = f", strides {'x'.join(map(str, self.strides))}" if self.strides else ""
        return f"| {self.groups} x ({each}) | {image} | {kernel}{strides} |"

    def model(self) -> onnx.ModelProto:
        """Return the model, its kernel int8 with the histogram of real weights."""
        rng = np.random.default_rng(0)
        kernel = np.rint(rng.normal(0, 14, (self.outputs, self.channels // self.groups, *self.kernel)))
        constants = {
            "w": np.clip(kernel, -127, 127).astype(np.int8), "xz": np.uint8(120), "wz": np.int8(0),
        }  # fmt: skip
        pads = [size // 2 for size in self.kernel] * 2
        strides = list(self.strides or (1,) * len(self.image))
        node = helper.make_node("ConvInteger", ["x", *constants], ["y"], group=self.groups, pads=pads, strides=strides)
        graph = helper.make_graph(
            [node],
            "groups",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, self.channels, *self.image])],
            [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


CASES = (
    Case(480, 480, 480, (3, 40), (5, 5)),
    Case(256, 256, 256, (24, 160), (3, 3)),
    Case(256, 256, 256, (24, 160), (5, 5), (2, 1)),
    Case(256, 256, 256, (200,), (31,)),
    Case(960, 960, 960, (7, 7), (5, 5)),
    Case(256, 512, 256, (28, 28), (3, 3)),
    Case(128, 128, 16, (28, 28), (3, 3)),
    Case(512, 512, 64, (14, 14), (3, 3)),
    Case(96, 96, 8, (28, 28), (3, 3)),
    Case(240, 150, 10, (14, 14), (3, 3)),
    Case(480, 150, 10, (14, 14), (1, 1)),
    Case(384, 384, 32, (100,), (5,)),
)


def measured(case: Case, threads: int, seconds: float, folder: Path) -> str:
    """Return onnxruntime's time, ours, and the speed-up with its quartiles."""
    paths = folder / "plain.onnx", folder / "compressed.onnx"
    onnx.save(case.model(), paths[0])
    report = mcd_graph.compress_model(*paths, force=True, force_larger=True)
    if report.nodes[0].status != "lowered":
        return f"{report.nodes[0].reason} |"
    sessions = []
    for path in paths:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads of one session do not take the cores of the other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.register_custom_ops_library(mcd_graph.get_library_path())
        sessions.append(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    size = math.prod(case.image) * case.channels
    x = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8).reshape(1, case.channels, *case.image)
    theirs, ours = bench.interleaved(sessions, {"x": x}, repeats=7, seconds=seconds)
    low, middle, high = np.percentile(np.asarray(theirs) / np.asarray(ours), [25, 50, 75])
    times = [f"{np.median(times) * 1e3:.0f}" for times in (theirs, ours)]
    return f"{times[0]} | {times[1]} | {middle:.1f} ({low:.1f} to {high:.1f}) |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=1, help="for both sessions of a row, at least")
    arguments = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {this_machine()}")
    print(
        "| groups | image | kernel | threads | onnxruntime, us | ours, us | speed-up |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            for threads in map(int, arguments.threads.split(",")):
                print(f"{case} {threads} | {measured(case, threads, arguments.seconds, Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
