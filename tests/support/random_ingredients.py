"""What few models have, for `random_graphs.py`: operators of onnxruntime, newer dialects, graphs inside of nodes.

Each function adds to a graph in the making: a layer with a weight in 8 bits or fewer, what stands behind one, or a node
that gives back what it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lowering import MS_DOMAIN
from onnx import AttributeProto, TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from random_graphs import Builder

__all__ = ["BEHIND", "BLOCKS", "LAYERS", "NO_OPS", "PARTINGS"]

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE

#: Opsets from which on operators have what is written here.
HALF_SCALES, BLOCKS, WIDE = 19, 21, 21


def _lengths(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


def _shape(b: Builder, *sizes: int) -> str:
    return b.constant(_lengths(*sizes), hidden=False)


def _width(b: Builder) -> int:
    return int(b.pick([4, 8, 16, 24, 32, 33]))


def _weight(b: Builder, *shape: int, dtype: Any = None) -> tuple[str, Any]:
    """Return a weight of any shape."""
    dtype = dtype or b.pick([np.int8, np.int8, np.uint8])
    return b.constant(b.integers(dtype, shape)), dtype


def _dequantized(b: Builder, *shape: int) -> str:
    """Return a weight of any shape as floats, with one scale or one for each of the last dimension."""
    w, dtype = _weight(b, *shape)
    size = shape[-1] if b.chance(0.4) else None
    parameters = [b.scale(size, 0.02)] + ([b.zero_point(dtype, size)] if b.chance(0.7) else [])
    return b.node("DequantizeLinear", w, *parameters, axis=len(shape) - 1 if size else 0)


def _quantized(b: Builder, x: str, dtype: Any = np.uint8) -> tuple[str, str, str]:
    scale, zero = b.scale(None, 0.05), b.zero_point(dtype)
    return b.node("QuantizeLinear", x, scale, zero), scale, zero


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def q_attention(b: Builder) -> None:
    """QAttention, which has the weights of all three projections in one."""
    x = b.draw()
    if b.rank != 3 or x.width % 2:
        return
    q, xs, xz = _quantized(b, x.name)
    w, dtype = _weight(b, x.width, 3 * x.width)
    size = 3 * x.width if b.chance(0.3) else None
    inputs = [q, w, b.floats((3 * x.width,), 0.1), xs, b.scale(size, 0.02), "", xz, b.zero_point(dtype, size)]
    b.add(b.node("QAttention", *inputs, domain=MS_DOMAIN, num_heads=2), x.width)


def lstm(b: Builder) -> None:
    """DynamicQuantizeLSTM over the second dimension."""
    x, n = b.draw(), int(b.pick([4, 8, 16]))
    if b.rank != 3:
        return
    dtype = b.pick([np.int8, np.uint8])
    (w, _), (r, _) = _weight(b, 1, x.width, 4 * n, dtype=dtype), _weight(b, 1, n, 4 * n, dtype=dtype)
    size = (1,) if b.chance(0.7) else (1, 4 * n)

    def parameters() -> list[str]:
        scale = np.asarray((b.rng.random(size) + 0.1) * 0.02, np.float32)
        zero = np.zeros(size, dtype) if len(size) > 1 else b.integers(dtype, size)
        return [b.constant(scale), b.constant(zero, hidden=False)]

    bias = b.floats((1, 8 * n), 0.1) if b.chance(0.7) else ""
    turned = b.node("Transpose", x.name, perm=[1, 0, 2])
    inputs = [turned, w, r, bias, "", "", "", "", *parameters(), *parameters()]
    y = b.node("DynamicQuantizeLSTM", *inputs, domain=MS_DOMAIN, hidden_size=n)
    b.add(b.node("Transpose", b.node("Squeeze", y, _shape(b, 1)), perm=[1, 0, 2]), n)


def n_bits(b: Builder) -> None:
    """MatMulNBits, with 4 or 8 bits a value."""
    x, n, bits = b.draw(), _width(b), int(b.pick([4, 8, 8]))
    blocks = -(-x.width // 16)
    w = b.constant(b.integers(np.uint8, (n, blocks, 2 * bits)))
    inputs = [x.name, w, b.constant(np.asarray((b.rng.random(n * blocks) + 0.1) * 0.02, np.float32))]
    if b.chance(0.5):
        inputs.append(b.constant(b.integers(np.uint8, (n * -(-blocks * bits // 8),))))
    y = b.node("MatMulNBits", *inputs, domain=MS_DOMAIN, K=x.width, N=n, bits=bits, block_size=16)
    b.add(b.edge(y, n), n)


def q_gemm(b: Builder) -> None:
    """QGemm of matrices, which gives bytes or floats."""
    x, n = b.draw(), _width(b)
    if b.rank != 2:
        return
    x_type = b.pick([np.uint8, np.int8])
    q, xs, xz = _quantized(b, x.name, x_type)
    turned = b.chance(0.5)
    w, dtype = _weight(b, *((n, x.width) if turned else (x.width, n)))
    size = n if b.chance(0.4) else None
    bias = b.constant(np.asarray(b.rng.integers(-999, 999, n), np.int32)) if b.chance(0.6) else ""
    inputs = [q, xs, xz, w, b.scale(size, 0.02), b.zero_point(dtype, size), bias]
    attributes = {"transB": int(turned), "alpha": float(b.pick([1.0, 1.0, 0.5]))}
    if b.chance(0.3):
        b.add(b.node("QGemm", *inputs, domain=MS_DOMAIN, **attributes), n)
        return
    ys, yz = b.scale(None, 0.3), b.zero_point(x_type)
    y = b.node("QGemm", *inputs, ys, yz, domain=MS_DOMAIN, **attributes)
    b.add(b.node("DequantizeLinear", y, ys, yz), n)


def batched(b: Builder) -> None:
    """A weight with a dimension for the batch, of one or of the heads."""
    x, n = b.draw(), _width(b)
    heads = 2 if b.rank == 3 and x.width % 4 == 0 and b.chance(0.6) else 1
    left, k = x.name, x.width
    if heads == 2:
        n, k = 2 * n, k // 2
        left = b.node("Transpose", b.node("Reshape", left, _shape(b, 0, 0, 2, k)), perm=[0, 2, 1, 3])
    elif b.rank != 3:
        return
    shape = (heads, k, n // heads)
    if b.chance(0.5):
        w, dtype = _weight(b, *shape)
        quantized = b.node("DynamicQuantizeLinear", left, outputs=3)
        _, scale, zero = b.nodes[-1].output
        total = b.node("MatMulInteger", quantized, w, zero, *([b.zero_point(dtype)] if b.chance(0.5) else []))
        factor = b.node("Mul", scale, b.scale(None, 0.02))
        y = b.node("Mul", b.node("Cast", total, to=FLOAT), factor)
    else:
        pair = b.pair(left, np.uint8) if b.chance(0.5) else left
        y = b.node("MatMul", pair, _dequantized(b, *shape))
    if heads == 2:
        y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), _shape(b, 0, 0, n))
    b.add(y, n)


def blocked(b: Builder) -> None:
    """A weight with a scale for each block of values."""
    x, n = b.draw(), int(b.pick([8, 16, 32]))
    axis, size = int(b.pick([0, 1])), int(b.pick([4, 8]))
    shape = (x.width, n)
    if b.opset < BLOCKS or shape[axis] % size:
        return
    w, dtype = _weight(b, *shape)
    scales = tuple(length // size if at == axis else length for at, length in enumerate(shape))
    parameters = [b.constant(np.asarray((b.rng.random(scales) + 0.1) * 0.02, np.float32))]
    if b.chance(0.4):
        parameters.append(b.constant(b.integers(dtype, scales)))
    wide = b.node("DequantizeLinear", w, *parameters, axis=axis, block_size=size)
    left = b.pair(x.name, np.uint8) if b.chance(0.6) else x.name
    y = b.node("MatMul", left, wide)
    b.add(b.pair(y, np.uint8, 0.3) if b.chance(0.4) else y, n)


def halves(b: Builder) -> None:
    """A product in float16, with a weight that is widened to that."""
    x, n = b.draw(), _width(b)
    left = b.node("Cast", x.name, to=HALF)
    w, dtype = _weight(b, x.width, n)
    scale = b.constant(np.float16(0.01))
    if b.opset >= HALF_SCALES and b.chance(0.6):
        if b.chance(0.5):
            parameters = [b.constant(np.float16(0.05)), b.zero_point(np.uint8)]
            left = b.node("DequantizeLinear", b.node("QuantizeLinear", left, *parameters), *parameters)
        wide = b.node("DequantizeLinear", w, scale, *([b.zero_point(dtype)] if b.chance(0.6) else []))
    else:
        wide = b.node("Mul", b.node("Cast", w, to=HALF), scale)
    y = b.node("MatMul", left, wide)
    if b.chance(0.4):
        y = b.node("Add", y, b.constant(np.asarray(b.rng.standard_normal(n), np.float16)))
    b.add(b.node("Cast", y, to=FLOAT), n)


def wide_activations(b: Builder) -> None:
    """QDQ with activations in 16 bits and the weight in 8."""
    if b.opset < WIDE:
        return
    x, n, dtype = b.draw(), _width(b), b.pick([np.uint16, np.int16])
    y = b.node("MatMul", b.pair(x.name, dtype, 0.001), _dequantized(b, x.width, n))
    b.add(b.pair(y, dtype, 0.001) if b.chance(0.7) else y, n)


def typed_by_attribute(b: Builder) -> None:
    """QDQ whose quantisers say by an attribute which integers they give, as they may without a zero point."""
    if b.opset < BLOCKS:
        return
    x, n = b.draw(), _width(b)
    kind = b.pick([TensorProto.INT8, TensorProto.UINT8])

    def pair(value: str, spread: float) -> str:
        scale = b.scale(None, spread)
        return b.node("DequantizeLinear", b.node("QuantizeLinear", value, scale, output_dtype=kind), scale)

    b.add(pair(b.node("MatMul", pair(x.name, 0.05), _dequantized(b, x.width, n)), 0.3), n)


def block_table(b: Builder) -> None:
    """Rows of a table in blocks, two values a byte or one."""
    x, bits = b.draw(), int(b.pick([4, 8]))
    n = int(b.pick([16, 32]))
    table = b.constant(b.integers(np.uint8, (x.width, n * bits // 8)))
    scale = b.constant(np.asarray((b.rng.random((x.width, n // 16)) + 0.1) * 0.02, np.float32))
    ids = b.node("ArgMax", x.name, axis=-1, keepdims=0)
    how = {"gather_axis": 0, "quantize_axis": 1, "block_size": 16, "bits": bits}
    b.add(b.node("GatherBlockQuantized", table, ids, scale, domain=MS_DOMAIN, **how), n)


def embedding(b: Builder) -> None:
    """QEmbedLayerNormalization, with two tables of bytes."""
    x, n = b.draw(), int(b.pick([8, 16, 32]))
    if b.rank != 3:
        return
    ids = b.node("Cast", b.node("ArgMax", x.name, axis=-1, keepdims=0), to=TensorProto.INT32)
    tables = [b.constant(b.integers(np.uint8, shape)) for shape in ((x.width, n), (5, n), (n,), (n,))]
    word, position, gamma, beta = tables
    scales, zeros = ([b.scale(None, 0.02) for _ in range(4)], [b.zero_point(np.uint8) for _ in range(4)])
    for parameters in (scales, zeros):
        parameters.insert(2, "")  # of the segments, of which there are none
    inputs = [ids, "", word, position, "", gamma, beta, "", *scales, *zeros]
    b.add(b.node("QEmbedLayerNormalization", *inputs, outputs=2, domain=MS_DOMAIN), n)


def transposed_convolution(b: Builder) -> None:
    """ConvTranspose with a weight that is widened; the second dimension is the image."""
    x, n = b.draw(), int(b.pick([8, 16]))
    if b.rank != 3:
        return
    wide = _dequantized(b, x.width, n, 1)
    y = b.node("ConvTranspose", b.node("Transpose", x.name, perm=[0, 2, 1]), wide)
    b.add(b.node("Transpose", y, perm=[0, 2, 1]), n)


def einsum(b: Builder) -> None:
    """A product that is written as an Einsum, or as onnxruntime's MatMul with its own attributes."""
    x, n = b.draw(), _width(b)
    if b.chance(0.5):
        y = b.node("Einsum", x.name, _dequantized(b, x.width, n), equation="...k,kn->...n")
    else:
        attributes = {"transB": 1, "alpha": float(b.pick([1.0, 0.5]))}
        y = b.node("FusedMatMul", x.name, _dequantized(b, n, x.width), domain=MS_DOMAIN, **attributes)
    b.add(y, n)


def float_pair(b: Builder) -> None:
    """A float weight that is quantised and widened in the model."""
    x, n = b.draw(), _width(b)
    scale, zero = b.scale(None, 0.02), b.constant(np.int8(0))
    q = b.node("QuantizeLinear", b.floats((x.width, n)), scale, zero)
    left = b.pair(x.name, np.uint8) if b.chance(0.7) else x.name
    y = b.node("MatMul", left, b.node("DequantizeLinear", q, scale, zero))
    b.add(b.pair(y, np.uint8, 0.3) if b.chance(0.6) else y, n)


def bytes_as_floats(b: Builder) -> None:
    """A product with the bytes themselves, scaled behind it."""
    x, n = b.draw(), _width(b)
    w, _ = _weight(b, x.width, n)
    y = b.node("MatMul", x.name, b.node("Cast", w, to=FLOAT))
    b.add(b.node("Mul", y, b.scale(n if b.chance(0.5) else None, 0.02)), n)


def weight_in_front(b: Builder) -> None:
    """The weight as the left factor."""
    x, n = b.draw(), _width(b)
    perm = [0, 2, 1] if b.rank == 3 else [1, 0]
    right = b.node("Transpose", b.pair(x.name, np.uint8) if b.chance(0.5) else x.name, perm=perm)
    y = b.node("MatMul", _dequantized(b, n, x.width), right)
    b.add(b.node("Transpose", y, perm=perm), n)


def without_first_zero_point(b: Builder) -> None:
    """MatMulInteger whose activation has no zero point, but its weight has."""
    x, n = b.draw(), _width(b)
    w, dtype = b.weight(x.width, n)
    scale = b.scale(None, 0.05)
    total = b.node("MatMulInteger", b.node("QuantizeLinear", x.name, scale), w, "", b.zero_point(dtype))
    b.add(b.node("Mul", b.node("Cast", total, to=FLOAT), b.node("Mul", scale, b.scale(None, 0.02))), n)


def _pair_inside(b: Builder, x: str, y: str) -> list[onnx.NodeProto]:
    """Return a pair of quantisers for a body.

    Without one, onnxruntime looks for a weight of blocks there, and refuses the model if that is outside.
    """
    parameters = [b.scale(None, 0.05), b.zero_point(np.uint8)]
    return [
        helper.make_node("QuantizeLinear", [x, *parameters], [f"{y}q"]),
        helper.make_node("DequantizeLinear", [f"{y}q", *parameters], [y]),
    ]


def looped(b: Builder) -> None:
    """A product in the body of a Loop, whose weight is outside."""
    x = b.draw()
    w, _ = b.weight(x.width, x.width)
    name = b.name()
    if b.chance(0.5):
        scale = b.scale(None, 0.02)
        nodes = [
            helper.make_node("DynamicQuantizeLinear", [f"{name}s"], [f"{name}q", f"{name}c", f"{name}z"]),
            helper.make_node("MatMulInteger", [f"{name}q", w, f"{name}z"], [f"{name}a"]),
            helper.make_node("Cast", [f"{name}a"], [f"{name}f"], to=FLOAT),
            helper.make_node("Mul", [f"{name}c", scale], [f"{name}m"]),
            helper.make_node("Mul", [f"{name}f", f"{name}m"], [f"{name}p"]),
        ]
    else:
        outside = b.node("DequantizeLinear", w, b.scale(None, 0.02)) if b.chance(0.5) else ""
        nodes = _pair_inside(b, f"{name}s", f"{name}d")
        nodes += [] if outside else [helper.make_node("DequantizeLinear", [w, b.scale(None, 0.02)], [f"{name}w"])]
        nodes.append(helper.make_node("MatMul", [f"{name}d", outside or f"{name}w"], [f"{name}p"]))
    nodes.append(helper.make_node("Tanh", [f"{name}p"], [f"{name}y"]))
    nodes.append(helper.make_node("Identity", [f"{name}g"], [f"{name}h"]))
    ins = [
        helper.make_tensor_value_info(f"{name}t", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"{name}g", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"{name}s", FLOAT, None),
    ]
    outs = [
        helper.make_tensor_value_info(f"{name}h", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"{name}y", FLOAT, None),
    ]
    body = helper.make_graph(nodes, "loop", ins, outs)
    b.add(b.node("Loop", b.constant(np.int64(2), hidden=False), "", x.name, body=body), x.width)


def scanned(b: Builder) -> None:
    """A product in the body of a Scan over the first dimension."""
    x, n = b.draw(), _width(b)
    w, _ = b.weight(x.width, n)
    name = b.name()
    nodes = [
        *_pair_inside(b, f"{name}s", f"{name}d"),
        helper.make_node("DequantizeLinear", [w, b.scale(None, 0.02)], [f"{name}w"]),
        helper.make_node("MatMul", [f"{name}d", f"{name}w"], [f"{name}y"]),
    ]
    ins = [helper.make_tensor_value_info(f"{name}s", FLOAT, ["m", x.width] if b.rank == 3 else [x.width])]
    body = helper.make_graph(nodes, "scan", ins, [helper.make_tensor_value_info(f"{name}y", FLOAT, None)])
    b.add(b.node("Scan", x.name, body=body, num_scan_inputs=1), n)


def nested_functions(b: Builder) -> None:
    """A function that calls another, which reads an attribute of its call."""
    x, n = b.draw(), _width(b)
    inner, outer = f"Inner{len(b.functions)}", f"Outer{len(b.functions)}"
    opsets = [helper.make_opsetid("", b.opset), helper.make_opsetid("fn", 1)]
    turn = helper.make_node("Transpose", ["v"], ["t"])
    turn.attribute.append(helper.make_attribute_ref("perm", AttributeProto.INTS, ref_attr_name="order"))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"]),
        turn,
        helper.make_node("MatMul", ["d", "t"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    names = ["x", "w", "ws", "wz", "s", "z"]
    b.functions.append(helper.make_function("fn", inner, names, ["y"], nodes, opsets, attributes=["order"]))
    call = helper.make_node(inner, names, ["i"], domain="fn", order=[1, 0])
    b.functions.append(
        helper.make_function("fn", outer, names, ["y"], [call, helper.make_node("Relu", ["i"], ["y"])], opsets)
    )
    for _ in range(int(b.pick([1, 2]))):
        w, dtype = b.weight(x.width, n, turned=True)
        given = [w, b.scale(None, 0.02), b.zero_point(dtype), b.scale(None, 0.1), b.zero_point(np.uint8)]
        b.add(b.node(outer, x.name, *given, domain="fn"), n)


LAYERS: tuple[Callable[[Builder], None], ...] = (
    q_attention, lstm, n_bits, q_gemm, batched, batched, blocked, halves, wide_activations, typed_by_attribute,
    block_table, embedding, transposed_convolution, einsum, float_pair, bytes_as_floats, weight_in_front,
    without_first_zero_point, looped, scanned, nested_functions,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# What stands behind


def contrib_activation(b: Builder) -> None:
    """An activation as onnxruntime's optimiser writes it."""
    x, way = b.draw(), b.pick(["BiasGelu", "FastGelu", "FastGelu with bias", "QuickGelu", "Gelu"])
    bias = [b.floats((x.width,))] if "ias" in way else []
    b.add(b.node(way.partition(" ")[0], x.name, *bias, domain=MS_DOMAIN), x.width)


def skip_norm(b: Builder) -> None:
    """A residual connection with its normalisation, in one node."""
    x = b.draw()
    if b.rank != 3:
        return
    other = b.pick([each for each in b.values if each.width == x.width])
    gain, shift, bias = (b.floats((x.width,)) for _ in range(3))
    more = [bias] if b.chance(0.5) else []
    if b.chance(0.5):
        y = b.node("SkipLayerNormalization", x.name, other.name, gain, shift, *more, domain=MS_DOMAIN)
    else:
        y = b.node("SkipSimplifiedLayerNormalization", x.name, other.name, gain, *more, domain=MS_DOMAIN)
    b.add(y, x.width)


def on_bytes(b: Builder) -> None:
    """An operator that reads quantised values and gives such."""
    x, dtype = b.draw(), b.pick([np.uint8, np.int8])
    way = b.pick(["QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearConcat"])
    q, xs, xz = _quantized(b, x.name, dtype)
    ys, yz = b.scale(None, 0.05), b.zero_point(dtype)
    width = x.width
    if way in ("QLinearAdd", "QLinearMul"):
        other = b.pick([each for each in b.values if each.width == x.width])
        y = b.node(way, q, xs, xz, *_quantized(b, other.name, dtype), ys, yz, domain=MS_DOMAIN)
    elif way == "QLinearConcat":
        other = b.pick(b.values)
        width += other.width
        y = b.node(way, ys, yz, q, xs, xz, *_quantized(b, other.name, dtype), axis=b.rank - 1, domain=MS_DOMAIN)
    else:
        attributes = {"axis": -1, "opset": b.opset} if way == "QLinearSoftmax" else {}
        y = b.node(way, q, xs, xz, ys, yz, domain=MS_DOMAIN, **attributes)
    b.add(b.node("DequantizeLinear", y, ys, yz), width)


def parted(b: Builder) -> None:
    """Two parts of a value, of which one is changed, joined again."""
    x = b.draw()
    if x.width % 2:
        return
    first = b.node("Split", x.name, outputs=2, axis=-1, **({"num_outputs": 2} if b.opset >= 18 else {}))
    second = b.nodes[-1].output[1]
    if b.chance(0.5):
        first = b.node("Relu", first)
    b.add(b.node("Concat", second, first, axis=-1), x.width)


def masked(b: Builder) -> None:
    """Values of which some are replaced."""
    x = b.draw()
    mask = b.node("Greater", x.name, b.constant(np.float32(0)))
    b.add(b.node("Where", mask, x.name, b.constant(np.float32(-9))), x.width)


def through_half(b: Builder) -> None:
    """A value that is rounded to float16 on its way."""
    x = b.draw()
    b.add(b.node("Cast", b.node("Cast", x.name, to=HALF), to=FLOAT), x.width)


def pooled(b: Builder) -> None:
    """A pooling between quantisers, which may move past it."""
    x = b.draw()
    if b.rank != 3:
        return
    inner = b.node("MaxPool", b.pair(x.name, np.uint8), kernel_shape=[3], pads=[1, 1])
    b.add(b.pair(inner, np.uint8), x.width)


BEHIND: tuple[Callable[[Builder], None], ...] = (
    contrib_activation, skip_norm, on_bytes, on_bytes, parted, masked, through_half, pooled,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# What gives back what it is given


def _double(b: Builder, x: str, _: int | None) -> str:
    return b.node("Cast", b.node("Cast", x, to=DOUBLE), to=FLOAT)


def _sequence(b: Builder, x: str, _: int | None) -> str:
    return b.node("SequenceAt", b.node("SequenceConstruct", x), b.constant(np.int64(0), hidden=False))


def _expand(b: Builder, x: str, _: int | None) -> str:
    return b.node("Expand", x, _shape(b, 1))


def _pad(b: Builder, x: str, _: int | None) -> str:
    return b.node("Pad", x, b.constant(np.zeros(2 * b.rank, np.int64), hidden=False))


def _tile(b: Builder, x: str, _: int | None) -> str:
    return b.node("Tile", x, b.constant(np.ones(b.rank, np.int64), hidden=False))


def _where(b: Builder, x: str, _: int | None) -> str:
    return b.node("Where", b.constant(np.array(True), hidden=False), x, x)


def _one_part(b: Builder, x: str, _: int | None) -> str:
    return b.node("Split", x, axis=-1, **({"num_outputs": 1} if b.opset >= 18 else {}))


def _chosen(b: Builder, x: str, _: int | None) -> str:
    """Return a value out of the branch of an If that is always taken."""
    graphs = {}
    for side in ("then", "else"):
        result = b.name()
        node = helper.make_node("Identity" if side == "then" else "Neg", [x], [result])
        value = helper.make_tensor_value_info(result, FLOAT, None)
        graphs[f"{side}_branch"] = helper.make_graph([node], side, [], [value])
    return b.node("If", b.constant(np.array(True), hidden=False), **graphs)


def _called(b: Builder, x: str, _: int | None) -> str:
    if not any(function.name == "Same" for function in b.functions):
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        b.functions.append(helper.make_function("fn", "Same", ["x"], ["y"], nodes, [helper.make_opsetid("", b.opset)]))
    return b.node("Same", x, domain="fn")


def _dropout(b: Builder, x: str, _: int | None) -> str:
    ratio, training = b.constant(np.float32(0.5), hidden=False), b.constant(np.array(False), hidden=False)
    return b.node("Dropout", x, ratio, training, outputs=int(b.pick([1, 2])))


NO_OPS: dict[str, Callable[[Builder, str, int | None], str]] = {
    "double": _double,
    "sequence": _sequence,
    "Expand": _expand,
    "Pad": _pad,
    "Tile": _tile,
    "Where": _where,
    "Split": _one_part,
    "If": _chosen,
    "function": _called,
    "Dropout of three": _dropout,
    "Sum": lambda b, x, _: b.node("Sum", x),
    "Max": lambda b, x, _: b.node("Max", x),
    "Mean": lambda b, x, _: b.node("Mean", x),
    "Mul by ones": lambda b, x, width: b.node("Mul", x, b.constant(np.ones(width or 1, np.float32), hidden=False)),
    "Add zeros": lambda b, x, width: b.node("Add", x, b.constant(np.zeros(width or 1, np.float32), hidden=False)),
}


# ---------------------------------------------------------------------------------------------------------------------
# Constants behind operators: each returns the name of the same array, of another initializer


def _joined(b: Builder, array: np.ndarray) -> str:
    middle = len(array) // 2
    parts = [b.constant(part, hidden=False) for part in (array[:middle], array[middle:])]
    return b.node("Concat", *parts, axis=0)


def _cut(b: Builder, array: np.ndarray) -> str:
    longer = b.constant(np.concatenate([array, array[:1]]), hidden=False)
    return b.node("Slice", longer, *(_shape(b, each) for each in (0, len(array), 0)))


def _unsqueezed(b: Builder, array: np.ndarray) -> str:
    return b.node("Squeeze", b.constant(array[None], hidden=False), _shape(b, 0))


def _flat(b: Builder, array: np.ndarray) -> str:
    return b.node("Reshape", b.constant(array.reshape(-1), hidden=False), _shape(b, *array.shape))


PARTINGS: dict[str, Callable[[Builder, np.ndarray], str]] = {
    "Concat": _joined,
    "Slice": _cut,
    "Squeeze": _unsqueezed,
    "flat": _flat,
}
