"""Random graphs as exporters write them, from a seed: quantised multiplications and look-ups, and what stands around.

Whatever is lowered has to give the original's bytes, at onnxruntime's default settings and without optimisations. A
graph grows step by step from a float input; each step adds a multiplication, what often stands behind one, or a change
that should change nothing. On any edge may stand a node that does nothing; constants may hide behind constant
operators; values may have several readers, and weights too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import unittest.mock
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from lowering import MS_DOMAIN, assert_same_bytes, make_model, pack_all
from onnx import TensorProto, helper, numpy_helper
from random_ingredients import BEHIND as MORE_BEHIND
from random_ingredients import BLOCKS, LAYERS, PARTINGS
from random_ingredients import NO_OPS as MORE_NO_OPS
from sessions import session_options

import mcd_graph
from mcd_graph import pack_weight
from mcd_graph.model import constants as model_constants
from mcd_graph.model.at_open import hide_nodes
from mcd_graph.model.loading import load_model
from mcd_graph.passes import plan_lowering, plan_restoration
from mcd_graph.passes.at_open import constants_at_open, restore_at_open
from mcd_graph.passes.plan import constants as plan_constants
from mcd_graph.passes.rules import convolution as convolutions
from mcd_graph.passes.rules import dequantize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Case", "Outcome", "check", "expect", "generate"]

OPSETS = (13, 17, 18, 20, 21, 23)
FLOAT = TensorProto.FLOAT


@dataclasses.dataclass
class Case:
    """A model, inputs of several ranges for it, and the steps that made it."""

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]
    steps: list[str]


@dataclasses.dataclass
class Outcome:
    """What became of a case: multiplications met and lowered."""

    met: int
    lowered: int


@dataclasses.dataclass
class Value:
    """A float value of shape (*lead, width)."""

    name: str
    width: int


class Builder:
    """A graph in the making."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.rank = int(self.rng.choice([2, 3, 3]))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: list[Value] = []
        self.outputs: dict[str, tuple[type, list[Any]]] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.steps: list[str] = []
        self.weights: list[tuple[str, np.ndarray]] = []
        self.scales: dict[tuple[int | None, float], list[str]] = {}
        self.count = 0
        self.quiet = bool(self.rng.random() < 0.3)  # no nodes that do nothing

    # Chances and names

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [self.name() for _ in range(outputs)]
        called = f"n{len(self.nodes)}" if self.chance(0.9) else ""
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=called, **attributes))
        return names[0]

    # Constants

    def constant(self, array: np.ndarray, *, hidden: bool = True) -> str:
        """Add a constant, now and then behind operators that onnxruntime folds."""
        array = np.asarray(array)
        name = self.name()
        if hidden and self.chance(0.06):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        else:
            self.constants[name] = array
        if hidden and self.chance(0.05):
            if array.ndim and len(array) > 1 and self.chance(0.4):
                return PARTINGS[self.pick(list(PARTINGS))](self, array)
            return self.hide(name, array)
        return name

    def hide(self, name: str, array: np.ndarray) -> str:
        way = self.pick(["Identity", "Transpose", "Clip", "Cast", "Reshape", "Unsqueeze"])
        if way == "Transpose" and array.ndim == 2:
            self.constants.pop(name, None)
            turned = self.name()
            self.constants[turned] = np.ascontiguousarray(array.T)
            self.nodes = [each for each in self.nodes if name not in each.output]
            return self.node("Transpose", turned, perm=[1, 0])
        if way == "Clip" and array.dtype == np.int8 and self.opset >= 12:
            return self.node(
                "Clip", name, self.constant(np.int8(-127), hidden=False), self.constant(np.int8(127), hidden=False)
            )
        if way == "Cast" and array.dtype in (np.int8, np.uint8):
            wide = self.node("Cast", name, to=TensorProto.INT32)
            return self.node("Cast", wide, to=helper.np_dtype_to_tensor_dtype(array.dtype))
        if way == "Reshape":
            return self.node("Reshape", name, self.constant(np.array(array.shape, np.int64), hidden=False))
        return self.node("Identity", name)

    def scale(self, size: int | None, spread: float) -> str:
        """Return a scale, now and then one that another node has as well."""
        shape, known = () if size is None else (size,), self.scales.setdefault((size, spread), [])
        if known and self.chance(0.1):
            return str(self.pick(known))
        known.append(self.constant(np.asarray((self.rng.random(shape) + 0.1) * spread, np.float32)))
        return known[-1]

    def integers(self, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        info = np.iinfo(dtype)
        if self.chance(0.5):
            centre = 0 if dtype == np.int8 else 128
            drawn = np.rint(self.rng.standard_normal(shape) * 12 + centre)
            return np.asarray(np.clip(drawn, info.min, info.max), dtype)
        return np.asarray(self.rng.integers(info.min, info.max + 1, shape), dtype)

    def zero_point(self, dtype: type, size: int | None = None) -> str:
        shape = () if size is None else (size,)
        array = np.zeros(shape, dtype) if self.chance(0.3) else self.integers(dtype, shape)
        return self.constant(array)

    def floats(self, shape: tuple[int, ...], spread: float = 1.0) -> str:
        return self.constant(np.asarray(self.rng.standard_normal(shape) * spread, np.float32))

    # Edges

    def edge(self, value: str, width: int | None = None) -> str:
        """Return a value, perhaps behind a node that does nothing to it."""
        if self.quiet or not self.chance(0.12):
            return value
        way = self.pick(list(NO_OPS))
        self.steps.append(way)
        return NO_OPS[way](self, value, width)

    def draw(self) -> Value:
        """Return a value to go on from; mostly the last."""
        return self.values[-1] if self.chance(0.7) else self.pick(self.values)

    def add(self, name: str, width: int) -> Value:
        value = Value(name, width)
        self.values.append(value)
        if self.chance(0.08):
            self.outputs[name] = (np.float32, [None] * self.rank)
        return value

    # Quantising

    def quantize(self, x: str, dtype: type, spread: float = 0.05) -> tuple[str, list[str]]:
        parameters = [self.scale(None, spread)]
        if dtype == np.int8 or self.chance(0.85):
            parameters.append(self.zero_point(dtype))
        return self.node("QuantizeLinear", x, *parameters), parameters

    def pair(self, x: str, dtype: type, spread: float = 0.05) -> str:
        """Return x behind QuantizeLinear and DequantizeLinear."""
        q, parameters = self.quantize(x, dtype, spread)
        return self.edge(self.node("DequantizeLinear", self.edge_of_bytes(q), *parameters))

    def edge_of_bytes(self, value: str) -> str:
        if self.quiet or not self.chance(0.06):
            return value
        return self.node("Identity", value)

    def weight(self, k: int, n: int, *, turned: bool = False) -> tuple[str, type]:
        """Return a weight, perhaps one that is there already."""
        shape = (n, k) if turned else (k, n)
        same = [(name, array) for name, array in self.weights if array.shape == shape]
        if same and self.chance(0.25):
            name, array = self.pick(same)
            return name, array.dtype.type
        dtype = self.pick([np.int8, np.int8, np.uint8])
        array = self.integers(dtype, shape)
        name = self.constant(array)
        self.weights.append((name, array))
        return name, dtype


def _transposes(b: Builder, x: str, _: int | None) -> str:
    perm = [0, 2, 1] if b.rank == 3 else [1, 0]
    return b.node("Transpose", b.node("Transpose", x, perm=perm), perm=perm)


def _reshapes(b: Builder, x: str, width: int | None) -> str:
    if width is None:
        return b.node("Identity", x)
    shape = [0] * (b.rank - 1) + [width]
    return b.node("Reshape", x, b.constant(np.array(shape, np.int64), hidden=False))


def _unsqueeze(b: Builder, x: str, _: int | None) -> str:
    axes = b.constant(np.array([0], np.int64), hidden=False)
    return b.node("Squeeze", b.node("Unsqueeze", x, axes), axes)


def _slice(b: Builder, x: str, _: int | None) -> str:
    parts = [np.array([0]), np.array([2**31 - 1]), np.array([b.rank - 1])]
    return b.node("Slice", x, *(b.constant(part.astype(np.int64), hidden=False) for part in parts))


NO_OPS: dict[str, Callable[[Builder, str, int | None], str]] = {
    "Identity": lambda b, x, _: b.node("Identity", x),
    "Dropout": lambda b, x, _: b.node("Dropout", x),
    "Cast": lambda b, x, _: b.node("Cast", x, to=FLOAT),
    "Mul 1": lambda b, x, _: b.node("Mul", x, b.constant(np.float32(1), hidden=False)),
    "Div 1": lambda b, x, _: b.node("Div", x, b.constant(np.float32(1), hidden=False)),
    "Add 0": lambda b, x, _: b.node("Add", x, b.constant(np.float32(0), hidden=False)),
    "Sub 0": lambda b, x, _: b.node("Sub", x, b.constant(np.float32(0), hidden=False)),
    "0 Add": lambda b, x, _: b.node("Add", b.constant(np.float32(0), hidden=False), x),
    "Transposes": _transposes,
    "Transpose": lambda b, x, _: b.node("Transpose", x, perm=list(range(b.rank))),
    "Reshape": _reshapes,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Concat": lambda b, x, _: b.node("Concat", x, axis=-1),
    **MORE_NO_OPS,
}


# ---------------------------------------------------------------------------------------------------------------------
# Multiplications


def width(b: Builder) -> int:
    return int(b.pick([1, 4, 8, 16, 24, 32, 33]))


def dynamic(b: Builder) -> None:
    """onnxruntime's dynamic quantiser: one quantiser for up to three multiplications."""
    x = b.draw()
    q, s, z = (b.name() for _ in range(3))
    b.nodes.append(helper.make_node("DynamicQuantizeLinear", [b.edge(x.name, x.width)], [q, s, z], name=q))
    for _ in range(int(b.pick([1, 1, 1, 2, 3]))):
        n = width(b)
        w, dtype = b.weight(x.width, n)
        inputs = [b.edge_of_bytes(q), w, z]
        if b.chance(0.6):
            inputs.append(b.zero_point(dtype, n if b.chance(0.3) else None))
        acc = b.node("MatMulInteger", *inputs)
        if b.chance(0.03):
            b.outputs[acc] = (np.int32, [None] * b.rank)
        y = b.node("Cast", acc, to=FLOAT)
        factor = b.scale(n if b.chance(0.4) else None, 0.02)
        if b.chance(0.85):
            factor = b.node("Mul", *b.rng.permutation([s, factor]).tolist())
        y = b.edge(b.node("Mul", *b.rng.permutation([y, factor]).tolist()), n)
        if b.chance(0.4):
            y = b.node("Add", *b.rng.permutation([y, b.floats((n,))]).tolist())
        b.add(y, n)


def static_integer(b: Builder) -> None:
    """MatMulInteger with a static scale for the activation."""
    x, n = b.draw(), width(b)
    q, parameters = b.quantize(x.name, np.uint8)
    w, _ = b.weight(x.width, n)
    acc = b.node("MatMulInteger", q, w, *parameters[1:])
    factor = b.node("Mul", parameters[0], b.scale(n if b.chance(0.4) else None, 0.02))
    b.add(b.node("Mul", b.node("Cast", acc, to=FLOAT), factor), n)


def qdq(b: Builder) -> None:
    """DequantizeLinear, MatMul or Gemm, and mostly QuantizeLinear."""
    x, n = b.draw(), width(b)
    gemm = b.rank == 2 and b.chance(0.5)
    turned = gemm and b.chance(0.5)
    dtype = b.pick([np.uint8, np.uint8, np.int8])
    w, w_type = b.weight(x.width, n, turned=turned)
    size = n if b.chance(0.4) else None
    parameters = [b.scale(size, 0.02)]
    if b.chance(0.75):
        parameters.append(
            b.constant(np.zeros((size,) if size else (), w_type)) if b.chance(0.5) else b.zero_point(w_type, size)
        )
    axis = {} if size is None else {"axis": 0 if turned else 1}
    wd = b.edge(b.node("DequantizeLinear", w, *parameters, **axis))
    if not gemm and b.chance(0.15):
        wt, t_type = b.weight(n, x.width)
        wd = b.node(
            "Transpose",
            b.node("DequantizeLinear", wt, b.scale(None, 0.02), b.constant(np.zeros((), t_type))),
            perm=[1, 0],
        )
    xd = b.pair(b.edge(x.name, x.width), dtype)
    if b.chance(0.2):
        b.add(xd, x.width)
    for _ in range(int(b.pick([1, 1, 1, 2]))):
        if gemm:
            bias = []
            if b.chance(0.5):
                bias = (
                    [b.floats((n,))]
                    if b.chance(0.6)
                    else [
                        b.node(
                            "DequantizeLinear",
                            b.constant(np.asarray(b.rng.integers(-999, 999, n), np.int32)),
                            b.scale(None, 0.01),
                        )
                    ]
                )
            y = b.node("Gemm", xd, wd, *bias, transB=int(turned), **({"alpha": 0.5} if b.chance(0.1) else {}))
        else:
            y = b.node("MatMul", xd, wd)
            if b.chance(0.4):
                y = b.node("Add", *b.rng.permutation([b.edge(y, n), b.floats((n,))]).tolist())
        if b.chance(0.2):
            b.add(y, n)
        if b.chance(0.2):
            y = b.pick([relu, clip])(b, y)
        if b.chance(0.7):
            y = b.pair(b.edge(y, n), b.pick([dtype, dtype, np.uint8]), 0.3)
        b.add(b.edge(y, n), n)


def qlinear(b: Builder) -> None:
    """QLinearMatMul between QuantizeLinear and DequantizeLinear."""
    x, n = b.draw(), width(b)
    dtype = b.pick([np.uint8, np.uint8, np.int8])
    w, w_type = b.weight(x.width, n)
    if dtype == np.int8 and w_type == np.uint8:
        dtype = np.uint8
    q, parameters = b.quantize(b.edge(x.name, x.width), dtype)
    if len(parameters) == 1:
        parameters.append(b.constant(np.zeros((), dtype)))
    size = n if b.chance(0.4) else None
    ys, yz = b.scale(None, 0.5), b.zero_point(dtype)
    q = b.node(
        "QLinearMatMul", b.edge_of_bytes(q), *parameters, w, b.scale(size, 0.02), b.zero_point(w_type, size), ys, yz
    )
    if b.chance(0.05):
        b.outputs[q] = (dtype, [None] * b.rank)
    for _ in range(int(b.pick([1, 1, 1, 2]))):
        b.add(b.edge(b.node("DequantizeLinear", b.edge_of_bytes(q), ys, yz), n), n)


def contrib(b: Builder) -> None:
    """com.microsoft's fused forms, as a model has them that onnxruntime optimised."""
    x, n = b.draw(), width(b)
    w, w_type = b.weight(x.width, n)
    size = n if b.chance(0.4) else None
    scale = b.scale(size, 0.02)
    extra = [b.zero_point(w_type, size) if b.chance(0.6) else "", b.floats((n,)) if b.chance(0.4) else ""]
    while extra and not extra[-1]:
        extra.pop()
    if b.chance(0.5):
        y = b.node("DynamicQuantizeMatMul", x.name, w, scale, *extra, domain=MS_DOMAIN)
    else:
        q, parameters = b.quantize(x.name, np.uint8)
        zero = parameters[1] if len(parameters) > 1 else ""
        inputs = [q, w, parameters[0], scale, zero, *extra]
        while not inputs[-1]:
            inputs.pop()
        y = b.node("MatMulIntegerToFloat", *inputs, domain=MS_DOMAIN)
    b.add(y, n)


def function(b: Builder) -> None:
    """A multiplication inside a local function, called once or twice."""
    x, n = b.draw(), width(b)
    array = b.integers(np.int8, (x.width, n))
    label = f"Linear{len(b.functions)}"
    inside = b.chance(0.5)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["a"]),
        helper.make_node("Cast", ["a"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "s"], ["p"]),
        helper.make_node("Mul", ["p", "k"], ["y"]),
    ]
    if inside:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(array)))
    inputs = ["x", "k"] if inside else ["x", "k", "w"]
    b.functions.append(helper.make_function("fn", label, inputs, ["y"], nodes, [helper.make_opsetid("", b.opset)]))
    rest = [b.scale(None, 0.02)] if inside else [b.scale(None, 0.02), b.constant(array, hidden=False)]
    for _ in range(int(b.pick([1, 1, 2]))):
        b.add(b.node(label, x.name, *rest, domain="fn"), n)


def outlined(b: Builder) -> None:
    """What another step makes, in a local function that is called once or twice; constants are in it or given to it."""
    nodes, values, weights = len(b.nodes), len(b.values), len(b.weights)
    before, scales = set(b.constants), {key: list(names) for key, names in b.scales.items()}
    others = (qdq, dynamic, static_integer, qlinear, contrib, look_up, weight_only)
    (convolution if b.rank == 3 and b.chance(0.3) else b.pick(others))(b)
    del b.weights[weights:]  # nobody else sees them
    b.scales = scales
    made, results = b.nodes[nodes:], [value.name for value in b.values[values:]]
    computed = {name for node in made for name in node.output}
    results = list(dict.fromkeys(name for name in results if name in computed))
    b.outputs = {name: what for name, what in b.outputs.items() if name in results or name not in computed}
    if not results:
        return
    del b.nodes[nodes:]
    read = list(dict.fromkeys(name for node in made for name in sorted(used_by(node)) if name not in {"", *computed}))
    inside = [name for name in read if name in b.constants and name not in before and b.chance(0.6)]
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(b.constants.pop(name), name))
        for name in inside
    ]
    given = [name for name in read if name not in inside]
    label = f"Outlined{len(b.functions)}"
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", b.opset), ("fn", 1), (MS_DOMAIN, 1))]
    parameters, returned, body = given, results, [*constants, *made]
    if b.chance(0.5):
        parameters, returned, body = named_as_in_the_graph(b, given, results, body)
    b.functions.append(helper.make_function("fn", label, parameters, returned, body, opsets))
    b.nodes.append(helper.make_node(label, given, results, domain="fn"))
    if b.chance(0.3):
        widths = {value.name: value.width for value in b.values}
        again = [b.name() for _ in results]
        b.nodes.append(helper.make_node(label, given, again, domain="fn"))
        for name, result in zip(again, results, strict=True):
            b.add(name, widths[result])


def named_as_in_the_graph(
    b: Builder, given: list[str], results: list[str], body: list[onnx.NodeProto]
) -> tuple[list[str], list[str], list[onnx.NodeProto]]:
    """Give the values of a function names that others have in the graph."""
    inside = list(dict.fromkeys([*given, *(name for node in body for name in (*node.input, *node.output) if name)]))
    drawn = (f"v{number + 1}" for number in b.rng.permutation(max(b.count, len(inside))))
    names = {"": "", **dict(zip(inside, drawn, strict=False))}
    renamed = []
    for node in body:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(names[name] for name in node.input)
        copy.output.extend(names[name] for name in node.output)
        renamed.append(copy)
    return [names[name] for name in given], [names[name] for name in results], renamed


def branch(b: Builder) -> None:
    """An If whose branches multiply, with weights of the graph around or of their own."""
    x, n = b.draw(), width(b)
    w, _ = b.weight(x.width, n)
    outer = b.node("DequantizeLinear", w, b.scale(None, 0.02)) if b.chance(0.3) else None
    kind = b.pick(["dynamic", "qdq"]) if outer is None else "qdq"
    xd = b.pair(x.name, np.uint8) if kind == "qdq" else ""
    scale = b.scale(None, 0.02)
    bodies = []
    for side in ("then", "else"):
        prefix = f"{b.name()}{side}"
        if kind == "dynamic":
            nodes = [
                helper.make_node("DynamicQuantizeLinear", [x.name], [f"{prefix}q", f"{prefix}s", f"{prefix}z"]),
                helper.make_node("MatMulInteger", [f"{prefix}q", w, f"{prefix}z"], [f"{prefix}a"]),
                helper.make_node("Cast", [f"{prefix}a"], [f"{prefix}f"], to=FLOAT),
                helper.make_node("Mul", [f"{prefix}f", scale], [f"{prefix}y"]),
            ]
        else:
            nodes = [] if outer else [helper.make_node("DequantizeLinear", [w, scale], [f"{prefix}w"])]
            nodes.append(helper.make_node("MatMul", [xd, outer or f"{prefix}w"], [f"{prefix}y"]))
        result = f"{prefix}y"
        if side == "else":
            nodes.append(helper.make_node("Neg", [result], [f"{prefix}n"]))
            result = f"{prefix}n"
        out = helper.make_tensor_value_info(result, FLOAT, None)
        bodies.append(helper.make_graph(nodes, side, [], [out]))
    y = b.name()
    b.nodes.append(helper.make_node("If", ["flag"], [y], then_branch=bodies[0], else_branch=bodies[1], name=y))
    b.add(y, n)


# ---------------------------------------------------------------------------------------------------------------------
# What stands behind


def relu(b: Builder, x: str) -> str:
    return b.node("Relu", x)


def clip(b: Builder, x: str) -> str:
    return b.node("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(b.pick([6, 1]))))


def gelu(b: Builder) -> None:
    x = b.draw()
    half, one = b.constant(np.float32(0.5)), b.constant(np.float32(1))
    v = x.name
    way = b.pick(["div", "mul", "half first", "tanh", "op"])
    if way == "op" and b.opset >= 20:
        b.add(b.node("Gelu", v), x.width)
        return
    if way == "tanh":
        cubed = b.node("Pow", v, b.constant(np.float32(3)))
        inner = b.node("Add", v, b.node("Mul", cubed, b.constant(np.float32(0.044715))))
        inner = b.node("Tanh", b.node("Mul", inner, b.constant(np.float32(0.7978846))))
        b.add(b.node("Mul", b.node("Mul", v, half), b.node("Add", inner, one)), x.width)
        return
    if way == "mul":
        erf = b.node("Erf", b.node("Mul", v, b.constant(np.float32(0.70710677))))
    else:
        erf = b.node("Erf", b.node("Div", v, b.constant(np.float32(1.4142135))))
    plus = b.node("Add", erf, one)
    if way == "half first":
        y = b.node("Mul", b.node("Mul", v, half), plus)
    else:
        y = b.node("Mul", b.node("Mul", v, plus), half)
    b.add(b.edge(y, x.width), x.width)


def swish(b: Builder) -> None:
    """x * sigmoid(x), or a gate of another value."""
    x = b.draw()
    other = b.pick([each for each in b.values if each.width == x.width])
    act = b.node(b.pick(["Sigmoid", "Tanh", "Relu"]), other.name)
    b.add(b.node("Mul", *b.rng.permutation([x.name, act]).tolist()), x.width)


def reduced(b: Builder, x: str) -> str:
    if b.opset >= 18:
        return b.node("ReduceMean", x, b.constant(np.array([-1], np.int64), hidden=False))
    return b.node("ReduceMean", x, axes=[-1])


def norm(b: Builder) -> None:
    x = b.draw()
    v, size = x.name, x.width
    way = b.pick(["op", "steps", "rms", "rms 1 /"])
    if way == "op" and b.opset >= 17:
        y = b.node("LayerNormalization", v, b.floats((size,)), b.floats((size,)), axis=-1)
        b.add(y, size)
        return
    if way.startswith("rms"):
        squares = b.node("Pow", v, b.constant(np.float32(2)))
        root = b.node("Sqrt", b.node("Add", reduced(b, squares), b.constant(np.float32(1e-5))))
        one = b.constant(np.float32(1))
        y = b.node("Div", v, root) if way == "rms" else b.node("Mul", v, b.node("Div", one, root))
        b.add(b.node("Mul", *b.rng.permutation([y, b.floats((size,))]).tolist()), size)
        return
    d = b.node("Sub", v, reduced(b, v))
    variance = reduced(b, b.node("Pow", d, b.constant(np.float32(2))))
    root = b.node("Sqrt", b.node("Add", variance, b.constant(np.float32(1e-5))))
    y = b.node("Mul", b.node("Div", d, root), b.floats((size,)))
    b.add(b.node("Add", y, b.floats((size,))), size)


def look_up(b: Builder) -> None:
    """Rows of an int8 table, widened before they are taken or after, as embeddings have it."""
    x, n = b.draw(), width(b)
    table, dtype = b.weight(64, n)
    form = b.pick(["DequantizeLinear", "DequantizeLinear", "Cast"])
    size = n if b.chance(0.3) else None
    scale = b.scale(size, 0.05)
    zero = b.zero_point(dtype, size) if b.chance(0.6) else None
    indices = b.node("ArgMax", x.name, axis=-1, keepdims=0)

    def widened(value: str, *, last: int) -> str:
        if form == "DequantizeLinear":
            return b.node(form, value, scale, *([] if zero is None else [zero]), axis=last)
        floats = b.node("Cast", value, to=FLOAT)
        if zero is not None:
            floats = b.node("Sub", floats, b.floats(() if size is None else (size,), 9.0))
        return b.node("Mul", *b.rng.permutation([floats, scale]).tolist())

    if b.chance(0.5):
        y = b.node("Gather", widened(table, last=1), indices)
        if b.chance(0.3) and form == "DequantizeLinear" and zero is not None and size is None:
            y = b.node("DequantizeLinear", b.node("QuantizeLinear", y, scale, zero), scale, zero)
    else:
        rows = b.edge_of_bytes(b.node("Gather", table, indices))
        y = widened(rows, last=b.rank - 1 if b.chance(0.5) else -1)
    b.add(b.edge(y, n), n)


def weight_only(b: Builder) -> None:
    """A dequantized constant that meets floats: multiplied with, added, shared, or behind a Transpose."""
    x, n = b.draw(), width(b)
    way = b.pick(["MatMul", "MatMul", "turned", "Add", "Mul", "twice"])
    shape = {"Add": (x.width,), "Mul": (x.width,), "turned": (n, x.width)}.get(way, (x.width, n))
    dtype = b.pick([np.int8, np.uint8])
    w = b.constant(b.integers(dtype, shape))
    axis = int(b.rng.integers(len(shape))) if b.chance(0.4) else None
    size = None if axis is None else shape[axis]
    parameters = [b.scale(size, 0.05)]
    if b.chance(0.6):
        parameters.append(b.zero_point(dtype, size))
    along = {} if axis is None else {"axis": axis - len(shape) if b.chance(0.3) else axis}
    f = b.edge(b.node("DequantizeLinear", w, *parameters, **along))
    if way in ("Add", "Mul"):
        b.add(b.node(way, *b.rng.permutation([x.name, f]).tolist()), x.width)
        return
    if way == "turned":
        f = b.node("Transpose", f, perm=[1, 0])
    if way == "twice":
        again = b.node("DequantizeLinear", w, b.scale(None, 0.05))
        b.add(b.node("MatMul", x.name, b.node("Add", f, again)), n)
    b.add(b.edge(b.node("MatMul", b.edge(x.name, x.width), f), n), n)


def scaled_product(b: Builder) -> None:
    """A product of floats, of a value that is scaled or turned first: onnxruntime takes that in."""
    x, n = b.draw(), width(b)
    y = b.node("Mul", x.name, b.constant(np.float32(0.37))) if b.chance(0.5) else x.name
    b.add(b.node("MatMul", y, b.floats((x.width, n), 0.2)), n)


def residual(b: Builder) -> None:
    x = b.draw()
    other = b.pick([each for each in b.values if each.width == x.width])
    b.add(b.edge(b.node(b.pick(["Add", "Add", "Mul", "Sub"]), x.name, other.name), x.width), x.width)


def activation(b: Builder) -> None:
    x = b.draw()
    way = b.pick(["Relu", "Sigmoid", "Tanh", "Clip", "Softmax", "Neg", "LeakyRelu", "Div", "Mul"])
    if way == "Clip":
        y = clip(b, x.name)
    elif way in ("Div", "Mul"):
        y = b.node(way, x.name, b.constant(np.float32(b.pick([8.0, 0.125, 2.0]))))
    else:
        y = b.node(way, x.name)
    b.add(b.edge(y, x.width), x.width)


def bias(b: Builder) -> None:
    x = b.draw()
    b.add(b.node("Add", *b.rng.permutation([x.name, b.floats((x.width,))]).tolist()), x.width)


def quantized(b: Builder) -> None:
    x = b.draw()
    b.add(b.pair(x.name, b.pick([np.uint8, np.int8]), 0.1), x.width)


def heads(b: Builder) -> None:
    """Attention: two values of the same width, split into heads and multiplied."""
    if b.rank != 3:
        return
    x = b.draw()
    others = [each for each in b.values if each.width == x.width]
    if x.width % 4:
        return
    shape = b.constant(np.array([0, 0, 2, x.width // 2], np.int64), hidden=False)
    q = b.node("Transpose", b.node("Reshape", x.name, shape), perm=[0, 2, 1, 3])
    k = b.node("Reshape", b.pick(others).name, shape)
    if b.chance(0.5):
        k = b.node("Transpose", k, perm=[0, 2, 3, 1])
    else:
        k = b.node("Transpose", k, perm=[0, 2, 1, 3])
        if b.chance(0.3):
            k = b.node("Concat", k, axis=-2)
        k = b.node("Transpose", k, perm=[0, 1, 3, 2])
    scores = b.node("Softmax", b.node("Mul", b.node("MatMul", q, k), b.constant(np.float32(0.125))), axis=-1)
    v = b.node("Transpose", b.node("Reshape", b.pick(others).name, shape), perm=[0, 2, 1, 3])
    y = b.node("Transpose", b.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = b.node("Reshape", y, b.constant(np.array([0, 0, x.width], np.int64), hidden=False))
    b.add(y, x.width)


def convolution(b: Builder) -> None:
    """A convolution over the second last dimension: ConvInteger, QLinearConv, or Conv of floats that were quantised."""
    if b.rank != 3:
        return
    x, n = b.draw(), int(b.pick([8, 16, 32, 33]))
    common = [group for group in range(2, n + 1) if x.width % group == 0 and n % group == 0]
    group = b.pick(common) if common and b.chance(0.3) else 1
    size = int(b.pick([1, 3, 5]))
    x_type = b.pick([np.uint8, np.uint8, np.int8])
    w_type = b.pick([np.int8, np.int8, x_type])  # onnxruntime has no kernel for int8 images and uint8 kernels
    w = b.constant(b.integers(w_type, (n, x.width // group, size)), hidden=False)
    each = n if b.chance(0.4) else None
    how: dict[str, Any] = {"pads": [size // 2, size // 2], "group": group}
    if b.chance(0.3):
        how = {"auto_pad": b.pick(["SAME_UPPER", "SAME_LOWER"]), "group": group}
    turned = b.node("Transpose", b.edge(x.name, x.width), perm=[0, 2, 1])
    w_scale, w_zero = b.scale(each, 0.02), b.constant(np.zeros(() if each is None else (each,), w_type))
    way = b.pick(["integer", "linear", "qdq", "qdq"])

    def whole_pair(value: str, spread: float) -> str:
        """Return a value quantised and dequantised; without zero points, onnxruntime may end the process."""
        parameters = b.scale(None, spread), b.zero_point(x_type)
        return b.node("DequantizeLinear", b.node("QuantizeLinear", value, *parameters), *parameters)

    if way == "integer":
        q, parameters = b.quantize(turned, x_type)
        acc = b.node("ConvInteger", q, w, *parameters[1:], **how)
        y = b.node("Mul", b.node("Cast", acc, to=FLOAT), b.scale(None, 0.001))
    elif way == "linear":
        q, _ = b.quantize(turned, x_type)
        zero, scale = b.zero_point(x_type), b.scale(None, 0.5)
        bias = [b.constant(np.asarray(b.rng.integers(-999, 999, n), np.int32))] if b.chance(0.5) else []
        inputs = [b.scale(None, 0.05), b.zero_point(x_type), w, w_scale, w_zero, scale, zero, *bias]
        y = b.node("DequantizeLinear", b.node("QLinearConv", q, *inputs, **how), scale, zero)
    else:
        wd = b.node("DequantizeLinear", w, w_scale, w_zero, **({} if each is None else {"axis": 0}))
        bias = [b.floats((n,))] if b.chance(0.4) else []
        y = b.edge(b.node("Conv", whole_pair(turned, 0.05), wd, *bias, **how))
        if b.chance(0.3):
            y = b.node("Relu", y)
        y = whole_pair(y, 0.5) if b.chance(0.8) else y
    b.add(b.edge(b.node("Transpose", y, perm=[0, 2, 1]), n), n)


MULTIPLICATIONS = (
    dynamic,
    dynamic,
    static_integer,
    qdq,
    qdq,
    qdq,
    qlinear,
    contrib,
    function,
    outlined,
    branch,
    look_up,
    weight_only,
    convolution,
)
BEHIND = (
    gelu,
    gelu,
    swish,
    norm,
    norm,
    residual,
    residual,
    activation,
    activation,
    bias,
    quantized,
    heads,
    scaled_product,
)


def generate(seed: int) -> Case:
    """Return the case of a seed."""
    b = Builder(seed)
    k = width(b)
    b.values.append(Value("x", k))
    for _ in range(int(b.rng.integers(1, 5))):
        behind = (b.pick(BEHIND + MORE_BEHIND) for _ in range(int(b.rng.integers(0, 4))))
        for step in (b.pick(LAYERS if b.chance(0.3) else MULTIPLICATIONS), *behind):
            b.steps.append(step.__name__)
            step(b)
    b.outputs[b.values[-1].name] = (np.float32, [None] * b.rank)
    if b.chance(0.3):
        b.outputs[b.pick(b.values).name] = (np.float32, [None] * b.rank)
    b.outputs.pop("x", None)
    if b.weights and b.chance(0.03):
        name, array = b.pick(b.weights)
        b.outputs[name] = (array.dtype.type, list(array.shape))
    lead = ["b", "m"][-(b.rank - 1) :]
    used = {name for node in b.nodes for name in used_by(node)}
    inputs: dict[str, tuple[Any, list[Any]]] = {"x": (np.float32, [*lead, k])}
    if "flag" in used:
        inputs["flag"] = (np.bool_, [])
    constants = {name: array for name, array in b.constants.items() if name in used or name in b.outputs}
    old = not b.functions and b.chance(0.05)  # constants are listed among the inputs, as they were below IR 4
    model = make_model(
        b.nodes, inputs, b.outputs, constants, opset=b.opset, functions=b.functions,
        ir_version=3 if old else 10 if b.opset >= BLOCKS else 8,
    )  # fmt: skip
    if old:
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
    feeds = []
    for sizes, spread in (((2, 3), 1.0), ((3, 1), 30.0), ((1, 5), 0.05)):
        shape = (*sizes[-(b.rank - 1) :], k)
        feed = {"x": np.asarray(b.rng.standard_normal(shape) * spread, np.float32)}
        if "flag" in used:
            feed["flag"] = np.array(b.chance(0.5))
        feeds.append(feed)
    return Case(model, feeds, b.steps)


def used_by(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                names |= used_by(inner)
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


def compute(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], *, optimize: bool
) -> list[list[np.ndarray]]:
    opened = mcd_graph.InferenceSession(
        model.SerializeToString(), session_options(optimized=optimize), providers=["CPUExecutionProvider"]
    )
    return [list(opened.run(None, dict(feed))) for feed in feeds]


Expected = dict[bool, list[list[np.ndarray]]]


def expect(case: Case) -> Expected | None:
    """Return what a case's model computes with optimisations and without; ``None`` if onnxruntime refuses it."""
    try:
        return {optimize: compute(case.model, case.feeds, optimize=optimize) for optimize in (True, False)}
    except Exception:  # noqa: BLE001 - whatever onnxruntime says of an odd model
        return None


@contextlib.contextmanager
def every_size() -> Iterator[None]:
    """Have constants decoded at run time however small they are."""
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (model_constants, "WORTH_NAMING", 4),
            (dequantize, "WORTH_NAMING", 4),
            (convolutions, "WORTH_NAMING", 4),
            (convolutions, "SMALL", 0),
            (convolutions, "WORK", 0),
            (plan_constants, "LEAST_FLOATS", 0),
        ):
            stack.enter_context(unittest.mock.patch.object(place, name, value))
        yield


def check(case: Case, expected: Expected) -> Outcome:
    """Lower a case, with its other constants restored at opening or not, and restore it; compare bytes."""
    loaded = load_model(case.model)
    with every_size():
        plan = plan_lowering(loaded)
    met, lowered = len(plan.sites), sum(site.status == "lowered" for site in plan.sites)
    optimized_only = any(site.optimized and site.status == "lowered" for site in plan.sites)
    settings = (True,) if optimized_only else (True, False)

    def compare(model: onnx.ModelProto, what: str) -> None:
        for optimize in settings:
            for ours, theirs in zip(compute(model, case.feeds, optimize=optimize), expected[optimize], strict=True):
                try:
                    assert_same_bytes(ours, theirs)
                except AssertionError as error:
                    raise AssertionError(f"{what}, {'optimised' if optimize else 'not optimised'}: {error}") from error

    changed = plan.apply(pack_all(plan))
    if changed:
        compare(ir.to_proto(loaded), "lowered")
    jobs = constants_at_open(loaded)
    if jobs:
        restore_at_open(loaded, jobs, {job.key: pack_weight(job.array(), tiling=job.tiling) for job in jobs})
        hidden = ir.to_proto(loaded)
        hide_nodes(hidden)
        compare(hidden, "with constants at opening")
    if changed or jobs:
        plan_restoration(loaded).apply()
        compare(ir.to_proto(loaded), "restored")
    return Outcome(met + len(jobs), lowered + len(jobs))
