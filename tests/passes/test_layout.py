"""Reshape and Transpose around a multiplication, which split and merge the heads of an attention."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_same_bytes, floats, integers, legal, lower, make_model, run, scales
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mcd_graph.operators.matmul_compress_dequant import MatmulCompressDequant
from mcd_graph.passes import plan_restoration

HEADS, SIZE = 3, 16
K, N = 40, HEADS * SIZE

SWAPPED, KEYS = [0, 2, 1, 3], [0, 2, 3, 1]

#: Shapes for Reshape that split the columns of (batch, length, N) into heads.
SPLITS = [[0, 0, HEADS, SIZE], [0, -1, HEADS, SIZE], [2, -1, HEADS, SIZE], [0, 0, -1, SIZE]]


def product(x: str = "x", y: str = "f") -> list[onnx.NodeProto]:
    """Return DynamicQuantizeLinear, MatMulInteger, Cast and the Mul of both scales."""
    return [
        helper.make_node("DynamicQuantizeLinear", [x], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["acc"], name="matmul"),
        helper.make_node("Cast", ["acc"], ["c"], to=1),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["c", "m"], [y]),
    ]


def split_model(
    perm: Sequence[int] = SWAPPED, shape: Sequence[int] | None = None, **attributes: int
) -> onnx.ModelProto:
    """Return the product with Reshape and Transpose behind; without ``shape`` it is computed, as exporters do."""
    nodes = product()
    constants = {"w": integers(np.int8, (K, N), 1), "ws": scales((N,), 2)}
    if shape is None:
        nodes += [
            helper.make_node("Shape", ["x"], ["dims"]),
            helper.make_node("Gather", ["dims", "zero"], ["batch"], axis=0),
            helper.make_node("Unsqueeze", ["batch", "first"], ["batch1"]),
            helper.make_node("Concat", ["batch1", "rest", "heads", "size"], ["shape"], axis=0),
        ]
        constants |= {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1])}
        constants |= {"heads": np.array([HEADS]), "size": np.array([SIZE])}
    else:
        constants["shape"] = np.array(shape)
    nodes.append(helper.make_node("Reshape", ["f", "shape"], ["r"]))
    nodes.append(helper.make_node("Transpose", ["r"], ["y"], perm=perm))
    return make_model(nodes, {"x": (np.float32, ("b", "s", K))}, {"y": (np.float32, [None] * 4)}, constants)


def merge_model(shape: Sequence[int] = (0, 0, N)) -> onnx.ModelProto:
    """Return Transpose and Reshape, and the product behind them; the weight is (N, K) here."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=SWAPPED),
        helper.make_node("Reshape", ["t", "shape"], ["f"]),
        *product("f", "y"),
    ]
    constants = {"w": integers(np.int8, (N, K), 1), "ws": scales((K,), 2), "shape": np.array(shape)}
    return make_model(
        nodes, {"x": (np.float32, ("b", HEADS, "s", SIZE))}, {"y": (np.float32, [None] * len(shape))}, constants
    )


def activations(*shape: int) -> dict[str, np.ndarray]:
    return {"x": floats(shape, 7)}


def assert_equal_everywhere(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """The lowered model and the restored one compute the original's bytes, and so does the operator in NumPy."""
    lowered = lower(model)
    assert [site.status for site in lowered.plan.sites] == ["lowered"]
    assert not {"Reshape", "Transpose"} & set(lowered.op_types)
    back = ir.from_proto(lowered.proto)
    assert plan_restoration(back).apply()
    assert {"Reshape", "Transpose"} <= {node.op_type for node in back.graph}
    for each in (model, lowered.proto, ir.to_proto(back)):
        onnx.checker.check_model(each, full_check=True)
    for optimize in (False, True):
        expected = run(model, feeds, optimize=optimize)
        assert_same_bytes(run(lowered.proto, feeds, optimize=optimize), expected)
        assert_same_bytes(run(ir.to_proto(back), feeds, optimize=optimize), expected)
    twin = ReferenceEvaluator(lowered.proto, new_ops=[MatmulCompressDequant])
    assert_same_bytes(twin.run(None, feeds), run(lowered.proto, feeds, exact=True))


@pytest.mark.parametrize("shape", [None, *SPLITS])
@pytest.mark.parametrize("perm", [SWAPPED, KEYS], ids=["swapped", "keys"])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_heads_are_split(perm: list[int], shape: list[int] | None, length: int) -> None:
    assert_equal_everywhere(split_model(perm, shape), activations(2, length, K))


@pytest.mark.parametrize("perm", [SWAPPED, KEYS], ids=["swapped", "keys"])
@pytest.mark.parametrize("shape", [[1, 9, 8, 8], [3, -1, 4, 6], [4, 3, -1, 2]])
def test_a_reshape_that_splits_rows_as_well(perm: list[int], shape: list[int]) -> None:
    assert_equal_everywhere(split_model(perm, shape), activations(2, 6, K))


@pytest.mark.parametrize("shape", [[0, 0, N], [0, -1, N], [2, -1, N], [-1, N]])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_heads_are_merged(shape: list[int], length: int) -> None:
    assert_equal_everywhere(merge_model(shape), activations(2, HEADS, length, SIZE))


def test_nothing_at_all() -> None:
    for model, feeds in ((split_model(), activations(1, 0, K)), (merge_model(), activations(2, HEADS, 0, SIZE))):
        assert_equal_everywhere(model, feeds)


def another_reader(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["r" if "r" in model.graph.node[-1].input else "t"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None))


def an_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, None))


def another_order(model: onnx.ModelProto) -> None:
    (transpose,) = (node for node in model.graph.node if node.op_type == "Transpose")
    transpose.attribute[0].ints[:] = [0, 1, 3, 2] if transpose.input[0] == "r" else [0, 3, 1, 2]


def zeros_that_are_zero(model: onnx.ModelProto) -> None:
    (reshape,) = (node for node in model.graph.node if node.op_type == "Reshape")
    reshape.attribute.append(helper.make_attribute("allowzero", 1))


def a_quantizer_for_two(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None))


@pytest.mark.parametrize("merge", [False, True], ids=["split", "merge"])
@pytest.mark.parametrize("change", [another_reader, an_output, another_order, zeros_that_are_zero, a_quantizer_for_two])
def test_what_stays(change: Callable[[onnx.ModelProto], None], merge: bool) -> None:
    model = merge_model([2, -1, N]) if merge else split_model(shape=[2, 7, HEADS, SIZE])
    change(model)
    lowered = lower(model)
    absorbed = not {"Reshape", "Transpose"} & set(lowered.op_types)
    assert absorbed == (change is a_quantizer_for_two and not merge)
    feeds = activations(2, HEADS, 7, SIZE) if merge else activations(2, 7, K)
    assert_same_bytes(run(lowered.proto, feeds), run(model, feeds))


def test_legalizing_puts_them_back() -> None:
    for model, shape in ((split_model(KEYS), (1, 5, K)), (merge_model(), (1, HEADS, 5, SIZE))):
        lowered = lower(model).proto
        strict = legal(lowered)
        (node,) = (node for node in strict.graph.node if node.op_type == "MatmulCompressDequant")
        assert not {attribute.name for attribute in node.attribute} & {"x1_perm", "y_perm"}
        (found,), (expected,) = (run(each, activations(*shape), exact=True) for each in (strict, lowered))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)  # noqa: TID251 - it went through float16


def changed(model: onnx.ModelProto, *, drop: str = "", perm: list[int] | None = None) -> onnx.ModelProto:
    """Return the lowered model without an attribute or input, or with another order."""
    lowered = lower(model).proto
    (node,) = (node for node in lowered.graph.node if node.op_type == "MatmulCompressDequant")
    for attribute in list(node.attribute):
        if attribute.name == drop:
            node.attribute.remove(attribute)
        elif attribute.name.endswith("_perm") and perm is not None:
            attribute.ints[:] = perm
    if drop == "shape":
        node.input[-1] = ""
    return lowered


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (changed(split_model(shape=SPLITS[0]), drop="y_perm"), "y_shape: needs y_perm"),
        (changed(merge_model(), drop="x1_perm"), "x1_shape: needs x1_perm"),
        (changed(split_model(shape=SPLITS[0]), drop="shape"), "y_shape: is absent, and y_perm is not"),
        (changed(split_model(shape=SPLITS[0]), perm=[3, 2, 1, 0]), r"y_perm is \[3, 2, 1, 0\], which is not supported"),
        (changed(merge_model(), perm=KEYS), r"x1_perm is \[0, 2, 3, 1\], which is not supported"),
        (changed(split_model(shape=[0, 0, 5, SIZE])), r"y_shape: is \[0, 0, 5, 16\], which a tensor of shape"),
        (changed(split_model(shape=[0, 0, HEADS, 4, 4])), "instead of four dimensions"),
    ],
)
def test_what_the_operator_refuses(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(model, activations(*((2, 7, K) if "y_shape" in message or "y_perm" in message or "four" in message
                                 else (2, HEADS, 7, SIZE))))  # fmt: skip


def test_a_shape_for_integers_is_refused() -> None:
    model = changed(merge_model())
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(Exception, match="x1_shape: must be absent where x1 is not float"):
        run(model, {"x": np.zeros((2, HEADS, 7, SIZE), np.uint8)})


@pytest.mark.parametrize(
    ("x", "perm", "shape", "y"),
    [
        (("b", "s", K), SWAPPED, [0, 0, HEADS, SIZE], ("b", HEADS, "s", SIZE)),
        (("b", "s", K), KEYS, [0, -1, HEADS, SIZE], ("b", HEADS, SIZE, None)),
        ((2, 7, K), KEYS, [0, -1, HEADS, SIZE], (2, HEADS, SIZE, 7)),
        ((2, 7, K), SWAPPED, [1, 14, -1, SIZE], (1, HEADS, 14, SIZE)),
    ],
)
def test_inferred_shapes(
    x: tuple[int | str, ...], perm: list[int], shape: list[int], y: tuple[int | str | None, ...]
) -> None:
    model = split_model(perm, shape)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    lowered = lower(model).proto
    lowered.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4))
    inferred = onnx.shape_inference.infer_shapes(lowered, strict_mode=True).graph.output[0].type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in inferred]
    # A dimension without a name gets one.
    assert [size if wanted is not None else None for size, wanted in zip(sizes, y, strict=True)] == list(y)


@pytest.mark.parametrize(
    "shape", [[0, 0, HEADS, 5], [1, -1, 5, 5], [0, 0, 0, 0], [-1, -1, 3, 16], [-2, -7, 3, 16], [2**62, 2, 3, 16]]
)
def test_shapes_that_cannot_be(shape: list[int]) -> None:
    model = split_model(shape=SPLITS[0])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 7, K)))
    lowered = lower(model).proto
    (tensor,) = (tensor for tensor in lowered.graph.initializer if tensor.name == "shape")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(shape), "shape"))
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"cannot be brought to|is not there|is no shape"):
        onnx.checker.check_model(lowered, full_check=True)
