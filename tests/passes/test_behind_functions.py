"""What onnxruntime fuses behind multiplications of local functions, whose names it changes where it calls them."""

import numpy as np
import onnx
import pytest
import random_graphs
from lowering import floats, integers, make_model
from onnx import helper, numpy_helper

K = 64
"""Weights are square here, so that one function's result can go into another call."""

CONSTANTS = {
    "third": np.float32(0.37),
    "floats": floats((K, 33), 2),
    "root": np.float32(2**0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
}

#: Each reads ``r`` and gives ``y``.
TAILS = {
    "product": [helper.make_node("MatMul", ["r", "floats"], ["y"])],
    "scaled_product": [
        helper.make_node("Mul", ["r", "third"], ["m"]),
        helper.make_node("MatMul", ["m", "floats"], ["y"]),
    ],
    "gelu": [
        helper.make_node("Div", ["r", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
        helper.make_node("Mul", ["r", "c"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["y"]),
    ],
}


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def reshaped() -> list[onnx.NodeProto]:
    """Bring x into a shape of which onnxruntime does not know a size, nor has a name for it."""
    return [
        helper.make_node("Shape", ["x"], ["shape"]),
        *(constant(f"c{number}", np.array([number], np.int64)) for number in (0, 2, -1, K)),
        helper.make_node("Gather", ["shape", "c0"], ["batch"]),
        helper.make_node("Div", ["batch", "c2"], ["fewer"]),
        helper.make_node("Concat", ["fewer", "c-1", f"c{K}"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["rows"]),
    ]


def function(kind: str, *, reshapes: bool) -> onnx.FunctionProto:
    """Make a function of a quantised multiplication and its scale; y is called as the graph calls something else."""
    rows = "rows" if reshapes else "x"
    weight = [constant("w", integers(np.int8, (K, K), 1)), constant("s", np.float32(0.00046))]
    if kind == "dynamic":
        nodes = [
            helper.make_node("DynamicQuantizeLinear", [rows], ["q", "qs", "qz"]),
            helper.make_node("MatMulInteger", ["q", "w", "qz"], ["acc"], name="multiply"),
            helper.make_node("Mul", ["qs", "s"], ["scale"]),
        ]
    else:
        nodes = [
            constant("xs", np.float32(0.02)),
            helper.make_node("QuantizeLinear", [rows, "xs"], ["q"]),
            helper.make_node("MatMulInteger", ["q", "w"], ["acc"], name="multiply"),
            helper.make_node("Identity", ["s"], ["scale"]),
        ]
    scaled = [helper.make_node("Cast", ["acc"], ["f"], to=1), helper.make_node("Mul", ["f", "scale"], ["y"])]
    body = [*weight, *(reshaped() if reshapes else []), *nodes, *scaled]
    return helper.make_function("local", "Scaled", ["x"], ["y"], body, [helper.make_opsetid("", 17)])


def called(times: int) -> tuple[list[onnx.NodeProto], list[onnx.FunctionProto]]:
    """Return nodes that make r of x by calls, and functions that they need; three times is in another function."""
    calls = [
        helper.make_node("Scaled", [f"x{number}" if number else "x"], [f"x{number + 1}"], domain="local")
        for number in range(times)
    ]
    calls[-1].output[0] = "r"
    if times < 3:
        return calls, []
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    outer = helper.make_function("local", "Thrice", ["x"], ["r"], calls, opsets)
    return [helper.make_node("Thrice", ["x"], ["r"], domain="local")], [outer]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("reshapes", [False, True], ids=["named_sizes", "sizes_without_names"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("tail", TAILS)
def test_it_fuses_what_it_did(tail: str, kind: str, reshapes: bool, times: int) -> None:
    calls, others = called(times)
    nodes = [*calls, *TAILS[tail]]
    constants = {name: array for name, array in CONSTANTS.items() if any(name in node.input for node in nodes)}
    functions = [function(kind, reshapes=reshapes), *others]
    x, y = {"x": (np.float32, ("b", "m", K))}, {"y": (np.float32, None)}
    model = make_model(nodes, x, y, constants, opset=17, functions=functions)
    case = random_graphs.Case(model, [{"x": floats((8, 3, K), 3)}], [])
    expected = random_graphs.expect(case)
    assert expected is not None
    outcome = random_graphs.check(case, expected)
    # Of a size without a name onnxruntime learns less, and fuses otherwise whatever takes the multiplication's place.
    assert outcome.lowered or reshapes
