"""Random float models in the hands of onnxruntime's quantisers: ``python tests/fuzz/quantizers.py FIRST_SEED SECONDS``.

Other graphs than those of ``hunt.py``: there the nodes of exporters' dialects are drawn, here a float model is, and its
quantiser (dynamic, QDQ or QOperator) with its options; so the scales are those of a calibration. Lowered, each has to
give the original's bytes at default settings, and without optimisations where that is promised. Exit status 1 if not.
"""

import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime import quantization

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

from random_graphs import Case, check, expect  # noqa: E402 - found there

BATCH = 40
"""Graphs that one child looks at, for onnxruntime may end its process."""


class Model:
    """A float model in the making: each layer goes on from the last value, or from one before."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.width = self.size()
        self.values = [("x", self.width)]
        self.heads = 2

    def size(self) -> int:
        return int(self.rng.choice([4, 8, 12, 16, 24, 32, 40]))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def floats(self, *shape: int, spread: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * spread).astype(np.float32))

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{name}_output"], name=name, **attributes))
        return f"{name}_output"

    def linear(self, x: str, k: int, n: int) -> str:
        weight = self.floats(k, n, spread=k**-0.5)
        if self.chance(0.3):
            weight = self.node("Transpose", self.floats(n, k, spread=k**-0.5), perm=[1, 0])
        y = self.node("MatMul", x, weight)
        if self.chance(0.6):
            y = self.node("Add", *self.rng.permutation([y, self.floats(n, spread=0.1)]).tolist())
        return y

    def gemm(self, x: str, k: int, n: int) -> str:
        flat = self.node("Reshape", x, self.constant(np.array([-1, k])))
        turned = self.chance(0.5)
        weight = self.floats(*((n, k) if turned else (k, n)), spread=k**-0.5)
        bias = [self.floats(n, spread=0.1)] if self.chance(0.7) else []
        y = self.node("Gemm", flat, weight, *bias, transB=int(turned))
        return self.node("Reshape", y, self.constant(np.array([2, -1, n])))

    def activation(self, x: str) -> str:
        way = self.rng.choice(["Relu", "Sigmoid", "Tanh", "Gelu", "LeakyRelu", "Clip", "Softmax", "Swish"])
        if way == "Gelu":
            inner = self.node("Erf", self.node("Div", x, self.constant(np.float32(2**0.5))))
            product = self.node("Mul", x, self.node("Add", inner, self.constant(np.float32(1))))
            return self.node("Mul", product, self.constant(np.float32(0.5)))
        if way == "Clip":
            return self.node("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))
        if way == "Swish":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node(str(way), x)

    def normal(self, x: str, n: int) -> str:
        return self.node("LayerNormalization", x, self.floats(n), self.floats(n), axis=-1)

    def attention(self, x: str, n: int) -> str:
        split = self.constant(np.array([0, 0, self.heads, n // self.heads]))
        q, k, v = (self.node("Reshape", self.linear(x, n, n), split) for _ in range(3))
        q, v = (self.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
        k = self.node("Transpose", k, perm=[0, 2, 3, 1])
        scores = self.node("Mul", self.node("MatMul", q, k), self.constant(np.float32((n // self.heads) ** -0.5)))
        mixed = self.node("Transpose", self.node("MatMul", self.node("Softmax", scores), v), perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", mixed, self.constant(np.array([0, 0, n]))), n, n)

    def layer(self) -> None:
        x, k = self.values[-1] if self.chance(0.8) else self.values[int(self.rng.integers(len(self.values)))]
        n = k if self.chance(0.5) else self.size()
        way = self.rng.choice(["linear", "linear", "linear", "gemm", "attention", "gated"])
        if way == "attention":
            n, y = k, self.attention(x, k)
        elif way == "gemm":
            y = self.gemm(x, k, n)
        elif way == "gated":
            y = self.node("Mul", self.activation(self.linear(x, k, n)), self.linear(x, k, n))
        else:
            y = self.linear(x, k, n)
        if self.chance(0.5):
            y = self.activation(y)
        if n == k and self.chance(0.5):
            y = self.node("Add", x, y)
        if self.chance(0.4):
            y = self.normal(y, n)
        self.values.append((y, n))

    def proto(self) -> onnx.ModelProto:
        result = onnx.TensorProto.FLOAT
        outputs = [self.values[-1][0]]
        if self.chance(0.2):
            outputs.append(self.values[int(self.rng.integers(1, len(self.values)))][0])
        graph = helper.make_graph(
            self.nodes, "random",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, "m", self.width])],
            [helper.make_tensor_value_info(name, result, [2, None, None]) for name in dict.fromkeys(outputs)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )  # fmt: skip
        opset = int(self.rng.choice([17, 18, 20]))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


class Samples(quantization.CalibrationDataReader):
    """What the static quantisers calibrate with."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def generate(seed: int, folder: Path) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]], dict[str, Any]]:
    """Return the quantised model of a seed, inputs for it, and how it was quantised."""
    rng = np.random.default_rng(seed)
    model = Model(rng)
    for _ in range(int(rng.integers(1, 5))):
        model.layer()
    width = model.width
    feeds = [
        {"x": (rng.standard_normal((2, m, width)) * s).astype(np.float32)} for m, s in ((3, 1), (1, 30), (5, 0.05))
    ]
    source, target = folder / "float.onnx", folder / "quantised.onnx"
    source.write_bytes(model.proto().SerializeToString())
    types = quantization.QuantType
    options: dict[str, Any] = {
        "per_channel": bool(rng.random() < 0.5), "reduce_range": bool(rng.random() < 0.2),
        "weight_type": types.QInt8 if rng.random() < 0.7 else types.QUInt8,
    }  # fmt: skip
    way = rng.choice(["dynamic", "QDQ", "QDQ", "QOperator"])
    if way == "dynamic":
        quantization.quantize_dynamic(source, target, **options)
    else:
        signed = options["weight_type"] == types.QInt8 and rng.random() < 0.4  # the others it does not know
        options["activation_type"] = types.QInt8 if signed else types.QUInt8
        options["quant_format"] = quantization.QuantFormat[str(way)]
        extra = {"ActivationSymmetric": bool(rng.random() < 0.3), "WeightSymmetric": bool(rng.random() < 0.7)}
        extra |= {"DedicatedQDQPair": True} if way == "QDQ" and rng.random() < 0.3 else {}
        quantization.quantize_static(source, target, Samples(feeds[:1]), extra_options=extra, **options)
    return onnx.ModelProto.FromString(target.read_bytes()), feeds, {"way": str(way), **options}


def look(seeds: range, end: float) -> Iterator[tuple[int, int, int]]:
    """Yield 1 for each graph that ran, and the multiplications that were met and lowered in it."""
    for seed in seeds:
        if time.time() > end:
            return
        with tempfile.TemporaryDirectory() as folder:
            model, feeds, options = generate(seed, Path(folder))
        case = Case(model, feeds, [str(options)])
        expected = expect(case)
        if expected is None:
            continue
        try:
            outcome = check(case, expected)
        except Exception:  # noqa: BLE001 - whatever goes wrong is a find
            say(f"seed {seed}: {options}\n{traceback.format_exc(limit=-3)}")
            yield 1, -1, 0
        else:
            yield 1, outcome.met, outcome.lowered


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(first: int, seconds: float) -> int:
    """Let children work until time is up; return the exit status."""
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(4)
    warnings.simplefilter("ignore")
    begin, seed, ran, met, lowered, finds, crashes = time.time(), first, 0, 0, 0, 0, 0
    while time.time() < begin + seconds:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                for each in look(range(seed, seed + BATCH), begin + seconds):
                    pipe.write(" ".join(map(str, each)) + "\n")
                    pipe.flush()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            rows = [tuple(map(int, line.split())) for line in pipe]
        crashes += os.waitpid(child, 0)[1] != 0
        ran += len(rows)
        finds += sum(row[1] < 0 for row in rows)
        met, lowered = met + sum(max(row[1], 0) for row in rows), lowered + sum(row[2] for row in rows)
        seed += BATCH
    say(
        f"{ran} graphs in {time.time() - begin:.0f} s, {crashes} crashes; {met} multiplications met, {lowered} "
        f"lowered; {finds} finds"
    )
    return 1 if finds or crashes else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
