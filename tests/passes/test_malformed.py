"""Models that are malformed, or contradict themselves: nodes are kept with a reason, or the model is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import MS_DOMAIN, assert_exact, dynamic_nodes, floats, integers, make_model, pack_all, scales
from onnx import TensorProto, helper, numpy_helper

from mcd_graph import InputError, _native, compress_model, restore_model
from mcd_graph.integrity import check_model
from mcd_graph.model.loading import load_model
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes import LegalizePass, ReasonCode, plan_lowering, plan_restoration

K, N = 8, 6

Damage = Callable[[onnx.ModelProto], None]


def integer_model() -> onnx.ModelProto:
    """Return DynamicQuantizeLinear, MatMulInteger, Cast, Mul of the scales, Mul, Add."""
    constants = {
        "w": integers(np.int8, (K, N), 1), "wz": np.array(1, np.int8), "ws": scales((N,), 2), "b": floats((N,), 3),
    }  # fmt: skip
    return make_model(dynamic_nodes(), {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def qdq_model() -> onnx.ModelProto:
    """Return QuantizeLinear, two DequantizeLinear, MatMul, Add of a vector, QuantizeLinear, DequantizeLinear."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["f"], name="matmul"),
        helper.make_node("Add", ["f", "b"], ["g"]),
        helper.make_node("QuantizeLinear", ["g", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    constants = {
        "xs": scales((), 1), "xz": np.array(120, np.uint8), "w": integers(np.int8, (K, N), 2), "ws": scales((N,), 3),
        "wz": np.zeros(N, np.int8), "b": floats((N,), 4), "ys": scales((), 5, 2), "yz": np.array(100, np.uint8),
    }  # fmt: skip
    return make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def float_model() -> onnx.ModelProto:
    """Return MatMulIntegerToFloat, whose domain has no schema for checkers."""
    constants = {"w": integers(np.uint8, (K, N), 1), "xs": scales((), 2), "ws": scales((N,), 3)}
    constants |= {"xz": np.array(3, np.uint8), "wz": np.array(4, np.uint8)}
    inputs = ["x", "w", "xs", "ws", "xz", "wz"]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], name="matmul", domain=MS_DOMAIN)
    return make_model([node], {"x": (np.uint8, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def requantized_model() -> onnx.ModelProto:
    """Return one QLinearMatMul."""
    constants = {
        "xs": scales((), 1), "xz": np.array(3, np.uint8), "w": integers(np.int8, (K, N), 2), "ws": scales((N,), 3),
        "wz": np.zeros(N, np.int8), "ys": scales((), 4, 20), "yz": np.array(5, np.uint8),
    }  # fmt: skip
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"], name="matmul")
    return make_model([node], {"x": (np.uint8, ("m", K))}, {"y": (np.uint8, ("m", N))}, constants)


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    loaded = load_model(model)
    plan = plan_lowering(loaded)
    assert plan.apply(pack_all(plan))
    return ir.to_proto(loaded)


def code_of(model: onnx.ModelProto, *said: str) -> ReasonCode | None:
    """Lower ``model`` and return why its one multiplication was kept, if it was; the text has to contain ``said``."""
    loaded = load_model(model)
    plan = plan_lowering(loaded)
    plan.apply(pack_all(plan))
    (site,) = plan.sites
    assert all(name in str(site.reason) for name in said)
    return site.code


def restoration_code(model: onnx.ModelProto, *said: str) -> ReasonCode | None:
    plan = plan_restoration(load_model(model))
    plan.apply()
    (site,) = plan.sites
    assert all(name in str(site.reason) for name in said)
    return site.code


def legal_code(model: onnx.ModelProto, *said: str) -> ReasonCode | None:
    legalize = LegalizePass()
    legalize(load_model(model))
    (site,) = legalize.sites
    assert all(name in str(site.reason) for name in said)
    return site.code


def node_of(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def set_constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of inputs


@pytest.mark.parametrize("op_type", ["Mul", "Div", "Add"])
@pytest.mark.parametrize("inputs", [[], ["s"], ["s", "ws", "ws"]])
def test_arithmetic_without_exactly_two_inputs(op_type: str, inputs: list[str]) -> None:
    """The shape of its result is not known, so what it scales is left outside."""
    model = integer_model()
    product = model.graph.node[3]
    product.op_type = op_type
    product.input[:] = inputs
    plan = plan_lowering(load_model(model))
    assert [site.pattern for site in plan.sites] == ["MatMulInteger"]


@pytest.mark.parametrize("position", [4, 5])
@pytest.mark.parametrize("inputs", [[], ["f"]])
def test_what_follows_has_too_few_inputs(position: int, inputs: list[str]) -> None:
    model = integer_model()
    node = model.graph.node[position]
    node.input[:] = [node.input[0]] if inputs else []
    assert code_of(model) is None


def test_a_quantizer_without_an_input_stays() -> None:
    model = integer_model()
    del node_of(model, "DynamicQuantizeLinear").input[:]
    loaded = load_model(model)
    plan = plan_lowering(loaded)
    plan.apply(pack_all(plan))
    assert [node.op_type for node in loaded.graph] == ["DynamicQuantizeLinear", "MatmulCompressDequant"]


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("count", [0, 1])
def test_qdq_nodes_with_too_few_inputs(position: int, count: int) -> None:
    """The multiplication is kept where they are what makes it an integer one."""
    model = qdq_model()
    node = model.graph.node[position]
    del node.input[count:]
    loaded = load_model(model)
    before = [each.op_type for each in loaded.graph]
    plan = plan_lowering(loaded)
    plan.apply(pack_all(plan))
    if position not in (0, 4, 6):
        assert [each.op_type for each in loaded.graph] == before


def test_an_identity_without_an_input_is_no_weight() -> None:
    model = integer_model()
    model.graph.node.insert(0, helper.make_node("Identity", [], ["v"]))
    node_of(model, "MatMulInteger").input[1] = "v"
    assert code_of(model) == ReasonCode.WEIGHT_COMPUTED


def test_identities_in_a_circle_end() -> None:
    model = integer_model()
    model.graph.node.insert(0, helper.make_node("Identity", ["v"], ["u"]))
    model.graph.node.insert(0, helper.make_node("Identity", ["u"], ["v"]))
    node_of(model, "MatMulInteger").input[1] = "v"
    with pytest.raises(InputError, match="in a circle"):
        load_model(model)
    # Models of other loaders come to the passes as well.
    (site,) = plan_lowering(ir.from_proto(model)).sites
    assert site.code == ReasonCode.WEIGHT_COMPUTED


@pytest.mark.parametrize("look", [restoration_code, legal_code])
def test_a_node_without_inputs(look: Callable[[onnx.ModelProto], str | None]) -> None:
    model = lowered(float_model())
    del model.graph.node[0].input[:]
    assert look(model) in (ReasonCode.STREAM_NOT_CONSTANT, ReasonCode.INT32_RESULT)


def test_another_user_of_the_weight_without_name_or_output() -> None:
    model = float_model()
    model.graph.node.append(helper.make_node("Sink", ["w"], [], domain="else.where"))
    model.opset_import.append(helper.make_opsetid("else.where", 1))
    assert code_of(model) == ReasonCode.WEIGHT_SHARED


# ---------------------------------------------------------------------------------------------------------------------
# Attributes


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


@pytest.mark.parametrize("value", [3, 2.5, "text"])
def test_a_compress_info_that_is_no_list(value: object) -> None:
    model = lowered(float_model())
    set_attribute(model.graph.node[0], "compress_info", value)
    with pytest.raises(_native.FormatError, match="node matmul: "):
        LegalizePass().call(load_model(model))
    assert restoration_code(model) == ReasonCode.STREAM_NOT_CONSTANT


@pytest.mark.parametrize(("model", "value"), [(float_model(), 6), (requantized_model(), 3), (requantized_model(), 1)])
def test_an_output_type_against_the_inputs(model: onnx.ModelProto, value: int) -> None:
    model = lowered(model)
    set_attribute(model.graph.node[0], "output_type", value)
    code = ReasonCode.INPUTS_CONTRADICT
    assert (restoration_code(model), legal_code(model)) == (code, code)


def test_a_float_output_type_without_a_scale() -> None:
    model = lowered(float_model())
    for position in range(3, len(model.graph.node[0].input)):
        model.graph.node[0].input[position] = ""
    assert restoration_code(model) == ReasonCode.INPUTS_CONTRADICT


def test_an_output_type_that_callers_set() -> None:
    model = load_model(lowered(float_model()))
    (node,) = model.graph
    node.attributes["output_type"] = ir.RefAttr("output_type", "type", ir.AttributeType.INT)
    (site,) = plan_restoration(model).sites
    legalize = LegalizePass()
    legalize(model)
    code = ReasonCode.ATTRIBUTE_UNKNOWN
    assert (site.code, legalize.sites[0].code) == (code, code)


@pytest.mark.parametrize("name", ["block_size", "output_dtype"])
def test_a_dequantizer_behind_with_an_attribute_of_another_type_stays(name: str) -> None:
    model = requantized_model()
    model.graph.node[0].output[0] = "q"
    node = helper.make_node("DequantizeLinear", ["q", "ys", "yz"], ["y"])
    set_attribute(node, name, 2.5)
    model.graph.node.append(node)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert [each.op_type for each in lowered(model).graph.node] == ["MatmulCompressDequant", "DequantizeLinear"]


def test_an_output_dtype_that_is_no_type() -> None:
    model = qdq_model()
    del model.graph.node[4]  # the Add
    quantize = model.graph.node[4]
    quantize.input[:] = ["f", "ys"]
    set_attribute(quantize, "output_dtype", 99)
    assert code_of(model) == ReasonCode.RESULT_TYPE


# ---------------------------------------------------------------------------------------------------------------------
# Types and sizes, which no checker compares


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        ("wz", np.array(4, np.float32), ReasonCode.TYPE_MISMATCH),
        ("wz", np.array(4, np.int8), ReasonCode.TYPE_MISMATCH),
        ("xz", np.array(3, np.int8), ReasonCode.TYPE_MISMATCH),
        ("xz", np.array(3, np.int32), ReasonCode.TYPE_MISMATCH),
        ("ws", np.ones(N, np.int64), ReasonCode.SCALE_TYPE),
        ("ws", np.ones(N + 1, np.float32), ReasonCode.PARAMETER_SHAPE),
    ],
)
def test_constants_of_another_type_or_size(name: str, array: np.ndarray, code: ReasonCode) -> None:
    model = float_model()
    set_constant(model, name, array)
    assert code_of(model, "" if code == ReasonCode.TYPE_MISMATCH and array.dtype == np.int8 else name) == code


@pytest.mark.parametrize("shape", [(), (3, K + 1)])
def test_activations_of_another_shape(shape: tuple[int, ...]) -> None:
    model = float_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.UINT8, shape))
    assert code_of(model) == ReasonCode.SHAPE_MISMATCH


@pytest.mark.parametrize(
    ("entry", "scale", "exact"),
    [(np.inf, 0.1, True), (1.0, 1e-45, True), (np.nan, 0.1, False), (0.0, 0.0, False), (np.inf, np.inf, False)],
)
def test_weights_that_are_quantized_from_odd_numbers(entry: float, scale: float, exact: bool) -> None:
    """Of NaN each processor makes another integer, so what gives NaN is left to onnxruntime."""
    nodes = [
        helper.make_node("QuantizeLinear", ["f", "fs", "fz"], ["w"]),
        helper.make_node("MatMulInteger", ["x", "w"], ["y"]),
    ]
    weight = floats((K, N), 1)
    weight[3, 4] = entry
    constants = {"f": weight, "fs": np.array(scale, np.float32), "fz": np.array(3, np.int8)}
    model = make_model(nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.int32, ("m", N))}, constants)
    if exact:
        assert_exact(model, {"x": integers(np.uint8, (5, K), 2)})
    else:
        assert code_of(model) == ReasonCode.WEIGHT_COMPUTED


@pytest.mark.parametrize(
    ("attributes", "exact"),
    [
        ({"output_dtype": TensorProto.INT8}, True),
        ({"output_dtype": TensorProto.UINT8}, True),
        ({"output_dtype": TensorProto.INT4}, False),
        ({"precision": TensorProto.FLOAT}, True),
        ({"precision": TensorProto.FLOAT16}, False),
    ],
)
def test_weights_that_are_quantized_as_attributes_say(attributes: dict[str, int], exact: bool) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["f", "fs"], ["w"], **attributes),
        helper.make_node("MatMulInteger", ["x", "w"], ["y"]),
    ]
    constants = {"f": floats((K, N), 1), "fs": np.array(0.02, np.float32)}
    model = make_model(nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.int32, ("m", N))}, constants, opset=23)
    if exact:
        assert_exact(model, {"x": integers(np.uint8, (5, K), 2)})
    else:
        assert code_of(model) == ReasonCode.WEIGHT_COMPUTED


def test_operands_that_are_dequantized_to_another_type() -> None:
    model = qdq_model()
    model.opset_import[0].version = 23
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] != "y":
            node.attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT16))
    assert code_of(model) == ReasonCode.SCALE_TYPE


def test_an_activation_that_an_attribute_makes_int8() -> None:
    model = qdq_model()
    model.opset_import[0].version = 23
    quantize, dequantize = model.graph.node[:2]
    quantize.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    del quantize.input[2], dequantize.input[2]
    assert code_of(model) == ReasonCode.INT8_SHARED


@pytest.mark.parametrize("columns", [1, N])
@pytest.mark.parametrize("count", [0, 2, N + 1])
def test_weights_that_are_quantized_with_another_number_of_zero_points(columns: int, count: int) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["f", "fs", "fz"], ["w"], axis=1),
        helper.make_node("MatMulInteger", ["x", "w"], ["y"]),
    ]
    constants = {"f": floats((K, N), 1), "fs": scales((columns,), 2), "fz": np.zeros(count, np.int8)}
    model = make_model(nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.int32, ("m", N))}, constants)
    assert code_of(model) == ReasonCode.WEIGHT_COMPUTED


@pytest.mark.parametrize("scale", [0.0, 1e-45, np.inf, np.nan])
def test_an_output_scale_that_is_no_use(scale: float) -> None:
    """It is folded as onnxruntime does, without a warning."""
    model = qdq_model()
    set_constant(model, "ys", np.array(scale, np.float32))
    assert_exact(model, {"x": floats((3, K), 1)}, optimized=True, alone=False)


def of_its_result(model: onnx.ModelProto, name: str) -> None:
    """Make ``name`` the zero point of the activation, and its shape known at run time only."""
    model.graph.input[0].type.tensor_type.ClearField("shape")
    node_of(model, "MatMulInteger").input[2] = name


def test_an_activation_for_its_own_zero_point() -> None:
    """Of any shape, for all that is known; it would need a row of them for each of the activation's rows."""
    model = integer_model()
    of_its_result(model, node_of(model, "MatMulInteger").input[0])
    assert code_of(model, node_of(model, "MatMulInteger").input[0]) == ReasonCode.SHAPE_MISMATCH


def test_a_zero_point_computed_with_the_shape_of_the_activation() -> None:
    model = integer_model()
    name = node_of(model, "MatMulInteger").input[0]
    model.graph.node.insert(1, helper.make_node("Identity", [name], ["copy"]))
    of_its_result(model, "copy")
    assert code_of(model) == ReasonCode.SHAPE_MISMATCH


def in_a_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an If that computes ``model``'s y or copies an input."""
    graph = model.graph
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    other, copy, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", N]) for name in ("other", "copy", "result")
    )
    branches = {
        "then_branch": helper.make_graph(list(graph.node), "then", [], list(graph.output)),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["other"], ["copy"])], "else", [], [copy]),
    }
    node = helper.make_node("If", ["flag"], ["result"], **branches)
    outer = helper.make_graph([node], "outer", [flag, *graph.input, other], [result], list(graph.initializer))
    return helper.make_model(outer, opset_imports=model.opset_import, ir_version=model.ir_version)


@pytest.mark.parametrize("branch", [False, True])
def test_a_zero_point_whose_shape_only_inference_tells(*, branch: bool) -> None:
    """Nobody checks that of MatMulInteger's. Behind the Mul that legalisation puts there, everybody does."""
    model = integer_model()
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["r"]))
    model.graph.node.insert(1, helper.make_node("DynamicQuantizeLinear", ["r"], ["rz", "rs", "unused"]))
    node_of(model, "MatMulInteger").input[2] = "rz"
    if branch:
        model = in_a_branch(model)
    onnx.checker.check_model(model, full_check=True)
    code = ReasonCode.SHAPE_MISMATCH
    assert (restoration_code(lowered(model), "rz"), legal_code(lowered(model), "rz")) == (code, code)


@pytest.mark.parametrize(
    ("model", "name", "kind", "code"),
    [
        (float_model(), "deq_scale", "FLOAT", ReasonCode.SHAPE_MISMATCH),
        (float_model(), "x1_scale", "FLOAT", ReasonCode.SHAPE_MISMATCH),
        (float_model(), "bias", "INT32", ReasonCode.SHAPE_MISMATCH),
        (float_model(), "addend", "FLOAT", ReasonCode.SHAPE_MISMATCH),
        (float_model(), "w_zero_point", "INT8", ReasonCode.TYPE_MISMATCH),
        (requantized_model(), "x1_zero_point", "INT8", ReasonCode.SHAPE_MISMATCH),
        (requantized_model(), "y_zero_point", "INT32", ReasonCode.TYPE_MISMATCH),
    ],
)
def test_inputs_whose_shape_or_type_only_inference_tells(
    model: onnx.ModelProto, name: str, kind: str, code: ReasonCode
) -> None:
    model = lowered(model)
    node = node_of(model, "MatmulCompressDequant")
    node.input.extend([""] * (len(INPUT_NAMES) - len(node.input)))
    node.input[INPUT_NAMES.index(name)] = "r"
    while not node.input[-1]:
        del node.input[-1]
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT))
    model.graph.node.insert(1, helper.make_node("Relu", ["c"], ["p"]))
    model.graph.node.insert(2, helper.make_node("Cast", ["p"], ["r"], to=TensorProto.DataType.Value(kind)))
    assert restoration_code(model, f"its {name} r ") == code
    assert legal_code(model, " r ") in (code, ReasonCode.RUN_TIME_PARAMETER)


def test_a_model_that_nothing_can_be_inferred_of(caplog: pytest.LogCaptureFixture) -> None:
    """It is no reason for a warning, let alone a traceback."""
    model = lowered(integer_model())
    node_of(model, "MatmulCompressDequant").input[0] = "r"
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["r"]))
    model.graph.node.append(helper.make_node("Nothing", ["x"], ["n"], domain="not.imported"))
    caplog.set_level("WARNING", logger="onnx_ir")  # the command line turns it down for its whole process
    caplog.set_level("INFO")
    plan_restoration(load_model(model))
    assert not any(record.exc_info for record in caplog.records)
    (record,) = (record for record in caplog.records if record.name.startswith("mcd_graph."))
    assert record.levelname == "INFO"
    assert "No opset import for domain not.imported" in record.getMessage()


def test_an_output_type_that_there_is_not() -> None:
    """onnx infers it all the same, and onnx_ir cannot read what it has inferred."""
    model = lowered(integer_model())
    node = node_of(model, "MatmulCompressDequant")
    other = onnx.NodeProto.FromString(node.SerializeToString())
    other.output[0] = "other"
    del other.attribute[:]
    other.attribute.extend(attribute for attribute in node.attribute if attribute.name != "output_type")
    other.attribute.append(helper.make_attribute("output_type", 36))
    other.input[0] = "r"
    model.graph.node.extend([helper.make_node("Relu", ["x"], ["r"]), other])
    plan = plan_restoration(load_model(model))
    assert [site.code for site in plan.sites] == [None, ReasonCode.INPUTS_CONTRADICT]


def test_a_size_of_minus_one() -> None:
    """Some exporters write that for a size that is not known; two of them are no shape that Reshape takes."""
    model = integer_model()
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["x2"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, K]), "shape"))
    node_of(model, "DynamicQuantizeLinear").input[0] = "x2"
    for value, dims in ((model.graph.input[0], (-1, "m", K)), (model.graph.output[0], (-1, "m", N))):
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, dims))
    onnx.checker.check_model(model, full_check=True)
    loaded = load_model(lowered(model))
    LegalizePass()(loaded)
    onnx.checker.check_model(ir.to_proto(loaded), full_check=True, check_custom_domain=True)


def test_a_negative_size_that_is_padded() -> None:
    """onnx would add the padding to it, and get a size that contradicts the strict node's."""
    model = lowered(requantized_model())
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -(2**63)
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
    loaded = load_model(model)
    assert loaded.graph.inputs[0].shape == ["m", None]
    legal = LegalizePass()
    legal(loaded)
    assert [site.status for site in legal.sites] == ["strict"]
    onnx.checker.check_model(ir.to_proto(loaded), full_check=True, check_custom_domain=True)


def test_an_activation_that_is_computed_from_itself() -> None:
    """Which the loader refuses, but not those who build a graph of their own and lower that."""
    model = integer_model()
    of_its_result(model, node_of(model, "MatMulInteger").input[0])
    loaded = load_model(model)
    (multiplication,) = (node for node in loaded.graph if node.op_type == "MatMulInteger")
    ring = ir.node("Identity", [None])
    ring.replace_input_with(0, ring.outputs[0])
    loaded.graph.insert_before(multiplication, ring)
    for index in (0, 2):
        multiplication.replace_input_with(index, ring.outputs[0])
    (site,) = plan_lowering(loaded).sites
    assert site.code == ReasonCode.SHAPE_MISMATCH


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        (TensorProto.FLOAT, ReasonCode.ACTIVATION_NOT_QUANTIZED),
        (TensorProto.UNDEFINED, ReasonCode.TYPE_MISMATCH),
        (TensorProto.INT32, ReasonCode.TYPE_MISMATCH),
    ],
)
def test_activations_of_another_type(dtype: int, code: ReasonCode) -> None:
    model = float_model()
    model.graph.input[0].type.tensor_type.elem_type = dtype
    assert code_of(model) == code


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        ("xz", np.zeros(N, np.uint8), ReasonCode.SHAPE_MISMATCH),
        ("xz", np.array(np.inf, np.float32), ReasonCode.TYPE_MISMATCH),
        ("wz", np.zeros(N + 1, np.uint8), ReasonCode.SHAPE_MISMATCH),
        ("ws.folded", np.ones(N + 1, np.float32), ReasonCode.SHAPE_MISMATCH),
        ("ws.folded", np.ones((N, 1), np.float32), ReasonCode.SHAPE_MISMATCH),
        ("ws.folded", np.ones(N, np.int32), ReasonCode.TYPE_MISMATCH),
    ],
)
def test_lowered_nodes_with_constants_of_another_type_or_size(name: str, array: np.ndarray, code: ReasonCode) -> None:
    model = lowered(float_model())
    set_constant(model, name, array)
    assert (restoration_code(model, name), legal_code(model, name)) == (code, code)


def test_an_activation_for_a_scale() -> None:
    """Its first size is not known, its second is neither 1 nor n."""
    model = lowered(integer_model())
    node = node_of(model, "MatmulCompressDequant")
    node.input[3] = "x"
    code = ReasonCode.SHAPE_MISMATCH
    assert (restoration_code(model), legal_code(model)) == (code, code)


# ---------------------------------------------------------------------------------------------------------------------
# Versions of operators, and what the loader refuses


def set_opset(model: onnx.ModelProto, version: int | None) -> None:
    imports = [each for each in model.opset_import if each.domain != ""]
    imports += [] if version is None else [helper.make_opsetid("", version)]
    del model.opset_import[:]
    model.opset_import.extend(imports)


@pytest.mark.parametrize(
    ("version", "code"),
    [
        (9, ReasonCode.OPSET),
        (None, ReasonCode.OPSET),
        (10, None),
    ],
)
def test_versions_without_the_quantized_operators(version: int | None, code: ReasonCode | None) -> None:
    model, compressed = float_model(), lowered(float_model())
    for each in (model, compressed):
        set_opset(each, version)
    assert (code_of(model), restoration_code(compressed)) == (code, code)


@pytest.mark.parametrize("name", ["acc", "matmul", "ws", "y", "note", "size"])
def test_texts_that_are_not_utf8(name: str) -> None:
    model = integer_model()
    model.metadata_props.add(key="x", value="note")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "size"
    model = onnx.ModelProto.FromString(model.SerializeToString().replace(name.encode(), b"\xe9" + name.encode()[1:]))
    with pytest.raises(InputError, match="is not UTF-8"):
        load_model(model)


@pytest.mark.parametrize("kind", [onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS])
def test_graphs_as_arguments_of_functions(kind: int) -> None:
    model = requantized_model()
    add_function(model).attribute.add(name="body", type=kind, ref_attr_name="body")
    with pytest.raises(InputError, match="graphs as arguments of functions are not supported"):
        load_model(model)


def add_function(model: onnx.ModelProto) -> onnx.NodeProto:
    """Add a local function of one node that nobody calls, and return the node."""
    node = helper.make_node("Relu", ["a"], ["c"])
    model.functions.append(helper.make_function("local", "f", ["a"], ["c"], [node], model.opset_import))
    return model.functions[0].node[0]


def test_references_to_arguments_outside_of_functions() -> None:
    model = integer_model()
    node_of(model, "Cast").attribute[0].ref_attr_name = "type"
    with pytest.raises(InputError, match="attribute 'to': it refers to an argument, but is not in a function"):
        load_model(model)


def test_references_to_arguments_beside_a_value() -> None:
    model = integer_model()
    attribute = helper.make_attribute("axis", 1)
    attribute.ref_attr_name = "axis"
    add_function(model).attribute.append(attribute)
    with pytest.raises(InputError, match="attribute 'axis': it has a value and refers to an argument as well"):
        load_model(model)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_of_our_operators(version: int) -> None:
    model = integer_model()
    model.opset_import.add(domain="mcd", version=version)
    node_of(model, "MatMulInteger").domain = "mcd"
    with pytest.raises(InputError, match=f"it imports version {version} of domain 'mcd'; known is 1"):
        load_model(model)


@pytest.mark.parametrize("place", ["graph", "function"])
def test_an_operator_of_our_domain_that_is_not_known(place: str, tmp_path: Path) -> None:
    """Whoever reads it says so: taken for anybody's operator, its weight would be left out and called intact."""
    model = integer_model()
    model.opset_import.add(domain="mcd", version=1)
    unknown = helper.make_node("OperatorOfTomorrow", ["y"], ["z"], name="tomorrow", domain="mcd")
    if place == "graph":
        model.graph.node.append(unknown)
    else:
        add_function(model)
        unknown.input[0] = "c"
        model.functions[0].node.append(unknown)
    with pytest.raises(InputError, match="node 'tomorrow' is mcd::OperatorOfTomorrow, which this version"):
        load_model(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert "OperatorOfTomorrow" in check_model(path).problems[0].reason
    for read in (lambda: compress_model(path, tmp_path / "n.onnx"), lambda: restore_model(path, tmp_path / "n.onnx")):
        with pytest.raises(InputError, match="OperatorOfTomorrow"):
            read()


def test_an_import_of_our_domain_that_nothing_uses() -> None:
    """onnxruntime writes version 1000 into the models that it saves while the operator is registered."""
    model = integer_model()
    model.opset_import.add(domain="mcd", version=1000)
    plan = plan_lowering(load_model(model))
    plan.apply(pack_all(plan))
    versions = {opset.domain: opset.version for opset in ir.to_proto(plan.model).opset_import}
    assert versions["mcd"] == 1


def test_a_weight_in_a_constant_of_another_type() -> None:
    model = float_model()
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=3))
    assert code_of(model) == ReasonCode.WEIGHT_COMPUTED


def test_nodes_out_of_order() -> None:
    """onnxruntime sorts them; here shapes that the model does not say are not known then."""
    model = qdq_model()
    nodes = [*model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert "MatMul" not in [node.op_type for node in lowered(model).graph.node]


def test_restoring_what_takes_a_younger_operator() -> None:
    """DynamicQuantizeMatMul may be used with opset 10, DynamicQuantizeLinear not."""
    constants = {"w": integers(np.int8, (K, N), 1), "ws": scales((N,), 2)}
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "ws"], ["y"], name="matmul", domain=MS_DOMAIN)
    model = make_model([node], {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants, opset=10)
    code = ReasonCode.OPSET
    assert restoration_code(lowered(model)) == code


def test_two_versions_of_one_domain() -> None:
    model = integer_model()
    model.opset_import.add(domain="ai.onnx", version=2)
    with pytest.raises(InputError, match="it imports several versions of one domain"):
        load_model(model)


def test_one_version_of_a_domain_twice() -> None:
    model = integer_model()
    model.opset_import.append(model.opset_import[0])
    assert code_of(model) is None


def test_an_output_declared_twice() -> None:
    model = integer_model()
    model.graph.output.append(model.graph.output[0])
    assert code_of(model) is None
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(InputError, match="output 'y' of graph 'test' is declared in two ways"):
        load_model(model)


def test_an_input_that_is_an_output_of_another_type() -> None:
    model = integer_model()
    model.graph.output.append(model.graph.input[0])
    assert code_of(model) is None
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 3
    with pytest.raises(InputError, match="output 'x' of graph 'test' is declared in two ways"):
        load_model(model)


def test_two_multiplications_with_one_result() -> None:
    """Behind the second stands the first one's QuantizeLinear, in a place that it does not have."""
    model = qdq_model()
    again = helper.make_node("MatMul", ["xd", "wd"], ["again"], name="again")
    model.graph.node.insert(4, again)
    model.graph.node[6].input.append("again")
    loaded = load_model(model)
    plan = plan_lowering(loaded)
    plan.apply(pack_all(plan))
    outputs = [name for node in ir.to_proto(loaded).graph.node for name in node.output]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize(
    ("scale", "code"),
    [
        (np.uint64, ReasonCode.INPUTS_CONTRADICT),
        (np.float16, ReasonCode.INPUTS_CONTRADICT),
    ],
)
def test_a_scale_of_another_type_for_a_float_activation(scale: type, code: ReasonCode) -> None:
    model = lowered(integer_model())
    set_constant(model, "ws", np.ones(N, scale))
    assert (restoration_code(model), legal_code(model)) == (code, code)


@pytest.mark.parametrize("scale", [np.uint64, np.float16])
def test_a_float_result_of_a_scale_for_halves(scale: type) -> None:
    model = lowered(float_model())
    node = node_of(model, "MatmulCompressDequant")
    set_constant(model, node.input[3], np.ones(N, scale))
    code = ReasonCode.INPUTS_CONTRADICT
    assert (restoration_code(model), legal_code(model)) == (code, code)


# ---------------------------------------------------------------------------------------------------------------------
# Names


def read_nothing(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def give_nothing(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def function_reads_nothing(model: onnx.ModelProto) -> None:
    add_function(model).input[0] = "nowhere"


def function_gives_nothing(model: onnx.ModelProto) -> None:
    add_function(model).output[0] = "elsewhere"


def unnamed_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(data_type=TensorProto.FLOAT, float_data=[1.0])


def unnamed_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("", TensorProto.FLOAT, []))


def branch_reads_nothing(model: onnx.ModelProto) -> None:
    """In scope are the branch's own values and those around it, but not another branch's."""
    constant = helper.make_node("Constant", [], ["only there"], value_float=1.0)
    scalar = helper.make_tensor_value_info("only there", TensorProto.FLOAT, [])
    one = helper.make_graph([constant], "one", [], [scalar])
    read = helper.make_node("Add", ["only there", "x"], ["sum"])
    other = helper.make_graph([read], "other", [], [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)])
    model.graph.node.append(helper.make_node("If", ["x"], ["chosen"], then_branch=one, else_branch=other))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (read_nothing, r"node '.*' \(.*\) reads 'nowhere', which is not computed"),
        (give_nothing, "output 'nowhere' of graph 'test' is not computed"),
        (function_reads_nothing, r"node '' \(Relu\) reads 'nowhere', which is not computed"),
        (function_gives_nothing, "output 'c' of function 'f' is not computed"),
        (unnamed_initializer, "an input, output or initialiser of graph 'test' has no name"),
        (unnamed_input, "an input, output or initialiser of graph 'test' has no name"),
        (branch_reads_nothing, r"node '' \(Add\) reads 'only there', which is not computed"),
    ],
)
def test_names_of_nothing(damage: Damage, message: str) -> None:
    model = integer_model()
    damage(model)
    with pytest.raises(InputError, match=message):
        load_model(model)


def test_attributes_without_type() -> None:
    model = requantized_model()
    model.graph.node[0].attribute.add(name="axis", i=1)
    with pytest.raises(InputError, match="attribute 'axis': it has no type"):
        load_model(model)


def test_attributes_twice() -> None:
    model = requantized_model()
    for _ in range(2):
        model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(InputError, match="has two attributes of one name"):
        load_model(model)


@pytest.mark.parametrize(
    ("kind", "graph"), [(onnx.AttributeProto.INT, onnx.GraphProto(name="g")), (onnx.AttributeProto.GRAPH, None)]
)
def test_graphs_in_attributes_of_another_type(kind: int, graph: onnx.GraphProto | None) -> None:
    model = requantized_model()
    model.graph.node[0].attribute.add(name="axis", type=kind, g=graph)
    with pytest.raises(InputError, match="attribute 'axis': it holds a graph and is of another type, or the other"):
        load_model(model)


@pytest.mark.parametrize(
    ("model", "op_type"),
    [
        (integer_model(), "MatMulInteger"),
        (float_model(), "MatMulIntegerToFloat"),
        (lowered(float_model()), "MatmulCompressDequant"),
        (qdq_model(), "DequantizeLinear"),
    ],
)
def test_a_second_output_of_an_operator_that_has_one(model: onnx.ModelProto, op_type: str) -> None:
    """A replaced node would stay for the second one, and declare the first again."""
    node_of(model, op_type).output.append("more")
    with pytest.raises(InputError, match=rf"\({op_type}\) has more than one output: \w+, more"):
        load_model(model)


def test_operators_and_functions_that_have_several_outputs() -> None:
    model = integer_model()
    load_model(model)  # DynamicQuantizeLinear
    node = helper.make_node("QGemm", ["x"], ["one", "two"], domain=MS_DOMAIN)
    body = [helper.make_node("Identity", ["x"], [name]) for name in ("one", "two")]
    function = helper.make_function(MS_DOMAIN, "QGemm", ["x"], ["one", "two"], body, [helper.make_opsetid("", 17)])
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid(MS_DOMAIN, 1))
    model.functions.append(function)
    assert len(load_model(model).functions) == 1


SIX_BITS = 27
"""The number of FLOAT6E2M3, which older versions of onnx do not name."""


def six_bits(path: Path | None, last: int) -> onnx.ModelProto:
    """Return a model with three 6-bit elements, whose last byte is ``last``; in a file below ``path``, if any."""
    model = integer_model()
    tensor = model.graph.initializer.add(name="six", data_type=SIX_BITS, dims=[3])
    if path is None:
        tensor.raw_data = bytes([0, 0, last])
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
        (path / "data").write_bytes(bytes([0, 0, last]))
        (path / "model.onnx").write_bytes(model.SerializeToString())
    return model


@pytest.mark.skipif(not hasattr(ir.DataType, "FLOAT6E2M3"), reason="this onnx_ir does not know 6-bit types")
@pytest.mark.parametrize("external", [False, True])
def test_padding_bits_of_6_bit_types(tmp_path: Path, *, external: bool) -> None:
    def load(last: int) -> ir.Model:
        model = six_bits(tmp_path if external else None, last)
        return load_model(tmp_path / "model.onnx" if external else model)

    ir.to_proto(load(3))
    with pytest.raises(InputError, match="tensor 'six' has padding bits that are not zero"):
        load(4)


@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize(
    ("kind", "field"),
    [("FLOAT", "float_data"), ("INT8", "int32_data"), ("INT64", "int64_data"), ("DOUBLE", "double_data")],
)
def test_typed_entries_that_do_not_fit_the_shape(kind: str, field: str, count: int) -> None:
    model = integer_model()
    tensor = model.graph.initializer.add(name="odd", data_type=TensorProto.DataType.Value(kind), dims=[3])
    getattr(tensor, field).extend([1] * 3)
    load_model(model)
    del getattr(tensor, field)[:]
    getattr(tensor, field).extend([1] * count)
    with pytest.raises(InputError, match=f"tensor 'odd' has {count} entries, which do not fit its type and shape"):
        load_model(model)


def test_a_forged_shape_of_4_bit_entries() -> None:
    """It is refused before anybody unpacks it into an array of its shape."""
    model = integer_model()
    tensor = model.graph.initializer.add(name="odd", data_type=TensorProto.INT4, dims=[5], int32_data=[1, 2, 3])
    load_model(model)
    tensor.dims[0] = 2**62
    with pytest.raises(InputError, match="tensor 'odd' has 3 entries"):
        load_model(model)


def test_local_functions_of_one_name() -> None:
    """Only one of them would be kept, which may have other nodes than the one that is looked at."""
    model = integer_model()
    imports = [helper.make_opsetid("", 17)]
    for op_type in ("Identity", "Relu"):
        node = helper.make_node(op_type, ["a"], ["c"])
        model.functions.append(helper.make_function("local", "f", ["a"], ["c"], [node], imports))
    with pytest.raises(InputError, match="2 local functions of the name local::f"):
        load_model(model)
    model.functions[1].overload = "other"
    assert len(load_model(model).functions) == 2


@pytest.mark.parametrize(("zero_point", "nodes"), [("xq", "'xq' needs 'xq'"), ("xd", "'x[dq]' needs 'x[dq]'")])
def test_nodes_that_need_their_own_results(zero_point: str, nodes: str) -> None:
    """Following a zero point to its type would not end."""
    model = qdq_model()
    model.graph.node[0].input[2] = zero_point
    with pytest.raises(InputError, match=f"its nodes need each other's results in a circle: {nodes}"):
        load_model(model)


@pytest.mark.parametrize("inner", ["other", "y"])
def test_a_circle_through_a_graph_inside(inner: str) -> None:
    """What a branch calls by the name of the node's result, and computes itself, is none."""
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    result = helper.make_tensor_value_info(inner, TensorProto.FLOAT, [])
    read = helper.make_node("Identity", ["y" if inner == "other" else "x"], [inner])
    branch = helper.make_graph([read], "branch", [], [result])
    node = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    model = helper.make_model(helper.make_graph([node], "outer", [flag, x], [y]))
    if inner == "y":
        load_model(model)
        return
    with pytest.raises(InputError, match="in a circle: 'choice' needs 'choice'"):
        load_model(model)
