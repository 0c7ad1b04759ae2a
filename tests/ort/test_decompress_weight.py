"""DecompressWeight in real onnxruntime sessions, against the constant it stands for, and everything it refuses."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sessions import corrupt, save_unaligned, session

from mcd_graph import _native
from mcd_graph.operators.decompress_weight import DecompressWeight

ORT_VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])


def constant(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return values as real constants have them: a bell around the middle of the type, so that they compress."""
    limits = np.iinfo(dtype)
    middle = (limits.min + limits.max + 1) // 2
    values = np.random.default_rng(seed).normal(middle, 12, shape)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def tensors(value: np.ndarray, rows: int, *, transposed: bool, profile: str = "balanced") -> dict[str, np.ndarray]:
    """Return the compressed constant, seen as a matrix whose rows are its first ``rows`` dimensions."""
    matrix = value.reshape(math.prod(value.shape[:rows]), -1)
    x2, index, info = _native.encode(matrix if transposed else matrix.T, profile)
    return {"x2": x2, "compress_index": index, "compress_info": info}


def model(
    value: np.ndarray, rows: int = 1, *, transposed: Any = True, profile: str = "balanced", **attributes: Any
) -> onnx.ModelProto:
    """Return a model that gives the constant twice: as it is, and as an operator that reads it sees it.

    ``attributes`` overrides the node's; one that is ``None`` is left out.
    """
    parts = tensors(value, rows, transposed=bool(transposed), profile=profile)
    given = {
        "compress_info": [int(number) for number in parts.pop("compress_info")],
        "shape": list(value.shape),
        "dtype": helper.np_dtype_to_tensor_dtype(value.dtype),
        "transposed": int(transposed) if isinstance(transposed, bool) else transposed,
        **attributes,
    }
    given = {name: attribute for name, attribute in given.items() if attribute is not None}
    nodes = [
        helper.make_node("DecompressWeight", list(parts), ["w"], name="conv1/weight", domain="mcd", **given),
        helper.make_node("Identity", ["w"], ["y"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["z"]),
    ]
    type_ = 2 if given.get("dtype") == 2 else 3
    graph = helper.make_graph(
        nodes,
        "constant",
        [],
        [
            helper.make_tensor_value_info("y", type_, [f"y_{i}" for i in range(value.ndim)]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [f"z_{i}" for i in range(value.ndim)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in {**parts, "scale": np.array(0.5, np.float32)}.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mcd", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def assert_gives(opened: ort.InferenceSession, value: np.ndarray) -> None:
    for _ in range(2):
        y, z = opened.run(None, {})
        assert y.dtype == value.dtype
        assert y.shape == value.shape
        assert y.tobytes() == value.tobytes()
        assert z.shape == value.shape


#: Shape, and how many of its dimensions are the rows of the matrix.
SHAPES = [
    ((1,), 1),
    ((40,), 0),
    ((40,), 1),
    ((33, 17), 1),
    ((16, 32), 1),
    ((300, 130), 1),
    ((130, 300), 1),
    ((64, 3, 7, 7), 1),
    ((64, 3, 7, 7), 2),
    ((5, 1, 6, 2, 1, 3), 3),
    ((2, 300, 70), 2),
    ((1, 1, 1, 1, 1, 1, 1, 1, 1, 25, 3), 10),
]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("transposed", [False, True], ids=["kn", "nk"])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_every_shape(shape: tuple[int, ...], rows: int, transposed: bool, dtype: Any) -> None:
    value = constant(dtype, shape)
    made = model(value, rows, transposed=transposed)
    onnx.checker.check_model(made, full_check=True)
    for threads in (1, 2):
        assert_gives(session(made, threads), value)
    assert_gives(session(made, optimized=True), value)
    reference = ReferenceEvaluator(made, new_ops=[DecompressWeight])
    assert reference.run(["y"], {})[0].tobytes() == value.tobytes()


@pytest.mark.parametrize("profile", ["fast", "balanced", "small"])
@pytest.mark.parametrize("kernel", _native.kernels())
@pytest.mark.parametrize("residency", ["compressed", "decoded"])
def test_every_kernel_profile_and_residency(
    kernel: str, profile: str, residency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    for dtype, transposed in ((np.int8, True), (np.uint8, False)):
        value = constant(dtype, (413, 290))
        made = model(value, transposed=transposed, profile=profile)
        assert_gives(session(made, 2, {"mcd.residency": residency}), value)


@pytest.mark.parametrize("transposed", [False, True], ids=["kn", "nk"])
def test_constants_that_do_not_compress(transposed: bool) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(-128, 128, (300, 290), np.int8)
    steps = np.repeat(np.arange(4, dtype=np.int8), 128 * 290).reshape(512, 290)
    for value in (noise, np.full((300, 290), -3, np.int8), steps):
        assert_gives(session(model(value, transposed=transposed), 2), value)


def test_type_and_shape_are_inferred() -> None:
    value = constant(np.uint8, (4, 5, 6))
    made = model(value)
    opened = session(made)
    assert [(output.type, output.shape) for output in opened.get_outputs()] == [
        ("tensor(uint8)", [4, 5, 6]),
        ("tensor(float)", [4, 5, 6]),
    ]
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    (w,) = (info for info in inferred.graph.value_info if info.name == "w")
    assert w.type == helper.make_tensor_type_proto(TensorProto.UINT8, [4, 5, 6])


def test_runs_at_the_same_time_share_a_session() -> None:
    value = constant(np.int8, (700, 300))
    opened = session(model(value), threads=2)
    with ThreadPoolExecutor(4) as pool:
        for y, _ in pool.map(lambda _: opened.run(None, {}), range(40)):
            assert y.tobytes() == value.tobytes()


def test_a_convolution_reads_it() -> None:
    weight = constant(np.uint8, (8, 4, 3, 3))
    x = np.random.default_rng(2).integers(0, 255, (1, 4, 9, 9), np.uint8)
    x_zero, w_zero = (numpy_helper.from_array(np.array(zero, np.uint8), name) for zero, name in ((3, "a"), (128, "b")))
    made = model(weight)
    made.graph.node.append(helper.make_node("ConvInteger", ["x", "w", "a", "b"], ["c"]))
    made.graph.initializer.extend([x_zero, w_zero])
    made.graph.input.append(helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4, 9, 9]))
    made.graph.output.append(helper.make_tensor_value_info("c", TensorProto.INT32, [1, 8, 7, 7]))
    plain = onnx.ModelProto.FromString(made.SerializeToString())
    del plain.graph.node[0]
    plain.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    for optimized in (False, True):
        found, wanted = (session(of, optimized=optimized).run(["c"], {"x": x})[0] for of in (made, plain))
        assert found.tobytes() == wanted.tobytes()


def test_constants_in_a_file_may_begin_anywhere(tmp_path: Path) -> None:
    value = constant(np.int8, (200, 300))
    made = model(value)
    path = save_unaligned(made, tmp_path, tensors=2)
    assert_gives(session(path), value)


def branches(inner: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the node in both branches of an If, the weight in the graph around it."""
    outer = onnx.ModelProto.FromString(inner.SerializeToString())
    branch = onnx.GraphProto(name="branch", node=inner.graph.node, output=inner.graph.output)
    del outer.graph.node[:]
    names = [f"{output.name}_of_either" for output in inner.graph.output]
    outer.graph.node.append(helper.make_node("If", ["flag"], names, then_branch=branch, else_branch=branch))
    outer.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    for output, name in zip(outer.graph.output, names, strict=True):
        output.name = name
    return outer


def test_a_constant_of_an_outer_graph() -> None:
    value = constant(np.uint8, (20, 30))
    opened = session(branches(model(value)))
    for flag in (True, False, True):
        assert opened.run(None, {"flag": np.array(flag)})[0].tobytes() == value.tobytes()


@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
def test_a_corrupt_byte_anywhere_is_found(tensor: str) -> None:
    made = model(constant(np.int8, (64, 200)))
    for damaged in corrupt(made, tensor):
        with pytest.raises(Exception, match=r'DecompressWeight node \\?"conv1/weight\\?": weight \\?"x2\\?"'):
            session(damaged, config={"mcd.verify": "load"})
        with pytest.raises(Exception, match=r'conv1/weight.*weight \\?"x2\\?"'):
            session(damaged).run(None, {})


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"dtype": None}, "there is no attribute dtype"),
        ({"dtype": 1}, "dtype is float instead of uint8 or int8"),
        ({"dtype": 2}, "dtype: is uint8 instead of int8"),
        ({"dtype": -1}, "dtype is element type -1 instead of uint8 or int8"),
        ({"dtype": 1 << 40}, "dtype is 1099511627776, which is no type"),
        ({"dtype": "int8"}, "dtype: "),
        ({"shape": None}, "shape: "),
        ({"shape": [12, 5]}, r"shape is \[12, 5\], and the weight has 6 x 12 elements"),
        ({"shape": [-12, -6]}, r"shape is \[-12, -6\]"),
        ({"shape": [72, 0]}, r"shape is \[72, 0\]"),
        ({"shape": [1 << 62, 1 << 62]}, r"shape is \[4611686018427387904"),
        ({"transposed": 2}, "transposed is 2 instead of 0 or 1"),
        ({"transposed": [1]}, "transposed: "),
        ({"compress_info": None}, "compress_info: "),
        ({"compress_info": [8, 8, 6, 12]}, r"compress_info is \[8, 8, 6, 12\] instead of five numbers"),
        ({"compress_info": [8, 8, 12, 6, 1]}, r'weight \\?"x2\\?": compress_info is \[8, 8, 12, 6, 1\], but x2 holds'),
        ({"compress_info": [8, 8, 1 << 40, 1 << 40, 1]}, "and the weight has 1099511627776 x 1099511627776 elements"),
    ],
)
def test_attributes_are_checked(attributes: dict[str, Any], reason: str) -> None:
    value = constant(np.int8, (12, 6))
    with pytest.raises(Exception, match=rf'DecompressWeight node \\?"conv1/weight\\?".*{reason}'):
        session(model(value, **attributes))
    made = model(value, **attributes)
    with pytest.raises(Exception):  # noqa: B017, PT011  (of the checker or of the operator in NumPy, each in its words)
        onnx.checker.check_model(made, full_check=True)
        ReferenceEvaluator(made, new_ops=[DecompressWeight]).run(["y"], {})


def test_attributes_that_may_be_absent() -> None:
    value = constant(np.int8, (12, 6))
    assert_gives(session(model(value, transposed=None)), value)


@pytest.mark.skipif(ORT_VERSION < (1, 29), reason="onnxruntime before 1.29 cannot tell it from one of an outer graph")
@pytest.mark.parametrize("tensor", ["x2", "compress_index"])
def test_a_weight_must_be_an_initializer(tensor: str) -> None:
    made = model(constant(np.int8, (12, 6)))
    (found,) = (one for one in made.graph.initializer if one.name == tensor)
    made.graph.initializer.remove(found)
    made.graph.input.append(helper.make_tensor_value_info(tensor, TensorProto.INT8, list(found.dims)))
    with pytest.raises(Exception, match=rf"conv1/weight.*{tensor}: must be an initializer"):
        session(made)


def test_a_stream_of_another_type_is_refused() -> None:
    made = model(constant(np.int8, (12, 6)))
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(300, np.float32), "x2"))
    with pytest.raises(Exception, match=r"conv1/weight.*x2: is float instead of int8"):
        session(made)
