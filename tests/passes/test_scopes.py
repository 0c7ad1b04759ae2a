"""Weights and multiplications in the bodies of If, Loop and Scan, and in local functions."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_exact, assert_same_bytes, check, floats, integers, lower, make_model, run, scales
from onnx import TensorProto, helper, numpy_helper

from mcd_graph import NothingToCompressError, compress_model, restore_model
from mcd_graph.passes import ReasonCode

K = 40
"""Weights are square here, so that results can go round a loop."""


def initializer(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def block(x: str, y: str, w: str, prefix: str) -> list[onnx.NodeProto]:
    """Dynamically quantised multiplication from x to y, with the weight called w."""
    names = [f"{prefix}{name}" for name in ("q", "s", "z", "acc", "f", "m")]
    q, s, z, acc, f, m = names
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [q, s, z]),
        helper.make_node("MatMulInteger", [q, w, z], [acc], name=f"{prefix}matmul"),
        helper.make_node("Cast", [acc], [f], to=TensorProto.FLOAT),
        helper.make_node("Mul", [s, "scale"], [m]),
        helper.make_node("Mul", [f, m], [y]),
    ]


def value(name: str, kind: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ("m", K)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def if_model(then_weight: str, else_weight: str, *, inner: bool = False) -> onnx.ModelProto:
    """Return x -> If(flag): x times one weight or the other; ``inner`` puts the weights into the branches."""
    weights = {name: integers(np.int8, (K, K), seed) for seed, name in enumerate({then_weight, else_weight})}
    branches = {}
    for prefix, name in (("then", then_weight), ("else", else_weight)):
        tensors = [initializer(name, weights[name])] if inner else []
        branches[f"{prefix}_branch"] = helper.make_graph(
            block("x", f"{prefix}y", name, prefix), prefix, [], [value(f"{prefix}y")], tensors
        )
    node = helper.make_node("If", ["flag"], ["y"], **branches)
    constants = {"scale": np.array(0.01, np.float32), **({} if inner else weights)}
    return make_model(
        [node], {"flag": (np.bool_, ()), "x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, constants
    )


@pytest.mark.parametrize("inner", [False, True], ids=["outer_scope", "own_initialisers"])
@pytest.mark.parametrize("names", [("w", "v"), ("w", "w")], ids=["two_weights", "one_weight"])
def test_branches_of_if(inner: bool, names: tuple[str, str]) -> None:
    model = if_model(*names, inner=inner)
    for flag in (True, False):
        lowered = assert_exact(model, {"flag": np.array(flag), "x": floats((3, K), 1)})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)] * 2
    if not inner:
        assert set(lowered.plan.weights) == set(names)
    left = {name for graph in lowered.model.graphs() for name in graph.initializers}
    assert not left & set(names)


def test_a_weight_of_several_branches_is_stored_once(tmp_path: Path) -> None:
    """Also where everything is in the model file, and again when it is restored there."""
    onnx.save(if_model("w", "w"), tmp_path / "m.onnx")  # noqa: TID251 - small, and throw-away
    compress_model(tmp_path / "m.onnx", tmp_path / "c.onnx", inline=True, min_saving=-9, force_larger=True)
    restore_model(tmp_path / "c.onnx", tmp_path / "r.onnx", inline=True)
    for name, expected in (("c", ["w.x2", "w.compress_index"]), ("r", ["w"])):
        proto = onnx.ModelProto.FromString((tmp_path / f"{name}.onnx").read_bytes())
        branches = [attribute.g for node in proto.graph.node for attribute in node.attribute]
        assert len(branches) == 2
        assert [tensor.name for branch in branches for tensor in branch.initializer] == []
        assert [tensor.name for tensor in proto.graph.initializer if tensor.name != "scale"] == expected


def test_weight_of_a_branch_that_is_used_outside_as_well() -> None:
    model = if_model("w", "v")
    model.graph.node.extend(block("x", "outer", "w", "outer"))
    model.graph.output.append(value("outer"))
    lowered = assert_exact(model, {"flag": np.array(True), "x": floats((3, K), 1)})
    assert [code for _, code in lowered.outcome] == [None] * 3
    assert set(lowered.plan.weights) == {"w", "v"}


def test_equal_names_in_sibling_branches_are_two_weights() -> None:
    model = if_model("w", "w", inner=True)
    branch = next(attribute.g for attribute in model.graph.node[0].attribute if attribute.name == "else_branch")
    branch.initializer[0].CopyFrom(initializer("w", integers(np.int8, (K, K), 77)))
    for flag in (True, False):
        lowered = assert_exact(model, {"flag": np.array(flag), "x": floats((3, K), 1)})
    assert list(lowered.plan.weights) == ["w", "w#2"]


@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
def test_bodies_that_repeat(op_type: str) -> None:
    constants = {"scale": np.array(0.002, np.float32), "w": integers(np.int8, (K, K), 1), "count": np.array(3),
                 "go": np.array(True)}  # fmt: skip
    if op_type == "Loop":
        body = helper.make_graph(
            [*block("state", "next", "w", "body"), helper.make_node("Identity", ["cond"], ["cond_out"])], "body",
            [value("i", TensorProto.INT64, ()), value("cond", TensorProto.BOOL, ()), value("state")],
            [value("cond_out", TensorProto.BOOL, ()), value("next")],
        )  # fmt: skip
        node = helper.make_node("Loop", ["count", "go", "x"], ["y"], body=body)
    else:
        body = helper.make_graph(
            [*block("state", "next", "w", "body"), helper.make_node("Identity", ["next"], ["out"])], "body",
            [value("state"), value("element", shape=())], [value("next"), value("out")],
        )  # fmt: skip
        node = helper.make_node("Scan", ["x", "steps"], ["y", "all"], body=body, num_scan_inputs=1)
        constants = {"scale": constants["scale"], "w": constants["w"], "steps": floats((3,), 5)}
    model = make_model([node], {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, constants, opset=16)
    lowered = assert_exact(model, {"x": floats((4, K), 1)})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]


def test_what_a_scan_collects_has_a_shape() -> None:
    """Without one onnxruntime does not run it, and before 1.24 it infers none of the library's operators."""
    body = helper.make_graph(
        block("row", "product", "w", "body"), "body", [value("row")],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)],
    )  # fmt: skip
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    constants = {"scale": np.array(0.002, np.float32), "w": integers(np.int8, (K, K), 1)}
    model = make_model([node], {"x": (np.float32, (3, "m", K))}, {"y": (np.float32, (3, "m", K))}, constants)
    lowered = assert_exact(model, {"x": floats((3, 4, K), 1)})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    (scan,) = (node for node in lowered.model.graph if node.op_type == "Scan")
    assert scan.attributes["body"].as_graph().outputs[0].shape == ir.Shape(("m", K))


def test_nested_bodies() -> None:
    inner = if_model("w", "v").graph.node[0]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["state"], ["x"]),
            inner,
            helper.make_node("Identity", ["cond"], ["cond_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, ()), value("cond", TensorProto.BOOL, ()), value("state")],
        [value("cond_out", TensorProto.BOOL, ()), value("y")],
    )
    constants = {
        "scale": np.array(0.002, np.float32), "w": integers(np.int8, (K, K), 1), "v": integers(np.int8, (K, K), 2),
        "count": np.array(2), "go": np.array(True),
    }  # fmt: skip
    node = helper.make_node("Loop", ["count", "go", "start"], ["end"], body=body)
    inputs = {"flag": (np.bool_, ()), "start": (np.float32, ("m", K))}
    model = make_model([node], inputs, {"end": (np.float32, ("m", K))}, constants)
    lowered = assert_exact(model, {"flag": np.array(False), "start": floats((2, K), 3)})
    assert [code for _, code in lowered.outcome] == [None, None]


def test_tail_in_another_graph_is_not_fused() -> None:
    """The Cast stands in a branch and reads the sum from outside."""
    branches = {}
    for prefix in ("then", "else"):
        node = helper.make_node("Cast", ["acc"], [f"{prefix}y"], to=TensorProto.FLOAT)
        branches[f"{prefix}_branch"] = helper.make_graph([node], prefix, [], [value(f"{prefix}y")])
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["acc"]),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    model = make_model(
        nodes, {"flag": (np.bool_, ()), "x": (np.uint8, ("m", K))}, {"y": (np.float32, ("m", K))},
        {"w": integers(np.int8, (K, K), 1)},
    )  # fmt: skip
    lowered = assert_exact(model, {"flag": np.array(True), "x": integers(np.uint8, (3, K), 1)})
    assert lowered.outcome == [("MatMulInteger", None)]


def test_input_of_a_body_is_no_constant() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMulInteger", ["state", "state"], ["acc"]),
         helper.make_node("Cast", ["acc"], ["next"], to=TensorProto.INT8),
         helper.make_node("Identity", ["cond"], ["cond_out"])], "body",
        [value("i", TensorProto.INT64, ()), value("cond", TensorProto.BOOL, ()),
         value("state", TensorProto.INT8, (K, K))],
        [value("cond_out", TensorProto.BOOL, ()), value("next", TensorProto.INT8, (K, K))],
    )  # fmt: skip
    node = helper.make_node("Loop", ["count", "go", "x"], ["y"], body=body)
    model = make_model(
        [node], {"x": (np.int8, (K, K))}, {"y": (np.int8, (K, K))}, {"count": np.array(2), "go": np.array(True)}
    )
    assert lower(model).outcome == [("MatMulInteger", ReasonCode.WEIGHT_IS_INPUT)]


# ---------------------------------------------------------------------------------------------------------------------
# Local functions


def function_model(*, weight_inside: bool) -> onnx.ModelProto:
    """Return a model that calls a local function twice; its weight is a Constant inside, or an argument."""
    w = integers(np.int8, (K, K), 1)
    nodes = block("x", "y", "w", "f")
    nodes.insert(0, helper.make_node("Constant", [], ["scale"], value=initializer("", np.array(0.01, np.float32))))
    if weight_inside:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=initializer("", w)))
    arguments = ["x"] if weight_inside else ["x", "w"]
    function = helper.make_function("local", "Block", arguments, ["y"], nodes, [helper.make_opsetid("", 18)])
    calls = [
        helper.make_node("Block", ["x", *arguments[1:]], ["t"], domain="local"),
        helper.make_node("Block", ["t", *arguments[1:]], ["y"], domain="local"),
    ]
    constants = {} if weight_inside else {"w": w}
    return make_model(
        calls, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, constants, functions=[function]
    )


def test_constant_inside_a_function() -> None:
    lowered = assert_exact(function_model(weight_inside=True), {"x": floats((3, K), 1)})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    (function,) = lowered.model.functions.values()
    assert function.opset_imports["mcd"] == 1
    assert not function.graph.initializers
    assert [node.op_type for node in function].count("Constant") == 3


def test_a_model_that_is_compressed_in_a_function_only_is_compressed_already(tmp_path: Path) -> None:
    compress_model(function_model(weight_inside=True), tmp_path / "m.onnx", min_saving=-1e9, force_larger=True)
    with pytest.raises(NothingToCompressError, match="it is compressed already"):
        compress_model(tmp_path / "m.onnx", tmp_path / "n.onnx")


def test_weight_that_is_an_argument_of_a_function_is_kept() -> None:
    lowered = lower(function_model(weight_inside=False))
    assert lowered.outcome == [("MatMulInteger", ReasonCode.WEIGHT_IS_INPUT)]


def test_function_with_a_body_in_it() -> None:
    """The branch of an If inside the function has Constant nodes as well; nothing there may be an initialiser."""
    w = initializer("", integers(np.int8, (K, K), 1))
    branches = {}
    for prefix in ("then", "else"):
        nodes = [
            helper.make_node("Constant", [], [f"{prefix}w"], value=w),
            *block("x", f"{prefix}y", f"{prefix}w", prefix),
        ]
        branches[f"{prefix}_branch"] = helper.make_graph(nodes, prefix, [], [value(f"{prefix}y")])
    nodes = [
        helper.make_node("Constant", [], ["scale"], value=initializer("", np.array(0.01, np.float32))),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    function = helper.make_function("local", "Either", ["flag", "x"], ["y"], nodes, [helper.make_opsetid("", 18)])
    model = make_model(
        [helper.make_node("Either", ["flag", "x"], ["y"], domain="local")],
        {"flag": (np.bool_, ()), "x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, {}, functions=[function],
    )  # fmt: skip
    lowered = lower(model)
    assert [code for _, code in lowered.outcome] == [None, None]
    check(lowered.proto)
    feeds = {"flag": np.array(True), "x": floats((3, K), 1)}
    assert_same_bytes(run(lowered.proto, feeds), run(model, feeds))
    for graph in (inner for function in lowered.model.functions.values() for inner in function.subgraphs()):
        assert isinstance(graph, ir.Graph)
        assert not graph.initializers


def test_a_local_function_of_the_same_name_is_not_taken_for_the_operator() -> None:
    function = helper.make_function(
        "com.microsoft", "QGemm", ["x", "w"], ["y"], [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    model = make_model(
        [helper.make_node("QGemm", ["x", "w"], ["y"], domain="com.microsoft")],
        {"x": (np.float32, ("m", K)), "w": (np.float32, (K, K))}, {"y": (np.float32, ("m", K))}, {},
    )  # fmt: skip
    model.functions.append(function)
    assert lower(model).outcome == []


def test_attribute_that_is_an_argument_of_the_function_is_kept() -> None:
    """The axis of the weight's DequantizeLinear is not known inside the function."""
    w = initializer("", integers(np.int8, (K, K), 1))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=w),
        helper.make_node("Constant", [], ["s"], value=initializer("", scales((K,), 2))),
        helper.make_node("Constant", [], ["one"], value=initializer("", np.array(1, np.float32))),
        helper.make_node("Constant", [], ["zero"], value=initializer("", np.array(0, np.uint8))),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["xd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    reference = nodes[4].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "axis", "axis", onnx.AttributeProto.INT
    function = helper.make_function(
        "local", "Product", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)], attributes=["axis"]
    )
    model = make_model(
        [helper.make_node("Product", ["x"], ["y"], domain="local", axis=1)],
        {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", K))}, {}, functions=[function],
    )  # fmt: skip
    code = ReasonCode.ATTRIBUTE_UNKNOWN
    assert lower(model).outcome == [("MatMul", code)]
