"""A small detector in float32, as YOLO has it, and a MobileNetV2, weights from a seed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from float_graph import FloatGraph
from onnx import TensorProto, helper

Feed = dict[str, npt.NDArray[np.generic]]

SIZE = 224
"""Of images."""

STAGES = ((32, 1), (64, 2), (128, 2), (256, 1))
"""Channels of the detector's stages, and how many blocks each has."""

BOTTLENECKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""MobileNetV2: how much wider, channels, how many, stride of the first."""


class _Cnn(FloatGraph):
    def silu(self, x: str, channels: int, n: int, size: int, *, stride: int = 1) -> str:
        x = self.convolve(x, (n, channels, size, size), strides=[stride] * 2, pads=[size // 2] * 4)
        return self.add("Mul", x, self.add("Sigmoid", x))

    def relu(self, x: str, channels: int, n: int, size: int, *, stride: int = 1, group: int = 1) -> str:
        shape = (n, channels // group, size, size)
        x = self.convolve(x, shape, strides=[stride] * 2, pads=[size // 2] * 4, group=group)
        return self.add("Relu", x)

    def split(self, x: str) -> tuple[str, str]:
        first = self.add("Split", x, axis=1)
        self.nodes[-1].output.append(f"{first}.second")
        return first, f"{first}.second"

    def stage(self, x: str, n: int, blocks: int) -> str:
        """Halves of the channels, of which the second goes through blocks whose results are all kept."""
        parts = list(self.split(self.silu(x, n, n, 1)))
        for _ in range(blocks):
            inner = self.silu(self.silu(parts[-1], n // 2, n // 2, 3), n // 2, n // 2, 3)
            parts.append(self.add("Add", parts[-1], inner))
        return self.silu(self.add("Concat", *parts, axis=1), n // 2 * len(parts), n, 1)

    def bottleneck(self, x: str, channels: int, wider: int, n: int, stride: int) -> str:
        wide = channels * wider
        inner = x if wider == 1 else self.relu(x, channels, wide, 1)
        inner = self.convolve(self.relu(inner, wide, wide, 3, stride=stride, group=wide), (n, wide, 1, 1))
        return self.add("Add", x, inner) if stride == 1 and channels == n else inner

    def save(self, path: Path, name: str, y: str, channels: int) -> None:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "height", "width"])
        out = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, channels, None, None])
        graph = helper.make_graph(self.nodes, name, [x], [out], self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def detector_model(path: Path) -> None:
    """Write the detector: input (1, 3, height, width), output (1, 84, height / 32, width / 32)."""
    graph = _Cnn(seed=11)
    x, channels = graph.silu("x", 3, 16, 3, stride=2), 16
    for n, blocks in STAGES:
        x, channels = graph.stage(graph.silu(x, channels, n, 3, stride=2), n, blocks), n
    graph.save(path, "detector", graph.convolve(graph.silu(x, channels, 64, 3), (84, 64, 1, 1)), 84)


def mobilenet_model(path: Path) -> None:
    """Write the MobileNetV2: input (1, 3, height, width), output (1, 1000, 1, 1)."""
    graph = _Cnn(seed=12)
    x, channels = graph.relu("x", 3, 32, 3, stride=2), 32
    for wider, n, count, stride in BOTTLENECKS:
        for number in range(count):
            x, channels = graph.bottleneck(x, channels, wider, n, 1 if number else stride), n
    x = graph.add("GlobalAveragePool", graph.relu(x, channels, 1280, 1))
    graph.save(path, "mobilenet", graph.convolve(x, (1000, 1280, 1, 1)), 1000)


def image_feeds(_: Path) -> Iterator[tuple[str, Feed]]:
    """One image."""
    x = np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    yield f"{SIZE}x{SIZE}", {"x": x}
