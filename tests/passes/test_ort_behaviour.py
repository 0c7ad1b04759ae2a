"""Each fact about onnxruntime's optimizer that our code relies on, asked of the installed one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lowering import floats, integers, make_model, node, scales
from onnx import TensorProto, helper

from mcd_graph import passes
from mcd_graph.passes import ort_behaviour
from mcd_graph.passes.ort_behaviour import Fact

K, N = 52, 36
FACTS = {name: fact for name, fact in vars(ort_behaviour).items() if isinstance(fact, Fact)}


CONSTANTS = {
    "xs": scales((), 1, 0.1), "xz": np.array(117, np.uint8), "w": integers(np.int8, (K, N), 3), "ws": scales((), 4),
    "wz": np.zeros((), np.int8), "ys": scales((), 6, 4), "yz": np.array(120, np.uint8), "b": floats((N,), 8),
    "one": np.array(1, np.float32), "none": np.array(0, np.float32), "low": np.array(-9, np.int8),
    "high": np.array(7, np.int8), "heads": np.array([-1, 2, N // 2]), "root": np.array(1.41421354, np.float32),
    "half": np.array(0.5, np.float32), "k": floats((K,), 9), "sz": np.array(3, np.int8), "tz": np.array(-5, np.int8),
}  # fmt: skip
ACTIVATION = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd")]
WEIGHT = [node("DequantizeLinear", "w ws wz", "wd")]
PRODUCT = [*ACTIVATION, *WEIGHT, node("MatMul", "xd wd", "h")]
GEMM = [*ACTIVATION, *WEIGHT, node("Gemm", "xd wd", "h")]
DYNAMIC = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", "q w z", "a"),
    node("Cast", "a", "f", to=TensorProto.FLOAT), node("Mul", "s ws", "m"), node("Mul", "f m", "y"),
]  # fmt: skip


def quantized(value: str, zero_point: str = "yz") -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", f"{value} ys {zero_point}", "yq"),
        node("DequantizeLinear", f"yq ys {zero_point}", "y"),
    ]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model that shows a fact.

    Attributes:
        fact: its name.
        nodes: of the model.
        becomes: operators that the optimised model has, each as often as here.
        without: operators that it does not have.
        transformers: without these it does not happen; all that the fact names by default.
    """

    fact: str
    nodes: list[onnx.NodeProto]
    becomes: tuple[str, ...]
    without: tuple[str, ...] = ()
    transformers: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("x",)


INT8 = [
    node("QuantizeLinear", "x xs sz", "xq"), node("DequantizeLinear", "xq xs sz", "xd"), *WEIGHT,
    node("MatMul", "xd wd", "h"), *quantized("h", "tz"),
]  # fmt: skip
GELU = [
    node("Add", "x k", "h"), node("Div", "h root", "d"), node("Erf", "d", "e"), node("Add", "e one", "f"),
    node("Mul", "h f", "g"), node("Mul", "g half", "y"),
]  # fmt: skip
INTEGERS, FLOATS = ("QLinearMatMul",), ("MatMul",)
CASES = [
    *(
        Case("REMOVES_NO_OPS", [*PRODUCT, no_op, *quantized("i")], INTEGERS, (no_op.op_type,), (transformer,))
        for no_op, transformer in (
            (node("Identity", "h", "i"), "EliminateIdentity"), (node("Dropout", "h", "i"), "EliminateDropout"),
            (node("Cast", "h", "i", to=TensorProto.FLOAT), "CastElimination"),
            (node("Mul", "h one", "i"), "NoopElimination"), (node("Div", "h one", "i"), "NoopElimination"),
            (node("Add", "h none", "i"), "NoopElimination"), (node("Sub", "h none", "i"), "NoopElimination"),
        )
    ),
    Case(
        "CANCELS_TRANSPOSES",
        [*PRODUCT, node("Transpose", "h", "t", perm=[1, 0]), node("Transpose", "t", "i", perm=[1, 0]), *quantized("i")],
        INTEGERS, ("Transpose",),
    ),
    Case(
        "FOLDS_CONSTANTS",
        [node("Clip", "w low high", "v"), *ACTIVATION, node("DequantizeLinear", "v ws wz", "wd"), PRODUCT[3],
         *quantized("h")], INTEGERS, ("Clip",),
    ),
    Case(
        "MERGES_EQUAL_NODES", [*PRODUCT, node("Neg", "h", "t"), node("Neg", "h", "u"), node("Mul", "t u", "y")],
        ("Neg",),
    ),
    Case("FUSES_QDQ", [*PRODUCT, *quantized("h")], INTEGERS, FLOATS),
    Case("FUSES_QDQ", [*PRODUCT, node("Neg", "h", "y")], ("MatMulIntegerToFloat",), FLOATS),
    Case("MAKES_INT8_PAIRS_UINT8", INT8, INTEGERS, FLOATS),
    Case(
        "DROPS_RELU_THAT_SATURATION_DOES", [*PRODUCT, node("Relu", "h", "r"), *quantized("r", "-")], INTEGERS,
        ("Relu", *FLOATS),
    ),
    Case(
        "MOVES_QUANTIZE_UP", [*PRODUCT, node("Reshape", "h heads", "r"), *quantized("r")], INTEGERS,
        ("MatMulIntegerToFloat",),
    ),
    Case(
        "MERGES_DOUBLE_QUANTIZERS",
        [*PRODUCT, node("QuantizeLinear", "h ys yz", "hq"), node("DequantizeLinear", "hq ys yz", "r"),
         node("QuantizeLinear", "r ys xz", "yq"), node("DequantizeLinear", "yq ys xz", "y")],
        (*INTEGERS, "QuantizeLinear"),
    ),
    Case(
        "QUANTIZES_FLOAT_BIAS", [*GEMM[:3], node("Gemm", "xd wd b", "h"), *quantized("h")], ("QGemm",), ("Gemm",),
    ),
    Case("FUSES_ADD_INTO_GEMM", [*PRODUCT, node("Add", "h b", "y")], ("Gemm",), ("MatMulIntegerToFloat",)),
    Case("FUSES_BEHIND_GEMM", [*GEMM, node("Transpose", "h", "y")], ("Gemm",), ("QGemm",), ("GemmTransposeFusion",)),
    Case("FUSES_BEHIND_GEMM", [*GEMM, node("Sum", "h b", "y")], ("Gemm",), ("QGemm",), ("GemmSumFusion",)),
    Case("FUSES_DYNAMIC_QUANTIZERS", DYNAMIC, ("DynamicQuantizeMatMul",)),
    Case(
        "JOINS_DEQUANTIZE",
        [*ACTIVATION, node("Reshape", "xd flat", "r"), node("QuantizeLinear", "r xs xz", "yq"),
         node("DequantizeLinear", "yq xs xz", "y")], ("DequantizeLinear", "QuantizeLinear"),
    ),
    Case(
        "COPIES_SHARED_DEQUANTIZE",
        [*ACTIVATION, node("Sigmoid", "xd", "s"), node("Tanh", "xd", "t"), node("Add", "s t", "y")],
        ("DequantizeLinear", "DequantizeLinear"),
    ),
    Case(
        "FUSES_NORMALIZATION", [node("Add", "x x2", "h"), node("LayerNormalization", "h k k", "y")],
        ("SkipLayerNormalization",), ("Add",), inputs=("x", "x2"),
    ),
    Case("FUSES_BIAS_AND_GELU", GELU, ("BiasGelu",), ("Add",)),
    Case(
        "FUSES_RECIPROCAL", [node("Div", "one x", "r"), node("Mul", "r x2", "y")], ("Div",), ("Mul",),
        inputs=("x", "x2"),
    ),
]  # fmt: skip


def optimized(case: Case, folder: Path, disabled: tuple[str, ...] = ()) -> list[str]:
    """Return the operators that onnxruntime makes of a model at its default settings."""
    made = {name for each in case.nodes for name in each.output}
    used = {name for each in case.nodes for name in each.input} - made - {"", *case.inputs}
    constants = {**CONSTANTS, "flat": np.array([-1])}
    lead = ("b", "m") if case.fact == "FUSES_NORMALIZATION" else ("m",)
    model = make_model(
        case.nodes, dict.fromkeys(case.inputs, (np.float32, (*lead, K))), {"y": (np.float32, None)},
        {name: constants[name] for name in sorted(used)},
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    content = (folder / "optimised.onnx").read_bytes()
    return [each.op_type for each in onnx.ModelProto.FromString(content).graph.node]


def holds(case: Case, operators: list[str]) -> bool:
    return not set(case.without) & set(operators) and all(
        operators.count(op_type) == case.becomes.count(op_type) for op_type in case.becomes
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_the_installed_onnxruntime_does_it(case: Case, tmp_path: Path) -> None:
    fact = FACTS[case.fact]
    operators = optimized(case, tmp_path)
    assert holds(case, operators), f"{fact.text} onnxruntime {onnxruntime.__version__} makes {operators}"


@pytest.mark.parametrize("case", [case for case in CASES if FACTS[case.fact].switchable], ids=lambda case: case.fact)
def test_the_transformer_is_what_does_it(case: Case, tmp_path: Path) -> None:
    disabled = case.transformers or FACTS[case.fact].transformers
    assert set(disabled) <= set(FACTS[case.fact].transformers)
    assert not holds(case, optimized(case, tmp_path, disabled))


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_is_tested_and_named_where_it_decides(name: str) -> None:
    assert name in {case.fact for case in CASES}
    assert FACTS[name].seen
    (folder,) = passes.__path__
    files = [path for path in Path(folder).rglob("*.py") if path.name != "ort_behaviour.py"]
    assert any(name in path.read_text(encoding="utf-8") for path in files)
