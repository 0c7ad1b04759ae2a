"""A sentence encoder like all-MiniLM-L6 in float32, with weights from a seed: six layers, 384 wide, twelve heads."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS, INNER, VOCABULARY, POSITIONS = 6, 384, 12, 1536, 30522, 512


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(6)

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        # Tails as those of trained weights: the largest of a matrix is some ten standard deviations away.
        return self.constant(name, (self._rng.standard_t(8, shape) * 0.04).astype(np.float32))

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, name: str, x: str, k: int, n: int) -> str:
        return self.add(
            "Add", self.add("MatMul", x, self.weight(f"{name}.weight", k, n)), self.weight(f"{name}.bias", n)
        )

    def norm(self, name: str, x: str) -> str:
        scale = self.constant(f"{name}.scale", np.ones(WIDTH, np.float32))
        shift = self.constant(f"{name}.shift", np.zeros(WIDTH, np.float32))
        return self.add("LayerNormalization", x, scale, shift, epsilon=1e-12)


def _attention(graph: _Graph, name: str, x: str, mask: str) -> str:
    heads = {}
    for part in "qkv":
        split = graph.add("Reshape", graph.linear(f"{name}.{part}", x, WIDTH, WIDTH), "heads")
        heads[part] = graph.add("Transpose", split, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
    scores = graph.add("Mul", graph.add("MatMul", heads["q"], heads["k"]), "root")
    found = graph.add("MatMul", graph.add("Softmax", graph.add("Add", scores, mask), axis=-1), heads["v"])
    together = graph.add("Reshape", graph.add("Transpose", found, perm=[0, 2, 1, 3]), "width")
    return graph.linear(f"{name}.out", together, WIDTH, WIDTH)


def _gelu(graph: _Graph, x: str) -> str:
    bent = graph.add("Add", graph.add("Erf", graph.add("Div", x, "root_2")), "one")
    return graph.add("Mul", graph.add("Mul", x, bent), "half")


def _nodes(graph: _Graph) -> str:
    scalar = {"root": (WIDTH // HEADS) ** -0.5, "root_2": 2**0.5, "one": 1.0, "half": 0.5, "lowest": -1e4}
    for name, number in scalar.items():
        graph.constant(name, np.array(number, np.float32))
    graph.constant("heads", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    graph.constant("width", np.array([0, 0, WIDTH], np.int64))
    for name, number in {"zero_index": 0, "one_index": 1}.items():
        graph.constant(name, np.array([number], np.int64))
    graph.constant("axes", np.array([1, 2], np.int64))
    tokens = graph.add("Gather", graph.weight("tokens", VOCABULARY, WIDTH), "input_ids")
    length = graph.add(
        "Slice", graph.add("Shape", "input_ids"), "one_index", graph.constant("two_index", np.array([2], np.int64))
    )
    places = graph.add("Slice", graph.weight("positions", POSITIONS, WIDTH), "zero_index", length, "zero_index")
    x = graph.norm("embedding", graph.add("Add", tokens, places))
    floats = graph.add("Cast", graph.add("Unsqueeze", "attention_mask", "axes"), to=TensorProto.FLOAT)
    mask = graph.add("Mul", graph.add("Sub", "one", floats), "lowest")
    for layer in range(LAYERS):
        attended = graph.add("Add", x, _attention(graph, f"{layer}.attention", x, mask))
        x = graph.norm(f"{layer}.first", attended)
        inner = _gelu(graph, graph.linear(f"{layer}.up", x, WIDTH, INNER))
        x = graph.norm(f"{layer}.second", graph.add("Add", x, graph.linear(f"{layer}.down", inner, INNER, WIDTH)))
    return x


def encoder_model(path: Path) -> None:
    """Write the model."""
    graph = _Graph()
    graph.nodes.append(helper.make_node("Identity", [_nodes(graph)], ["y"]))
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", WIDTH])
    proto = helper.make_graph(graph.nodes, "encoder", ids, [y], graph.constants)
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def encoder_feeds(_: Path) -> Iterator[tuple[str, dict[str, npt.NDArray[np.generic]]]]:
    """One sentence of 16 and one of 128 tokens, and eight of 64."""
    for batch, length in ((1, 16), (1, 128), (8, 64)):
        ids = np.random.default_rng(length).integers(0, VOCABULARY, (batch, length))
        yield f"{batch}x{length}", {"input_ids": ids, "attention_mask": np.ones_like(ids)}
