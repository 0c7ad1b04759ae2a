"""The end of a speech synthesiser in float32, as HiFi-GAN has it, its weights from a seed: a spectrogram becomes sound.

Two ConvTransposes make the signal eight times as long each; behind each stand residual convolutions, dilated.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from float_graph import FloatGraph
from onnx import TensorProto, helper

MELS, WIDTH, RATE, DILATIONS = 80, 256, 8, (1, 3)


def vocoder_model(path: Path) -> None:
    """Write the model: input (1, 80, frames), output (1, 1, 64 frames)."""
    graph = FloatGraph(seed=7)
    x = graph.convolve("mel", (WIDTH, MELS, 7), pads=[3, 3])
    width = WIDTH
    while width > WIDTH // 4:
        bent = graph.add("LeakyRelu", x, alpha=0.1)
        longer, half = (width, width // 2, 2 * RATE), [RATE // 2] * 2
        x = graph.convolve(bent, longer, "ConvTranspose", strides=[RATE], pads=half)
        width //= 2
        for dilation in DILATIONS:
            bent = graph.add("LeakyRelu", x, alpha=0.1)
            inner = graph.convolve(bent, (width, width, 7), pads=[3 * dilation] * 2, dilations=[dilation])
            inner = graph.convolve(graph.add("LeakyRelu", inner, alpha=0.1), (width, width, 7), pads=[3, 3])
            x = graph.add("Add", x, inner)
    graph.nodes.append(
        helper.make_node("Tanh", [graph.convolve(graph.add("LeakyRelu", x), (1, width, 7), pads=[3, 3])], ["y"])
    )
    mel = helper.make_tensor_value_info("mel", TensorProto.FLOAT, [1, MELS, "frames"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "samples"])
    proto = helper.make_graph(graph.nodes, "vocoder", [mel], [y], graph.constants)
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def vocoder_feeds(_: Path) -> Iterator[tuple[str, dict[str, npt.NDArray[np.generic]]]]:
    """An eighth of a second and half of one."""
    for frames in (8, 32):
        yield f"{frames}", {"mel": np.random.default_rng(frames).normal(size=(1, MELS, frames)).astype(np.float32)}
