"""What it costs to feed operators their int8 constant as a computed value: the measurement behind `passes/ways.py`.

    python benchmarks/consumers.py [--only REGEX] [--threads 1,2] [--seconds 0.6] [--json FILE]

Each case is a small made-up model around one operator. It runs beside the same model whose initializer was replaced by
a `DecompressWeight`, in turns, at onnxruntime's default settings; `ratio` is the median time of the second over that
of the first, and `reuse` is how often a run uses each weight. `same` says whether the bytes of both are equal, with
optimisations and without. `decode` is what the node alone takes for that constant; ratios without that part tell what
onnxruntime loses besides: packing, folding, fusion. It says what holds of the onnxruntime that is installed.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import mcd_graph
from mcd_graph import bench
from mcd_graph.machine import this_machine
from mcd_graph.passes.engine.whole import matrix_of, wide_matrix_of
from mcd_graph.passes.rules.dequantize import tiling_of

MS = "com.microsoft"
Array = npt.NDArray[Any]

_rng = np.random.default_rng(0)


def bell(*shape: int) -> npt.NDArray[np.int8]:
    """int8, with the histogram of real weights."""
    return np.clip(np.rint(_rng.normal(0, 14, shape)), -127, 127).astype(np.int8)


def u8(*shape: int) -> npt.NDArray[np.uint8]:
    """uint8 activations."""
    return _rng.integers(0, 256, shape).astype(np.uint8)


def f32(*shape: int, spread: float = 1.0) -> npt.NDArray[np.float32]:
    """float32 activations."""
    return (_rng.standard_normal(shape) * spread).astype(np.float32)


@dataclasses.dataclass
class Case:
    """An operator with its constants, of which `weight` is the one that is compressed.

    `floats`: its DequantizeLinear, the first node, is computed at run time, so that decoding takes that over.
    """

    name: str
    reuse: int
    nodes: list[onnx.NodeProto]
    feed: dict[str, Array]
    constants: dict[str, Array]
    weight: str = "w"
    outputs: tuple[str, ...] = ("y",)
    floats: bool = False

    def model(self, *, computed: bool) -> bytes:
        """The model, its weight an initializer or decoded when it runs."""
        constants, nodes = dict(self.constants), list(self.nodes)
        if computed:
            array = constants.pop(self.weight)
            first = nodes.pop(0) if self.floats else None
            shape = matrix_of(array.size) if first is None else wide_matrix_of(array.size)
            matrix = array.reshape(shape)
            packed = mcd_graph.pack_weight(matrix, tiling=tiling_of(matrix.shape[1]) if first is not None else None)
            constants |= {"stream": np.asarray(packed.x2), "index": np.asarray(packed.compress_index)}
            attributes = {
                "compress_info": packed.compress_info.tolist(), "shape": array.shape,
                "dtype": helper.np_dtype_to_tensor_dtype(array.dtype),
            }  # fmt: skip
            if first is None:
                made = node("DecompressWeight", "stream index", self.weight, domain="mcd", transposed=1, **attributes)
            else:
                axis = {each.name: each.i for each in first.attribute} if constants[first.input[1]].size > 1 else {}
                inputs = " ".join(["stream index", *first.input[1:]])
                made = node("DecompressDequant", inputs, first.output[0], domain="mcd", **attributes, **axis)
            nodes.insert(0, made)
        return model_of(nodes, self.feed, self.outputs, constants)


def model_of(
    nodes: list[onnx.NodeProto], feed: dict[str, Array], outputs: tuple[str, ...], constants: dict[str, Array]
) -> bytes:
    """A model of these parts."""
    graph = helper.make_graph(
        nodes,
        "case",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1), helper.make_opsetid("mcd", 1)]
    content: bytes = helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    return content


def node(op_type: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; `_` is an input that is left out."""
    names = [name if name != "_" else "" for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), **attributes)


SCALES: dict[str, Array] = {
    "xs": np.float32(0.03), "ws": np.float32(0.01), "ys": np.float32(0.5),
    "xz": np.uint8(120), "wz": np.int8(0), "yz": np.uint8(128), "xi": np.int8(0), "yi": np.int8(0),
    "uz": np.uint8(128),
}  # fmt: skip


# --- convolutions


def image(channels: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return (1, channels, size, size), (channels, channels, 3, 3), size * size


def qdq_conv(channels: int, size: int, *, activation: str, columns: bool = False) -> Case:
    shape, weight, reuse = image(channels, size)
    x, zero, out = ("xi", "xi", "yi") if activation == "int8" else ("xz", "xz", "yz")
    scale = np.full(channels, 0.01, np.float32) if columns else np.float32(0.01)
    zeros = np.zeros(channels, np.int8) if columns else np.int8(0)
    nodes = [
        node("QuantizeLinear", f"x xs {x}", "q"),
        node("DequantizeLinear", f"q xs {zero}", "d"),
        node("DequantizeLinear", "w s z", "wd", axis=0),
        node("Conv", "d wd", "c", pads=[1] * 4),
        node("QuantizeLinear", f"c ys {out}", "o"),
        node("DequantizeLinear", f"o ys {out}", "y"),
    ]
    form = f"QDQ Conv, {activation} activations" + (", a scale for each channel" if columns else "")
    return Case(form, reuse, nodes, {"x": f32(*shape)}, SCALES | {"w": bell(*weight), "s": scale, "z": zeros})


def qlinear_conv(channels: int, size: int) -> Case:
    shape, weight, reuse = image(channels, size)
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz", pads=[1] * 4)]
    return Case("QLinearConv", reuse, nodes, {"x": u8(*shape)}, SCALES | {"w": bell(*weight)})


def conv_integer(channels: int, size: int) -> Case:
    shape, weight, reuse = image(channels, size)
    nodes = [node("ConvInteger", "x w xz uz", pads=[1] * 4)]
    weights = (bell(*weight).astype(np.int16) + 128).astype(np.uint8)
    return Case("ConvInteger", reuse, nodes, {"x": u8(*shape)}, SCALES | {"w": weights})


def float_conv(channels: int, size: int, op: str = "Conv") -> Case:
    shape, weight, reuse = image(channels, size)
    nodes = [node("DequantizeLinear", "w ws wz", "wd"), node(op, "x wd", pads=[1] * 4)]
    form = f"DequantizeLinear, {op} of floats"
    return Case(form, reuse, nodes, {"x": f32(*shape)}, SCALES | {"w": bell(*weight)}, floats=True)


def few_pixels(*sizes: int, scaled: bool) -> Case:
    """A kernel of floats that meets four pixels, with a scale for each output channel or one."""
    outputs, inputs, *kernel = sizes
    groups = outputs if inputs == 1 else 1
    scale = np.linspace(0.01, 0.02, outputs, dtype=np.float32) if scaled else np.float32(0.01)
    nodes = [
        node("DequantizeLinear", "w s", "wd", **({"axis": 0} if scaled else {})),
        node("Conv", "x wd", group=groups),
    ]
    feed: dict[str, Array] = {"x": f32(1, inputs * groups, kernel[0] + 3, kernel[1])}
    form = f"DequantizeLinear, Conv of 4 pixels, {'x'.join(map(str, sizes))}" + (", a scale for each channel" * scaled)
    return Case(form, 4, nodes, feed, {"s": scale, "w": bell(*sizes)}, floats=True)


# --- multiplications


def float_matmul(rows: int, k: int, n: int, *, quantised: str = "", op: str = "MatMul") -> Case:
    nodes = [node("DequantizeLinear", "w ws wz", "wd")]
    x = "x"
    if quantised:
        nodes += [node("QuantizeLinear", "x xs xi", "q"), node("DequantizeLinear", "q xs xi", "d")]
        x = "d"
    nodes.append(node(op, f"{x} wd", "y"))
    if quantised:
        nodes[-1].output[0] = "m"
        nodes += [node("QuantizeLinear", "m ys yi", "o"), node("DequantizeLinear", "o ys yi", "y")]
    form = f"QDQ {op}, int8 activations" if quantised else f"DequantizeLinear, {op} of floats"
    return Case(form, rows, nodes, {"x": f32(rows, k)}, SCALES | {"w": bell(k, n)})


def cast_mul(rows: int, k: int, n: int) -> Case:
    nodes = [node("Cast", "w", "f", to=TensorProto.FLOAT), node("Mul", "f ws", "wd"), node("MatMul", "x wd")]
    return Case("Cast, Mul, MatMul of floats", rows, nodes, {"x": f32(rows, k)}, SCALES | {"w": bell(k, n)})


def outer_dequantize(rows: int, k: int, n: int) -> Case:
    """The DequantizeLinear stands outside of the If whose branch multiplies."""

    def branch(name: str) -> onnx.GraphProto:
        inner = node("MatMul", "d wd", f"{name}_y")
        return helper.make_graph(
            [inner], name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)]
        )

    nodes = [
        node("DequantizeLinear", "w ws wz", "wd"),
        node("QuantizeLinear", "x xs xz", "q"),
        node("DequantizeLinear", "q xs xz", "d"),
        node("If", "flag", "y", then_branch=branch("then"), else_branch=branch("else")),
    ]
    feed: dict[str, Array] = {"x": f32(rows, k), "flag": np.array(True)}
    form = "DequantizeLinear outside of the graph, MatMul"
    return Case(form, rows, nodes, feed, SCALES | {"w": bell(k, n)}, floats=True)


def float_batch(rows: int, k: int, n: int, *, columns: bool) -> Case:
    """A batch of weights, dequantized with one scale or one for each column."""
    scale = np.full(n, 0.01, np.float32) if columns else np.float32(0.01)
    nodes = [node("DequantizeLinear", "w s", "wd", **({"axis": 2} if columns else {})), node("MatMul", "x wd")]
    form = "DequantizeLinear, MatMul of a batch of floats" + (", a scale for each column" if columns else "")
    return Case(form, rows, nodes, {"x": f32(8, rows, k)}, {"w": bell(8, k, n), "s": scale}, floats=True)


def matmul_integer(rows: int, k: int, n: int) -> Case:
    nodes = [node("MatMulInteger", "x w xz")]
    return Case("MatMulInteger", rows, nodes, {"x": u8(rows, k)}, SCALES | {"w": bell(k, n)})


def matmul_integer_batch(rows: int, k: int, n: int) -> Case:
    nodes = [node("MatMulInteger", "x w xz")]
    feed: dict[str, Array] = {"x": u8(8, rows, k)}
    return Case("MatMulInteger of a batch of weights", rows, nodes, feed, SCALES | {"w": bell(8, k, n)})


def qlinear_matmul(rows: int, k: int, n: int) -> Case:
    nodes = [node("QLinearMatMul", "x xs xz w ws wz ys yz")]
    return Case("QLinearMatMul", rows, nodes, {"x": u8(rows, k)}, SCALES | {"w": bell(k, n)})


def qgemm(rows: int, k: int, n: int) -> Case:
    nodes = [node("QGemm", "x xs xz w ws wz _ ys yz", domain=MS)]
    return Case("QGemm", rows, nodes, {"x": u8(rows, k)}, SCALES | {"w": bell(k, n)})


def dynamic_matmul(rows: int, k: int, n: int) -> Case:
    nodes = [node("DynamicQuantizeMatMul", "x w ws wz", domain=MS)]
    return Case("DynamicQuantizeMatMul", rows, nodes, {"x": f32(rows, k)}, SCALES | {"w": bell(k, n)})


def matmul_nbits(rows: int, k: int, n: int, bits: int) -> Case:
    blocks = k // 32
    weights = (bell(n, blocks, 4 * bits).astype(np.int16) + 128).astype(np.uint8)
    scales = np.full((n, blocks) if bits == 8 else (n * blocks,), 0.01, np.float32)
    nodes = [node("MatMulNBits", "x w s", domain=MS, K=k, N=n, bits=bits, block_size=32)]
    return Case(f"MatMulNBits, {bits} bits", rows, nodes, {"x": f32(rows, k)}, {"w": weights, "s": scales})


# --- the rest


def lstm(length: int, hidden: int) -> Case:
    form = "DynamicQuantizeLSTM, the weight of the recurrence"
    constants: dict[str, Array] = {
        "w": bell(1, hidden, 4 * hidden), "r": bell(1, hidden, 4 * hidden), "b": np.zeros((1, 8 * hidden), np.float32),
        "s": np.full((1,), 0.01, np.float32), "z": np.zeros((1,), np.int8),
    }  # fmt: skip
    nodes = [
        node("DynamicQuantizeLSTM", "x w r b _ _ _ _ s z s z", "y", domain=MS, hidden_size=hidden),
    ]
    return Case(form, length, nodes, {"x": f32(length, 1, hidden)}, constants, weight="r")


def attention(rows: int, hidden: int) -> Case:
    constants = SCALES | {"w": bell(hidden, 3 * hidden), "b": np.zeros(3 * hidden, np.float32)}
    nodes = [node("QAttention", "x w b xs ws _ xz wz", domain=MS, num_heads=8)]
    return Case("QAttention", rows, nodes, {"x": u8(1, rows, hidden)}, constants)


def embed(rows: int, hidden: int) -> Case:
    table = (bell(4000, hidden).astype(np.int16) + 128).astype(np.uint8)
    small = (bell(512, hidden).astype(np.int16) + 128).astype(np.uint8)
    vector = small[:1].reshape(-1)
    constants: dict[str, Array] = {
        "w": table, "p": small, "t": small[:2], "g": vector, "b": vector, "s": np.float32(0.01), "z": np.uint8(128)
    }  # fmt: skip
    inputs = "x t_ids w p t g b _ s s s s s z z z z z"
    nodes = [node("QEmbedLayerNormalization", inputs, "y m", domain=MS)]
    ids = _rng.integers(0, 4000, (1, rows)).astype(np.int32)
    return Case("QEmbedLayerNormalization, word table", rows, nodes, {"x": ids, "t_ids": ids % 2}, constants)


def block_table(rows: int, columns: int) -> Case:
    table = (bell(4000, columns).astype(np.int16) + 128).astype(np.uint8)
    constants: dict[str, Array] = {"w": table, "s": np.full((4000, columns // 32), 0.01, np.float32)}
    nodes = [node("GatherBlockQuantized", "w x s", domain=MS, bits=8, block_size=32, gather_axis=0, quantize_axis=1)]
    ids = _rng.integers(0, 4000, (1, rows)).astype(np.int64)
    return Case("GatherBlockQuantized, 8 bits", rows, nodes, {"x": ids}, constants)


def gather(rows: int, columns: int) -> Case:
    ids = _rng.integers(0, 4000, (1, rows)).astype(np.int64)
    return Case("Gather", rows, [node("Gather", "w x")], {"x": ids}, {"w": bell(4000, columns)})


def only_decoded(count: int) -> Case:
    """The node alone, beside an operator that takes no time: what a call costs."""
    nodes = [node("Identity", "w", "y")]
    return Case(f"DecompressWeight alone, {count >> 10} KiB", 1, nodes, {}, {"w": bell(count)})


def cases() -> Iterator[Callable[[], Case]]:
    """All of them, made when they are asked for."""
    for channels, size in ((32, 64), (128, 28), (256, 14), (512, 7)):
        yield lambda c=channels, s=size: conv_integer(c, s)
        yield lambda c=channels, s=size: qlinear_conv(c, s)
        yield lambda c=channels, s=size: qdq_conv(c, s, activation="uint8")
        yield lambda c=channels, s=size: qdq_conv(c, s, activation="uint8", columns=True)
        yield lambda c=channels, s=size: qdq_conv(c, s, activation="int8")
        yield lambda c=channels, s=size: float_conv(c, s)
        yield lambda c=channels, s=size: float_conv(c, s, "ConvTranspose")
    for sizes in ((32, 32, 1, 1), (64, 64, 1, 1), (128, 128, 1, 1), (256, 256, 1, 1), (512, 512, 1, 1), (480, 1, 5, 5)):
        for scaled in (False, True):
            yield lambda s=sizes, c=scaled: few_pixels(*s, scaled=c)
    for rows in (1, 8, 64, 512):
        for make in (
            lambda r: float_matmul(r, 768, 768),
            lambda r: float_matmul(r, 768, 768, op="Gemm"),
            lambda r: float_matmul(r, 768, 768, quantised="int8"),
            lambda r: cast_mul(r, 768, 768),
            lambda r: outer_dequantize(r, 768, 768),
            lambda r: float_batch(r, 256, 256, columns=False),
            lambda r: float_batch(r, 256, 256, columns=True),
            lambda r: matmul_integer(r, 768, 768),
            lambda r: matmul_integer_batch(r, 256, 256),
            lambda r: qlinear_matmul(r, 768, 768),
            lambda r: qgemm(r, 768, 768),
            lambda r: dynamic_matmul(r, 768, 768),
            lambda r: matmul_nbits(r, 768, 768, 8),
            lambda r: matmul_nbits(r, 768, 768, 4),
            lambda r: attention(r, 768),
            lambda r: lstm(r, 256),
            lambda r: embed(r, 384),
            lambda r: block_table(r, 384),
            lambda r: gather(r, 384),
        ):
            yield lambda m=make, r=rows: m(r)
    for count in (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24):
        yield lambda c=count: only_decoded(c)


def session(model: bytes, threads: int, *, optimise: bool = True) -> ort.InferenceSession:
    """A session whose idle threads do not take the cores of the other one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(mcd_graph.get_library_path())
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def same_bytes(case: Case) -> str:
    """Whether both models compute the same: `yes`, or at which settings they do not."""
    models = [case.model(computed=computed) for computed in (False, True)]
    wrong = []
    for optimise in (True, False):
        ours, theirs = (session(each, 1, optimise=optimise).run(None, case.feed) for each in models)
        if any(one.tobytes() != other.tobytes() for one, other in zip(ours, theirs, strict=True)):
            wrong.append("optimised" if optimise else "not optimised")
    return "no: " + ", ".join(wrong) if wrong else "yes"


def measure(case: Case, threads: int, seconds: float) -> dict[str, Any]:
    """Median times of both in turns, and of the node alone."""
    array = case.constants[case.weight]
    alone = Case("alone", 1, [node("Identity", "w", "y")], {}, {"w": array})
    contestants = [session(case.model(computed=computed), threads) for computed in (False, True)]
    medians = np.median(bench.interleaved(contestants, case.feed, repeats=7, seconds=seconds), axis=1)
    decode = np.median(
        bench.interleaved([session(alone.model(computed=True), threads)], {}, repeats=7, seconds=seconds / 4), axis=1
    )
    plain, computed = (float(median) * 1e3 for median in medians)
    return {
        "case": case.name, "reuse": case.reuse, "bytes": array.nbytes, "threads": threads,
        "us": round(plain, 2), "us_computed": round(computed, 2), "us_decode": round(float(decode[0]) * 1e3, 2),
        "ratio": round(computed / plain, 3), "without_decode": round((computed - float(decode[0]) * 1e3) / plain, 3),
    }  # fmt: skip


def main() -> None:
    """Measure what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=".", help="regular expression: cases in whose name it is found")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=0.6, help="for both models of a case, at least")
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    arguments = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {this_machine()}")
    print("| consumer | reuse | bytes | threads | same bytes | ratio | without decoding | us | decode us |")
    print("|---|---|---|---|---|---|---|---|---|")
    for make in cases():
        case = make()
        if not re.search(arguments.only, case.name):
            continue
        try:
            same = same_bytes(case)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common base
            print(f"| {case.name} | {case.reuse} | refused: {str(error).splitlines()[0][:150]} |", flush=True)
            continue
        for threads in map(int, arguments.threads.split(",")):
            row = measure(case, threads, arguments.seconds) | {"same": same}
            print(
                f"| {row['case']} | {row['reuse']} | {row['bytes']} | {threads} | {same} | {row['ratio']} | "
                f"{row['without_decode']} | {row['us']} | {row['us_decode']} |", flush=True
            )  # fmt: skip
            if arguments.json:
                with arguments.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"onnxruntime": ort.__version__} | row) + "\n")


if __name__ == "__main__":
    main()
