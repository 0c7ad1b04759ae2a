"""Restored models give the original's bytes at default settings, whatever onnxruntime fuses beside what is restored.

Of the steps that a product or a look-up consists of, the last is a Mul with a constant. onnxruntime takes that for part
of what stands behind it: a product with another value takes it in, and a GELU is not fused.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import MS_DOMAIN, assert_same_bytes, constant_nodes, floats, integers, lower, make_model, run, scales
from onnx import TensorProto, helper
from random_graphs import every_size

from mcd_graph.passes import plan_restoration

K, N = 24, 16

PARAMETERS = {
    "w": integers(np.int8, (K, N), 1) // 4, "ws": np.float32(0.013), "wz": np.int8(0), "xs": np.float32(0.021),
    "xz": np.uint8(117), "bias": integers(np.int8, (N,), 2).astype(np.int32) * 9, "addend": floats((N,), 3),
    "root": np.float32(1.4142135), "one": np.float32(1), "half": np.float32(0.5), "v": floats((N, 12), 4),
    "vt": floats((12, N), 6),
}  # fmt: skip

QUANTIZED = helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])
WIDENED = [
    helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
    helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
]
BIAS = helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["bd"])
INPUTS = ["w", "xs", "ws", "xz", "wz"]

DIALECTS: dict[str, list[onnx.NodeProto]] = {
    "MatMul": [QUANTIZED, *WIDENED, helper.make_node("MatMul", ["d", "wd"], ["h"])],
    "Gemm": [QUANTIZED, *WIDENED, BIAS, helper.make_node("Gemm", ["d", "wd", "bd"], ["h"])],
    "MatMulIntegerToFloat": [
        QUANTIZED,
        helper.make_node("MatMulIntegerToFloat", ["q", *INPUTS, "addend"], ["h"], domain=MS_DOMAIN),
    ],
    "DynamicQuantizeMatMul": [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "addend"], ["h"], domain=MS_DOMAIN)
    ],
    "MatMulIntegerToFloat alone": [
        QUANTIZED,
        helper.make_node("MatMulIntegerToFloat", ["q", *INPUTS], ["h"], domain=MS_DOMAIN),
    ],
    "DynamicQuantizeMatMul alone": [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz"], ["h"], domain=MS_DOMAIN)
    ],
    "QGemm": [
        QUANTIZED,
        helper.make_node("QGemm", ["q", "xs", "xz", "w", "ws", "wz", "bias"], ["h"], domain=MS_DOMAIN),
    ],
}

BEHIND: dict[str, list[onnx.NodeProto]] = {
    "GELU": [
        helper.make_node("Div", ["h", "root"], ["e0"]),
        helper.make_node("Erf", ["e0"], ["e1"]),
        helper.make_node("Add", ["e1", "one"], ["e2"]),
        helper.make_node("Mul", ["h", "e2"], ["e3"]),
        helper.make_node("Mul", ["e3", "half"], ["y"]),
    ],
    "product": [helper.make_node("MatMul", ["h", "v"], ["y"])],
    "product with it turned": [
        helper.make_node("Transpose", ["h"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["vt", "turned"], ["y"]),
    ],
}


def restored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that was lowered and restored."""
    lowered = lower(model)
    assert lowered.modified
    copy = ir.from_proto(lowered.proto)
    assert plan_restoration(copy).apply()
    return ir.to_proto(copy)


def hold(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Hold a model that was lowered and restored to the original's bytes; return it."""
    back = restored(model)
    assert not any(node.domain == "mcd" for node in back.graph.node)
    assert_same_bytes(run(back, feeds, optimize=True), run(model, feeds, optimize=True))
    return back


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_product_in_front_of_what_is_fused(dialect: str, behind: str, opset: int) -> None:
    if (dialect, behind) == ("Gemm", "product with it turned"):
        pytest.skip("it is kept: the Transpose would be fused otherwise")
    nodes = [*DIALECTS[dialect], *BEHIND[behind]]
    used = {name for node in nodes for name in node.input}
    constants = {**PARAMETERS, "bias_scale": PARAMETERS["xs"] * PARAMETERS["ws"]}
    model = make_model(
        nodes,
        {"x": (np.float32, ("m", K))},
        {"y": (np.float32, None)},
        {name: array for name, array in constants.items() if name in used},
        opset=opset,
    )
    hold(model, {"x": floats((33, K), 5)})


@pytest.mark.parametrize("kind", ["Constant", "Identity"])
def test_a_look_up_whose_scale_is_no_initializer(kind: str) -> None:
    """A DequantizeLinear comes back behind it, and no Mul, which the product would take in."""
    scale = onnx.numpy_helper.from_array(np.float32(0.03))
    nodes = [
        helper.make_node("Constant", [], ["s"], value=scale)
        if kind == "Constant"
        else helper.make_node("Identity", ["s0"], ["s"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "s", "z"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    constants = {"table": integers(np.int8, (64, N), 1), "z": np.int8(3), "v": floats((N, 12), 4)}
    constants |= {} if kind == "Constant" else {"s0": np.float32(0.03)}
    model = make_model(nodes, {"ids": (np.int64, ("m",))}, {"y": (np.float32, None)}, constants)
    back = hold(model, {"ids": np.arange(0, 64, 3)})
    assert "Mul" not in {node.op_type for node in back.graph.node}


def test_the_axis_beside_one_scale() -> None:
    """By it, onnxruntime decides whether it makes a MatMulNBits of the product."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=-1),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    constants = {"w": integers(np.uint8, (64, 96), 1), "ws": scales((1,), 2), "wz": np.full(1, 120, np.uint8)}
    model = make_model(nodes, {"x": (np.float32, ("m", 64))}, {"y": (np.float32, None)}, constants, opset=20)
    with every_size():
        hold(model, {"x": floats((5, 64), 5)})


def test_a_product_whose_result_has_another_type_than_its_input() -> None:
    """onnxruntime has no QLinearMatMul of uint8 that gives int8, which a function's int8 quantiser asks for."""
    quantize = functools.partial(helper.make_node, "QuantizeLinear")
    dequantize = functools.partial(helper.make_node, "DequantizeLinear")
    constants = {
        "w": integers(np.uint8, (K, N), 1), "ws": np.float32(0.013), "z": np.int8(7), "ys": np.float32(0.4),
        "yz": np.int8(-3),
    }  # fmt: skip
    nodes = [
        *constant_nodes(constants),
        quantize(["x", "s", "z"], ["q"]),
        dequantize(["q", "s", "z"], ["d"]),
        dequantize(["w", "ws"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["p"]),
        quantize(["p", "ys", "yz"], ["r"]),
        dequantize(["r", "ys", "yz"], ["y"]),
    ]
    function = helper.make_function("fn", "Linear", ["x", "s"], ["y"], nodes, [helper.make_opsetid("", 13)])
    call = helper.make_node("Linear", ["x", "s"], ["y"], domain="fn")
    model = make_model(
        [call],
        {"x": (np.float32, ("m", K))},
        {"y": (np.float32, None)},
        {"s": scales((), 9)},
        opset=13,
        functions=[function],
    )
    hold(model, {"x": floats((33, K), 5)})


def test_no_cast_is_left_in_a_function() -> None:
    """It tells the type of a compressed node's result there; behind a DequantizeLinear, it decides what is fused."""
    constants = {"w": integers(np.int8, (33, 40), 1), "ws": scales((40,), 2), "wz": np.zeros(40, np.int8)}
    constants |= {"s": np.float32(0.04), "z": np.int8(3), "b": floats((40,), 3)}
    nodes = [
        *constant_nodes(constants),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Mean", ["d"], ["m"]),
        helper.make_node("MatMul", ["m", "wd"], ["y"]),
        helper.make_node("MatMul", ["m", "wd"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y2"]),
    ]
    function = helper.make_function("fn", "Two", ["x"], ["y", "y2"], nodes, [helper.make_opsetid("", 17)])
    call = helper.make_node("Two", ["x"], ["y", "y2"], domain="fn")
    outputs = {"y": (np.float32, None), "y2": (np.float32, None)}
    model = make_model([call], {"x": (np.float32, ("m", 33))}, outputs, {}, opset=17, functions=[function])
    with every_size():
        back = hold(model, {"x": floats((6, 33), 5)})
    assert "Cast" not in {node.op_type for each in back.functions for node in each.node}


def test_a_scale_that_two_products_share() -> None:
    """onnxruntime fuses no product whose scale another one reads; one of these is lowered without what scales it."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("Mul", ["ws", "s"], ["m"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["a"]),
        helper.make_node("Cast", ["a"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "m"], ["h"]),
        *BEHIND["GELU"],
        helper.make_node("MatMulInteger", ["q", "w2", "z"], ["a2"]),
        helper.make_node("Cast", ["a2"], ["f2"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f2", "m"], ["y2"]),
    ]
    constants = {name: PARAMETERS[name] for name in ("w", "ws", "root", "one", "half")}
    constants["w2"] = integers(np.int8, (K, N), 7) // 4
    outputs = {"y": (np.float32, None), "y2": (np.float32, None)}
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants, opset=13)
    hold(model, {"x": floats((33, K), 5)})
