"""Random graphs around the patterns: whatever is lowered gives the original's bytes, and the checker stays content.

A graph grows from a float input by random steps: dynamically quantised multiplications with random tails, QDQ
multiplications with random surroundings, elementwise and reshaping operators, values used twice, outputs in between.
Nothing is asserted about *what* is lowered, only that it is right, and that a good share of the graphs is lowered; the
other files say what has to be.
"""

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowering import assert_exact, floats, integers, make_model, scales
from onnx import TensorProto, helper

#: The same graphs every time, so that a run says something about the change at hand. To hunt, take ``derandomize``
#: away.
SETTINGS = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
COUNTS = [30, pytest.param(150, marks=pytest.mark.slow)]


@dataclasses.dataclass
class Builder:
    """A graph in the making: float values of shape (m, width) to go on from.

    ``done`` holds the elementwise steps made: onnxruntime merges equal nodes, which changes who reads what.
    """

    draw: st.DrawFn
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    values: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    outputs: dict[str, tuple[type, tuple[int | str, ...]]] = dataclasses.field(default_factory=dict)
    done: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def seed(self) -> int:
        return self.draw(st.integers(0, 2**31))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def constant(self, array: np.ndarray) -> str:
        """Add a constant: an initialiser, or now and then a Constant node."""
        name = self.name()
        if self.draw(st.integers(0, 7)) == 0:
            self.node("Constant", [], name, value=onnx.numpy_helper.from_array(array))
        else:
            self.constants[name] = array
        return name

    def node(self, op_type: str, inputs: list[str], output: str | None = None, **attributes: object) -> str:
        output = output or self.name()
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"n{len(self.nodes)}", **attributes))
        return output

    def pick(self) -> tuple[str, int]:
        return self.draw(st.sampled_from(self.values))

    def pair(self, left: str, right: str) -> list[str]:
        return [left, right] if self.flag() else [right, left]


def weight_type(builder: Builder) -> type:
    return builder.draw(st.sampled_from([np.int8, np.uint8]))


def dynamic(builder: Builder) -> None:
    """DynamicQuantizeLinear, one or two multiplications with it, and a tail that may or may not fit."""
    x, k = builder.pick()
    q, s, z = (builder.name() for _ in range(3))
    builder.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], [q, s, z]))
    kind, n = weight_type(builder), builder.draw(st.integers(1, 40))
    w = builder.constant(integers(kind, (k, n), builder.seed()))
    for _ in range(1 + builder.flag()):
        size = builder.draw(st.sampled_from([(), (1,), (n,)]))
        names = [q, w, z if builder.flag() else ""]
        if builder.flag():
            names.append(builder.constant(integers(kind, size, builder.seed())))
        while names[-1] == "":
            names.pop()
        acc = builder.node("MatMulInteger", names)
        if builder.draw(st.integers(0, 9)) == 0:
            builder.outputs[acc] = (np.int32, ("m", n))
        y = builder.node("Cast", [acc], to=TensorProto.FLOAT)
        shape = builder.draw(st.sampled_from([(), (1,), (n,), (1, n), (1, 1)]))
        factor = builder.constant(scales(shape, builder.seed(), 0.001))
        if builder.flag():
            factor = builder.node("Mul", builder.pair(s, factor))
        y = builder.node("Mul", builder.pair(y, factor))
        if builder.flag():
            shape = builder.draw(st.sampled_from([(), (n,), (1, n)]))
            y = builder.node("Add", builder.pair(y, builder.constant(floats(shape, builder.seed()))))
        builder.values.append((y, n))


def quantized(builder: Builder, x: str, kind: type) -> str:
    """Return x behind QuantizeLinear and DequantizeLinear."""
    scale = builder.constant(scales((), builder.seed(), 0.2))
    zero_point = builder.constant(integers(kind, (), builder.seed()))
    q = builder.node("QuantizeLinear", [x, scale, zero_point])
    return builder.node("DequantizeLinear", [q, scale, zero_point])


def qdq(builder: Builder) -> None:
    """A QDQ multiplication: MatMul or Gemm, with or without bias, Relu, QuantizeLinear."""
    x, k = builder.pick()
    kind = builder.draw(st.sampled_from([np.uint8, np.uint8, np.int8]))
    n = builder.draw(st.integers(1, 40))
    gemm = builder.flag()
    transposed = gemm and builder.flag()
    size = builder.draw(st.sampled_from([(), (n,)]))
    w_type = weight_type(builder)
    w = builder.constant(integers(w_type, (n, k) if transposed else (k, n), builder.seed()))
    scale = builder.constant(scales(size, builder.seed(), 0.02))
    names = [w, scale, builder.constant(integers(w_type, size, builder.seed()))]
    xd = quantized(builder, x, kind)
    if builder.draw(st.integers(0, 3)) == 0:
        builder.values.append((xd, k))
    wd = builder.node("DequantizeLinear", names, axis=0 if transposed else 1)
    inputs = [xd, wd]
    if gemm:
        if builder.flag():
            bias = builder.constant(floats((n,), builder.seed()))
            inputs.append(bias)
        attributes = {"alpha": builder.draw(st.sampled_from([1.0, 0.5])), "beta": 1.0, "transB": int(transposed)}
        y = builder.node("Gemm", inputs, **attributes)
    else:
        y = builder.node("MatMul", inputs)
        if builder.flag():
            shape = builder.draw(st.sampled_from([(n,), (n,), (), (1, n)]))
            y = builder.node("Add", builder.pair(y, builder.constant(floats(shape, builder.seed()))))
    if builder.draw(st.integers(0, 3)) == 0:
        builder.values.append((y, n))
    if builder.draw(st.integers(0, 3)) == 0:
        builder.done.add(("Relu", y))
        y = builder.node("Relu", [y])
    if builder.flag():
        y = quantized(builder, y, builder.draw(st.sampled_from([kind, kind, np.uint8])))
    builder.values.append((y, n))


def qlinear(builder: Builder) -> None:
    """A QLinearMatMul between QuantizeLinear and DequantizeLinear, whose result may be read twice."""
    x, k = builder.pick()
    kind, w_type = builder.draw(st.sampled_from([(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]))
    n = builder.draw(st.integers(1, 40))
    size = builder.draw(st.sampled_from([(), (n,)]))
    xs, ys = (builder.constant(scales((), builder.seed(), size)) for size in (0.2, 2.0))
    xz, yz = (builder.constant(integers(kind, (), builder.seed())) for _ in range(2))
    w = builder.constant(integers(w_type, (k, n), builder.seed()))
    ws, wz = builder.constant(scales(size, builder.seed())), builder.constant(integers(w_type, size, builder.seed()))
    q = builder.node("QuantizeLinear", [x, xs, xz])
    q = builder.node("QLinearMatMul", [q, xs, xz, w, ws, wz, ys, yz])
    if builder.draw(st.integers(0, 4)) == 0:
        builder.outputs[q] = (kind, ("m", n))
    builder.values.append((builder.node("DequantizeLinear", [q, builder.draw(st.sampled_from([xs, ys])), yz]), n))


def elementwise(builder: Builder) -> None:
    x, k = builder.pick()
    op_type = builder.draw(st.sampled_from(["Neg", "Abs", "Sigmoid", "Relu", "Add", "Mul", "Reshape"]))
    if op_type in ("Add", "Mul"):
        others = [name for name, width in builder.values if width == k]
        inputs = [x, builder.draw(st.sampled_from(others))]
    elif op_type == "Reshape":
        inputs = [x, builder.constant(np.array([-1, k]))]
    else:
        inputs = [x]
    step = (op_type, x) if op_type == "Reshape" else (op_type, *sorted(inputs))
    if step not in builder.done:
        builder.done.add(step)
        builder.values.append((builder.node(op_type, inputs), k))


@st.composite
def graphs(draw: st.DrawFn, steps: list) -> tuple[onnx.ModelProto, np.ndarray]:
    builder = Builder(draw)
    width = draw(st.integers(1, 70))
    builder.values.append(("x", width))
    for step in draw(st.lists(st.sampled_from(steps), min_size=1, max_size=5)):
        step(builder)
    ends = draw(st.lists(st.sampled_from(builder.values), min_size=1, max_size=3, unique=True))
    ends.append(builder.values[-1])
    for name, size in ends:
        if name != "x":
            builder.outputs[name] = (np.float32, ("m", size))
    if not builder.outputs:
        builder.outputs[builder.node("Identity", ["x"])] = (np.float32, ("m", width))
    model = make_model(builder.nodes, {"x": (np.float32, ("m", width))}, builder.outputs, builder.constants)
    return model, floats((draw(st.integers(1, 9)), width), builder.seed())


def share_that_lowers(steps: list, count: int, **options: bool) -> float:
    """Hold graphs made of ``steps`` to the original's bytes; return the share that is lowered, in part at least."""
    lowered = []

    @settings(SETTINGS, max_examples=count)
    @given(graphs(steps))
    def holds(case: tuple[onnx.ModelProto, np.ndarray]) -> None:
        model, x = case
        lowered.append(assert_exact(model, {"x": x}, **options).modified)

    holds()
    return sum(lowered) / len(lowered)


@pytest.mark.parametrize("count", COUNTS)
def test_dynamic_graphs(count: int) -> None:
    share = share_that_lowers([dynamic, dynamic, qlinear, elementwise], count)
    assert share > (0.8 if count >= 150 else 0.75)  # few graphs differ more from one another


@pytest.mark.parametrize("count", COUNTS)
def test_qdq_graphs(count: int) -> None:
    share = share_that_lowers([qdq, qdq, elementwise], count, optimized=True, alone=False)
    assert share > 0.45
