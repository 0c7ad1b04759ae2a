"""A sentence encoder as onnxruntime's transformer optimizer fuses it, in float32: Attention, BiasGelu, SkipLayerNorm.

Quantised, its Attention becomes QAttention. Three layers, 256 wide, eight heads; weights come from a seed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS, INNER, VOCABULARY = 3, 256, 8, 1024, 6000
_MS = "com.microsoft"


def fused_encoder_model(path: Path) -> None:
    """Write the model: ``input_ids`` (1, length), int64; ``y`` (1, length, 256)."""
    rng = np.random.default_rng(8)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    values: list[onnx.ValueInfoProto] = []

    def constant(name: str, array: npt.NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def weight(name: str, k: int, n: int) -> str:
        # Columns of unequal width, with tails as those of trained weights.
        return constant(name, rng.standard_t(5, (k, n)) * np.exp(rng.normal(0, 0.3, n)) * 0.04)

    def add(operator: str, *inputs: str, domain: str = _MS, **attributes: object) -> str:
        name = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        if domain:  # the quantiser infers the shapes of the standard's operators alone
            width = INNER if operator == "BiasGelu" else WIDTH
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "length", width]))
        return name

    def norm(x: str, residual: str, name: str) -> str:
        scale, shift = constant(f"{name}.scale", np.ones(WIDTH)), constant(f"{name}.shift", np.zeros(WIDTH))
        return add("SkipLayerNormalization", x, residual, scale, shift, epsilon=1e-12)

    def linear(x: str, name: str, k: int, n: int) -> str:
        return add("MatMul", x, weight(f"{name}.weight", k, n), domain="")

    tokens = weight("tokens", VOCABULARY, WIDTH)
    x = add("Gather", tokens, "input_ids", domain="")
    for layer in range(LAYERS):
        bias = constant(f"{layer}.qkv.bias", rng.normal(0, 0.1, 3 * WIDTH))
        found = add("Attention", x, weight(f"{layer}.qkv.weight", WIDTH, 3 * WIDTH), bias, num_heads=HEADS)
        x = norm(linear(found, f"{layer}.out", WIDTH, WIDTH), x, f"{layer}.first")
        inner = linear(x, f"{layer}.up", WIDTH, INNER)
        inner = add("BiasGelu", inner, constant(f"{layer}.up.bias", rng.normal(0, 0.1, INNER)))
        x = norm(linear(inner, f"{layer}.down", INNER, WIDTH), x, f"{layer}.second")
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "length", WIDTH])
    proto = helper.make_graph(nodes, "fused_encoder", [ids], [y], constants, value_info=values)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MS, 1)]
    onnx.save(helper.make_model(proto, opset_imports=opsets, ir_version=8), path)


def fused_encoder_feeds(_: Path) -> Iterator[tuple[str, dict[str, npt.NDArray[np.generic]]]]:
    """Sentences of 1, 16 and 64 tokens."""
    for length in (1, 16, 64):
        yield f"1x{length}", {"input_ids": np.random.default_rng(length).integers(0, VOCABULARY, (1, length))}
