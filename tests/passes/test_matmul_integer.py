"""MatMulInteger and its tails: each accepted case to the byte, each refusal with its reason."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import assert_exact, assert_same_bytes, check, lower, make_model, pack_all, run
from onnx import TensorProto, helper

from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes import Kept, ReasonCode, plan_lowering, plan_restoration

K, N = 70, 40


def weight(dtype: type = np.int8, shape: tuple[int, ...] = (K, N), seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def activation(dtype: type = np.uint8, shape: tuple[int, ...] = (3, K), seed: int = 1) -> np.ndarray:
    return weight(dtype, shape, seed)


def floats(shape: tuple[int, ...], seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dynamic_nodes(prefix: str = "", w: str = "w") -> list[onnx.NodeProto]:
    """MatMulInteger with its tail as quantize_dynamic writes it, from xq, xs, xz to <prefix>y."""
    return [
        helper.make_node("MatMulInteger", ["xq", w, "xz", "wz"], [f"{prefix}acc"], name=f"{prefix}matmul"),
        helper.make_node("Cast", [f"{prefix}acc"], [f"{prefix}f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], [f"{prefix}s"]),
        helper.make_node("Mul", [f"{prefix}f", f"{prefix}s"], [f"{prefix}y"]),
    ]


DYNAMIC = helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])


def dynamic_model(shape: tuple[int | str, ...] = ("m", K), **constants: np.ndarray) -> onnx.ModelProto:
    table = {"w": weight(), "ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8), **constants}
    return make_model(
        [DYNAMIC, *dynamic_nodes()], {"x": (np.float32, shape)}, {"y": (np.float32, (*shape[:-1], N))}, table
    )


@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3), (2, 1, 4), ()], ids=str)
@pytest.mark.parametrize("w_type", [np.int8, np.uint8])
@pytest.mark.parametrize("per_column", [False, True], ids=["per_tensor", "per_column"])
def test_dynamic_quantization(leading: tuple[int, ...], w_type: type, per_column: bool) -> None:
    size = (N,) if per_column else ()
    constants = {
        "w": weight(w_type),
        "ws": np.abs(floats(size)) + np.float32(1e-3),
        "wz": np.asarray(weight(w_type, size or (1,), 5).reshape(size)),
    }
    model = dynamic_model((*(f"d{i}" for i in range(len(leading))), K), **constants)
    lowered = assert_exact(model, {"x": floats((*leading, K))})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]
    assert set(lowered.model.graph.initializers) == {"w.x2", "w.compress_index", "ws", "wz"}


@pytest.mark.parametrize(("x_type", "w_type"), list(itertools.product([np.int8, np.uint8], repeat=2)))
@pytest.mark.parametrize("zero_points", ["none", "activation", "weight", "both"])
def test_bare_multiplication(x_type: type, w_type: type, zero_points: str) -> None:
    names = {"none": [], "activation": ["xz"], "weight": ["", "wz"], "both": ["xz", "wz"]}[zero_points]
    constants = {"w": weight(w_type), "xz": np.array(3, x_type), "wz": weight(w_type, (N,), 4)}
    model = make_model(
        [helper.make_node("MatMulInteger", ["x", "w", *names], ["y"])],
        {"x": (x_type, ("m", K))},
        {"y": (np.int32, ("m", N))},
        {name: array for name, array in constants.items() if name in ("w", *names)},
    )
    if (x_type, w_type) == (np.int8, np.uint8):
        # onnxruntime has no kernel for this pair; the exact sum is the judge then.
        x = activation(x_type)
        left = x.astype(np.int64) - (3 if "xz" in names else 0)
        right = constants["w"].astype(np.int64) - (constants["wz"] if "wz" in names else np.int64(0))
        lowered = lower(model)
        check(lowered.proto)
        assert_same_bytes(run(lowered.proto, {"x": x}), [(left @ right).astype(np.int32)])
    else:
        lowered = assert_exact(model, {"x": activation(x_type)})
    assert lowered.outcome == [("MatMulInteger", None)]


def test_zero_points_of_one_element_and_with_leading_ones() -> None:
    constants = {"w": weight(), "xz": np.array([3], np.uint8), "wz": weight(np.int8, (1, N), 4)}
    model = make_model(
        [helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])],
        {"x": (np.uint8, ("m", K))},
        {"y": (np.int32, ("m", N))},
        constants,
    )
    assert assert_exact(model, {"x": activation()}).outcome == [("MatMulInteger", None)]


@pytest.mark.parametrize("scale_first", [False, True])
@pytest.mark.parametrize("product_swapped", [False, True])
@pytest.mark.parametrize("bias_first", [False, True])
@pytest.mark.parametrize("bias_shape", [(N,), (1, N), (1,), ()], ids=str)
def test_bias_behind_and_operands_in_either_order(
    scale_first: bool, product_swapped: bool, bias_first: bool, bias_shape: tuple[int, ...]
) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz", "wz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ws", "xs"] if product_swapped else ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["s", "f"] if scale_first else ["f", "s"], ["t"]),
        helper.make_node("Add", ["b", "t"] if bias_first else ["t", "b"], ["y"]),
    ]
    constants = {
        "w": weight(np.uint8), "ws": np.abs(floats((N,))), "wz": np.array(117, np.uint8), "b": floats(bias_shape, 9),
    }  # fmt: skip
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)
    lowered = assert_exact(model, {"x": floats((5, K))})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul+Add", None)]
    assert lowered.op_types == ["MatmulCompressDequant"]


def test_a_scale_that_several_multiplications_share_goes_into_all_of_them() -> None:
    nodes = [DYNAMIC, helper.make_node("Mul", ["xs", "ws"], ["s"])]
    for letter in "abc":
        nodes += [
            helper.make_node("MatMulInteger", ["xq", f"w{letter}", "xz"], [f"acc{letter}"]),
            helper.make_node("Cast", [f"acc{letter}"], [f"f{letter}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"f{letter}", "s"], [f"y{letter}"]),
        ]
    constants = {f"w{letter}": weight(seed=seed) for seed, letter in enumerate("abc")}
    model = make_model(
        nodes, {"x": (np.float32, ("m", K))}, {f"y{letter}": (np.float32, ("m", N)) for letter in "abc"},
        {**constants, "ws": np.array(0.01, np.float32)},
    )  # fmt: skip
    lowered = assert_exact(model, {"x": floats((5, K))})
    assert lowered.op_types == ["DynamicQuantizeLinear", *["MatmulCompressDequant"] * 3]
    scales = {
        tuple(value.name for value in (node.inputs[3], node.inputs[10])) for node in lowered.model.graph if node.domain
    }
    assert scales == {("ws", "xs")}


def test_a_scale_that_somebody_else_reads_is_computed_for_them() -> None:
    model = dynamic_model()
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    lowered = assert_exact(model, {"x": floats((5, K))})
    assert lowered.op_types == ["DynamicQuantizeLinear", "Mul", "MatmulCompressDequant"]
    assert lowered.model.graph[-1].inputs[INPUT_NAMES.index("x1_scale")].name == "xs"


@pytest.mark.parametrize(
    ("factors", "constants", "fed"),
    [
        (["v", "v"], {}, {"v": np.full((), 0.1, np.float32)}),
        (["v", "ws"], {}, {"v": np.full((N,), 0.1, np.float32)}),
        (["v", "ws"], {"ws": np.array(np.nan, np.float32)}, {"v": np.full((), 0.1, np.float32)}),
    ],
    ids=["not constant", "per column", "NaN"],
)
def test_other_scales_stay_multiplications_of_their_own(
    factors: list[str], constants: dict[str, np.ndarray], fed: dict[str, np.ndarray]
) -> None:
    nodes = [
        DYNAMIC,
        helper.make_node("Mul", factors, ["s"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    inputs = {"x": (np.float32, ("m", K)), **{name: (np.float32, array.shape) for name, array in fed.items()}}
    table = {"w": weight(), "ws": np.array(0.1, np.float32), **constants}
    model = make_model(
        nodes, inputs, {"y": (np.float32, ("m", N))}, {n: a for n, a in table.items() if n in ["w", *factors]}
    )
    lowered = assert_exact(model, {"x": floats((5, K)), **fed})
    assert lowered.op_types == ["DynamicQuantizeLinear", "Mul", "MatmulCompressDequant"]


def test_a_quantizer_whose_results_somebody_else_reads_stays() -> None:
    for name, kind, shape in (
        ("xq", TensorProto.UINT8, ["m", K]),
        ("xs", TensorProto.FLOAT, []),
        ("xz", TensorProto.UINT8, []),
    ):
        model = dynamic_model()
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
        lowered = assert_exact(model, {"x": floats((5, K))})
        assert lowered.op_types == ["DynamicQuantizeLinear", "MatmulCompressDequant"]


def test_a_quantizer_whose_zero_point_is_left_out_stays() -> None:
    model = dynamic_model()
    model.graph.node[1].input[2] = ""
    assert assert_exact(model, {"x": floats((5, K))}).op_types == ["DynamicQuantizeLinear", "MatmulCompressDequant"]


def test_multiplications_in_a_row_quantize_for_themselves() -> None:
    second = dynamic_nodes("2", "w2")
    second[0].input[0], second[0].input[2], second[2].input[0] = "yq", "yz", "ys"
    nodes = [DYNAMIC, *dynamic_nodes(), helper.make_node("Relu", ["y"], ["r"])]
    nodes += [helper.make_node("DynamicQuantizeLinear", ["r"], ["yq", "ys", "yz"]), *second]
    constants = {
        "w": weight(),
        "w2": weight(shape=(N, N)),
        "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8),
    }
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, {"2y": (np.float32, ("m", N))}, constants)
    lowered = assert_exact(model, {"x": floats((5, K))})
    assert lowered.op_types == ["MatmulCompressDequant", "Relu", "MatmulCompressDequant"]
    assert [len(node.inputs) for node in lowered.model.graph if node.domain == "mcd"] == [8, 8]


def test_residual_addition_is_not_taken_for_a_bias() -> None:
    nodes = [*dynamic_nodes(), helper.make_node("Add", ["y", "r"], ["z"])]
    model = make_model(
        [DYNAMIC, *nodes],
        {"x": (np.float32, ("m", K)), "r": (np.float32, ("m", N))},
        {"z": (np.float32, ("m", N))},
        {"w": weight(), "ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8)},
    )
    lowered = assert_exact(model, {"x": floats((4, K)), "r": floats((4, N))})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    node = lowered.model.graph[-1]
    given = {name for name, value in zip(INPUT_NAMES, node.inputs, strict=False) if value is not None}
    assert given & {"addend", "residual"} == {"residual"}


@pytest.mark.parametrize(
    ("tail", "pattern"),
    [
        ([helper.make_node("Cast", ["acc"], ["y"], to=TensorProto.DOUBLE)], "MatMulInteger"),
        ([helper.make_node("Cast", ["acc"], ["y"], to=TensorProto.FLOAT)], "MatMulInteger"),
        ([helper.make_node("Mul", ["acc", "two"], ["y"])], "MatMulInteger"),
        (
            [
                helper.make_node("Mul", ["acc", "two"], ["d"]),
                helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
            ],
            "MatMulInteger",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "ws"], ["p"]),
                helper.make_node("Mul", ["f", "f"], ["q"]),
                helper.make_node("Add", ["p", "q"], ["y"]),
            ],
            "MatMulInteger",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "f"], ["y"]),
            ],
            "MatMulInteger",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "rows"], ["y"]),
            ],
            "MatMulInteger",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "deep"], ["y"]),
            ],
            "MatMulInteger",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "ws"], ["p"]),
                helper.make_node("Add", ["p", "deep"], ["y"]),
            ],
            "MatMulInteger+Cast+Mul",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "ws"], ["p"]),
                helper.make_node("FastGelu", ["p", "b"], ["y"], domain="com.microsoft"),
            ],
            "MatMulInteger+Cast+Mul",
        ),
        (
            [
                helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "ws"], ["p"]),
                helper.make_node("Add", ["p", "p"], ["y"]),
            ],
            "MatMulInteger+Cast+Mul",
        ),
    ],
    ids=[
        "double", "no_scale", "int_mul", "mul_before_cast", "float_used_twice", "square", "scale_per_row",
        "scale_raises_rank", "bias_raises_rank", "fast_gelu", "doubled",
    ],
)  # fmt: skip
def test_tails_that_stay(request: pytest.FixtureRequest, tail: list[onnx.NodeProto], pattern: str) -> None:
    case = request.node.callspec.id
    constants = {
        "w": weight(), "xz": np.array(100, np.uint8), "ws": floats((N,)), "two": np.array(2, np.int32),
        "b": floats((N,)), "rows": floats((3, 1)), "deep": floats((1, 1, N)),
    }  # fmt: skip
    used = {name for node in tail for name in node.input} | {"w", "xz"}
    matmul = helper.make_node("MatMulInteger", ["x", "w", "xz"], ["acc"])
    kind = {"double": np.float64, "int_mul": np.int32}.get(case, np.float32)
    shape = (1, 3, N) if "raises_rank" in case else (3, N)
    model = make_model(
        [matmul, *tail],
        {"x": (np.uint8, (3, K))},
        {"y": (kind, shape)},
        {name: array for name, array in constants.items() if name in used},
    )
    lowered = assert_exact(model, {"x": activation()})
    assert lowered.outcome == [(pattern, None)]
    assert lowered.op_types[0] == "MatmulCompressDequant"


def test_an_int32_result_that_is_read_twice() -> None:
    nodes = [
        DYNAMIC, *dynamic_nodes(), helper.make_node("Sub", ["acc", "two"], ["d"]),
        helper.make_node("Cast", ["d"], ["z"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    model = make_model(
        nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N)), "z": (np.float32, ("m", N))},
        {"w": weight(), "ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8), "two": np.array(2, np.int32)},
    )  # fmt: skip
    lowered = assert_exact(model, {"x": floats((3, K))})
    assert lowered.outcome == [("MatMulInteger", None)]
    assert lowered.op_types[:2] == ["DynamicQuantizeLinear", "MatmulCompressDequant"]


@pytest.mark.parametrize("shape", [(0, K), (2, 0, K)], ids=str)
def test_no_rows(shape: tuple[int, ...]) -> None:
    model = dynamic_model(("m", *shape[1:]) if len(shape) == 2 else ("b", "m", K))
    assert_exact(model, {"x": floats(shape)})


@pytest.mark.parametrize("quantized_outside", [False, True])
def test_a_quantizer_around_or_inside_of_a_body(quantized_outside: bool) -> None:
    """What a body quantises itself goes into its node; what is quantised once, outside, stays there."""
    body_nodes = dynamic_nodes() if quantized_outside else [DYNAMIC, *dynamic_nodes()]
    body = helper.make_graph(body_nodes, "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", N])])
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "zeros"], ["n"])], "other", [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, ["m", N])],
    )  # fmt: skip
    nodes = [DYNAMIC] if quantized_outside else []
    nodes.append(helper.make_node("If", ["flag"], ["out"], then_branch=body, else_branch=other))
    model = make_model(
        nodes, {"x": (np.float32, ("m", K)), "flag": (np.bool_, ())}, {"out": (np.float32, ("m", N))},
        {
            "w": weight(), "ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8),
            "zeros": np.zeros((K, N), np.float32),
        },
    )  # fmt: skip
    lowered = assert_exact(model, {"x": floats((3, K)), "flag": np.array(True)})
    everywhere = [node.op_type for node in lowered.model.graph.all_nodes()]
    assert everywhere.count("MatmulCompressDequant") == 1
    assert everywhere.count("DynamicQuantizeLinear") == quantized_outside


def test_unknown_shapes_lower_what_is_safe() -> None:
    """The scale of DynamicQuantizeLinear is known to be one value even when the model says nothing."""
    model = dynamic_model()
    del model.graph.value_info[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    lowered = lower(model)
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    for shape in [(2, K), (K,), (2, 3, K)]:
        assert_same_bytes(run(lowered.proto, {"x": floats(shape)}), run(model, {"x": floats(shape)}))


def test_scale_of_unknown_shape_stays_outside() -> None:
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    inputs = {"x": (np.uint8, ("m", K)), "s": (np.float32, ("p", "q"))}
    model = make_model(nodes, inputs, {"y": (np.float32, ("m", N))}, {"w": weight()})
    lowered = assert_exact(model, {"x": activation(), "s": floats((3, 1))})
    assert lowered.outcome == [("MatMulInteger", None)]


def test_one_quantization_feeds_several_multiplications() -> None:
    nodes = [DYNAMIC, *dynamic_nodes("a", "w1"), *dynamic_nodes("b", "w2")]
    constants = {
        "w1": weight(seed=1),
        "w2": weight(seed=2),
        "ws": np.array(0.5, np.float32),
        "wz": np.array(0, np.int8),
    }
    outputs = {"ay": (np.float32, ("m", N)), "by": (np.float32, ("m", N))}
    lowered = assert_exact(make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants), {"x": floats((2, K))})
    assert [code for _, code in lowered.outcome] == [None, None]
    assert lowered.op_types.count("DynamicQuantizeLinear") == 1
    assert [site.name for site in lowered.plan.sites] == ["amatmul", "bmatmul"]
    assert sorted(node.name for node in lowered.model.graph if node.domain == "mcd") == ["amatmul", "bmatmul"]


def test_shared_weight_is_compressed_once() -> None:
    nodes = [DYNAMIC, *dynamic_nodes("a"), *dynamic_nodes("b")]
    outputs = {"ay": (np.float32, ("m", N)), "by": (np.float32, ("m", N))}
    constants = {"w": weight(), "ws": np.array(0.5, np.float32), "wz": np.array(0, np.int8)}
    lowered = assert_exact(make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants), {"x": floats((2, K))})
    assert list(lowered.plan.weights) == ["w"]
    assert [site.weight for site in lowered.plan.sites] == ["w", "w"]
    packed = [node.inputs[1] for node in lowered.model.graph if node.domain == "mcd"]
    assert packed[0] is packed[1]


def test_outputs_of_the_graph_keep_their_names() -> None:
    """The int32 result is an output of the graph itself, so nothing behind it can be fused."""
    model = dynamic_model()
    model.graph.output.append(helper.make_tensor_value_info("acc", TensorProto.INT32, ("m", N)))
    lowered = assert_exact(model, {"x": floats((2, K))})
    assert lowered.outcome == [("MatMulInteger", None)]
    assert [value.name for value in lowered.model.graph.outputs] == ["y", "acc"]
    assert lowered.op_types == ["DynamicQuantizeLinear", "MatmulCompressDequant", "Cast", "Mul", "Mul"]


def test_scaled_result_that_is_an_output_is_not_fused_with_the_bias() -> None:
    nodes = [DYNAMIC, *dynamic_nodes(), helper.make_node("Add", ["y", "b"], ["z"])]
    constants = {"w": weight(), "ws": np.array(0.5, np.float32), "wz": np.array(0, np.int8), "b": floats((N,))}
    outputs = {"y": (np.float32, ("m", N)), "z": (np.float32, ("m", N))}
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants)
    lowered = assert_exact(model, {"x": floats((2, K))})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]


def test_int32_overflow_wraps() -> None:
    """The sum of 70 000 products of 255 and -128 is beyond int32."""
    k = 70_000
    model = make_model(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (np.uint8, ("m", k))},
        {"y": (np.int32, ("m", 2))},
        {"w": np.full((k, 2), -128, np.int8)},
    )
    lowered = assert_exact(model, {"x": np.full((1, k), 255, np.uint8)})
    assert lowered.outcome == [("MatMulInteger", None)]


# ---------------------------------------------------------------------------------------------------------------------
# Where constants are


def test_weight_in_a_constant_node() -> None:
    model = dynamic_model()
    tensor = model.graph.initializer[0]
    assert tensor.name == "w"
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    del model.graph.initializer[0]
    lowered = assert_exact(model, {"x": floats((2, K))})
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", None)]
    assert "Constant" not in {node.op_type for node in lowered.model.graph}


def test_overridable_weight_is_kept() -> None:
    model = dynamic_model()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT8, (K, N)))
    lowered = lower(model)
    assert lowered.outcome == [("MatMulInteger", ReasonCode.WEIGHT_OVERRIDABLE)]
    assert not lowered.modified


def test_weight_computed_or_given_at_run_time_is_kept() -> None:
    matmul = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    given = make_model([matmul], {"x": (np.uint8, ("m", K)), "w": (np.int8, (K, N))}, {"y": (np.int32, ("m", N))}, {})
    assert lower(given).outcome == [("MatMulInteger", ReasonCode.WEIGHT_IS_INPUT)]
    transpose = helper.make_node("Transpose", ["v"], ["w"])
    computed = make_model(
        [transpose, matmul], {"x": (np.uint8, ("m", K)), "v": (np.int8, (N, K))}, {"y": (np.int32, ("m", N))}, {}
    )
    assert lower(computed).outcome == [("MatMulInteger", ReasonCode.WEIGHT_COMPUTED)]


@pytest.mark.parametrize(
    ("shape", "code"),
    [((2, K, N), ReasonCode.WEIGHT_RANK), ((K,), ReasonCode.WEIGHT_RANK)],
    ids=str,
)
def test_weight_that_is_no_matrix_is_kept(shape: tuple[int, ...], code: ReasonCode) -> None:
    model = make_model(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (np.uint8, ("m", K))},
        {"y": (np.int32, None)},
        {"w": weight(shape=shape)},
    )
    assert lower(model).outcome == [("MatMulInteger", code)]


@pytest.mark.parametrize("shape", [(0, N), (K, 0)], ids=str)
def test_empty_weight_is_kept(shape: tuple[int, ...]) -> None:
    model = make_model(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (np.uint8, ("m", shape[0]))},
        {"y": (np.int32, ("m", shape[1]))},
        {"w": weight(shape=shape)},
    )
    assert lower(model).outcome == [("MatMulInteger", ReasonCode.WEIGHT_EMPTY)]


def test_zero_points_that_do_not_fit_are_kept() -> None:
    inputs, outputs = {"x": (np.uint8, (3, K))}, {"y": (np.int32, (3, N))}
    rows = make_model(
        [helper.make_node("MatMulInteger", ["x", "w", "xz"], ["y"])], inputs, outputs,
        {"w": weight(), "xz": activation(shape=(3,))},
    )  # fmt: skip
    assert lower(rows).outcome == [("MatMulInteger", ReasonCode.PARAMETER_SHAPE)]
    odd = make_model(
        [helper.make_node("MatMulInteger", ["x", "w", "", "wz"], ["y"])], inputs, outputs,
        {"w": weight(), "wz": weight(shape=(K, 1))},
    )  # fmt: skip
    code = ReasonCode.PARAMETER_SHAPE
    assert lower(odd).outcome == [("MatMulInteger", code)]


def test_weight_that_somebody_else_reads_is_kept() -> None:
    """Lowering would leave the bytes in the model and add the compressed ones."""
    model = dynamic_model()
    model.graph.node.append(helper.make_node("Cast", ["w"], ["wf"], to=TensorProto.FLOAT, name="reader"))
    model.graph.output.append(helper.make_tensor_value_info("wf", TensorProto.FLOAT, (K, N)))
    lowered = lower(model)
    code = ReasonCode.WEIGHT_SHARED
    assert lowered.outcome == [("MatMulInteger+Cast+Mul", code)]
    assert not lowered.modified


def test_weight_that_is_an_output_is_kept() -> None:
    model = dynamic_model()
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.INT8, (K, N)))
    code = ReasonCode.WEIGHT_SHARED
    assert lower(model).outcome == [("MatMulInteger+Cast+Mul", code)]


def test_weight_shared_with_an_excluded_node_is_kept() -> None:
    nodes = [DYNAMIC, *dynamic_nodes("a"), *dynamic_nodes("b")]
    outputs = {"ay": (np.float32, ("m", N)), "by": (np.float32, ("m", N))}
    constants = {"w": weight(), "ws": np.array(0.5, np.float32), "wz": np.array(0, np.int8)}
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants)
    assert [code for _, code in lower(model, exclude="^b").outcome] == [
        ReasonCode.WEIGHT_SHARED,
        ReasonCode.EXCLUDED,
    ]


def test_include_and_exclude_choose_by_name() -> None:
    nodes = [DYNAMIC, *dynamic_nodes("a", "w1"), *dynamic_nodes("b", "w2")]
    constants = {
        "w1": weight(seed=1),
        "w2": weight(seed=2),
        "ws": np.array(0.5, np.float32),
        "wz": np.array(0, np.int8),
    }
    outputs = {"ay": (np.float32, ("m", N)), "by": (np.float32, ("m", N))}
    model = make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants)
    included = assert_exact(model, {"x": floats((2, K))}, include="^a")
    assert [code for _, code in included.outcome] == [None, ReasonCode.NOT_INCLUDED]
    assert [code for _, code in lower(model, exclude="^a").outcome] == [ReasonCode.EXCLUDED, None]


# ---------------------------------------------------------------------------------------------------------------------
# The plan


def test_missing_and_refused_weights_keep_their_sites() -> None:
    nodes = [DYNAMIC, *dynamic_nodes("a", "w1"), *dynamic_nodes("b", "w2"), *dynamic_nodes("c", "w3")]
    constants = {f"w{i}": weight(seed=i) for i in (1, 2, 3)}
    constants |= {"ws": np.array(0.5, np.float32), "wz": np.array(0, np.int8)}
    outputs = {f"{name}y": (np.float32, ("m", N)) for name in "abc"}
    model = ir.from_proto(make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants))
    plan = plan_lowering(model)
    packed = {**pack_all(plan), "w2": Kept("it saves too little")}
    del packed["w3"]
    assert plan.apply(packed)
    assert [site.code for site in plan.sites] == [None, ReasonCode.CALLER, ReasonCode.NOT_COMPRESSED]
    assert [site.status for site in plan.sites] == ["lowered", "kept", "kept"]
    assert {"w2", "w3", "w1.x2"} <= set(model.graph.initializers)
    assert "w1" not in model.graph.initializers
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_nothing_packed_changes_nothing() -> None:
    model = ir.from_proto(dynamic_model())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not plan_lowering(model).apply({})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_weight_of_another_shape_is_refused() -> None:
    model = ir.from_proto(dynamic_model())
    plan = plan_lowering(model)
    other = plan_lowering(ir.from_proto(dynamic_model(w=weight(shape=(K, N + 1)))))
    with pytest.raises(ValueError, match=r"the compressed weight for w is not of shape \(40, 70\)"):
        plan.apply(pack_all(other))


def test_taken_names_are_avoided() -> None:
    model = dynamic_model(**{"w.x2": floats((1, N))})
    model.graph.node.append(helper.make_node("Mul", ["y", "w.x2"], ["z"]))
    model.graph.output[0].name = "z"
    lowered = assert_exact(model, {"x": floats((2, K))})
    assert "w.x2_1" in lowered.model.graph.initializers


def test_everything_else_stays() -> None:
    model = dynamic_model()
    model.graph.doc_string, model.producer_name, model.domain = "about", "somebody", "org.example"
    model.metadata_props.add(key="author", value="me")
    model.opset_import.append(helper.make_opsetid("org.example.unused", 3))
    model.graph.value_info.append(helper.make_tensor_value_info("y0", TensorProto.FLOAT, ("m", N)))
    model.graph.node[4].output[0] = "y0"
    model.graph.node.append(helper.make_node("Neg", ["y0"], ["y"], name="last", doc_string="negated"))
    lowered = assert_exact(model, {"x": floats((2, K))})
    proto = lowered.proto
    assert (proto.graph.doc_string, proto.producer_name, proto.domain) == ("about", "somebody", "org.example")
    assert [(entry.key, entry.value) for entry in proto.metadata_props] == [("author", "me")]
    assert [opset.domain for opset in proto.opset_import] == [*(o.domain for o in model.opset_import), "mcd"]
    assert proto.graph.input == model.graph.input
    assert proto.graph.output == model.graph.output
    assert [info.name for info in proto.graph.value_info if info.name == "y0"] == ["y0"]
    assert proto.graph.node[-1] == model.graph.node[-1]
    node = next(node for node in proto.graph.node if node.domain == "mcd")
    assert node.name == "matmul"
    assert {entry.key: entry.value for entry in node.metadata_props} == {
        "mcd.rule": "matmul_integer_rule",
        "input_names": str([name if value else "" for name, value in zip(INPUT_NAMES, node.input, strict=False)]),
    }
    copy = ir.from_proto(proto)
    plan_restoration(copy).apply()
    assert not any(restored.metadata_props for restored in copy.graph)
