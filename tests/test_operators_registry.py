"""An operator that the registry knows is checked, reported and restored by all; one that it does not know is an error.

The toy operator here is what a new one would be: one description, registered. Nothing else knows its name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import mcd_graph
from mcd_graph import _native
from mcd_graph.ascend import export_model
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model
from mcd_graph.operators import registry
from mcd_graph.operators.nodes import NewNode, NewOutput, Operand
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION, Attribute, Input, OperatorSpec, Output
from mcd_graph.operators.view import CompressedNode
from mcd_graph.passes import LegalizePass, plan_restoration
from mcd_graph.report.histograms import weight_histograms

SHAPE = (3, 16, 40)


class ToyAdd(OpRun):
    op_domain = DOMAIN

    def _run(
        self, x: np.ndarray, x2: np.ndarray, compress_index: np.ndarray, compress_info: list[int], shape: list[int]
    ) -> tuple[np.ndarray]:
        return (x + _native.decode(x2, compress_index, np.asarray(compress_info, np.int64)).reshape(shape),)


def infer(context: Any) -> None:
    context.set_output_type(0, context.get_input_type(0))


def shape_of(node: CompressedNode) -> tuple[int, ...]:
    return tuple(node.node.attributes["shape"].as_ints())


def check(node: CompressedNode) -> str | None:
    size = int(np.prod(shape_of(node)))
    return None if size == node.k * node.n else f"its shape has {size} elements, and its weight {node.k * node.n}"


def restore(node: CompressedNode, weight: ir.Value) -> Operand:
    return NewOutput(NewNode("Add", (node.input("x"), weight)))


TOY = OperatorSpec(
    op_type="ToyAdd",
    doc="x plus a compressed tensor.",
    inputs=(
        Input("x", "tensor(int8)", "what is added to"),
        Input("x2", "tensor(int8)", "stream"),
        Input("compress_index", "tensor(int8)", "index"),
    ),
    outputs=(Output("y", "tensor(int8)", "the sum"),),
    types={},
    attributes=(
        Attribute("compress_info", ir.AttributeType.INTS, "tilingK, tilingN, k, n, direction", required=True),
        Attribute("shape", ir.AttributeType.INTS, "of the tensor", required=True),
    ),
    infer=infer,
    reference=ToyAdd,
    check=check,
    weight_shape=shape_of,
    weight_of=lambda node, decoded: decoded.reshape(shape_of(node)),
    restore=restore,
)


@pytest.fixture
def toy() -> Iterator[OperatorSpec]:
    registry.register(TOY)
    yield TOY
    registry.unregister(TOY)


def tensor() -> np.ndarray:
    return np.random.default_rng(3).integers(-5, 6, SHAPE).astype(np.int8)


def toy_model(shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    packed = mcd_graph.pack_weight(tensor().reshape(-1, SHAPE[-1]))
    node = helper.make_node(
        "ToyAdd", ["x", "w.x2", "w.compress_index"], ["y"], name="toy", domain=DOMAIN,
        compress_info=packed.compress_info.tolist(), shape=shape,
    )  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, SHAPE) for name in "xy"]
    tensors = {"w.x2": np.asarray(packed.x2), "w.compress_index": packed.compress_index}
    graph = helper.make_graph(
        [node], "toy", values[:1], values[1:], [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.usefixtures("toy")
def test_a_new_operator_is_checked(tmp_path: Path) -> None:
    found = check_model(write(toy_model(), tmp_path / "m.onnx"))
    assert (found.intact, found.nodes, found.weights) == (True, 1, 1)
    wrong = check_model(write(toy_model((3, 16, 41)), tmp_path / "wrong.onnx"))
    assert [(each.node, each.tensor) for each in wrong.problems] == [("toy", "w.x2")]
    assert "1968 elements" in wrong.problems[0].reason
    damaged = toy_model()
    stream = bytearray(damaged.graph.initializer[0].raw_data)
    stream[200] ^= 1
    damaged.graph.initializer[0].raw_data = bytes(stream)
    path = write(damaged, tmp_path / "damaged.onnx")
    assert [each.node for each in check_model(path).problems] == ["toy"]
    with pytest.raises(mcd_graph.InputError, match="node toy: "):
        mcd_graph.restore_model(path, tmp_path / "plain.onnx")


@pytest.mark.usefixtures("toy")
def test_a_new_operator_is_reported(tmp_path: Path) -> None:
    path = write(toy_model(), tmp_path / "m.onnx")
    (node,) = inspect_model(path).nodes
    assert (node.name, node.op_type, node.status, node.weight) == ("toy", "ToyAdd", "lowered", "w")
    assert node.weight_bytes == tensor().size
    (histogram,) = weight_histograms(path)
    assert histogram.counts.sum() == tensor().size


@pytest.mark.usefixtures("toy")
def test_a_new_operator_is_restored(tmp_path: Path) -> None:
    path = write(toy_model(), tmp_path / "m.onnx")
    assert mcd_graph.restore_model(path, tmp_path / "plain.onnx", inline=True).restored == 1
    plain = onnx.load(tmp_path / "plain.onnx")
    assert [(node.op_type, node.domain, list(node.input)) for node in plain.graph.node] == [("Add", "", ["x", "w"])]
    assert [opset.domain for opset in plain.opset_import] == [""]
    assert numpy_helper.to_array(plain.graph.initializer[0]).tobytes() == tensor().tobytes()
    x = np.ones(SHAPE, np.int8)
    expected = ReferenceEvaluator(toy_model(), new_ops=[ToyAdd]).run(None, {"x": x})[0]
    assert ReferenceEvaluator(plain).run(None, {"x": x})[0].tobytes() == expected.tobytes()


@pytest.mark.usefixtures("toy")
def test_what_ascend_has_no_operator_for_is_kept_and_restored_for_export(tmp_path: Path) -> None:
    legalize = LegalizePass()
    assert not legalize(ir.from_proto(toy_model())).modified
    assert [(site.status, site.reason) for site in legalize.sites] == [
        ("kept", "Ascend has no operator like ToyAdd; restore it first")
    ]
    with pytest.raises(mcd_graph.InputError, match="nothing to export: the model has no matrix multiplication"):
        export_model(toy_model(), tmp_path / "exported")


def test_a_restoration_that_is_the_weight_itself() -> None:
    """As an operator's that only decompresses: its readers get the constant, a graph output gets a copy."""

    def weight_itself(node: CompressedNode, weight: ir.Value) -> Operand:
        return weight

    spec = OperatorSpec(**{**vars(TOY), "op_type": "ToyDecompress", "restore": weight_itself})
    registry.register(spec)
    try:
        proto = toy_model()
        proto.graph.node[0].op_type = "ToyDecompress"
        proto.graph.node.append(helper.make_node("Neg", ["y"], ["z"]))
        proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT8, SHAPE))
        model = ir.from_proto(proto)
        assert plan_restoration(model).apply()
        assert sorted(node.op_type for node in model.graph) == ["Identity", "Neg"]
        del proto.graph.output[0]
        model = ir.from_proto(proto)
        assert plan_restoration(model).apply()
        assert [(node.op_type, [value and value.name for value in node.inputs]) for node in model.graph] == [
            ("Neg", ["w"])
        ]
    finally:
        registry.unregister(spec)


def unknown_model() -> onnx.ModelProto:
    model = toy_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    return model


@pytest.mark.parametrize(
    "look",
    [
        lambda model: list(registry.compressed_nodes(model)),
        lambda model: CompressedNode.of(model.graph[0]),
        plan_restoration,
        LegalizePass(),
    ],
    ids=["compressed_nodes", "view", "restore", "legalise"],
)
def test_an_unknown_operator_of_our_domain_is_an_error(look: Any) -> None:
    with pytest.raises((mcd_graph.InputError, ir.passes.PassError)) as caught:
        look(ir.from_proto(unknown_model()))
    error = caught.value if isinstance(caught.value, mcd_graph.InputError) else caught.value.__cause__
    assert "node 'toy' is mcd::NoSuchOperator, which this version of mcd-graph does not know" in str(error)


def test_an_unknown_operator_in_a_file_is_an_error(tmp_path: Path) -> None:
    path = write(unknown_model(), tmp_path / "m.onnx")
    (problem,) = check_model(path).problems
    assert "mcd::NoSuchOperator" in problem.reason
    for look in (inspect_model, weight_histograms, lambda path: mcd_graph.restore_model(path, tmp_path / "plain.onnx")):
        with pytest.raises(mcd_graph.InputError, match="mcd::NoSuchOperator"):
            look(path)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="another operator mcd::MatmulCompressDequant"):
        registry.register(OperatorSpec(**{**vars(TOY), "op_type": "MatmulCompressDequant"}))
