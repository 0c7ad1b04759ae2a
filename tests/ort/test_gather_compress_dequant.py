"""GatherCompressDequant in real onnxruntime sessions, against the operators it stands for, byte for byte."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sessions import corrupt, session

import mcd_graph
from mcd_graph import _native
from mcd_graph.integrity import check_model
from mcd_graph.operators.gather_compress_dequant import GatherCompressDequant

ORT_VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])
ROWS, COLUMNS = 300, 70


def table(dtype: Any, rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> np.ndarray:
    """Return values as real tables have them: a bell around the middle of the type, so that they compress."""
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).normal((limits.min + limits.max + 1) // 2, 12, (rows, columns))
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def wrap(
    nodes: list[onnx.NodeProto], indices: np.ndarray, tensors: dict[str, np.ndarray], output: int, shape: Any = "known"
) -> onnx.ModelProto:
    """Return a model of ``indices`` to ``y``; ``shape`` is that which the graph declares for the indices."""
    declared = [f"i_{i}" for i in range(indices.ndim)] if isinstance(shape, str) else shape
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("indices", onnx_type(indices.dtype), declared)],
        [helper.make_tensor_value_info("y", output, [f"y_{i}" for i in range(indices.ndim + 1)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mcd", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def compressed(
    q: np.ndarray,
    indices: np.ndarray,
    scale: np.ndarray | None = None,
    zero_point: np.ndarray | None = None,
    *,
    tiling: tuple[int, int] = (8, 8),
    shape: Any = "known",
    x2_type: Any = np.int8,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node; ``attributes`` overrides its own, ``None`` leaves one out."""
    x2, index, info = _native.encode(q, "balanced", tiling)
    tensors = {"x2": x2.view(x2_type), "compress_index": index}
    names = ["x2", "compress_index", "indices"]
    for name, values in (("scale", scale), ("zero_point", zero_point)):
        if values is not None:
            tensors[name] = np.asarray(values, np.float32)
    names += ["scale"] if scale is not None else [""] if zero_point is not None else []
    names += ["zero_point"] if zero_point is not None else []
    given = {"compress_info": [int(number) for number in info], "dtype": onnx_type(q.dtype), **attributes}
    given = {name: attribute for name, attribute in given.items() if attribute is not None}
    node = helper.make_node("GatherCompressDequant", names, ["y"], name="embed/rows", domain="mcd", **given)
    output = TensorProto.FLOAT if scale is not None else onnx_type(q.dtype)
    return wrap([node], indices, tensors, output, shape)


def run(
    model: onnx.ModelProto, indices: np.ndarray, threads: int = 1, config: dict[str, str] | None = None
) -> np.ndarray:
    return session(model, threads, config).run(None, {"indices": indices})[0]


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()


def quantized_rows(
    q: np.ndarray, indices: np.ndarray, scale: np.ndarray | None, zero_point: np.ndarray | None, axis: int
) -> onnx.ModelProto:
    """Return the standard operators: Gather, or DequantizeLinear of the table and Gather."""
    tensors = {"q": q}
    if scale is None:
        return wrap([helper.make_node("Gather", ["q", "indices"], ["y"])], indices, tensors, onnx_type(q.dtype))
    tensors["scale"] = np.asarray(scale, np.float32)
    tensors["zero"] = np.zeros_like(scale, q.dtype) if zero_point is None else zero_point.astype(q.dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], axis=axis),
        helper.make_node("Gather", ["d", "indices"], ["y"]),
    ]
    return wrap(nodes, indices, tensors, TensorProto.FLOAT)


def cast_rows(q: np.ndarray, indices: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None) -> onnx.ModelProto:
    """Return the standard operators: Gather, Cast, Sub and Mul, with one scale or one for each column."""
    tensors = {"q": q, "scale": np.asarray(scale, np.float32)}
    nodes = [
        helper.make_node("Gather", ["q", "indices"], ["g"]),
        helper.make_node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
    ]
    if zero_point is not None:
        tensors["zero"] = np.asarray(zero_point, np.float32)
        nodes.append(helper.make_node("Sub", ["f", "zero"], ["s"]))
    nodes.append(helper.make_node("Mul", [nodes[-1].output[0], "scale"], ["y"]))
    return wrap(nodes, indices, tensors, TensorProto.FLOAT)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    rows, columns = draw(st.sampled_from([(1, 1), (5, 3), (16, 32), (130, 257), (300, 70), (17, 600)]))
    shape = draw(st.sampled_from([(1,), (0,), (8,), (2, 3), (1, 40), (2, 1, 3), (3, 0, 2), (500,)]))
    axis = draw(st.sampled_from([0, 1]))
    count = draw(st.sampled_from([(), (1,), (rows if axis == 0 else columns,)]))
    scale = rng.uniform(1e-4, 0.1, count).astype(np.float32)
    zero = rng.integers(0, 100, count).astype(np.float32)
    return {
        "q": table(dtype, rows, columns, int(rng.integers(100))),
        "indices": rng.integers(-rows, rows, shape).astype(draw(st.sampled_from([np.int32, np.int64]))),
        "axis": axis,
        "scale": draw(st.sampled_from([None, scale])),
        "zero_point": draw(st.sampled_from([None, zero])),
        "tiling": draw(st.sampled_from([(8, 8), (16, 1), (2, 3)])),
        "threads": draw(st.sampled_from([1, 2])),
        "residency": draw(st.sampled_from(["compressed", "decoded"])),
    }


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_combination_of_inputs(case: dict[str, Any]) -> None:
    threads, residency = case.pop("threads"), case.pop("residency")
    if case["scale"] is None:
        case["zero_point"] = None
    # Before 1.24 nothing but the type of x2 tells onnxruntime that of the rows.
    x2_type = case["q"].dtype if ORT_VERSION < (1, 24) else np.int8
    model = compressed(**case, x2_type=x2_type)
    onnx.checker.check_model(model, full_check=True)
    indices = case["indices"]
    tiling = case.pop("tiling")
    wanted = session(quantized_rows(**case)).run(None, {"indices": indices})[0]
    assert_same(run(model, indices, threads, {"mcd.residency": residency}), wanted)
    (by_numpy,) = ReferenceEvaluator(model, new_ops=[GatherCompressDequant]).run(None, {"indices": indices})
    assert_same(by_numpy, wanted)
    if case["scale"] is not None and (case["axis"] == 1 or case["scale"].size == 1):
        case.pop("axis")
        wanted = session(cast_rows(**case)).run(None, {"indices": indices})[0]
        assert_same(run(compressed(**case, tiling=tiling, axis=1), indices, threads), wanted)


def test_zero_points_between_integers() -> None:
    q, indices = table(np.uint8), np.arange(-5, 5)
    scale, zero = np.float32(0.013), np.linspace(0, 200, COLUMNS, dtype=np.float32)
    wanted = session(cast_rows(q, indices, scale, zero)).run(None, {"indices": indices})[0]
    assert_same(run(compressed(q, indices, scale, zero), indices), wanted)


@pytest.mark.parametrize("kernel", _native.kernels())
@pytest.mark.parametrize("residency", ["compressed", "decoded"])
def test_every_kernel_and_residency(kernel: str, residency: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    q, indices = table(np.int8), np.arange(-ROWS, ROWS, 7)
    scale = np.linspace(0.001, 0.1, COLUMNS, dtype=np.float32)
    wanted = session(quantized_rows(q, indices, scale, None, 1)).run(None, {"indices": indices})[0]
    assert_same(run(compressed(q, indices, scale), indices, 2, {"mcd.residency": residency}), wanted)


@pytest.mark.parametrize("scale", [None, np.float32(0.5)], ids=["bytes", "floats"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", ["known", None], ids=["known", "unknown"])
@pytest.mark.parametrize("ndim", [0, 1, 2])
def test_every_shape_of_indices(ndim: int, shape: str | None, dtype: Any, scale: Any) -> None:
    q, indices = table(dtype), np.full([2] * ndim, -3)
    # Before 1.24, and of a scalar or where no shape is known, nothing but the type of x2 tells onnxruntime that of y.
    model = compressed(q, indices, scale, shape=shape, x2_type=dtype)
    wanted = session(quantized_rows(q, indices, scale, None, 1)).run(None, {"indices": indices})[0]
    assert_same(run(model, indices), wanted)


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="onnxruntime before 1.24 cannot infer past an absent input")
def test_type_and_shape_are_inferred() -> None:
    q, indices = table(np.uint8), np.zeros((2, 3), np.int64)
    for scale, type_ in ((None, "tensor(uint8)"), (np.float32(1), "tensor(float)")):
        model = compressed(q, indices, scale, shape=["batch", 7])
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        (output,) = session(model).get_outputs()
        assert (output.type, output.shape) == (type_, ["batch", 7, COLUMNS])
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
        assert [dim.dim_param or dim.dim_value for dim in inferred.shape.dim] == ["batch", 7, COLUMNS]


def test_scale_and_zero_point_may_be_computed() -> None:
    q, indices = table(np.int8), np.arange(8)
    scale, zero = np.linspace(0.1, 1, COLUMNS, dtype=np.float32), np.arange(COLUMNS, dtype=np.float32)
    model = compressed(q, indices, scale, zero)
    for name in ("scale", "zero_point"):
        (tensor,) = (one for one in model.graph.initializer if one.name == name)
        model.graph.initializer.remove(tensor)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [COLUMNS]))
    (y,) = session(model).run(None, {"indices": indices, "scale": scale, "zero_point": zero})
    assert_same(y, (q[indices].astype(np.float32) - zero) * scale)


def test_runs_at_the_same_time_share_a_session() -> None:
    q = table(np.int8, 2000, 300)
    opened = session(compressed(q, np.zeros(1, np.int64)), threads=2)
    rng = np.random.default_rng(3)
    batches = [rng.integers(-2000, 2000, 1 + i * 9) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for indices, y in zip(batches, pool.map(lambda i: opened.run(None, {"indices": i})[0], batches), strict=True):
            assert_same(y, q[indices])


@pytest.mark.parametrize("index", [ROWS, -ROWS - 1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_an_index_out_of_range_is_the_error_of_gather(index: int, dtype: Any) -> None:
    q, indices = table(np.int8), np.array([0, index, 1], dtype)
    messages = []
    for model in (quantized_rows(q, indices, None, None, 1), compressed(q, indices)):
        with pytest.raises(Exception, match="indices element out of data bounds") as error:
            session(model).run(None, {"indices": indices})
        messages.append(str(error.value).partition("indices element")[2])
    assert messages[0] == messages[1]


def test_an_index_that_overflows() -> None:
    indices = np.array([-(2**63)])
    with pytest.raises(Exception, match=r"embed/rows.*idx=-9223372036854775808 must be within the inclusive range"):
        run(compressed(table(np.int8), indices), indices)


@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
def test_a_corrupt_byte_anywhere_is_found(tensor: str) -> None:
    model, indices = compressed(table(np.int8), np.zeros(1, np.int64)), np.zeros(1, np.int64)
    for damaged in corrupt(model, tensor):
        with pytest.raises(Exception, match=r'GatherCompressDequant node \\?"embed/rows\\?": weight \\?"x2\\?"'):
            session(damaged, config={"mcd.verify": "load"})
        with pytest.raises(Exception, match=r'embed/rows.*weight \\?"x2\\?"'):
            session(damaged).run(None, {"indices": indices})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": None}, "there is no attribute dtype"),
        ({"dtype": 1}, "dtype is float instead of uint8 or int8"),
        ({"axis": 2}, "axis is 2 instead of 0 or 1"),
        ({"axis": -1}, "axis is -1 instead of 0 or 1"),
        ({"compress_info": [8, 8, COLUMNS]}, r"compress_info is \[8, 8, 70\]"),
        ({"compress_info": [8, 8, -COLUMNS, ROWS, 1]}, r"compress_info is \[8, 8, -70, 300, 1\]"),
        ({"compress_info": [8, 8, ROWS, COLUMNS, 1]}, r"compress_info is \[8, 8, 300, 70, 1\], but x2 holds"),
        ({"scale": np.ones(3)}, r"scale: has shape \[3\] instead of one value or 70, one per column"),
        ({"scale": np.ones(ROWS)}, r"scale: has shape \[300\] instead of one value or 70"),
        ({"scale": np.ones(COLUMNS), "axis": 0}, r"scale: has shape \[70\] instead of one value or 300, one per row"),
        ({"scale": np.float32(1), "zero_point": np.ones(2)}, r"zero_point: has shape \[2\]"),
    ],
)
def test_nodes_are_checked(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Exception, match=rf'GatherCompressDequant node \\?"embed/rows\\?".*{reason}'):
        session(compressed(table(np.int8), np.zeros(1, np.int64), **changes))


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="an absent input in the middle")
def test_a_zero_point_needs_a_scale() -> None:
    with pytest.raises(Exception, match=r"embed/rows.*zero_point needs a scale"):
        session(compressed(table(np.int8), np.zeros(1, np.int64), None, np.float32(1)))


def test_the_type_of_the_table_is_the_one_that_is_declared() -> None:
    indices = np.zeros(1, np.int64)
    model = compressed(table(np.int8), indices, dtype=2, x2_type=np.uint8)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(Exception, match=r"embed/rows.*dtype: is uint8 instead of int8"):
        session(model)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [None, 1, "each"])
def test_restored_it_is_standard_operators_of_the_same_bytes(axis: int, count: Any, tmp_path: Path) -> None:
    q, indices = table(np.uint8), np.array([[3, -1], [0, 299]])
    scale = zero = None
    if count is not None:
        size = count if count == 1 else q.shape[axis]
        scale, zero = np.linspace(0.1, 1, size, dtype=np.float32), np.linspace(3, 90, size, dtype=np.float32)
    model = compressed(q, indices, scale, zero, axis=axis)
    source, restored = tmp_path / "m.onnx", tmp_path / "restored.onnx"
    source.write_bytes(model.SerializeToString())
    assert check_model(source).intact
    mcd_graph.restore_model(source, restored)
    nodes = onnx.load(restored, load_external_data=False).graph.node
    assert "mcd" not in {node.domain for node in nodes}
    opened = ort.InferenceSession(str(restored), providers=["CPUExecutionProvider"])
    assert_same(opened.run(None, {"indices": indices})[0], run(model, indices))
