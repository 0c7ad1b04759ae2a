"""Activations in two halves: results that float16 has no need to round are the original's to the bit."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from acl_runtime import Acl
from lowering import assert_same_bytes, integers, make_model, run, scales
from onnx import TensorProto, helper
from samples import write

from mcd_graph import _native, get_library_path, verify_model
from mcd_graph.ascend import export_model
from mcd_graph.cli import main
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES
from mcd_graph.passes import LegalizePass

K, N = 100, 70


def small_weight() -> np.ndarray:
    """A weight whose products with either half of any activation stay below 2048, which float16 holds exactly."""
    signs = integers(np.int8, (N, K), 9) % 2
    assert np.abs(signs).sum(axis=1).max() * 16 <= 2048
    return signs.astype(np.int8)


def one_node(inputs: dict[str, np.ndarray], fed: tuple[str, ...], rank: int, opset: int) -> onnx.ModelProto:
    x2, index, info = _native.encode(small_weight())
    tensors = {"x2": x2, "compress_index": index, **inputs}
    names = [name if name in tensors else "" for name in INPUT_NAMES]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        "MatmulCompressDequant", names, ["y"], name="layer", domain="mcd", compress_info=[int(i) for i in info]
    )
    shapes = {name: tensors[name].shape for name in fed}
    output = np.uint8 if "y_zero_point" in inputs else np.float32
    model = make_model(
        [node],
        {name: (tensors[name].dtype.type, shapes[name]) for name in fed},
        {"y": (output, [*(None for _ in range(rank - 1)), N])},
        {name: array for name, array in tensors.items() if name not in fed},
        opset=opset,
    )
    model.opset_import.append(helper.make_opsetid("mcd", 1))
    return model


def split(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    loaded = ir.from_proto(model)
    pass_ = LegalizePass(split_activations=True, **options)
    assert pass_(loaded).modified
    assert [site.status for site in pass_.sites] == ["strict"] * len(pass_.sites)
    proto = ir.to_proto(loaded)
    assert not LegalizePass(split_activations=True, **options)(loaded).modified
    onnx.checker.check_model(proto, full_check=False)
    return proto


X8, XU8 = integers(np.int8, (5, K), 1), integers(np.uint8, (5, K), 2)
SCALE = scales((N,), 2)
CASES: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...], int]] = {
    "int8": ({"x1": X8, "deq_scale": SCALE}, ("x1",), 18),
    "uint8": ({"x1": XU8, "deq_scale": SCALE}, ("x1",), 11),
    "zero point": ({"x1": X8, "deq_scale": SCALE, "x1_zero_point": np.array(-128, np.int8)}, ("x1",), 13),
    "run-time zero point, bias and scale": (
        {
            "x1": XU8,
            "deq_scale": SCALE,
            "x1_zero_point": np.array(255, np.uint8),
            "bias": integers(np.int32, (N,), 3) >> 12,
        },
        ("x1", "x1_zero_point", "bias", "deq_scale"),
        18,
    ),
    "constant bias, addend": (
        {"x1": X8, "deq_scale": SCALE, "bias": integers(np.int32, (N,), 3) >> 12, "addend": scales((N,), 4)},
        ("x1",),
        17,
    ),
    "scale of x1": ({"x1": XU8, "deq_scale": SCALE, "x1_scale": np.array(0.37, np.float32)}, ("x1", "x1_scale"), 18),
    "quantised result": (
        {"x1": XU8, "deq_scale": SCALE / np.float32(16), "y_zero_point": np.array(120, np.uint8)},
        ("x1",),
        18,
    ),
    "rank 3": ({"x1": XU8.reshape(1, 5, K), "deq_scale": SCALE}, ("x1",), 18),
    "no rows": ({"x1": XU8[:0], "deq_scale": SCALE}, ("x1",), 18),
}


@pytest.mark.parametrize("case", CASES)
def test_what_float16_holds_is_the_originals(case: str) -> None:
    inputs, fed, opset = CASES[case]
    model = one_node(inputs, fed, inputs["x1"].ndim, opset)
    strict = split(model)
    assert [node.op_type for node in strict.graph.node].count("MatmulCompressDequant") == 1
    feeds = {name: inputs[name] for name in fed}
    for optimize in (False, True):
        assert_same_bytes(run(strict, feeds, optimize=optimize), run(model, feeds, optimize=optimize))


@pytest.mark.parametrize("max_rows", [1, 3, 4, 256])
def test_rows_in_chunks(max_rows: int) -> None:
    inputs, fed, opset = CASES["uint8"]
    model = one_node(inputs, fed, 2, opset)
    strict = split(model, max_rows=max_rows)
    assert [node.op_type for node in strict.graph.node].count("MatmulCompressDequant") == -(-10 // max_rows)
    assert_same_bytes(run(strict, {"x1": XU8}), run(model, {"x1": XU8}))


def dynamic_model(k: int, n: int) -> onnx.ModelProto:
    """Two multiplications of one activation, quantised at run time, with weights that need rounding."""
    rng = np.random.default_rng(0)
    constants = {f"w{at}": rng.normal(0, 6, (k, n)).clip(-127, 127).round().astype(np.int8) for at in range(2)}
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    for at in range(2):
        nodes += [
            helper.make_node("MatMulInteger", ["q", f"w{at}", "z"], [f"acc{at}"]),
            helper.make_node("Cast", [f"acc{at}"], [f"f{at}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"f{at}", "s"], [f"y{at}"]),
        ]
    return make_model(
        nodes, {"x": (np.float32, (9, k))}, {f"y{at}": (np.float32, (9, n)) for at in range(2)}, constants
    )


def test_it_rounds_less_and_keeps_one_weight(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    write(dynamic_model(1024, 128), source)
    errors = {}
    for name, options in {"whole": [], "halves": ["--split-activations"]}.items():
        assert main(["ascend", "export", str(source), str(tmp_path / name), *options]) == 0
        strict = tmp_path / name / "model.onnx"
        (drift, _) = verify_model(source, strict, runs=1, measure=True).drifts
        errors[name] = 1 - drift.cosine
        proto = onnx.load(strict, load_external_data=False)
        assert [node.op_type for node in proto.graph.node].count("MatmulCompressDequant") == 2
        if name == "halves":
            assert [node.op_type for node in proto.graph.node].count("Round") == 1  # both read the same halves
    assert errors["halves"] < errors["whole"] / 16


def test_branches_have_their_own_halves() -> None:
    """Of one activation from outside."""
    x2, index, info = _native.encode(np.eye(128, 320, dtype=np.int8))
    constants = {"x2": x2, "index": index, "scale": scales((128,), 2)}

    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node(
            "MatmulCompressDequant", ["x1", "x2", "index", "scale"], [name], domain="mcd",
            compress_info=[int(i) for i in info],
        )  # fmt: skip
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, 128])])

    choice = helper.make_node("If", ["which"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    inputs = {"x1": (np.int8, (5, 320)), "which": (np.bool_, ())}
    model = make_model([choice], inputs, {"y": (np.float32, (5, 128))}, constants)
    model.opset_import.append(helper.make_opsetid("mcd", 1))
    strict = split(model)
    for which in (False, True):
        feeds = {"x1": integers(np.int8, (5, 320), 1), "which": np.array(which)}
        assert_same_bytes(run(strict, feeds), run(model, feeds))


def test_a_result_in_float16_is_left_alone() -> None:
    """Its rounding is the original's own."""
    inputs = {
        "x1": integers(np.int8, (5, 320), 1),
        "deq_scale": scales((1, 128), 2).view(np.uint32).astype(np.uint64),
        "bias": integers(np.int32, (128,), 3) >> 16,
    }
    x2, index, info = _native.encode(np.zeros((128, 320), np.int8))
    tensors = {"x2": x2, "compress_index": index, **inputs}
    node = helper.make_node(
        "MatmulCompressDequant", INPUT_NAMES[:5], ["y"], domain="mcd", compress_info=[int(i) for i in info]
    )
    model = make_model(
        [node],
        {"x1": (np.int8, (5, 320))},
        {"y": (np.float16, (5, 128))},
        {name: array for name, array in tensors.items() if name != "x1"},
        opset=18,
    )
    model.opset_import.append(helper.make_opsetid("mcd", 1))
    assert not LegalizePass(split_activations=True)(ir.from_proto(model)).modified


def test_it_runs_through_the_hand_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_ACLNN_STRICT", "1")
    acl = Acl(tmp_path)  # a copy of the library, which is initialised once
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", acl.path)
    source = tmp_path / "m.onnx"
    write(dynamic_model(1024, 128), source)
    export_model(source, tmp_path / "strict", split_activations=True)
    results = []
    for device in ("cpu", "ascend:0"):
        options = ort.SessionOptions()
        options.add_session_config_entry("mcd.device", device)
        options.register_custom_ops_library(get_library_path())
        session = ort.InferenceSession(tmp_path / "strict" / "model.onnx", options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(1).standard_normal((9, 1024)).astype(np.float32)
        results.append(session.run(None, {"x": x}))
    assert_same_bytes(*results)
    del session
    gc.collect()
    assert acl.mcdAclnnLiveObjects() == 0
    assert acl.aclFinalize() == 0
