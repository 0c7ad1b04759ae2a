"""A weight that several multiplications read has its scales once, where they are large: the same bytes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from lowering import assert_exact, constant_nodes, floats, integers, lower, make_model, node, scales
from onnx import helper

import mcd_graph
from mcd_graph.passes.engine.constants import folded_scale
from mcd_graph.passes.legalize import LegalizePass
from mcd_graph.passes.plan import bytes_of_scales

K, N = 40, 640


def constants(columns: int = N) -> dict[str, np.ndarray]:
    """One weight with a scale for each column; activations and results of three readers."""
    made = {"w": integers(np.int8, (K, columns), 1), "ws": scales((columns,), 2), "wz": np.zeros(columns, np.int8)}
    for reader in range(3):
        made |= {f"xs{reader}": scales((), 3 + reader, 0.1), f"xz{reader}": integers(np.uint8, (), 6 + reader)}
        made |= {f"ys{reader}": scales((), 9 + reader, 4), f"yz{reader}": integers(np.uint8, (), 12 + reader)}
    return made


def model_of(kind: str, columns: int = N) -> onnx.ModelProto:
    """Three readers of one weight, of one kind; ``Gemm`` has an alpha, ``float`` a result that stays float."""
    nodes = [node("DequantizeLinear", "w ws wz", "wd", axis=1)]
    for reader in range(3):
        x, y = f"xs{reader} xz{reader}", f"ys{reader} yz{reader}"
        nodes.append(node("QuantizeLinear", f"x {x}", f"q{reader}"))
        if kind == "QLinearMatMul":
            nodes.append(node(kind, f"q{reader} {x} w ws wz {y}", f"r{reader}"))
        else:
            nodes.append(node("DequantizeLinear", f"q{reader} {x}", f"d{reader}"))
            operator, alpha = ("Gemm", {"alpha": 0.3}) if kind == "Gemm" else ("MatMul", {})
            nodes.append(node(operator, f"d{reader} wd", f"p{reader}", **alpha))
            if kind == "float":
                nodes.append(node("Neg", f"p{reader}", f"y{reader}"))
                continue
            nodes.append(node("QuantizeLinear", f"p{reader} {y}", f"r{reader}"))
        nodes.append(node("DequantizeLinear", f"r{reader} {y}", f"y{reader}"))
    if kind == "QLinearMatMul":
        del nodes[0]
    outputs = {f"y{reader}": (np.float32, ("m", columns)) for reader in range(3)}
    return make_model(nodes, {"x": (np.float32, ("m", K))}, outputs, constants(columns))


def vectors(model: ir.Model, columns: int = N) -> list[str]:
    """Names of the constants with a float for each column."""
    values = model.graph.initializers.values()
    return sorted(each.name for each in values if each.dtype == ir.DataType.FLOAT and tuple(each.shape) == (columns,))


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "float", "QLinearMatMul"])
def test_the_weights_own_scales_are_stored_once(kind: str) -> None:
    model, feeds = model_of(kind), {"x": floats((5, K), 20)}
    qdq = kind != "QLinearMatMul"
    lowered = assert_exact(model, feeds, optimized=qdq)
    assert [code for _, code in lowered.outcome] == [None] * 3
    assert vectors(lowered.model) == ["ws"]
    computed = [each for each in lowered.op_types if each in ("Mul", "Div")]
    assert computed == ["Mul"] * 3 if kind == "float" else {"Mul", "Div"} == set(computed)


@pytest.mark.parametrize("columns", [64, N])
def test_small_ones_are_folded(columns: int) -> None:
    """Nodes take more bytes than so few numbers."""
    lowered = lower(model_of("MatMul", columns))
    assert len(vectors(lowered.model, columns)) == (3 if columns == 64 else 1)
    assert bytes_of_scales(4 * 64, 3) == 3 * 4 * 64
    assert bytes_of_scales(4 * N, 3) < 3 * 4 * N


def test_one_reader_has_its_scales_folded() -> None:
    model = model_of("MatMul")
    del model.graph.output[1:]
    lowered = lower(onnx.utils.Extractor(model).extract_model(["x"], ["y0"]))
    assert vectors(lowered.model) == ["ws.folded"]


def test_onnxruntime_folds_them(tmp_path: Path) -> None:
    lowered = lower(model_of("MatMul"))
    options = mcd_graph.session_options()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(lowered.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath)
    assert not {"Mul", "Div"} & {each.op_type for each in optimised.graph.node}


def test_in_a_function_they_are_folded() -> None:
    """Its Constant nodes are there for each call anyway."""
    nodes = [*constant_nodes(constants()), *model_of("MatMul").graph.node]
    outputs = [f"y{reader}" for reader in range(3)]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("example", "layers", ["x"], outputs, nodes, opsets)
    call = helper.make_node("layers", ["x"], outputs, domain="example")
    model = make_model(
        [call], {"x": (np.float32, ("m", K))}, dict.fromkeys(outputs, (np.float32, ("m", N))), {},
        functions=[function],
    )  # fmt: skip
    lowered = assert_exact(model, {"x": floats((5, K), 20)}, optimized=True)
    assert [code for _, code in lowered.outcome] == [None] * 3


def test_the_strict_form_takes_their_product() -> None:
    lowered, given = lower(model_of("QLinearMatMul")), constants()
    scale = next(each.inputs[3] for each in lowered.model.graph if each.op_type == "MatmulCompressDequant")
    assert np.array_equal(folded_scale(scale), given["xs0"] * given["ws"] / given["ys0"])
    legalize = LegalizePass()
    assert legalize(lowered.model).modified
    assert [site.reason for site in legalize.sites] == [None] * 3
    strict = [each.inputs[3] for each in lowered.model.graph if each.op_type == "MatmulCompressDequant"]
    assert all(each.is_initializer() and each.dtype == ir.DataType.UINT64 for each in strict)


@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_what_is_no_product_of_constant_floats_is_not_folded(operator: str) -> None:
    given = ir.val("x", ir.DataType.FLOAT, (N,)) if operator == "Mul" else None
    ones = ir.val("c", const_value=ir.tensor(np.ones(N, np.float32), name="c"))
    made = ir.node(operator, [ones, given or ones])
    assert folded_scale(made.outputs[0]) is None
    assert folded_scale(None) is None
