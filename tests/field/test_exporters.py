"""Models as exporters and quantisers write them, lowered, with their constants at opening, and restored: same bytes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from lowering import MS_DOMAIN, floats, integers, make_model, scales
from onnx import TensorProto, helper
from random_graphs import Case, check, expect

if TYPE_CHECKING:
    from collections.abc import Callable

K = 48
Nodes = list[onnx.NodeProto]

PARAMETERS: dict[str, Any] = {
    "w": integers(np.int8, (K, K), 1) // 5, "v": integers(np.int8, (K, K), 2) // 5, "ws": np.float32(0.011),
    "wz": np.int8(0), "s": np.float32(0.03), "z": np.uint8(121), "s2": np.float32(0.11), "z2": np.uint8(128),
    "wsc": scales((K,), 3), "wzc": np.zeros(K, np.int8), "gain": floats((K,), 4), "shift": floats((K,), 5),
    "bias": integers(np.int8, (K,), 6).astype(np.int32) * 3, "bs": np.float32(0.0003),
    "blocks0": scales((K // 8, K), 7), "blocks1": scales((K, K // 8), 8),
}  # fmt: skip


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=f"{outputs} node", **attributes)


def pair(value: str, result: str, parameters: str = "s z") -> Nodes:
    quantized = node("QuantizeLinear", f"{value} {parameters}", f"{result}_q")
    return [quantized, node("DequantizeLinear", f"{result}_q {parameters}", result)]


def case(nodes: Nodes, *, opset: int = 17, functions: tuple[onnx.FunctionProto, ...] = (), **constants: Any) -> Case:
    """Return a model of x, (batch, length, K), whose result is y, with inputs for it."""
    used = {name for each in nodes for name in each.input}
    held = {name: array for name, array in (PARAMETERS | constants).items() if name in used}
    ir_version = 10 if opset >= 21 else 8
    inputs = {"x": (np.float32, ("b", "m", K))}
    model = make_model(
        nodes, inputs, {"y": (np.float32, None)}, held, opset=opset, functions=functions, ir_version=ir_version
    )
    return Case(model, [{"x": floats((2, 7, K), 9)}, {"x": floats((1, 3, K), 10) * 20}], [])


def tied(first: Nodes, second: Nodes) -> Case:
    """One weight in two products, straight and turned."""
    products = [
        *pair("x", "d"),
        *first,
        *second,
        node("MatMul", "d a", "p"),
        *pair("p", "pd", "s2 z2"),
        node("MatMul", "pd b", "r"),
        *pair("r", "y", "s2 z2"),
    ]
    return case(products)


def functions_of_functions() -> Case:
    """torch's dynamo: a module's function calls those of its layers, which are given weights and scales."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("pkg", 1)]
    names = ["x", "w", "ws", "wz", "s", "z"]
    linear = [
        *pair("x", "d"),
        node("DequantizeLinear", "w ws wz", "f"),
        node("Transpose", "f", "t", perm=[1, 0]),
        node("MatMul", "d t", "y"),
    ]
    gelu = [
        *(helper.make_node("Constant", [], [n], value_float=v) for n, v in (("r", 1.41421354), ("o", 1.0), ("h", 0.5))),
        node("Div", "x r", "a"),
        node("Erf", "a", "e"),
        node("Add", "e o", "f"),
        node("Mul", "x f", "g"),
        node("Mul", "g h", "y"),
    ]
    call = functools.partial(node, domain="pkg")
    block = [
        call("linear", "x w1 ws wz s z", "a"),
        call("gelu", "a", "b"),
        call("linear", "b w2 ws wz s z", "c"),
        node("Add", "c x", "y"),
    ]
    functions = (
        helper.make_function("pkg", "linear", names, ["y"], linear, opsets),
        helper.make_function("pkg", "gelu", ["x"], ["y"], gelu, opsets),
        helper.make_function("pkg", "block", ["x", "w1", "w2", *names[2:]], ["y"], block, opsets),
    )
    nodes = [call("block", "x w v ws wz s z", "h"), call("block", "h w v ws wz s z", "y")]
    return case(nodes, opset=18, functions=functions)


def every_edge() -> Case:
    """Olive: a pair of quantisers at each edge, a bias in int32, GELU and a normalisation as operators."""
    nodes = [
        *pair("x", "x0"),
        node("DequantizeLinear", "w wsc wzc", "wd", axis=1),
        node("DequantizeLinear", "bias bs", "bd"),
        node("MatMul", "x0 wd", "p"),
        *pair("p", "p0"),
        node("Add", "p0 bd", "a"),
        *pair("a", "a0"),
        node("Gelu", "a0", "u"),
        *pair("u", "u0"),
        node("Add", "u0 x0", "r"),
        *pair("r", "r0"),
        node("LayerNormalization", "r0 gain shift", "l", axis=-1),
        *pair("l", "l0"),
        node("MatMul", "l0 wd", "m"),
        *pair("m", "y"),
    ]
    return case(nodes, opset=20)


def channels_last(dtype: Any) -> Case:
    """tf2onnx: Transposes around each convolution, which cancel in between."""
    constants = {
        "k": integers(np.int8, (16, K, 3), 1), "k2": integers(np.int8, (16, 16, 1), 2), "ks": scales((16,), 3),
        "kz": np.zeros(16, np.int8), "z": dtype(3), "z2": dtype(10),
        "kb": integers(np.int8, (16,), 4).astype(np.int32) * 9,
    }  # fmt: skip
    swap = {"perm": [0, 2, 1]}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Transpose", "q", "t", **swap),
        node("QLinearConv", "t s z k ks kz s2 z2 kb", "c", kernel_shape=[3], pads=[0, 1]),
        node("Transpose", "c", "n1", **swap),
        node("Transpose", "n1", "n2", **swap),
        node("QLinearConv", "n2 s2 z2 k2 ks kz s2 z2 kb", "c2"),
        node("Transpose", "c2", "n3", **swap),
        node("DequantizeLinear", "n3 s2 z2", "d"),
        node("DequantizeLinear", "n1 s2 z2", "e"),
        node("Add", "d e", "y"),
    ]
    made = case(nodes, **constants)
    made.feeds = [{"x": floats((2, 7, K), 9)}]
    return made


def blocks(axis: int) -> Case:
    """A scale for each block of a weight, of opset 21; onnxruntime runs it with activations that are not quantised."""
    wide = node("DequantizeLinear", f"w blocks{axis}", "wd", axis=axis, block_size=8)
    return case([wide, node("MatMul", "x wd", "y")], opset=21)


def loop_of_a_weight() -> Case:
    """A weight that a loop hands from turn to turn."""
    value = functools.partial(helper.make_tensor_value_info, shape=None)
    body = helper.make_graph(
        [
            node("DynamicQuantizeLinear", "state", "bq bs bz"),
            node("MatMulInteger", "bq weight bz", "a"),
            node("Cast", "a", "f", to=TensorProto.FLOAT),
            node("Mul", "f bs", "g"),
            node("Tanh", "g", "next"),
            node("Identity", "weight", "weight_out"),
            node("Identity", "going", "still"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT),
            value("weight", TensorProto.INT8),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            value("next", TensorProto.FLOAT),
            value("weight_out", TensorProto.INT8),
        ],
    )
    loop = helper.make_node("Loop", ["two", "", "x", "w"], ["y", "last"], body=body)
    return case([loop], two=np.int64(2))


def behind(*nodes: onnx.NodeProto, opset: int = 17) -> Case:
    """A product of bytes, and what onnxruntime's operators of bytes make of it."""
    product = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearMatMul", "q s z w ws wz s2 z2", "h"),
    ]
    return case([*product, *nodes, node("DequantizeLinear", "r s2 z2", "y")], opset=opset)


microsoft = functools.partial(node, domain=MS_DOMAIN)
WIDENED, TURNED = node("DequantizeLinear", "w ws wz", "a"), node("Transpose", "a", "b", perm=[1, 0])

CASES: dict[str, Callable[[], Case]] = {
    "tied, Transpose of floats": lambda: tied([WIDENED], [TURNED]),
    "tied, Transpose of bytes": lambda: tied(
        [WIDENED], [node("Transpose", "w", "wt", perm=[1, 0]), node("DequantizeLinear", "wt ws wz", "b")]
    ),
    "tied, two Transposes": lambda: tied(
        [node("Transpose", "w", "wt", perm=[1, 0]), node("DequantizeLinear", "wt ws wz", "a")],
        [node("DequantizeLinear", "w ws wz", "wd"), node("Transpose", "wd", "b", perm=[1, 0])],
    ),
    "functions of functions": functions_of_functions,
    "quantisers at every edge": every_edge,
    "channels last, uint8": lambda: channels_last(np.uint8),
    "channels last, int8": lambda: channels_last(np.int8),
    "blocks of rows": lambda: blocks(0),
    "blocks of columns": lambda: blocks(1),
    "a loop's weight": loop_of_a_weight,
    "QLinearAdd": lambda: behind(microsoft("QLinearAdd", "h s2 z2 q s z s2 z2", "r")),
    "QLinearSigmoid": lambda: behind(microsoft("QLinearSigmoid", "h s2 z2 s2 z2", "r")),
    "QLinearSoftmax": lambda: behind(microsoft("QLinearSoftmax", "h s2 z2 s2 z2", "r", axis=-1, opset=17)),
    "QLinearConcat": lambda: behind(microsoft("QLinearConcat", "s2 z2 h s2 z2 q s z", "r", axis=-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_bytes(name: str) -> None:
    made = CASES[name]()
    expected = expect(made)
    assert expected is not None, "onnxruntime runs the original"
    outcome = check(made, expected)
    assert outcome.lowered > 0
