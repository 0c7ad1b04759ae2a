"""DecompressDequant in real onnxruntime sessions, against the DequantizeLinear it stands for, and what it refuses."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sessions import corrupt, session

from mcd_graph import _native
from mcd_graph.operators.decompress_dequant import DecompressDequant

SHAPES = [(1, 40), (33, 17), (300, 130), (64, 3, 7, 7), (5, 1, 6, 2, 3), (2, 300, 70), (16, 4096)]


def bell(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(3).normal((limits.min + limits.max + 1) // 2, 12, shape)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def parameters(value: np.ndarray, axis: int | None, *, zero: bool) -> dict[str, np.ndarray]:
    """Return scale and zero point, one or one for each place along the axis."""
    rng = np.random.default_rng(4)
    shape = () if axis is None else (value.shape[axis],)
    found = {"scale": (rng.random(shape) + 0.01).astype(np.float32)}
    if zero:
        info = np.iinfo(value.dtype)
        found["zero_point"] = np.asarray(rng.integers(info.min, info.max + 1, shape), value.dtype)
    return found


def models(
    value: np.ndarray, axis: int | None, *, zero: bool = True, computed: bool = False
) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model with the DequantizeLinear and one with the operator, and what they are fed."""
    x2, index, info = _native.encode(value.reshape(value.shape[0], -1), "balanced")
    small = parameters(value, axis, zero=zero)
    given = {
        "compress_info": [int(number) for number in info],
        "shape": list(value.shape),
        "dtype": helper.np_dtype_to_tensor_dtype(value.dtype),
        **({} if axis is None else {"axis": axis}),
    }
    nodes = (
        helper.make_node("DequantizeLinear", ["w", *small], ["y"], **({} if axis is None else {"axis": axis})),
        helper.make_node("DecompressDequant", ["x2", "index", *small], ["y"], name="conv/w", domain="mcd", **given),
    )
    tensors = ({"w": value}, {"x2": x2, "index": index})
    made = []
    for node, constants in zip(nodes, tensors, strict=True):
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in (small.items() if computed else ())
        ]
        held = constants if computed else {**constants, **small}
        graph = helper.make_graph(
            [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * value.ndim)],
            [numpy_helper.from_array(array, name) for name, array in held.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mcd", 1)]
        made.append(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    return made[0], made[1], small if computed else {}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_axis(shape: tuple[int, ...], dtype: Any) -> None:
    value = bell(dtype, shape)
    for axis in (None, *range(len(shape)), -1):
        original, ours, feed = models(value, axis, zero=axis != 1, computed=axis == 0)
        onnx.checker.check_model(ours, full_check=True)
        (expected,) = session(original).run(None, feed)
        for threads in (1, 2):
            opened = session(ours, threads, optimized=threads == 2)
            for _ in range(2):
                (y,) = opened.run(None, feed)
                assert (y.dtype, y.shape) == (np.float32, shape)
                assert y.tobytes() == expected.tobytes(), axis
        (twin,) = ReferenceEvaluator(ours, new_ops=[DecompressDequant]).run(None, feed)
        assert twin.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kernel", _native.kernels())
def test_every_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    for axis in (None, 0, 1):
        original, ours, feed = models(bell(np.int8, (70, 90)), axis)
        assert session(ours).run(None, feed)[0].tobytes() == session(original).run(None, feed)[0].tobytes()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"dtype": None}, "there is no attribute dtype"),
        ({"dtype": 2}, "int8"),
        ({"dtype": 7}, "dtype"),
        ({"shape": [33, 18]}, "elements"),
        ({"compress_info": [1, 2]}, "instead of five numbers"),
        ({"axis": 2}, "axis is 2"),
        ({"axis": -3}, "axis is -3"),
        ({"axis": None}, "scale"),
        ({"axis": 0}, "scale"),
    ],
)
def test_contradictions_are_refused(attributes: dict[str, Any], message: str) -> None:
    _, ours, _ = models(bell(np.int8, (33, 17)), 1)
    (node,) = ours.graph.node
    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, each) for name, each in attributes.items() if each is not None)
    with pytest.raises(Exception, match=message):
        session(ours)


def test_a_zero_point_of_another_type_is_refused() -> None:
    _, ours, _ = models(bell(np.int8, (33, 17)), None)
    (zero,) = [each for each in ours.graph.initializer if each.name == "zero_point"]
    zero.CopyFrom(numpy_helper.from_array(np.uint8(3), "zero_point"))
    with pytest.raises(Exception, match="zero_point"):
        session(ours)


def test_damage_is_refused() -> None:
    _, ours, _ = models(bell(np.int8, (300, 130)), None)
    for damaged in corrupt(ours, "x2"):
        with pytest.raises(Exception, match=r"x2|weight"):
            session(damaged, config={"mcd.verify": "load"})
        with pytest.raises(Exception, match=r"x2|weight"):
            session(damaged).run(None, {})
    assert ort.__version__
