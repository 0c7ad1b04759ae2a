"""Every variant that onnxruntime's quantisers write of one small float model is lowered, and to the byte."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import assert_exact, floats, make_model
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from mcd_graph.passes import ReasonCode

K, H, N = 24, 40, 18
"""Sizes of the float model: none a multiple of a fractal's."""


def float_model() -> onnx.ModelProto:
    """Return a gated block as in a transformer: MatMul with bias, activation, MatMul, residual, Gemm with transB."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="up"),
        helper.make_node("Add", ["a", "b1"], ["b"], name="up_bias"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], name="down"),
        helper.make_node("Add", ["d", "x"], ["e"], name="residual"),
        helper.make_node("MatMul", ["e", "w3"], ["g"], name="gate"),
        helper.make_node("Sigmoid", ["g"], ["h"], name="sigmoid"),
        helper.make_node("Mul", ["h", "e"], ["i"], name="gated"),
        helper.make_node("Gemm", ["i", "w4", "b4"], ["y"], name="head", transB=1),
    ]
    constants = {
        "w1": floats((K, H), 1) / 5, "b1": floats((H,), 2), "w2": floats((H, K), 3) / 6, "w3": floats((K, K), 4) / 5,
        "w4": floats((N, K), 5) / 5, "b4": floats((N,), 6),
    }  # fmt: skip
    return make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants, opset=18)


class Calibration(CalibrationDataReader):
    """Feeds a few batches of what the model will see."""

    def __init__(self) -> None:
        self._batches = iter([{"x": floats((8, K), seed)} for seed in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@pytest.fixture(scope="module", params=["raw", "preprocessed"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the float model's path, as it is or as the quantiser's own preprocessing leaves it (fused to Gemm)."""
    directory = tmp_path_factory.mktemp("float")
    path = directory / "raw.onnx"
    path.write_bytes(float_model().SerializeToString())
    if request.param == "preprocessed":
        quant_pre_process(str(path), str(directory / "preprocessed.onnx"))
    return directory / f"{request.param}.onnx"


@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8], ids=["s8", "u8"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["", "per_channel"])
@pytest.mark.parametrize("reduce_range", [False, True], ids=["", "reduce_range"])
@pytest.mark.parametrize("weight_symmetric", [False, True], ids=["", "weight_symmetric"])
def test_quantize_dynamic(
    source: Path, tmp_path: Path, weight_type: QuantType, per_channel: bool, reduce_range: bool, weight_symmetric: bool
) -> None:
    target = tmp_path / "dynamic.onnx"
    quantize_dynamic(
        source, target, weight_type=weight_type, per_channel=per_channel, reduce_range=reduce_range,
        extra_options={"WeightSymmetric": weight_symmetric},
    )  # fmt: skip
    lowered = assert_exact(onnx.load(target), {"x": floats((7, K), 50)})
    assert [code for _, code in lowered.outcome] == [None] * 4
    assert lowered.op_types.count("MatmulCompressDequant") == 4


TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
VARIANTS = {
    "plain": {},
    "per_channel": {"per_channel": True},
    "reduce_range": {"reduce_range": True},
    "both": {"per_channel": True, "reduce_range": True},
    "symmetric": {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}},
    "asymmetric_weight": {"per_channel": True, "extra_options": {"WeightSymmetric": False}},
    "dedicated_pairs": {"extra_options": {"DedicatedQDQPair": True}},
    "pairs_on_weights": {"extra_options": {"AddQDQPairToWeight": True}},
    "float_bias": {"extra_options": {"QuantizeBias": False}},
    "float_outputs": {"extra_options": {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}},
    "only_matmul": {"op_types_to_quantize": ["MatMul"]},
}


@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ], ids=["qoperator", "qdq"])
@pytest.mark.parametrize("types", ["u8/s8", "u8/u8", "s8/s8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_quantize_static(source: Path, tmp_path: Path, form: QuantFormat, types: str, variant: str) -> None:
    target = tmp_path / "static.onnx"
    activation_type, weight_type = (TYPES[name] for name in types.split("/"))
    quantize_static(
        source, target, Calibration(), quant_format=form, activation_type=activation_type, weight_type=weight_type,
        **VARIANTS[variant],
    )  # fmt: skip
    lowered = assert_exact(onnx.load(target), {"x": floats((7, K), 50)}, optimized=form == QuantFormat.QDQ)
    kept = [code for _, code in lowered.outcome if code is not None]
    if source.stem == "raw" and (form == QuantFormat.QOperator or types != "s8/s8"):
        assert kept == []
    elif form == QuantFormat.QOperator or types != "s8/s8":
        # The residual has been fused into a Gemm as its bias, and that is no multiplication of integers any more.
        assert len(kept) == (variant != "only_matmul")
    else:
        # onnxruntime for x86 leaves int8 activations in float when several nodes read them.
        assert ReasonCode.INT8_SHARED in kept
    assert lowered.op_types.count("MatmulCompressDequant") == len(lowered.outcome) - len(kept)
