"""Looks at small networks as exporters and quantisers write them: ``python tests/fuzz/exported.py FIRST SECONDS``.

Where `random_graphs.py` grows a graph edge by edge, this builds networks of blocks (transformers, convolutional ones,
both behind each other) and gives each layer a dialect: dynamic, QDQ, QLinear, weights alone, in blocks, fp16; opset 10
to 23; weights that are shared, given to functions, read in branches and loops. Each model is compressed without proof,
with and without ``at_open``, restored, and all of them have to give the original's bytes.

    python tests/fuzz/exported.py --one SEED FOLDER      writes the model of a seed, and says what becomes of it
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

import onnxruntime as ort  # noqa: E402 - after the path
from random_graphs import every_size  # noqa: E402 - found there
from samples import write_external  # noqa: E402

import mcd_graph  # noqa: E402
from mcd_graph.model.loading import load_model  # noqa: E402
from mcd_graph.passes import reproduces_optimized  # noqa: E402

MS = "com.microsoft"
LOCAL = "local"
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
OPSETS = (10, 11, 12, 13, 13, 15, 16, 17, 18, 19, 20, 21, 21, 22, 23)
DIALECTS = ("dynamic", "dynamic", "qdq", "qdq", "qdq", "qlinear", "weights", "float")

#: Opsets from which on operators have what is written here.
AXES_ARE_INPUTS, DYNAMIC, PER_CHANNEL, NORMALIZATION, GELU, BLOCKS = 13, 11, 13, 17, 20, 21
REDUCE_AXES_ARE_INPUTS = 18

#: Seeds from which on networks have operators of :data:`RARE` as well; those of smaller ones stay what they were.
RARE_FROM = 30_000

#: Seeds from which on every third model has its tensors of so many bytes in a data file.
DATA_FILE_FROM, IN_FILE = 300_000, 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A float value and its shape; sizes that an input decides are -1."""

    name: str
    shape: tuple[int, ...]


class Network:
    """A model in the making; `nodes` is the list of the graph that is being written."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng([seed, 77])
        self.opset = int(self.random.choice(OPSETS))
        self.dialect = str(self.random.choice(DIALECTS))
        self.mixed = self.maybe(0.4)
        self.sloppy = self.maybe(0.5)
        self.per_channel = self.maybe(0.5) and self.opset >= PER_CHANNEL
        self.activations = self.of([np.uint8, np.uint8, np.int8])
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.known: list[tuple[tuple[Any, ...], str]] = []
        self.extra: list[Tensor] = []
        self.story: list[str] = [f"opset {self.opset}", self.dialect]
        self.serial = 0
        self.dice = np.random.default_rng([seed, 78])
        self.share_of_rare = 0.15 if seed >= RARE_FROM else 0.0

    # Chance

    def rare(self, table: dict[str, Any]) -> str | None:
        """Return the name of something that few models have, once in a while."""
        names = sorted(table)
        return names[int(self.dice.integers(len(names)))] if self.dice.random() < self.share_of_rare else None

    def maybe(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def of(self, things: Sequence[Any]) -> Any:
        return things[int(self.random.integers(len(things)))]

    # Names, constants, nodes

    def fresh(self, stem: str) -> str:
        self.serial += 1
        return f"/net/{stem}.{self.serial}" if self.serial % 7 else f"{stem}_{self.serial}"

    def put(self, array: Any, stem: str = "const") -> str:
        """Return a constant: an initializer, or here and there a Constant node."""
        array, name = np.asarray(array), self.fresh(stem)
        if self.sloppy and self.maybe(0.08):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.tensors[name] = array
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", count: int = 1, **attributes: Any) -> str:
        names = [self.fresh(kind) for _ in range(count)]
        title = self.fresh(f"{kind}_node") if self.maybe(0.8) else ""
        self.nodes.append(helper.make_node(kind, list(inputs), names, title, domain=domain, **attributes))
        return names[0]

    def axes(self, kind: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        """Return an operator whose axes became an input at some opset."""
        if self.opset >= since:
            return self.op(kind, x, self.put(np.array(axes, np.int64)), **attributes)
        return self.op(kind, x, axes=axes, **attributes)

    def number(self, value: float, dtype: Any = np.float32) -> str:
        return self.put(np.array(value, dtype) if self.maybe(0.7) else np.array([value], dtype))

    def normal(self, shape: tuple[int, ...], size: float = 1.0) -> np.ndarray:
        return np.asarray(self.random.standard_normal(shape) * size, np.float32)

    def bytes_of(self, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        info = np.iinfo(dtype)
        if self.maybe(0.15):  # the whole range
            return np.asarray(self.random.integers(info.min, info.max + 1, shape), dtype)
        middle = (info.min + info.max + 1) // 2
        drawn = np.rint(self.random.standard_normal(shape) * self.of([3, 12, 30])) + middle
        return np.asarray(np.clip(drawn, info.min, info.max), dtype)

    # What exporters leave behind

    def idle(self, x: Tensor) -> Tensor:
        """Return a value behind something that does nothing to it, or the value."""
        if not self.sloppy or not self.maybe(0.15):
            return x
        return dataclasses.replace(x, name=self.of(IDLE)(self, x))

    # Quantising

    def dtype(self) -> Any:
        return self.activations if self.maybe(0.9) else self.of([np.uint8, np.int8])

    def parameters(self, dtype: Any, size: float = 0.04, channels: int | None = None) -> tuple[str, str]:
        """Return names of a scale and a zero point."""
        shape = () if channels is None else (channels,)
        scale = np.asarray((self.random.random(shape) + 0.3) * size, np.float32)
        zero = np.zeros(shape, dtype) if channels is not None or self.maybe(0.3) else self.bytes_of(dtype, shape)
        if channels is None and self.sloppy and self.maybe(0.05):
            scale, zero = scale.reshape(1), zero.reshape(1)
        return self.put(scale, "scale"), self.put(zero, "zero_point")

    def quantized(self, x: Tensor) -> tuple[str, str, str]:
        """Return what QuantizeLinear makes of a value, with its scale and zero point."""
        scale, zero = self.parameters(self.dtype())
        return self.op("QuantizeLinear", x.name, scale, zero), scale, zero

    def through(self, x: Tensor) -> Tensor:
        """Return a value behind a pair of QuantizeLinear and DequantizeLinear."""
        q, scale, zero = self.quantized(x)
        if self.sloppy and self.maybe(0.06):
            scale, zero = self.op("Identity", scale), self.op("Identity", zero)
        return Tensor(self.op("DequantizeLinear", q, scale, zero), x.shape)

    def weight(self, shape: tuple[int, ...], dtype: Any = None) -> tuple[str, Any]:
        """Return an int8 or uint8 constant, now and then one that another layer has as well."""
        dtype = dtype or self.of([np.int8, np.int8, np.int8, np.uint8])
        same = [name for key, name in self.known if key == (shape, dtype)]
        if same and self.maybe(0.3):
            return self.of(same), dtype
        name = self.fresh("weight")
        self.tensors[name] = self.bytes_of(dtype, shape)
        self.known.append(((shape, dtype), name))
        return name, dtype

    def float_weight(self, shape: tuple[int, ...], axis: int) -> str:
        """Return a weight that is stored in 8 bits and read as floats."""
        q, dtype = self.weight(shape)
        if self.opset >= BLOCKS and self.maybe(0.2) and shape[0] % 4 == 0 and len(shape) == 2:
            scale = self.put(np.asarray((self.random.random((shape[0] // 4, shape[1])) + 0.3) * 0.01, np.float32))
            return self.op("DequantizeLinear", q, scale, axis=0, block_size=4)
        per_channel = self.per_channel and self.maybe(0.8)
        scale, zero = self.parameters(dtype, 0.01, shape[axis] if per_channel else None)
        w = self.op("DequantizeLinear", q, scale, zero, **({"axis": axis} if per_channel else {}))
        return self.op("Identity", w) if self.sloppy and self.maybe(0.05) else w

    def cast_weight(self, shape: tuple[int, ...]) -> str:
        """Return the same, by Cast and Mul."""
        q, _ = self.weight(shape)
        return self.op("Mul", self.op("Cast", q, to=FLOAT), self.number(0.01))

    # Layers

    def layer(self) -> str:
        return str(self.of(DIALECTS)) if self.mixed else self.dialect

    def linear(self, x: Tensor, n: int) -> Tensor:
        """Return a product with a weight (k, n), with a bias most of the time."""
        how = self.layer()
        if how == "dynamic" and self.opset < DYNAMIC:
            how = "weights"
        rare = self.rare(LINEAR_RARE)
        self.story.append(f"{rare or how} linear")
        if rare and (y := LINEAR_RARE[rare](self, x, n)) is not None:
            return self.idle(y)
        return self.idle(LINEAR[how](self, self.idle(x), n))

    def convolution(self, x: Tensor, n: int, *, window: int = 1, stride: int = 1, group: int = 1) -> Tensor:
        """Return a convolution of images (batch, channels, height, width)."""
        how = self.layer()
        if how == "dynamic" and self.opset < DYNAMIC:
            how = "weights"
        self.story.append(f"{how} convolution")
        attributes = {
            "kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [window // 2] * 4, "group": group,
        }  # fmt: skip
        name = CONVOLUTIONS[how](self, self.idle(x), (n, x.shape[1] // group, window, window), attributes)
        return self.idle(Tensor(name, (x.shape[0], n, -1, -1)))

    def lookup(self, ids: str, rows: int, width: int) -> Tensor:
        """Return rows of a table."""
        shape = (rows, width)
        how = self.layer()
        if self.rare({"blocks": None}) and width % 16 == 0:
            return lookup_blocks(self, ids, rows, width)
        if how == "float":
            return Tensor(self.op("Gather", self.put(self.normal(shape)), ids), (-1, -1, width))
        if how == "weights" and self.maybe(0.5):
            return Tensor(self.op("Gather", self.cast_weight(shape), ids), (-1, -1, width))
        table, dtype = self.weight(shape)
        scale, zero = self.parameters(dtype, 0.02)
        if self.maybe(0.5):
            found = self.op("Gather", table, ids)
            return Tensor(self.op("DequantizeLinear", found, scale, zero), (-1, -1, width))
        return Tensor(self.op("Gather", self.op("DequantizeLinear", table, scale, zero), ids), (-1, -1, width))

    def bias(self, name: str, n: int) -> str:
        return self.op("Add", name, self.put(self.normal((n,), 0.2))) if self.maybe(0.8) else name

    # What stands behind layers

    def activation(self, x: Tensor) -> Tensor:
        name = self.of(ACTIVATIONS)(self, x.name)
        return self.idle(Tensor(name, x.shape))

    def norm(self, x: Tensor) -> Tensor:
        """Return a layer normalisation, in one operator or in many."""
        width = x.shape[-1]
        gain, shift = self.put(self.normal((width,)) * 0.1 + 1), self.put(self.normal((width,), 0.1))
        if self.opset >= NORMALIZATION and self.maybe(0.6):
            return Tensor(self.op("LayerNormalization", x.name, gain, shift, axis=-1, epsilon=1e-5), x.shape)
        root = self.maybe(0.4)
        centred = x.name
        if not root:
            mean = self.axes("ReduceMean", x.name, [-1], REDUCE_AXES_ARE_INPUTS, keepdims=1)
            centred = self.op("Sub", x.name, mean)
        square = self.op("Pow", centred, self.number(2.0))
        mean = self.axes("ReduceMean", square, [-1], REDUCE_AXES_ARE_INPUTS, keepdims=1)
        deviation = self.op("Sqrt", self.op("Add", mean, self.number(1e-5)))
        scaled = self.op("Mul", self.op("Div", centred, deviation), gain)
        return Tensor(scaled if root else self.op("Add", scaled, shift), x.shape)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a residual connection, quantised where a static quantiser would."""
        if self.dialect == "qdq" and self.maybe(0.5):
            x, y = self.through(x), self.through(y)
            return self.through(Tensor(self.op("Add", x.name, y.name), x.shape))
        return Tensor(self.op("Add", *self.of([(x.name, y.name), (y.name, x.name)])), x.shape)

    def attention(self, x: Tensor, heads: int) -> Tensor:
        """Return a self-attention."""
        width = x.shape[-1]
        shape = self.put(np.array([0, 0, heads, width // heads], np.int64))
        parts = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            part = self.op("Reshape", self.linear(x, width).name, shape)
            parts.append(Tensor(self.op("Transpose", part, perm=perm), (-1, heads, -1, -1)))
        if self.dialect == "qdq" and self.maybe(0.5):
            parts = [self.through(part) for part in parts]
        q, k, v = parts
        scores = self.op("Mul", self.op("MatMul", q.name, k.name), self.number(0.3))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=3), v.name)
        back = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self.op("Reshape", back, self.put(np.array([0, 0, width], np.int64)))
        return self.linear(Tensor(joined, x.shape), width)

    # Graphs inside of nodes

    @contextlib.contextmanager
    def inside(self) -> Iterator[list[onnx.NodeProto]]:
        """Write nodes into a list of their own."""
        before, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = before

    def body(self, title: str, build: Callable[[], str], ins: Sequence[Any] = (), outs: Sequence[Any] = ()) -> Any:
        """Return a graph whose last output is what `build` gives; some of its constants may be its own."""
        outside = set(self.tensors)
        with self.inside() as nodes:
            result = build()
            own = [name for name in self.tensors if name not in outside and self.maybe(0.5)]
            own = [name for name in own if not any(name == known for _, known in self.known)]
            inits = [numpy_helper.from_array(self.tensors.pop(name), name) for name in own]
            if not nodes or result not in {each for node in nodes for each in node.output}:
                result = self.op("Identity", result)
        value = helper.make_tensor_value_info(result, FLOAT, None)
        return helper.make_graph(nodes, title, list(ins), [*outs, value], inits)

    def branch(self, x: Tensor, n: int) -> Tensor:
        """Return one of two products."""
        self.story.append("If")
        graphs = {
            f"{side}_branch": self.body(side, lambda: self.linear(x, n).name) for side in ("then", "else")
        }  # fmt: skip
        return Tensor(self.op("If", "flag", **graphs), (*x.shape[:-1], n))

    def loop(self, x: Tensor) -> Tensor:
        """Return what a loop makes of a value in two turns."""
        self.story.append("Loop")
        turn, going, state = self.fresh("turn"), self.fresh("going"), self.fresh("state")
        still = self.fresh("still")

        def build() -> str:
            self.nodes.append(helper.make_node("Identity", [going], [still]))
            inner = self.linear(Tensor(state, x.shape), x.shape[-1])
            return self.op("Tanh", inner.name)

        ins = [
            helper.make_tensor_value_info(turn, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(state, FLOAT, None),
        ]
        outs = [helper.make_tensor_value_info(still, TensorProto.BOOL, [])]
        graph = self.body("loop", build, ins, outs)
        count = self.put(np.array(2, np.int64))
        return Tensor(self.op("Loop", count, "", x.name, body=graph), x.shape)

    def call(self, x: Tensor, n: int) -> Tensor:
        """Return a product that a local function computes of the weight that it is given."""
        self.story.append("function")
        w, dtype = self.weight((x.shape[-1], n))
        static = self.opset < DYNAMIC or self.maybe(0.5)
        name = f"{'Static' if static else 'Dynamic'}{np.dtype(dtype).name}"
        if name not in self.functions:
            self.functions[name] = (static_function if static else dynamic_function)(name, self.opset)
        inputs = [x.name, w, self.number(0.01)]
        if static:
            inputs += self.parameters(self.dtype())
            inputs[2:3] = self.parameters(dtype, 0.01)
        return Tensor(self.op(name, *inputs, domain=LOCAL), (*x.shape[:-1], n))


def static_function(name: str, opset: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "xs", "xz"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "xs", "xz"], ["y"]),
    ]
    inputs = ["x", "w", "ws", "wz", "xs", "xz"]
    return helper.make_function(LOCAL, name, inputs, ["y"], nodes, [helper.make_opsetid("", opset)])


def dynamic_function(name: str, opset: int) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["y"]),
    ]
    return helper.make_function(LOCAL, name, ["x", "w", "ws"], ["y"], nodes, [helper.make_opsetid("", opset)])


# ---------------------------------------------------------------------------------------------------------------------
# What does nothing


def idle_dropout(net: Network, x: Tensor) -> str:
    if net.opset >= 12 and net.maybe(0.4):
        return net.op("Dropout", x.name, net.number(0.1), net.put(np.array(False)))
    return net.op("Dropout", x.name)


def idle_transposes(net: Network, x: Tensor) -> str:
    rank = len(x.shape)
    perm = list(net.random.permutation(rank))
    inverse = [perm.index(i) for i in range(rank)]
    return net.op("Transpose", net.op("Transpose", x.name, perm=[int(i) for i in perm]), perm=inverse)


def idle_squeeze(net: Network, x: Tensor) -> str:
    wide = net.axes("Unsqueeze", x.name, [0], AXES_ARE_INPUTS)
    return net.axes("Squeeze", wide, [0], AXES_ARE_INPUTS)


def idle_reshape(net: Network, x: Tensor) -> str:
    return net.op("Reshape", x.name, net.put(np.zeros(len(x.shape), np.int64)))


def idle_slice(net: Network, x: Tensor) -> str:
    limits = [net.put(np.array([each], np.int64)) for each in (0, 2**62, len(x.shape) - 1)]
    return net.op("Slice", x.name, *limits)


IDLE: tuple[Callable[[Network, Tensor], str], ...] = (
    lambda net, x: net.op("Identity", x.name),
    lambda net, x: net.op("Cast", x.name, to=FLOAT),
    lambda net, x: net.op("Mul", x.name, net.number(1.0)),
    lambda net, x: net.op("Div", x.name, net.number(1.0)),
    lambda net, x: net.op("Add", net.number(0.0), x.name),
    lambda net, x: net.op("Sub", x.name, net.number(0.0)),
    lambda net, x: net.op("Concat", x.name, axis=0),
    lambda net, x: net.op("Cast", net.op("Cast", x.name, to=TensorProto.DOUBLE), to=FLOAT),
    idle_dropout, idle_transposes, idle_squeeze, idle_reshape, idle_slice,
)  # fmt: skip


def clip(net: Network, x: str, low: float, high: float) -> str:
    if net.opset >= 11:
        return net.op("Clip", x, net.put(np.array(low, np.float32)), net.put(np.array(high, np.float32)))
    return net.op("Clip", x, min=low, max=high)


def gelu(net: Network, x: str) -> str:
    if net.opset >= GELU and net.maybe(0.5):
        return net.op("Gelu", x, **({"approximate": "tanh"} if net.maybe(0.5) else {}))
    share = net.op("Add", net.op("Erf", net.op("Div", x, net.number(1.4142135))), net.number(1.0))
    if net.maybe(0.5):
        return net.op("Mul", net.op("Mul", x, share), net.number(0.5))
    return net.op("Mul", x, net.op("Mul", share, net.number(0.5)))


ACTIVATIONS: tuple[Callable[[Network, str], str], ...] = (
    lambda net, x: net.op("Relu", x),
    lambda net, x: net.op("Relu", x),
    lambda net, x: net.op("LeakyRelu", x, alpha=0.1),
    lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)),
    lambda net, x: net.op("Mul", net.op("HardSigmoid", x, alpha=1 / 6, beta=0.5), x),
    lambda net, x: clip(net, x, 0.0, 6.0),
    lambda net, x: clip(net, x, -3.0, 3.0),
    lambda net, x: net.op("Tanh", x),
    gelu,
)


# ---------------------------------------------------------------------------------------------------------------------
# Layers in every dialect


def linear_dynamic(net: Network, x: Tensor, n: int) -> Tensor:
    shape = (*x.shape[:-1], n)
    k = x.shape[-1]
    batch = net.sloppy and net.maybe(0.08)
    w, dtype = net.weight((1, k, n) if batch else (k, n))
    columns = n if net.per_channel and net.maybe(0.6) else None
    scale = net.put(np.asarray((net.random.random(() if columns is None else (columns,)) + 0.3) * 0.01, np.float32))
    zero = []
    if dtype == np.uint8 or net.maybe(0.6):
        zero = [net.put(np.zeros((), dtype) if net.maybe(0.5) else net.bytes_of(dtype, ()))]
    q = net.op("DynamicQuantizeLinear", x.name, count=3)
    made = net.nodes[-1].output
    total = net.op("MatMulInteger", q, w, made[2], *zero)
    real = net.op("Cast", total, to=FLOAT)
    if net.maybe(0.3):
        y = net.op("Mul", net.op("Mul", real, made[1]), scale)
    else:
        y = net.op("Mul", real, net.op("Mul", made[1], scale))
    return Tensor(net.bias(y, n), (1, *shape) if batch and len(shape) < 3 else shape)


def linear_qdq(net: Network, x: Tensor, n: int) -> Tensor:
    k = x.shape[-1]
    d = net.through(x)
    gemm = len(x.shape) == 2 and net.maybe(0.6)
    turned = gemm and net.maybe(0.5)
    w = net.float_weight((n, k) if turned else (k, n), 0 if turned else 1)
    result = (*x.shape[:-1], n)
    if gemm:
        inputs = [net.put(net.normal((n,), 0.2))] if net.maybe(0.7) else []
        y = net.op("Gemm", d.name, w, *inputs, **({"transB": 1} if turned else {}))
    else:
        y = net.bias(net.op("MatMul", d.name, w), n)
    if net.maybe(0.25):
        net.extra.append(Tensor(y, result))
    if net.maybe(0.3):
        y = net.op("Relu", y)
    return net.through(Tensor(y, result)) if net.maybe(0.8) else Tensor(y, result)


def linear_qlinear(net: Network, x: Tensor, n: int) -> Tensor:
    k = x.shape[-1]
    q, xs, xz = net.quantized(x)
    w, dtype = net.weight((k, n))
    ws, wz = net.parameters(dtype, 0.01, n if net.per_channel and net.maybe(0.5) else None)
    ys, yz = net.parameters(net.activations, 0.1)
    inputs = [q, xs, xz, w, ws, wz, ys, yz]
    y = net.op("QLinearMatMul", *inputs)
    if net.maybe(0.3):  # bytes that two read
        net.extra.append(Tensor(net.op("DequantizeLinear", y, ys, yz), (*x.shape[:-1], n)))
    return Tensor(net.op("DequantizeLinear", y, ys, yz), (*x.shape[:-1], n))


def linear_weights(net: Network, x: Tensor, n: int) -> Tensor:
    k, shape = x.shape[-1], (*x.shape[:-1], n)
    w = net.cast_weight((k, n)) if net.maybe(0.3) else net.float_weight((k, n), 1)
    if net.opset >= 13 and net.maybe(0.15):
        half = net.op("MatMul", net.op("Cast", x.name, to=HALF), net.op("Cast", w, to=HALF))
        return Tensor(net.op("Cast", half, to=FLOAT), shape)
    return Tensor(net.bias(net.op("MatMul", x.name, w), n), shape)


def linear_float(net: Network, x: Tensor, n: int) -> Tensor:
    w = net.put(net.normal((x.shape[-1], n), 0.2))
    return Tensor(net.bias(net.op("MatMul", x.name, w), n), (*x.shape[:-1], n))


LINEAR = {
    "dynamic": linear_dynamic, "qdq": linear_qdq, "qlinear": linear_qlinear, "weights": linear_weights,
    "float": linear_float,
}  # fmt: skip


def along(net: Network, array: np.ndarray) -> str:
    return net.put(array.reshape(1, -1, 1, 1))


def conv_dynamic(net: Network, x: Tensor, kernel: tuple[int, ...], attributes: dict[str, Any]) -> str:
    w, dtype = net.weight(kernel, np.uint8 if net.maybe(0.5) else np.int8)
    q = net.op("DynamicQuantizeLinear", x.name, count=3)
    made = net.nodes[-1].output
    total = net.op("ConvInteger", q, w, made[2], net.put(net.bytes_of(dtype, ())), **attributes)
    real = net.op("Cast", total, to=FLOAT)
    y = net.op("Mul", real, net.op("Mul", made[1], net.number(0.01)))
    return net.op("Add", y, along(net, net.normal((kernel[0],), 0.2))) if net.maybe(0.7) else y


def conv_qdq(net: Network, x: Tensor, kernel: tuple[int, ...], attributes: dict[str, Any]) -> str:
    d = net.through(x)
    w = net.float_weight(kernel, 0)
    inputs = []
    if net.maybe(0.7):
        inputs.append(net.put(net.normal((kernel[0],), 0.2)))
    y = net.op("Conv", d.name, w, *inputs, **attributes)
    if net.maybe(0.4):
        y = net.op("Relu", y) if net.maybe(0.7) else clip(net, y, 0.0, 6.0)
    return net.through(Tensor(y, x.shape)).name if net.maybe(0.85) else y


def conv_qlinear(net: Network, x: Tensor, kernel: tuple[int, ...], attributes: dict[str, Any]) -> str:
    q, xs, xz = net.quantized(x)
    w, dtype = net.weight(kernel)
    ws, wz = net.parameters(dtype, 0.01, kernel[0] if net.per_channel and net.maybe(0.5) else None)
    ys, yz = net.parameters(net.activations, 0.1)
    bias = [net.put(np.asarray(net.random.integers(-99, 99, kernel[0]), np.int32))] if net.maybe(0.6) else []
    y = net.op("QLinearConv", q, xs, xz, w, ws, wz, ys, yz, *bias, **attributes)
    return net.op("DequantizeLinear", y, ys, yz)


def conv_weights(net: Network, x: Tensor, kernel: tuple[int, ...], attributes: dict[str, Any]) -> str:
    w = net.cast_weight(kernel) if net.maybe(0.3) else net.float_weight(kernel, 0)
    return net.op("Conv", x.name, w, net.put(net.normal((kernel[0],), 0.2)), **attributes)


def conv_float(net: Network, x: Tensor, kernel: tuple[int, ...], attributes: dict[str, Any]) -> str:
    return net.op("Conv", x.name, net.put(net.normal(kernel, 0.2)), **attributes)


CONVOLUTIONS = {
    "dynamic": conv_dynamic, "qdq": conv_qdq, "qlinear": conv_qlinear, "weights": conv_weights, "float": conv_float,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Operators that few models have


def linear_nbits(net: Network, x: Tensor, n: int) -> Tensor | None:
    """Return a MatMulNBits, of 4 or 8 bits."""
    k, bits = x.shape[-1], net.of([4, 8])
    blocks = -(-k // 16)
    w = net.put(net.bytes_of(np.uint8, (n, blocks, 16 * bits // 8)), "weight")
    scale = net.put(np.asarray((net.random.random(n * blocks) + 0.3) * 0.01, np.float32))
    zero = [net.put(net.bytes_of(np.uint8, (n * -(-blocks * bits // 8),)))] if net.maybe(0.5) else []
    y = net.op("MatMulNBits", x.name, w, scale, *zero, domain=MS, K=k, N=n, bits=bits, block_size=16)
    return Tensor(net.bias(y, n), (*x.shape[:-1], n))


def linear_qgemm(net: Network, x: Tensor, n: int) -> Tensor | None:
    """Return a QGemm, of matrices."""
    if len(x.shape) != 2:
        return None
    q, xs, xz = net.quantized(x)
    turned = net.maybe(0.5)
    w, dtype = net.weight((n, x.shape[-1]) if turned else (x.shape[-1], n))
    ws, wz = net.parameters(dtype, 0.01, n if net.per_channel and net.maybe(0.5) else None)
    bias = net.put(np.asarray(net.random.integers(-99, 99, n), np.int32)) if net.maybe(0.6) else ""
    if xz not in net.tensors:  # a Constant node: the result has the type of the activation
        return None
    ys, yz = net.parameters(net.tensors[xz].dtype.type, 0.1)
    y = net.op("QGemm", q, xs, xz, w, ws, wz, bias, ys, yz, domain=MS, transB=int(turned))
    return Tensor(net.op("DequantizeLinear", y, ys, yz), (*x.shape[:-1], n))


def linear_attention(net: Network, x: Tensor, n: int) -> Tensor | None:
    """Return a QAttention, which has all projections in one weight."""
    width = x.shape[-1]
    if len(x.shape) != 3 or n != width or width % 2:
        return None
    q, xs, xz = net.quantized(x)
    w, dtype = net.weight((width, 3 * width))
    ws, wz = net.parameters(dtype, 0.01, 3 * width if net.per_channel and net.maybe(0.5) else None)
    bias = net.put(net.normal((3 * width,), 0.2))
    return Tensor(net.op("QAttention", q, w, bias, xs, ws, "", xz, wz, domain=MS, num_heads=2), x.shape)


def linear_lstm(net: Network, x: Tensor, n: int) -> Tensor | None:
    """Return a DynamicQuantizeLSTM over the length."""
    if len(x.shape) != 3:
        return None
    dtype = net.of([np.int8, np.uint8])
    parameters = []
    for size in (x.shape[-1], n):
        w, _ = net.weight((1, size, 4 * n), dtype)
        scale = net.put(np.asarray([net.random.random() * 0.01 + 0.001], np.float32))
        parameters.append((w, scale, net.put(net.bytes_of(dtype, (1,)))))
    (w, ws, wz), (r, rs, rz) = parameters
    turned = net.op("Transpose", x.name, perm=[1, 0, 2])
    bias = net.put(net.normal((1, 8 * n), 0.1))
    y = net.op("DynamicQuantizeLSTM", turned, w, r, bias, "", "", "", "", ws, wz, rs, rz, domain=MS, hidden_size=n)
    y = net.axes("Squeeze", y, [1], AXES_ARE_INPUTS)
    return Tensor(net.op("Transpose", y, perm=[1, 0, 2]), (*x.shape[:-1], n))


def linear_heads(net: Network, x: Tensor, n: int) -> Tensor | None:
    """Return a product of each head with a weight of its own, (heads, k, n)."""
    k = x.shape[-1]
    if len(x.shape) != 3 or k % 2 or n % 2 or net.opset < DYNAMIC:
        return None
    parted = net.op("Reshape", x.name, net.put(np.array([0, 0, 2, k // 2], np.int64)))
    heads = net.op("Transpose", parted, perm=[0, 2, 1, 3])
    w, dtype = net.weight((2, k // 2, n // 2))
    q = net.op("DynamicQuantizeLinear", heads, count=3)
    made = net.nodes[-1].output
    total = net.op("MatMulInteger", q, w, made[2], net.put(net.bytes_of(dtype, ())))
    y = net.op("Mul", net.op("Cast", total, to=FLOAT), net.op("Mul", made[1], net.number(0.01)))
    back = net.op("Transpose", y, perm=[0, 2, 1, 3])
    return Tensor(net.op("Reshape", back, net.put(np.array([0, 0, n], np.int64))), (*x.shape[:-1], n))


LINEAR_RARE = {
    "nbits": linear_nbits, "QGemm": linear_qgemm, "QAttention": linear_attention, "LSTM": linear_lstm,
    "heads": linear_heads,
}  # fmt: skip


def lookup_blocks(net: Network, ids: str, rows: int, width: int) -> Tensor:
    """Return rows of a table that is quantised in blocks, two values a byte or one."""
    bits = net.of([4, 8])
    table = net.put(net.bytes_of(np.uint8, (rows, width * bits // 8)), "weight")
    scale = net.put(np.asarray((net.random.random((rows, width // 16)) + 0.3) * 0.01, np.float32))
    how = {"gather_axis": 0, "quantize_axis": 1, "block_size": 16, "bits": bits}
    return Tensor(net.op("GatherBlockQuantized", table, ids, scale, domain=MS, **how), (-1, -1, width))


def larger(net: Network, x: Tensor) -> Tensor:
    """Return an image that a ConvTranspose makes larger."""
    n = net.of([16, 20])
    w = net.float_weight((x.shape[1], n, 2, 2), 1)
    inputs = [net.through(x).name if net.maybe(0.5) else x.name, w]
    inputs += [net.put(net.normal((n,), 0.2))] if net.maybe(0.5) else []
    y = net.op("ConvTranspose", *inputs, kernel_shape=[2, 2], strides=[2, 2])
    return Tensor(y, (x.shape[0], n, -1, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Blocks and networks


def transformer_block(net: Network, x: Tensor) -> Tensor:
    width, heads = x.shape[-1], 2
    before = net.maybe(0.5)
    y = net.attention(net.norm(x) if before else x, heads) if net.maybe(0.6) else net.linear(x, width)
    x = net.add(x, y)
    if not before:
        x = net.norm(x)
    inner = net.linear(net.norm(x) if before else x, net.of([width, 2 * width, 40]))
    inner = net.activation(inner)
    if net.maybe(0.2):  # a gate
        inner = Tensor(net.op("Mul", inner.name, net.linear(x, inner.shape[-1]).name), inner.shape)
    return net.add(x, net.linear(inner, width))


def convolution_block(net: Network, x: Tensor) -> Tensor:
    if net.rare({"larger": None}):
        net.story.append("ConvTranspose")
        x = larger(net, x)
    channels = x.shape[1]
    kind = net.of(["plain", "plain", "residual", "separable", "squeeze"])
    net.story.append(kind)
    if kind == "separable":
        y = net.activation(net.convolution(x, channels, window=3, stride=net.of([1, 2]), group=channels))
        return net.activation(net.convolution(y, net.of([16, 32])))
    if kind == "residual":
        y = net.activation(net.convolution(x, channels, window=3))
        return net.add(x, net.convolution(y, channels))
    if kind == "squeeze":
        pooled = Tensor(net.op("GlobalAveragePool", x.name), (*x.shape[:2], 1, 1))
        gate = net.activation(net.convolution(pooled, 16))
        gate = net.convolution(gate, channels)
        return Tensor(net.op("Mul", x.name, net.op("Sigmoid", gate.name)), x.shape)
    group = 2 if channels % 32 == 0 and net.maybe(0.3) else 1
    y = net.convolution(x, net.of([16, 20, 32]), window=net.of([1, 3]), stride=net.of([1, 1, 2]), group=group)
    return net.activation(y)


def special(net: Network, x: Tensor) -> Tensor:
    """Return a value behind a branch, a loop or a function."""
    ways = [net.loop, lambda value: net.branch(value, net.of([16, 24]))]
    if net.opset >= 15:
        ways.append(lambda value: net.call(value, net.of([16, 24])))
    return net.of(ways)(x)


def text(net: Network) -> tuple[Tensor, dict[str, Any]]:
    width = net.of([16, 24, 32, 48])
    if net.maybe(0.6):
        x = net.lookup("ids", 50, width)
        if net.maybe(0.5):
            x = net.add(x, net.lookup("ids", 50, width))
        x = net.norm(x) if net.maybe(0.7) else x
    else:
        x = Tensor("x", (-1, -1, width))
    for _ in range(int(net.random.integers(1, 3))):
        x = transformer_block(net, x) if net.maybe(0.8) else special(net, x)
        if x.shape[-1] % 2:
            break
    if net.maybe(0.4):
        x = Tensor(net.axes("ReduceMean", x.name, [1], REDUCE_AXES_ARE_INPUTS, keepdims=0), (-1, x.shape[-1]))
        x = net.linear(x, net.of([10, 33]))
    return x, {"x": (np.float32, ["batch", "length", width]), "ids": (np.int64, ["batch", "length"])}


def image(net: Network) -> tuple[Tensor, dict[str, Any]]:
    channels = net.of([3, 16, 32])
    x = Tensor("image", (-1, channels, -1, -1))
    for _ in range(int(net.random.integers(1, 4))):
        x = convolution_block(net, x)
    if net.maybe(0.6):
        pooled = net.op("GlobalAveragePool", x.name)
        x = Tensor(net.op("Flatten", pooled, axis=1), (-1, x.shape[1]))
        x = net.linear(x, net.of([10, 24, 33]))
        if net.maybe(0.3):
            x = special(net, x)
    elif net.maybe(0.5):  # a line of text
        x = Tensor(net.op("Reshape", x.name, net.put(np.array([0, x.shape[1], -1], np.int64))), (-1, x.shape[1], -1))
        x = Tensor(net.op("Transpose", x.name, perm=[0, 2, 1]), (-1, -1, x.shape[1]))
        x = transformer_block(net, x)
    return x, {"image": (np.float32, ["batch", channels, "height", "width"])}


SIZES = ({"batch": 1, "length": 7, "height": 9, "width": 12}, {"batch": 3, "length": 2, "height": 6, "width": 5})


@dataclasses.dataclass
class Made:
    """A model with inputs for it."""

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]
    story: list[str]


def make(seed: int) -> Made:
    """Return the network of a seed."""
    net = Network(seed)
    result, inputs = net.of([text, image])(net)
    outputs = [net.op("Identity", result.name) if net.maybe(0.3) else result.name]
    outputs += [each.name for each in net.extra if net.maybe(0.5) and is_outside(net, each.name)]
    used = {name for node in net.nodes for name in read_by(node)} | set(outputs)
    inputs = {name: given for name, given in inputs.items() if name in used}
    if "flag" in used:
        inputs["flag"] = (np.bool_, [])
    graph = helper.make_graph(
        net.nodes,
        "main_graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in inputs.items()
        ],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in dict.fromkeys(outputs)],
        [numpy_helper.from_array(array, name) for name, array in net.tensors.items() if name in used],
    )
    opsets = [helper.make_opsetid("", net.opset), helper.make_opsetid(MS, 1)]
    if net.functions:
        opsets.append(helper.make_opsetid(LOCAL, 1))
    functions = list(net.functions.values())
    ir_version = 10 if net.opset >= BLOCKS else 8
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)
    return Made(
        model, [feed(net, inputs, sizes, size) for sizes, size in zip(SIZES, (1.0, 20.0), strict=True)], net.story
    )


def is_outside(net: Network, name: str) -> bool:
    return any(name in node.output for node in net.nodes)


def read_by(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= {value.name for value in attribute.g.output}
            names |= {name for inner in attribute.g.node for name in read_by(inner)}
    return names


def feed(net: Network, inputs: dict[str, Any], sizes: dict[str, int], size: float) -> dict[str, np.ndarray]:
    fed = {}
    for name, (dtype, shape) in inputs.items():
        here = tuple(sizes.get(each, each) for each in shape)
        if dtype == np.bool_:
            fed[name] = np.array(net.maybe(0.5))
        elif dtype == np.int64:
            fed[name] = net.random.integers(0, 50, here)
        else:
            fed[name] = net.normal(here, size)
    return fed


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


def settings(*, optimized: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def run(path: Path, made: Made, *, optimized: bool) -> list[list[np.ndarray]]:
    """Return the outputs for each of the inputs."""
    session = mcd_graph.InferenceSession(str(path), settings(optimized=optimized), providers=["CPUExecutionProvider"])
    return [session.run(None, each) for each in made.feeds]


def originals(made: Made, path: Path) -> dict[bool, list[list[np.ndarray]]] | None:
    """Return what the original computes, with optimisations and without; ``None`` if onnxruntime refuses it."""
    path.write_bytes(made.model.SerializeToString())
    try:
        return {optimized: run(path, made, optimized=optimized) for optimized in (True, False)}
    except Exception:  # noqa: BLE001 - whatever onnxruntime says
        return None


def differ(ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]) -> str | None:
    """Say how outputs differ; one NaN is as good as another."""
    for i, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
        for j, (a, b) in enumerate(zip(mine, wanted, strict=True)):
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                return f"output {j} of inputs {i}: {a.dtype} {a.shape} instead of {b.dtype} {b.shape}"
            same = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a == b
            if not same.all():
                return f"output {j} of inputs {i}: {np.count_nonzero(~same)} of {same.size} values differ"
    return None


def compressions(seed: int) -> list[dict[str, Any]]:
    """Return the ways to compress the model of a seed."""
    return ([{}], [{"at_open": True}], [{}], [{"at_open": True}, {"inline": True}])[seed % 4]


def examine(made: Made, seed: int, folder: Path, count: Counter[str]) -> str | None:
    """Compress a model in each way and restore it; say what is wrong."""
    path = folder / "m.onnx"
    expected = originals(made, path)
    if expected is None:
        count["refused by onnxruntime"] += 1
        return None
    SHARED.note(seed, count, original=False)
    if seed >= DATA_FILE_FROM and seed % 3 == 0:
        write_external(made.model, path, "m.data", least=IN_FILE)
    for options in compressions(seed):
        target = folder / "c.onnx"
        try:
            with every_size():
                report = mcd_graph.compress_model(
                    path, target, verify=False, min_saving=-9.0, force=True, force_larger=True, **options
                )
        except mcd_graph.NothingToCompressError:
            count["nothing to compress"] += 1
            continue
        count["compressed"] += 1
        count["met"] += report.totals.lowered + report.totals.kept
        count["lowered"] += report.totals.lowered
        # QDQ forms are those of onnxruntime's optimiser; without it, the original computes other bytes.
        stands = not reproduces_optimized(load_model(target))
        mcd_graph.restore_model(target, folder / "r.onnx", force=True)
        for what in ("c.onnx", "r.onnx"):
            for optimized in (True, False) if stands else (True,):
                text = differ(run(folder / what, made, optimized=optimized), expected[optimized])
                if text is not None:
                    how = "optimised" if optimized else "without optimisations"
                    return f"{options} {what}, {how}: {text}"
    return None


def look(seed: int, count: Counter[str]) -> str | None:
    """Examine the model of a seed; say what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        made: Made | None = None
        try:
            made = make(seed)
            wrong = examine(made, seed, Path(folder), count)
        except Exception:  # noqa: BLE001 - whatever goes wrong is a find
            wrong = traceback.format_exc(limit=-4)
    return None if wrong is None else f"seed {seed}: {made and made.story}\n{wrong}"


class Shared:
    """What a child that dies leaves behind: how far it was, and its counts."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)
        self.note(0, Counter(), original=True)

    def note(self, seed: int, count: Counter[str], *, original: bool) -> None:
        """Remember the seed that is looked at, and whether its original has yet to run."""
        text = json.dumps([seed, count, original]).encode()
        self._memory[: len(text) + 1] = text + b"\n"

    def read(self) -> tuple[int, Counter[str], bool]:
        """Return them."""
        seed, count, original = json.loads(self._memory[:].partition(b"\n")[0])
        return seed, Counter(count), original


SHARED = Shared()


def work(first: int, count: Counter[str], end: float) -> None:
    """Look at one network after the other."""
    seed = first
    while time.time() < end:
        SHARED.note(seed, count, original=True)
        wrong = look(seed, count)
        count["networks"] += 1
        if wrong is not None:
            count["finds"] += 1
            say(wrong)
        seed += 1
        if count["networks"] % 250 == 0:
            say(str(dict(count)))
    SHARED.note(seed, count, original=True)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(first: int, seconds: float) -> int:
    """Let children look at networks until time is up; return the exit status."""
    begin = time.time()
    count: Counter[str] = Counter()
    while time.time() < begin + seconds:
        child = os.fork()
        if child == 0:
            work(first, count, begin + seconds)
            os._exit(0)
        died = os.waitpid(child, 0)[1]
        first, count, original = SHARED.read()
        if died:
            count["networks"] += 1
            count["onnxruntime ends the process" if original else "finds"] += 1
            if not original:
                say(f"seed {first}: the compressed model ended the process, the original did not")
            first += 1
    say(f"{time.time() - begin:.0f} s: {dict(count)}")
    return 1 if count["finds"] else 0


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        at = int(sys.argv[2])
        (Path(sys.argv[3]) / f"{at}.onnx").write_bytes(make(at).model.SerializeToString())
        say(f"{look(at, tally := Counter())}\n{dict(tally)}")
    else:
        sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
