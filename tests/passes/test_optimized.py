"""Where onnxruntime's optimiser sees another graph than the rules, its answer decides; bytes at default settings."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from lowering import Lowered, assert_same_bytes, constant_nodes, floats, integers, lower, make_model, run, scales
from onnx import helper
from random_graphs import every_size

from mcd_graph.passes import ReasonCode
from mcd_graph.passes.engine.inlined import RETURNED
from mcd_graph.passes.engine.optimized import SITE, Instance, IntegerNode, Optimized
from mcd_graph.passes.engine.surroundings import sites_to_blame
from mcd_graph.passes.plan.lowering import ONNXRUNTIME_KEY

K, N = 52, 36
Nodes = list[onnx.NodeProto]

CONSTANTS = {
    "xs": scales((), 1, 0.1), "xz": np.array(117, np.uint8), "w": integers(np.int8, (K, N), 3),
    "wt": integers(np.int8, (N, K), 3), "ws": scales((), 4), "wz": np.zeros((), np.int8), "ys": scales((), 6, 4),
    "yz": np.array(120, np.uint8), "b": floats((N,), 8), "one": np.array(1, np.float32),
    "nothing": np.array(0, np.float32), "two": np.array(2, np.float32), "half": np.array(0.5, np.float32),
    "zero": np.array([0]), "large": np.array([2**31 - 1]), "axis": np.array([2]),
    "root": np.array(1.41421354, np.float32), "small": np.array(1e-5, np.float32), "no": np.array(False),
    "flat": np.array([0, 0, -1]), "square": integers(np.int8, (N, N), 5),
}  # fmt: skip
ACTIVATION = [
    helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
]
WEIGHT = [helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"])]
REQUANTIZED = [
    helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
    helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
]


def exact(nodes: Nodes, inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",)) -> Lowered:
    """Lower a model and compare its bytes with the original's at onnxruntime's default settings."""
    used = {name for node in nodes for name in node.input}
    model = make_model(
        nodes,
        dict.fromkeys(inputs, (np.float32, ("b", "m", K))),
        dict.fromkeys(outputs, (np.float32, ("b", "m", N))),
        {name: array for name, array in CONSTANTS.items() if name in used},
        opset=17,
    )
    feeds = {name: floats((2, 9, K), seed) * 3 for seed, name in enumerate(inputs)}
    lowered = lower(model)
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))
    return lowered


def node(op_type: str, *inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


NO_OPS: dict[str, Callable[[str, str], Nodes]] = {
    "Identity": lambda a, b: [node("Identity", a, output=b)],
    "Dropout": lambda a, b: [node("Dropout", a, output=b)],
    "Dropout for inference": lambda a, b: [node("Dropout", a, "half", "no", output=b)],
    "Cast": lambda a, b: [node("Cast", a, output=b, to=onnx.TensorProto.FLOAT)],
    "Mul 1": lambda a, b: [node("Mul", a, "one", output=b)],
    "Div 1": lambda a, b: [node("Div", a, "one", output=b)],
    "Add 0": lambda a, b: [node("Add", a, "nothing", output=b)],
    "Sub 0": lambda a, b: [node("Sub", a, "nothing", output=b)],
    "Transpose": lambda a, b: [node("Transpose", a, output=b, perm=[0, 1, 2])],
    "Transposes": lambda a, b: [
        node("Transpose", a, output=f"{a}.t", perm=[0, 2, 1]), node("Transpose", f"{a}.t", output=b, perm=[0, 2, 1]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NO_OPS)
@pytest.mark.parametrize(
    "place", ["before the quantiser", "before the bias", "before the product", "behind the weight"]
)
def test_nodes_that_onnxruntime_removes(name: str, place: str) -> None:
    no_op = NO_OPS[name]
    left, right, weight = "xd", "wd", WEIGHT
    front: Nodes = []
    if place == "before the product":
        front, left = no_op("xd", "xi"), "xi"
    elif place == "behind the weight":
        if "Transpose" in name:
            pytest.skip("the weight has two dimensions")
        front, right = no_op("wd", "wi"), "wi"
    product = [*ACTIVATION, *weight, *front, node("MatMul", left, right, output="p")]
    if place == "before the bias":
        exact([*product, *no_op("p", "i"), node("Add", "i", "b", output="y")])
        exact([*product, *no_op("p", "i"), node("Add", "i", "b", output="r"), *REQUANTIZED])
    else:
        exact([*product, *no_op("p", "r"), *REQUANTIZED])


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("readers", [1, 2])
def test_shared_transposes_and_absent_zero_points(zero_point: bool, transposed: bool, readers: int) -> None:
    parameters = ("ws", "wz") if zero_point else ("ws",)
    nodes = [node("DequantizeLinear", "wt" if transposed else "w", *parameters, output="wd")]
    if transposed:
        nodes.append(node("Transpose", "wd", output="wT", perm=[1, 0]))
    names = [str(number) for number in range(readers)]
    for name in names:
        nodes += [
            node("QuantizeLinear", f"x{name}", "xs", "xz", output=f"q{name}"),
            node("DequantizeLinear", f"q{name}", "xs", "xz", output=f"d{name}"),
            node("MatMul", f"d{name}", "wT" if transposed else "wd", output=f"y{name}", name=f"mm{name}"),
        ]
    lowered = exact(nodes, tuple(f"x{name}" for name in names), tuple(f"y{name}" for name in names))
    expected = not transposed or (zero_point and readers == 1)
    assert [code is None for _, code in lowered.outcome] == [expected] * readers


def test_a_relu_that_somebody_else_reads_too() -> None:
    nodes = [*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="p"), node("Relu", "p", output="r")]
    exact([*nodes, *REQUANTIZED, node("Neg", "r", output="z")], outputs=("y", "z"))


def test_a_weight_that_is_multiplied_in_integers_and_in_floats() -> None:
    """onnxruntime gives each reader a DequantizeLinear of its own; one node for both would leave both in floats."""
    nodes = [
        *ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *REQUANTIZED,
        node("MatMul", "xd", "wd", output="p"), node("Clip", "p", "nothing", "one", output="c"),
        node("Neg", "c", output="z"),
    ]  # fmt: skip
    with every_size():
        lowered = exact(nodes, outputs=("y", "z"))
    assert {code for _, code in lowered.outcome} == {ReasonCode.WEIGHT_SHARED, ReasonCode.ACTIVATION_FUNCTION_BEHIND}


def test_names_that_onnxruntime_makes_up_name_others_in_another_model() -> None:
    """It numbers the values that it inserts, and a lowered model may have fewer of them."""

    def optimized(product: onnx.NodeProto, token: str) -> Optimized:
        result = product.output[0]
        nodes = [
            ACTIVATION[0], product, node("DequantizeLinear", result, "ys", "yz", output="h"),
            node("Sigmoid", "h", output="t"), node("QuantizeLinear", "t", "xs", "xz", output=token),
            node("DequantizeLinear", token, "xs", "xz", output="y"),
        ]  # fmt: skip
        value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        tensors = [onnx.numpy_helper.from_array(CONSTANTS[name], name) for name in ("xs", "xz", "ys", "yz")]
        integer = IntegerNode(Instance("", 0), "xq", (result,), requantizes=True)
        return Optimized(helper.make_graph(nodes, "g", [], [value], tensors), (integer,))

    product = node("QLinearMatMul", "xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", output="token_1")
    lowered = helper.make_node("MatmulCompressDequant", ["xq", "x2", "index"], ["r"], name=f"{SITE}0", domain="mcd")
    assert sites_to_blame(optimized(product, "token_2"), optimized(lowered, "token_1"), {Instance("", 0): "r"}) == set()


def gelu(x: str) -> Nodes:
    return [
        node("Div", x, "root", output="g1"), node("Erf", "g1", output="g2"), node("Add", "g2", "one", output="g3"),
        node("Mul", x, "g3", output="g4"), node("Mul", "g4", "half", output="y"),
    ]  # fmt: skip


def layer_norm(x: str) -> Nodes:
    return [
        node("ReduceMean", x, output="n1", axes=[-1]), node("Sub", x, "n1", output="n2"),
        node("Pow", "n2", "two", output="n3"), node("ReduceMean", "n3", output="n4", axes=[-1]),
        node("Add", "n4", "small", output="n5"), node("Sqrt", "n5", output="n6"), node("Div", "n2", "n6", output="n7"),
        node("Mul", "n7", "b", output="n8"), node("Add", "n8", "b", output="y"),
    ]  # fmt: skip


def rms_norm(x: str) -> Nodes:
    return [
        node("Pow", x, "two", output="n1"), node("ReduceMean", "n1", output="n2", axes=[-1]),
        node("Add", "n2", "small", output="n3"), node("Sqrt", "n3", output="n4"), node("Div", x, "n4", output="n5"),
        node("Mul", "n5", "b", output="y"),
    ]  # fmt: skip


def test_a_fusion_that_asks_for_shapes() -> None:
    """BiasGelu asks for the columns; onnxruntime infers those of the library from named sizes alone."""
    constants = ("xs", "xz", "w", "ws", "wz", "ys", "yz", "b", "root", "one", "half")
    nodes = [
        node("Reshape", "x", "sizes", output="r"), node("QuantizeLinear", "r", "xs", "xz", output="xq"), ACTIVATION[1],
        *WEIGHT, node("MatMul", "xd", "wd", output="p"), node("QuantizeLinear", "p", "ys", "yz", output="pq"),
        node("DequantizeLinear", "pq", "ys", "yz", output="pd"), node("Add", "pd", "b", output="h"), *gelu("h"),
    ]  # fmt: skip
    model = make_model(
        nodes, {"x": (np.float32, ("b", "m", K)), "sizes": (np.int64, (3,))}, {"y": (np.float32, ("b", "m", N))},
        {name: CONSTANTS[name] for name in constants}, opset=17,
    )  # fmt: skip
    feeds = {"x": floats((2, 9, K), 1) * 3, "sizes": np.array([2, 9, K])}
    lowered = lower(model)
    assert lowered.outcome == [("DequantizeLinear+MatMul+QuantizeLinear", None)]
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))


@pytest.mark.parametrize(
    ("form", "fused"),
    [
        (form, fused)
        for form in ("QLinearMatMul", "QDQ", "QDQ in float", "MatMulInteger")
        for fused in (gelu, layer_norm, rms_norm)
    ],
)
def test_what_onnxruntime_fuses_behind(form: str, fused: Callable[[str], Nodes]) -> None:
    """Neither is a fusion enabled that the original does not have, nor prevented one that it has."""
    if form == "QLinearMatMul":
        nodes = [
            ACTIVATION[0],
            node("QLinearMatMul", "xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", output="yq"),
            node("DequantizeLinear", "yq", "ys", "yz", output="h"),
        ]
    elif form == "MatMulInteger":
        nodes = [
            ACTIVATION[0], node("MatMulInteger", "xq", "w", "xz", output="a"),
            node("Cast", "a", output="f", to=onnx.TensorProto.FLOAT), node("Mul", "xs", "ws", output="m"),
            node("Mul", "f", "m", output="h"),
        ]  # fmt: skip
    else:
        nodes = [*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r" if form == "QDQ" else "h")]
        if form == "QDQ":
            nodes += [REQUANTIZED[0], node("DequantizeLinear", "yq", "ys", "yz", output="h")]
    lowered = exact([*nodes, *fused("h")])
    assert [site.status for site in lowered.plan.sites] == ["lowered"]


def attention(rows: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Scores of a decoder's attention, with a Concat that has nothing to join when there is no past, as in T5."""
    heads, size = 2, 64
    nodes = [
        node("DynamicQuantizeLinear", "x", output="xq"), node("MatMulInteger", "xq", "w", "xz", output="a"),
        node("Cast", "a", output="f", to=onnx.TensorProto.FLOAT), node("Mul", "s", "ws", output="m"),
        node("Mul", "f", "m", output="h"), node("Reshape", "h", "split", output="r"),
        node("Transpose", "r", output="k", perm=[0, 2, 1, 3]), node("Concat", "k", output="keys", axis=-2),
        node("Transpose", "keys", output="kt", perm=[0, 1, 3, 2]), node("MatMul", "q", "kt", output="y"),
    ]  # fmt: skip
    nodes[0].output.extend(["s", "xz"])
    constants = {
        "w": integers(np.int8, (K, heads * size), 3), "ws": scales((), 4), "split": np.array([0, 0, heads, size]),
    }  # fmt: skip
    inputs = {"x": ("b", "m", K), "q": ("b", heads, "r", size)}
    model = make_model(
        nodes,
        {name: (np.float32, shape) for name, shape in inputs.items()},
        {"y": (np.float32, ("b", heads, "r", "l"))},
        constants,
    )
    shapes = {"x": (2, 9, K), "q": (2, heads, rows, size)}
    return model, {name: floats(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("rows", [1, 4])
def test_a_product_whose_transpose_onnxruntime_fuses(rows: int) -> None:
    """With the Transpose of the heads in our node, it transposes the keys within the product, which adds in another
    order for one row."""
    model, feeds = attention(rows)
    lowered = lower(model)
    assert [site.status for site in lowered.plan.sites] == ["lowered"]
    for optimize in (True, False):
        assert_same_bytes(run(lowered.proto, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_two_quantizers_in_a_row_that_become_one() -> None:
    """onnxruntime takes the second one's scale for the product; a Slice that does nothing hides that from the rule."""
    last = [
        node("Slice", "r", "zero", "large", "axis", output="sliced"),
        node("QuantizeLinear", "sliced", "ys", "yz", output="q1"),
        node("DequantizeLinear", "q1", "ys", "yz", output="d1"),
        node("QuantizeLinear", "d1", "xs", "xz", output="q2"), node("DequantizeLinear", "q2", "xs", "xz", output="y"),
    ]  # fmt: skip
    exact([*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *last])


def test_an_output_that_onnxruntime_quantizes() -> None:
    """It moves the quantiser in front of a Transpose, and what is in front of that, an output, gets rounded."""
    nodes = [
        node("Neg", "x", output="z"), node("Transpose", "z", output="t", perm=[1, 0, 2]),
        node("QuantizeLinear", "t", "xs", "xz", output="q"),
        node("QLinearMatMul", "q", "xs", "xz", "w", "ws", "wz", "ys", "yz", output="yq"),
        node("DequantizeLinear", "yq", "ys", "yz", output="y"),
    ]  # fmt: skip
    exact(nodes, outputs=("y", "z"))


def test_an_output_that_onnxruntime_quantizes_for_a_pair_elsewhere() -> None:
    """It moves a quantiser only in models that hold a DequantizeLinear; the lowered product, far from it, had the only
    ones."""
    nodes = [
        *ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="y"),
        node("Neg", "v", output="z"), node("Transpose", "z", output="t", perm=[0, 2, 1]),
        node("QuantizeLinear", "t", "ys", "yz", output="q"), node("Cast", "q", output="u", to=1),
    ]  # fmt: skip
    exact(nodes, ("x", "v"), ("y", "z", "u"))


def dynamic(x: str, w: str, y: str) -> Nodes:
    """Return a dynamically quantised product."""
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [f"{y}.q", f"{y}.s", f"{y}.z"]),
        node("MatMulInteger", f"{y}.q", w, f"{y}.z", output=f"{y}.sum"),
        node("Cast", f"{y}.sum", output=f"{y}.float", to=1), node("Mul", f"{y}.s", "ws", output=f"{y}.scale"),
        node("Mul", f"{y}.float", f"{y}.scale", output=y),
    ]  # fmt: skip


def test_a_product_that_onnxruntime_quantizes_for_a_pair_elsewhere() -> None:
    """As above, and what is rounded has the name of the product, which a lowered node would give unrounded."""
    nodes = [
        *ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="y"), *dynamic("v", "w", "z"),
        node("Transpose", "z", output="t", perm=[0, 2, 1]), node("QuantizeLinear", "t", "ys", "yz", output="q"),
        node("Cast", "q", output="u", to=1),
    ]  # fmt: skip
    exact(nodes, ("x", "v"), ("y", "z", "u"))


ROWS = [node("ArgMax", "x", output="i", axis=-1, keepdims=0), node("Gather", "w", "i", output="rows", axis=0)]


def test_looked_up_rows_that_onnxruntime_quantizes_in_the_lowered_model_only() -> None:
    """In the original a DequantizeLinear stands behind the rows, and it moves no quantiser to that."""
    nodes = [
        *ROWS, node("DequantizeLinear", "rows", "ws", "wz", output="z"),
        node("Transpose", "z", output="t", perm=[0, 2, 1]), node("QuantizeLinear", "t", "ys", "yz", output="q"),
        node("Cast", "q", output="u", to=1), *ACTIVATION, node("Abs", "xd", output="y"),
    ]  # fmt: skip
    with every_size():
        exact(nodes, outputs=("y", "z", "u"))


def test_moved_rows_that_onnxruntime_rounds() -> None:
    """As below, and only moves follow."""
    nodes = [
        *ROWS, node("DequantizeLinear", "rows", "ws", output="r"), node("Unsqueeze", "r", "zero", output="u"),
        node("Squeeze", "u", "zero", output="y"),
    ]  # fmt: skip
    with every_size():
        exact(nodes)


def test_moved_rows_that_onnxruntime_rounds_to_themselves() -> None:
    """With a zero point they are the same, and the table is compressed with its DequantizeLinear."""
    nodes = [
        *ROWS, node("DequantizeLinear", "rows", "ws", "wz", output="z"), node("Reshape", "z", "flat", output="r"),
        *dynamic("r", "square", "y"),
    ]  # fmt: skip
    with every_size():
        lowered = exact(nodes)
    assert lowered.op_types == ["ArgMax", "GatherCompressDequant", "Reshape", "MatmulCompressDequant"]


def test_looked_up_rows_that_onnxruntime_rounds_in_front_of_a_range() -> None:
    """Behind a Reshape it puts a pair of quantisers, to uint8 where the DequantizeLinear has no zero point."""
    nodes = [
        *ROWS, node("DequantizeLinear", "rows", "ws", output="z"), node("Reshape", "z", "flat", output="r"),
        *dynamic("r", "square", "y"),
    ]  # fmt: skip
    with every_size():
        exact(nodes, outputs=("y", "z"))


def test_an_output_that_onnxruntime_quantizes_in_the_lowered_model_only() -> None:
    """In the original the Transpose that moves nothing goes with the two that cancel; before a lowered node it stays,
    and the quantiser is moved in front of it."""
    turned = [
        node("Transpose", "xd", output="t1", perm=[0, 2, 1]),
        node("Transpose", "t1", output="t2", perm=[0, 2, 1]),
    ]
    nodes = [
        node("Neg", "x", output="z"), node("Transpose", "z", output="t", perm=[0, 1, 2]),
        node("QuantizeLinear", "t", "xs", "xz", output="xq"), node("DequantizeLinear", "xq", "xs", "xz", output="xd"),
        *turned, *WEIGHT, node("MatMul", "t2", "wd", output="r"), *REQUANTIZED,
    ]  # fmt: skip
    exact(nodes, outputs=("y", "z"))


def test_a_transposed_value_that_a_later_node_took_in() -> None:
    """onnxruntime moves the Transpose on into the normalisation only if the Add that reads it as well is there."""
    constants = {
        "two": np.float32(2), "small": np.float32(1e-5), "gain": floats((K,), 1), "shift": floats((K,), 2),
        "b": floats((K,), 3), "ws": np.float32(0.01), "w": integers(np.int8, (K, K), 4),
        "v": integers(np.int8, (K, K), 5),
    }  # fmt: skip

    def linear(x: str, w: str, y: str) -> Nodes:
        q, s, z, a, f, m, p = (f"{each}.{y}" for each in "qszafmp")
        return [
            helper.make_node("DynamicQuantizeLinear", [x], [q, s, z]), node("MatMulInteger", q, w, z, output=a),
            node("Cast", a, output=f, to=1), node("Mul", s, "ws", output=m), node("Mul", f, m, output=p),
            node("Add", p, "b", output=y),
        ]  # fmt: skip

    nodes = [
        node("Transpose", "x", output="t", perm=[0, 2, 1]), node("ReduceMean", "t", output="mean", axes=[-1]),
        node("Sub", "t", "mean", output="c"), node("Pow", "c", "two", output="square"),
        node("ReduceMean", "square", output="variance", axes=[-1]), node("Add", "variance", "small", output="more"),
        node("Sqrt", "more", output="root"), node("Div", "c", "root", output="n"),
        node("Mul", "n", "gain", output="scaled"), node("Add", "scaled", "shift", output="normal"),
        *linear("normal", "w", "first"), node("Softmax", "first", output="soft", axis=-1),
        *linear("soft", "v", "second"), node("Add", "second", "t", output="y"),
    ]  # fmt: skip
    inputs, outputs = {"x": (np.float32, ("b", K, "m"))}, {"y": (np.float32, ("b", "m", K))}
    model = make_model(nodes, inputs, outputs, constants, opset=15)
    feeds = {"x": floats((2, K, 9), 6)}
    lowered = lower(model)
    assert [code for _, code in lowered.outcome] == [None, None]
    for optimize in (True, False):
        assert_same_bytes(run(lowered.proto, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


def test_a_normalization_that_onnxruntime_comes_to_in_its_last_round_only() -> None:
    """It stops after some rounds: whether it still fuses this one depends on what else there is to remove, far in
    front of it."""
    rows, k, n = 3, 32, 4
    constants = {
        "w": integers(np.int8, (n, k), 1), "ws": scales((), 2), "shape": np.array([0, 0, 2, 16]),
        "back": np.array([0, 0, k]), "v": integers(np.uint8, (n, k), 3), "vs": scales((), 4), "vz": np.uint8(128),
        "xs": np.float32(0.016), "xz": np.uint8(126), "bias": floats((n,), 5), "ys": np.float32(0.11),
        "yz": np.uint8(26), "zero": np.float32(0), "two": np.float32(2), "none": np.zeros((0,), np.int64),
        "last": np.array([-1]), "small": np.float32(1e-5), "gamma": floats((n,), 6),
    }  # fmt: skip
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", "q", "w", "z", output="a"), node("Cast", "a", output="f", to=1),
        node("Mul", "s", "f", output="p"), node("Reshape", "p", "shape", output="h"),
        node("Transpose", "h", output="ht", perm=[0, 2, 1, 3]), node("Transpose", "ht", output="hb", perm=[0, 2, 1, 3]),
        node("Reshape", "hb", "back", output="b"), node("DequantizeLinear", "v", "vs", "vz", output="vd"),
        node("Transpose", "vd", output="vt", perm=[1, 0]), node("Identity", "xs", output="xi"),
        node("QuantizeLinear", "b", "xi", "xz", output="bq"), node("DequantizeLinear", "bq", "xi", "xz", output="bd"),
        node("MatMul", "bd", "vt", output="r"), node("Add", "bias", "r", output="rb"),
        node("QuantizeLinear", "rb", "ys", "yz", output="rq"), node("DequantizeLinear", "rq", "ys", "yz", output="rd"),
        node("Sub", "rd", "zero", output="c"), node("Reshape", "two", "none", output="power"),
        node("Pow", "c", "power", output="squares"), node("ReduceMean", "squares", "last", output="mean"),
        node("Add", "mean", "small", output="shifted"), node("Sqrt", "shifted", output="root"),
        node("Div", "c", "root", output="normal"), node("Mul", "normal", "gamma", output="y"),
    ]  # fmt: skip
    inputs, outputs = {"x": (np.float32, ("b", "m", n))}, {"y": (np.float32, ("b", "m", n))}
    model = make_model(nodes, inputs, outputs, constants, opset=21)
    lowered = lower(model)
    feeds = {"x": floats((2, rows, n), 7)}
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))


SQUARE = {**CONSTANTS, "w": integers(np.int8, (N, N), 3)}


def in_function(name: str, outputs: list[str], nodes: Nodes) -> onnx.FunctionProto:
    """Return nodes from x on as a local function; constants are in it."""
    read = {each for node in nodes for each in node.input}
    constants = constant_nodes({each: array for each, array in SQUARE.items() if each in read})
    return helper.make_function("local", name, ["x"], outputs, [*constants, *nodes], [helper.make_opsetid("", 17)])


def calls(nodes: Nodes, *functions: onnx.FunctionProto) -> Lowered:
    """Lower a model of calls and compare its bytes with the original's at default settings."""
    used = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in SQUARE.items() if name in used}
    shape = (np.float32, ("m", N))
    model = make_model(nodes, {"x": shape}, {"y": shape}, constants, opset=17, functions=functions)
    feeds = {"x": floats((9, N), 3) * 3}
    lowered = lower(model)
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))
    return lowered


MULTIPLIES = in_function("Linear", ["y"], [*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *REQUANTIZED])


@pytest.mark.parametrize("between", [None, "Relu", "Neg"])
def test_functions_are_asked_about(between: str | None) -> None:
    """Two calls in a row have two pairs of quantisers in a row, which become one where nothing is in between."""
    nodes = [
        helper.make_node("Linear", ["x"], ["a"], domain="local"),
        *([node(between, "a", output="n")] if between else []),
        helper.make_node("Linear", ["n" if between else "a"], ["y"], domain="local"),
    ]
    (site,) = calls(nodes, MULTIPLIES).plan.sites
    assert site.code == (None if between else ReasonCode.FUSES_OTHERWISE)


def test_a_multiplication_in_a_function_that_stays_in_float() -> None:
    """One of two calls reads what another pair of quantisers made of it; the other one's sum is seen elsewhere."""
    linear = in_function("Linear", ["r"], [*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r")])
    nodes = [
        helper.make_node("Linear", ["x"], ["a"], domain="local"), node("QuantizeLinear", "a", "ys", "yz", output="q"),
        node("DequantizeLinear", "q", "ys", "yz", output="d"), node("Relu", "d", output="e"),
        helper.make_node("Linear", ["e"], ["y"], domain="local"),
    ]  # fmt: skip
    (site,) = calls(nodes, linear).plan.sites
    assert site.code == ReasonCode.NOT_AN_INTEGER_MULTIPLICATION


def test_quantizers_in_a_row_across_a_function() -> None:
    """They are merged; the multiplication behind would see the first pair's rounding as well."""
    pair = [node("QuantizeLinear", "x", "ys", "yz", output="q"), node("DequantizeLinear", "q", "ys", "yz", output="d")]
    rest = [onnx.NodeProto.FromString(each.SerializeToString()) for each in ACTIVATION]
    rest[0].input[0] = "p"
    nodes = [
        helper.make_node("Pair", ["x"], ["p"], domain="local"), *rest, *WEIGHT,
        node("MatMul", "xd", "wd", output="r"), *REQUANTIZED,
    ]  # fmt: skip
    calls(nodes, in_function("Pair", ["d"], pair))


def test_the_model_says_which_onnxruntime_was_asked() -> None:
    lowered = exact([*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *REQUANTIZED])
    assert lowered.model.metadata_props[ONNXRUNTIME_KEY] == onnxruntime.__version__


def test_a_model_that_onnxruntime_does_not_know() -> None:
    """It cannot be asked then, so nothing that depends on its answer is lowered."""
    nodes = [
        *ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *REQUANTIZED[:1],
        node("DequantizeLinear", "yq", "ys", "yz", output="h"),
        helper.make_node("Unheard", ["h"], ["y"], domain="of.nobody"),
    ]  # fmt: skip
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, {
        name: array for name, array in CONSTANTS.items() if name in {each for node in nodes for each in node.input}
    })  # fmt: skip
    model.opset_import.append(helper.make_opsetid("of.nobody", 1))
    lowered = lower(model)
    (site,) = lowered.plan.sites
    assert site.status == "kept"
    assert site.code == ReasonCode.CANNOT_ASK
    assert isinstance(lowered.model, ir.Model)


def test_a_quantizer_behind_the_call_of_a_function() -> None:
    """onnxruntime merges it with the function's own, and so the product gets its scale.

    Within the function the scale of the activation is not known, nor what stands behind the call.
    """
    constants = {
        "w": integers(np.int8, (24, 16), 1),
        "ws": np.float32(0.01),
        "ys": np.float32(0.31),
        "yz": np.uint8(120),
    }
    body = [
        *constant_nodes(constants),
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "ys", "yz"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    function = helper.make_function("fn", "Linear", ["x", "s"], ["y"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Linear", ["x", "xs"], ["h"], domain="fn"),
        helper.make_node("QuantizeLinear", ["h", "hs", "hz"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "hs", "hz"], ["hd"]),
        helper.make_node("Tanh", ["hd"], ["y"]),
    ]
    model = make_model(
        nodes,
        {"x": (np.float32, ("b", "m", 24))},
        {"y": (np.float32, None)},
        {"xs": np.float32(0.04), "hs": np.float32(0.17), "hz": np.uint8(120)},
        opset=17,
        functions=[function],
    )
    feeds = {"x": floats((2, 9, 24), 5) * 4}
    lowered = lower(model)
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))


def test_a_constant_that_one_of_two_equal_products_reads_in_integers() -> None:
    """Widened at run time, both would be computed in floats, and the second is what the first is in the original."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Gemm", ["d", "wd"], ["first"]),
        helper.make_node("QuantizeLinear", ["first", "ys", "yz"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
        helper.make_node("Gemm", ["d", "wd"], ["second"]),
        helper.make_node("Slice", ["second", "begin", "end", "axis"], ["part"]),
        helper.make_node("Sigmoid", ["part"], ["y2"]),
    ]
    constants = {
        "w": integers(np.int8, (33, 4), 1), "ws": np.float32([0.01]), "wz": np.int8([3]), "s": np.float32(0.04),
        "z": np.int8(5), "ys": np.float32(0.3), "yz": np.int8(-7), "begin": np.array([0]), "end": np.array([2]),
        "axis": np.array([1]),
    }  # fmt: skip
    outputs = {"y": (np.float32, None), "y2": (np.float32, None)}
    model = make_model(nodes, {"x": (np.float32, ("m", 33))}, outputs, constants, opset=21, ir_version=10)
    feeds = {"x": floats((9, 33), 5) * 4}
    with every_size():
        lowered = lower(model)
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))


def test_a_look_up_between_two_pairs_of_quantisers() -> None:
    """onnxruntime makes one pair of the two, with a scale of its own; a look-up that gives bytes leaves only one."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Gather", ["wd", "ids"], ["rows"]),
        helper.make_node("QuantizeLinear", ["rows", "ws", "wz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "ws", "wz"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "ys", "yz"], ["r"]),
        helper.make_node("Identity", ["r"], ["same"]),
        helper.make_node("DequantizeLinear", ["same", "ys", "yz"], ["rd"]),
        helper.make_node("Tanh", ["rd"], ["y"]),
    ]
    constants = {
        "w": integers(np.uint8, (64, 24), 1), "ws": np.float32(0.04), "wz": np.uint8(128), "ys": np.float32(0.05),
        "yz": np.uint8(100),
    }  # fmt: skip
    model = make_model(nodes, {"ids": (np.int64, ("m",))}, {"y": (np.float32, None)}, constants, opset=17)
    feeds = {"ids": np.arange(64)}
    with every_size():
        lowered = lower(model)
    assert lowered.modified
    assert_same_bytes(run(lowered.proto, feeds, optimize=True), run(model, feeds, optimize=True))


def test_a_model_that_onnxruntime_takes_and_does_not_run() -> None:
    """A weight in front, with a scale for each of its columns: onnxruntime takes those for scales of an activation."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["wd", "d"], ["y"]),
    ]
    constants = {
        "w": integers(np.uint8, (64, 33), 1), "ws": scales((33,), 2), "wz": np.zeros(33, np.uint8), "s": np.float32(1),
        "z": np.uint8(9),
    }  # fmt: skip
    model = make_model(nodes, {"x": (np.float32, (33, "m"))}, {"y": (np.float32, None)}, constants, opset=17)
    with every_size():
        lower(model)


@pytest.mark.parametrize("name", ["{site}100{i}", "behind {site}{i}", "{returned}{i}", "{i}"])
def test_names_that_look_like_those_it_gives(name: str) -> None:
    nodes = [*ACTIVATION, *WEIGHT, node("MatMul", "xd", "wd", output="r"), *REQUANTIZED]
    for i, each in enumerate(nodes):
        each.name = name.format(site=SITE, returned=RETURNED, i=i)
    lowered = exact(nodes)
    assert [site.status for site in lowered.plan.sites] == ["lowered"]
    assert nodes[0].name in {each.name for each in lowered.proto.graph.node}
