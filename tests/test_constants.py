"""Every int8 constant is accounted for, wherever it stands and whatever reads it."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcd_graph import compress_model
from mcd_graph.errors import NothingToCompressError
from mcd_graph.inspection import inspect_model

TABLE, WEIGHT, INNER, TURNED = 500 * 64, 64 * 512, 40 * 64, 64 * 50


def bell(shape, seed):
    drawn = np.random.default_rng(seed).normal(0, 12, shape)
    return np.clip(drawn, -127, 127).astype(np.int8)


def branch(name, array=None):
    """A graph that looks up rows of a table of its own, as a Constant node or an initializer, or of the outer one."""
    nodes, initializers, table = [], [], "table"
    if array is not None:
        table = f"{name}_table"
        tensor = numpy_helper.from_array(array, table)
        if name == "then":
            nodes.append(helper.make_node("Constant", [], [table], value=tensor))
        else:
            initializers.append(tensor)
    nodes.append(helper.make_node("Gather", [table, "ids"], [f"{name}_out"], name=f"{name}_gather"))
    output = helper.make_tensor_value_info(f"{name}_out", TensorProto.INT8, None)
    return helper.make_graph(nodes, name, [], [output], initializers)


def make_model(*, multiply=True):
    table = numpy_helper.from_array(bell((500, 64), 0), "table")
    inner = helper.make_node("Constant", [], ["inner"], value=numpy_helper.from_array(bell((40, 64), 3), "inner"))
    function = helper.make_function(
        "local", "look_up", ["ids"], ["rows"],
        [inner, helper.make_node("Gather", ["inner", "ids"], ["rows"], name="inner_gather")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="emb"),
        helper.make_node("Gather", ["table", "ids"], ["again"], name="emb_again"),
        helper.make_node(
            "If", ["which"], ["chosen"], then_branch=branch("then", bell((30, 64), 1)), else_branch=branch("else")
        ),
        helper.make_node("look_up", ["ids"], ["looked_up"], domain="local"),
        helper.make_node("Gather", ["turned", "ids"], ["picked"], name="pick", axis=1),
    ]
    outputs = ["again", "chosen", "looked_up", "picked"]
    initializers = [
        table,
        numpy_helper.from_array(bell((64, 50), 6), "turned"),
        numpy_helper.from_array(bell((8, 64), 5), "too_small"),
    ]
    if multiply:
        nodes.append(helper.make_node("MatMulInteger", ["rows", "w"], ["y"], name="mm"))
        initializers.append(numpy_helper.from_array(bell((64, 512), 2), "w"))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
         helper.make_tensor_value_info("which", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in outputs]
        + [helper.make_tensor_value_info("y", TensorProto.INT32, None)] * multiply,
        initializers,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


def test_every_constant_has_an_entry(tmp_path):
    source, output = tmp_path / "m.onnx", tmp_path / "m.mcd.onnx"
    source.write_bytes(make_model().SerializeToString())
    report = compress_model(source, output)
    found = {each.name: each for each in report.constants}
    assert {name: each.status for name, each in found.items()} == {
        "table": "lowered", "w": "lowered", "then_table": "lowered", "inner": "lowered", "turned": "kept",
    }  # fmt: skip
    assert {reader.name for reader in found["table"].readers} == {"emb", "emb_again", "else_gather"}
    assert found["turned"].code == "operator-not-compressed"
    assert sum(each.bytes_after or 0 for each in found.values()) == report.totals.compressed_bytes
    assert (found["w"].code, found["w"].shape, found["w"].dtype) == (None, (64, 512), "int8")
    totals = report.totals
    assert (totals.constants, totals.constant_bytes_lowered) == (5, TABLE + WEIGHT + INNER + 30 * 64)
    assert totals.constant_bytes == totals.constant_bytes_lowered + TURNED
    assert totals.constant_bytes_left == {"Gather": TURNED}
    assert 0 < totals.constant_entropy_bytes < totals.constant_bytes


def test_inspect_says_the_same_before_and_after(tmp_path):
    source, output = tmp_path / "m.onnx", tmp_path / "m.mcd.onnx"
    source.write_bytes(make_model().SerializeToString())
    before = inspect_model(source)
    compressed = compress_model(source, output).totals
    after = inspect_model(output).totals
    assert {each.name: each.status for each in before.constants}["w"] == "lowerable"
    for totals in (before.totals, after):
        assert totals.constant_bytes_lowered == compressed.constant_bytes_lowered
        assert totals.constant_bytes_left == compressed.constant_bytes_left
        assert totals.constant_entropy_bytes == pytest.approx(compressed.constant_entropy_bytes, abs=2)


def test_a_kept_weight_has_the_reason_of_its_node(tmp_path):
    (tmp_path / "m.onnx").write_bytes(make_model().SerializeToString())
    with pytest.raises(NothingToCompressError):
        compress_model(tmp_path / "m.onnx", tmp_path / "out.onnx", exclude=".")
    model = make_model()
    model.graph.node.append(helper.make_node("MatMulInteger", ["rows", "v"], ["z"], name="other"))
    model.graph.initializer.append(numpy_helper.from_array(bell((64, 128), 7), "v"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT32, None))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    report = compress_model(tmp_path / "m.onnx", tmp_path / "out.onnx", exclude="other", force_larger=True)
    kept = {each.name: each for each in report.constants}["v"]
    assert (kept.status, kept.code, kept.read_by) == ("kept", "excluded", "MatMulInteger")


def test_a_model_that_holds_int8_constants_is_not_told_to_quantize(tmp_path):
    node = helper.make_node("Gather", ["turned", "ids"], ["picked"], axis=1)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("picked", TensorProto.INT8, None)],
        [numpy_helper.from_array(bell((64, 50), 6), "turned")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NothingToCompressError, match=r"are read by operators that are not compressed: Gather") as error:
        compress_model(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert "quantise" not in str(error.value)


def test_constants_that_nothing_reads_are_said_to_be(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(bell((64, 50), 6), "left")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        NothingToCompressError, match="no operator reads its int8 and uint8 constants, 3,200 bytes"
    ) as e:
        compress_model(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert "at-open" not in str(e.value)
