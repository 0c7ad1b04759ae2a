"""Fuzz target: models with any of their fields changed are refused with an InputError, or lowered, restored and
legalised to models that pass the checker where the original does, and give the same bytes where the original runs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from cursor import Cursor
from lowering import MS_DOMAIN, assert_same_bytes, dynamic_nodes, floats, integers, make_model, pack_all, run, scales
from onnx import TensorProto, helper, numpy_helper

from mcd_graph import InputError
from mcd_graph._native import FormatError
from mcd_graph.model.loading import load_model
from mcd_graph.passes import LegalizePass, plan_lowering, plan_restoration

K, N = 40, 36
STEPS = 5
OPERATORS = (
    *("MatMulInteger", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMul", "Gemm", "Cast", "Mul"),
    *("Add", "Identity", "Reshape", "Transpose", "QLinearMatMul", "MatmulCompressDequant", "Relu", "Constant", "If"),
)
ATTRIBUTES = (
    "axis",
    "to",
    "alpha",
    "beta",
    "transA",
    "transB",
    "block_size",
    "output_dtype",
    "precision",
    "saturate",
    "compress_info",
    "perm",
    "y_perm",
)
DOMAINS = ("", "ai.onnx", MS_DOMAIN, "mcd", "else.where")
NUMBERS = (0, 1, -1, 2, 3, 10, K, N, 7, 127, 2**31, -(2**63), 2**63 - 1)
REALS = (0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), 1e-40, 1e38)


def check(data: bytes) -> None:
    """Run one input: which model, whether to run it, and up to five changes."""
    cursor = Cursor(data)
    model = onnx.ModelProto.FromString(cursor.pick(BASES))
    runs = cursor.byte() % 4 == 0
    for _ in range(STEPS):
        if not cursor.data:
            break
        # A field that cannot hold the value that is drawn for it.
        with contextlib.suppress(ValueError, TypeError):
            cursor.pick(CHANGES)(model, cursor)
    convolutions = bool(cursor.byte() & 1)
    valid = passes_checker(model)
    # The checker infers nothing of onnxruntime's operators, and so does not see what the model says wrongly of them.
    full = all(node.domain != MS_DOMAIN for graph in graphs_in(model.graph) for node in graph.node)
    expected, feeds = {}, {}
    if runs and valid:
        feeds = feeds_of(model)
        for optimize in (False, True):
            with contextlib.suppress(Exception):  # whatever onnxruntime says of an odd model
                expected[optimize] = run(model, feeds, optimize=optimize)

    with refusals():
        loaded = load_model(model)
        plan = plan_lowering(loaded, convolutions=convolutions)
        changed = plan.apply(pack_all(plan))
        lowered = ir.to_proto(loaded)
        optimized = any(site.optimized and site.status == "lowered" for site in plan.sites)
        holds(lowered, valid=valid, full=full)
        if changed and optimized in expected:
            assert_same_bytes(run(lowered, feeds, optimize=optimized), expected[optimized])
        copy = ir.from_proto(lowered)
        plan_restoration(copy).apply()
        restored = ir.to_proto(copy)
        holds(restored, valid=valid, full=full)
        if changed and optimized in expected:
            assert_same_bytes(run(restored, feeds, optimize=optimized), expected[optimized])
        LegalizePass()(loaded)
        holds(ir.to_proto(loaded), valid=valid, full=full)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Let pass what is documented: a model that is refused, or a damaged weight, which is seen when it is decoded.

    What NumPy would warn of is no result that we meant.
    """
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            yield
    except (InputError, FormatError):
        pass
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if not isinstance(cause, FormatError):
            raise


def holds(model: onnx.ModelProto, *, valid: bool, full: bool) -> None:
    if not valid:
        return
    nodes = [node for graph in graphs_in(model.graph) for node in graph.node]
    # The checker takes calls of local functions for unknown operators when it looks at custom domains.
    custom = not model.functions and all(node.domain in ("", "ai.onnx", "mcd") for node in nodes)
    onnx.checker.check_model(model, full_check=full, check_custom_domain=custom)


def passes_checker(model: onnx.ModelProto) -> bool:
    nodes = [node for graph in graphs_in(model.graph) for node in graph.node]
    if any(node.domain not in ("", "ai.onnx", "mcd", MS_DOMAIN) for node in nodes):
        return False
    # Without a look at custom domains the checker takes any operator in them.
    if any(node.domain == "mcd" and node.op_type != "MatmulCompressDequant" for node in nodes):
        return False
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # noqa: BLE001 - the checker raises many kinds
        return False
    return True


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    feeds = {}
    for number, value in enumerate(model.graph.input):
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else 3 for dim in tensor.shape.dim)
        with contextlib.suppress(KeyError, ValueError, TypeError, MemoryError):
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if np.prod([abs(size) for size in shape], dtype=float) < 1e5:
                feeds[value.name] = (np.random.default_rng(number).standard_normal(shape) * 50).astype(dtype)
    return feeds


# ---------------------------------------------------------------------------------------------------------------------
# Changes


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)


def a_graph(model: onnx.ModelProto, cursor: Cursor) -> onnx.GraphProto:
    return cursor.pick(list(graphs_in(model.graph)))


def a_node(model: onnx.ModelProto, cursor: Cursor) -> onnx.NodeProto:
    nodes = [node for graph in graphs_in(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return cursor.pick(nodes) if nodes else onnx.NodeProto()


def a_name(model: onnx.ModelProto, cursor: Cursor) -> str:
    graph = a_graph(model, cursor)
    names = ["", "new", "y", *(name for node in graph.node for name in (*node.input, *node.output))]
    names += [value.name for value in (*graph.initializer, *graph.input, *graph.output)]
    return cursor.pick(names)


def a_tensor(model: onnx.ModelProto, cursor: Cursor) -> onnx.TensorProto:
    tensors = [tensor for graph in graphs_in(model.graph) for tensor in graph.initializer]
    tensors += [a.t for graph in graphs_in(model.graph) for n in graph.node for a in n.attribute if a.HasField("t")]
    return cursor.pick(tensors) if tensors else onnx.TensorProto()


def change_list(names: Any, model: onnx.ModelProto, cursor: Cursor) -> None:
    """Change a node's inputs or outputs."""
    how, at = cursor.byte() % 5, cursor.byte()
    if how == 0 or not names:
        names.append(a_name(model, cursor))
        return
    at %= len(names)
    if how == 1:
        names[at] = a_name(model, cursor)
    elif how == 2:
        names[at] = ""
    elif how == 3:
        del names[at]
    else:
        other = cursor.byte() % len(names)
        names[at], names[other] = names[other], names[at]


def node_inputs(model: onnx.ModelProto, cursor: Cursor) -> None:
    change_list(a_node(model, cursor).input, model, cursor)


def node_outputs(model: onnx.ModelProto, cursor: Cursor) -> None:
    change_list(a_node(model, cursor).output, model, cursor)


def node_kind(model: onnx.ModelProto, cursor: Cursor) -> None:
    node = a_node(model, cursor)
    if cursor.byte() & 1:
        node.op_type = cursor.pick(OPERATORS)
    else:
        node.domain = cursor.pick(DOMAINS)


def node_list(model: onnx.ModelProto, cursor: Cursor) -> None:
    nodes = a_graph(model, cursor).node
    if not nodes:
        return
    at, how = cursor.byte() % len(nodes), cursor.byte() % 4
    if how == 0:
        del nodes[at]
    elif how == 1:
        nodes.append(nodes[at])
    elif how == 2:
        copy = onnx.NodeProto.FromString(nodes[at].SerializeToString())
        for i, name in enumerate(copy.output):
            copy.output[i] = f"{name}_again"
        copy.name += "_again"
        nodes.append(copy)
    else:
        kept = list(nodes)
        kept.insert(cursor.byte() % len(kept), kept.pop(at))
        del nodes[:]
        nodes.extend(kept)


def node_attribute(model: onnx.ModelProto, cursor: Cursor) -> None:
    node = a_node(model, cursor)
    how = cursor.byte() % 5
    if how == 0 and node.attribute:
        del node.attribute[cursor.byte() % len(node.attribute)]
        return
    if how == 1 and node.attribute:
        attribute = cursor.pick(node.attribute)
    else:
        attribute = node.attribute.add(name=cursor.pick(ATTRIBUTES), type=onnx.AttributeProto.INT)
    number = cursor.pick(NUMBERS)
    if how in (1, 2):
        attribute.type = onnx.AttributeProto.INT
        attribute.i = number
    elif how == 3:
        attribute.type = onnx.AttributeProto.FLOAT
        attribute.f = cursor.pick(REALS)
    else:
        attribute.type = cursor.byte() % 16
        attribute.ints.extend([number, cursor.byte()])
    if cursor.byte() % 8 == 0:
        attribute.ref_attr_name = cursor.pick(ATTRIBUTES)


def tensor_type(model: onnx.ModelProto, cursor: Cursor) -> None:
    a_tensor(model, cursor).data_type = cursor.byte() % 28


def tensor_dims(model: onnx.ModelProto, cursor: Cursor) -> None:
    dims, how = a_tensor(model, cursor).dims, cursor.byte() % 4
    if how == 0:
        dims.append(cursor.pick(NUMBERS))
    elif how == 1:
        dims.insert(0, 1)
    elif how == 2 and dims:
        dims[cursor.byte() % len(dims)] = cursor.pick(NUMBERS)
    elif dims:
        del dims[cursor.byte() % len(dims)]


def tensor_content(model: onnx.ModelProto, cursor: Cursor) -> None:
    """Another array of an odd shape, type or value, or bytes that do not fit."""
    tensor = a_tensor(model, cursor)
    how = cursor.byte() % 6
    if how == 0:
        tensor.raw_data = tensor.raw_data[: cursor.byte()]
        return
    if how == 1:
        tensor.int32_data.extend([cursor.byte()] * (cursor.byte() % 5))
        return
    with contextlib.suppress(Exception):  # numpy_helper raises many kinds, of tensors changed before
        array = numpy_helper.to_array(tensor)
        if how == 2:
            array = np.full_like(array, cursor.pick(REALS) if array.dtype.kind == "f" else cursor.byte() & 127)
        elif how == 3:
            array = array.astype(
                cursor.pick([np.int8, np.uint8, np.int32, np.float32, np.float16, np.int64, np.uint64])
            )
        elif how == 4:
            array = np.broadcast_to(
                array.ravel()[:1], cursor.pick([(), (1,), (N,), (1, N), (K,), (K, N), (0,), (2, K, N)])
            )
        else:
            array = array.T
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def tensor_place(model: onnx.ModelProto, cursor: Cursor) -> None:
    """An initialiser gone, renamed, twice, an input as well, computed instead, or in a file."""
    graph = a_graph(model, cursor)
    if not graph.initializer:
        return
    at, how = cursor.byte() % len(graph.initializer), cursor.byte() % 6
    tensor = graph.initializer[at]
    if how == 0:
        del graph.initializer[at]
    elif how == 1:
        tensor.name = a_name(model, cursor)
    elif how == 2:
        graph.initializer.append(tensor)
    elif how == 3:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    elif how == 4:
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        del graph.initializer[at]
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=cursor.pick(["../x", "/etc/passwd", "", "data"]))


def graph_values(model: onnx.ModelProto, cursor: Cursor) -> None:
    graph = a_graph(model, cursor)
    values = cursor.pick([graph.input, graph.output, graph.value_info])
    how = cursor.byte() % 5
    if how == 0 or not values:
        kind, size = cursor.byte() % 24, cursor.pick(["m", 3, 0, -1, K, N])
        values.append(helper.make_tensor_value_info(a_name(model, cursor), kind, [size] * (cursor.byte() % 4)))
        return
    value = cursor.pick(values)
    if how == 1:
        values.remove(value)
    elif how == 2:
        value.type.tensor_type.elem_type = cursor.byte() % 24
    elif how == 3:
        dims = value.type.tensor_type.shape.dim
        if dims:
            cursor.pick(dims).dim_value = cursor.pick(NUMBERS)
        else:
            value.type.tensor_type.ClearField("shape")
    else:
        value.name = a_name(model, cursor)


def whole_model(model: onnx.ModelProto, cursor: Cursor) -> None:
    how = cursor.byte() % 5
    if how == 0:
        model.ir_version = cursor.byte() % 16
    elif how == 1 and model.opset_import:
        cursor.pick(model.opset_import).version = cursor.byte() % 28
    elif how == 2:
        model.opset_import.add(domain=cursor.pick(DOMAINS), version=cursor.byte() % 28)
    elif how == 3 and model.opset_import:
        model.opset_import.pop(cursor.byte() % len(model.opset_import))
    else:
        model.metadata_props.add(key=cursor.pick(["mcd.optimised", "mcd.codec", "x"]), value=str(cursor.byte()))


def into_function(model: onnx.ModelProto, cursor: Cursor) -> None:
    """Move a node into a function, which may call itself."""
    node = a_node(model, cursor)
    if not node.op_type:
        return
    inputs = [name for name in dict.fromkeys(node.input) if name]
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    opsets = list(model.opset_import)
    model.functions.add().CopyFrom(helper.make_function("local", "f", inputs, list(node.output), [inner], opsets))
    if cursor.byte() & 1:
        node.CopyFrom(helper.make_node("f", inputs, list(node.output), domain="local"))
    if cursor.byte() % 4 == 0:
        inner = model.functions[-1].node[0]
        inner.op_type, inner.domain = "f", "local"
    if not any(opset.domain == "local" for opset in model.opset_import):
        model.opset_import.add(domain="local", version=1)


def raw_bytes(model: onnx.ModelProto, cursor: Cursor) -> None:
    """Change a byte of the file, if it still parses then."""
    content = bytearray(model.SerializeToString())
    content[int.from_bytes(cursor.take(3), "little") % len(content)] = cursor.byte()
    with contextlib.suppress(Exception):  # protobuf's errors
        model.CopyFrom(onnx.ModelProto.FromString(bytes(content)))


Change = Callable[[onnx.ModelProto, Cursor], None]
CHANGES: Sequence[Change] = (
    node_inputs, node_outputs, node_kind, node_list, node_attribute, tensor_type, tensor_dims, tensor_content,
    tensor_place, graph_values, whole_model, into_function, raw_bytes,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Models to start from


def weight(shape: tuple[int, ...], kind: type = np.int8) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7 % 13 + (kind is np.uint8) * 100).astype(kind).reshape(shape)


def dynamic() -> onnx.ModelProto:
    constants = {"w": weight((K, N)), "wz": np.array(1, np.int8), "ws": scales((N,), 1), "b": floats((N,), 2)}
    return make_model(dynamic_nodes(), {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def qdq(op_type: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node(op_type, ["xd", "wd", *(["b"] if op_type == "Gemm" else [])], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    constants = {
        "xs": scales((), 1, 0.2), "xz": np.array(120, np.uint8), "w": weight((K, N)), "ws": scales((N,), 3),
        "wz": np.zeros(N, np.int8), "b": floats((N,), 4), "ys": scales((), 5, 2), "yz": np.array(100, np.uint8),
    }  # fmt: skip
    return make_model(nodes, {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)


def gated() -> onnx.ModelProto:
    """Multiply, gate the result, and add a residual."""
    constants = {"w": weight((K, N)), "wz": np.array(1, np.int8), "ws": scales((N,), 1), "b": floats((N,), 2)}
    nodes = [
        *dynamic_nodes(),
        helper.make_node("Mul", ["y", "gate"], ["gated"]),
        helper.make_node("Add", ["residual", "gated"], ["total"]),
    ]
    inputs = {"x": (np.float32, ("m", K)), "gate": (np.float32, ("m", N)), "residual": (np.float32, ("m", N))}
    return make_model(nodes, inputs, {"total": (np.float32, ("m", N))}, constants)


def attention() -> onnx.ModelProto:
    """Merge the heads of x, multiply, and split the result."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "xd"], ["f"]),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "s"], ["g"]),
        helper.make_node("Reshape", ["g", "yd"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 3, 1]),
    ]
    constants = {"w": weight((K, N)), "xd": np.array([0, -1, K]), "yd": np.array([0, 0, 3, N // 3])}
    x, y = ("b", 5, "s", K // 5), ("b", 3, N // 3, "s")
    return make_model(nodes, {"x": (np.float32, x)}, {"y": (np.float32, y)}, constants)


def quantized_weight() -> onnx.ModelProto:
    """A weight that is quantised in the model, from floating-point numbers."""
    nodes = [
        helper.make_node("QuantizeLinear", ["f", "fs", "fz"], ["w"], axis=1),
        helper.make_node("MatMulInteger", ["x", "w", "xz"], ["y"]),
    ]
    constants = {"f": floats((K, N), 1), "fs": scales((N,), 2), "fz": np.ones(N, np.int8)}
    constants["xz"] = np.array(3, np.uint8)
    # The first version in which the node has all of its attributes.
    return make_model(nodes, {"x": (np.uint8, ("m", K))}, {"y": (np.int32, ("m", N))}, constants, opset=23)


def one_node(
    node: onnx.NodeProto, x: tuple[Any, Sequence[Any]], y: tuple[Any, Sequence[Any]], constants: Mapping[str, Any]
) -> onnx.ModelProto:
    return make_model([node], {"x": x}, {"y": y}, constants)


def bases() -> list[bytes]:
    """Small models of every family, an If, and lowered ones."""
    w8, u8 = (np.uint8, ("m", K)), integers(np.uint8, (), 1)
    table = {"xs": scales((), 1), "xz": u8, "w": weight((K, N)), "ws": scales((N,), 2), "wz": np.zeros(N, np.int8)}
    table |= {"ys": scales((), 3, 20), "yz": u8}
    floating = {"w": weight((K, N), np.uint8), "xs": scales((), 1), "ws": scales((N,), 2), "xz": u8}
    conv = {"w": weight((N, K, 1, 1), np.uint8), "xz": u8, "wz": u8}
    outer = dynamic()
    branch = helper.make_graph(list(outer.graph.node), "branch", [], list(outer.graph.output))
    empty = helper.make_graph([helper.make_node("Identity", ["e"], ["o"])], "else", [], [])
    empty.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, ["m", N]))
    choice = helper.make_node("If", ["flag"], ["r"], then_branch=branch, else_branch=empty)
    branching = make_model(
        [choice], {"flag": (np.bool_, ()), "x": (np.float32, ("m", K)), "e": (np.float32, ("m", N))},
        {"r": (np.float32, ("m", N))}, {t.name: numpy_helper.to_array(t) for t in outer.graph.initializer},
    )  # fmt: skip
    models = [
        dynamic(),
        attention(),
        gated(),
        qdq("MatMul"),
        qdq("Gemm"),
        one_node(helper.make_node("QLinearMatMul", ["x", *table], ["y"]), w8, (np.uint8, ("m", N)), table),
        one_node(
            helper.make_node("MatMulIntegerToFloat", ["x", *floating], ["y"], domain=MS_DOMAIN),
            w8, (np.float32, ("m", N)), floating,
        ),
        one_node(
            helper.make_node("ConvInteger", ["x", *conv], ["y"]),
            (np.uint8, ("b", K, 3, 2)), (np.int32, ("b", N, 3, 2)), conv,
        ),
        branching,
        quantized_weight(),
    ]  # fmt: skip
    for model in models[:5]:
        loaded = ir.from_proto(model)
        plan = plan_lowering(loaded)
        plan.apply(pack_all(plan))
        models.append(ir.to_proto(loaded))
    return [model.SerializeToString() for model in models]


BASES = bases()


def seeds() -> list[bytes]:
    """Every model with each kind of change, and unchanged."""
    found = []
    for base in range(len(BASES)):
        found.append(bytes([base, 0]))
        found.extend(bytes([base, 4 * change, change, change, base, 1, change]) for change in range(len(CHANGES)))
    return found
