"""What a model says besides its weights stays as it was, in its order: saved, compressed and restored."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import Message
from rich_model import rich_model
from samples import write, write_external

from mcd_graph import compress_model, restore_model
from mcd_graph.model.annotations import Stated, remove_annotations
from mcd_graph.model.data_files import DATA_FILE_KEY
from mcd_graph.model.fidelity import to_proto
from mcd_graph.model.loading import load_model, read_proto
from mcd_graph.model.saving import ModelWriter
from mcd_graph.operators.matmul_compress_dequant import OP_DOMAIN


@pytest.fixture(params=["inline", "external"])
def rich(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "rich.onnx"
    model = rich_model()
    if request.param == "inline":
        return write(model, path)
    write_external(model, path, "rich.bin")
    proto = read_proto(path)
    for tensor in proto.graph.initializer:
        if tensor.external_data:
            tensor.external_data.add(key="checksum", value="0123456789abcdef0123456789abcdef01234567")
    return write(proto, path)


def plain(path: Path) -> onnx.ModelProto:
    """Return a saved model with its tensors' bytes inside; all of its external data must be one file beside it.

    That file's name is all that saving adds to the model.
    """
    proto = read_proto(path)
    locations = {entry.value for t in proto.graph.initializer for entry in t.external_data if entry.key == "location"}
    if locations:
        added = proto.metadata_props.pop()
        assert (added.key, {added.value}) == (DATA_FILE_KEY, locations)
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries.keys() == {"location", "offset", "length"}, "the checksum of another file would be wrong"
        data = (path.parent / entries["location"]).read_bytes()
        tensor.raw_data = data[int(entries["offset"]) :][: int(entries["length"])]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return proto


def contents(messages: Iterable[Message]) -> list[bytes]:
    return [message.SerializeToString(deterministic=True) for message in messages]


def is_subsequence(part: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


@pytest.mark.parametrize("inline", [False, True])
def test_saving_changes_nothing(rich: Path, tmp_path: Path, inline: bool) -> None:
    with ModelWriter(tmp_path / "saved.onnx", inline=inline) as writer:
        writer.commit(load_model(rich))
    saved = plain(tmp_path / "saved.onnx")
    expected = rich_model()
    for proto in (saved, expected):
        for tensor in proto.graph.initializer:
            if tensor.name == "large":  # not raw bytes in the one, but external data in the other
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    assert saved == expected


def assert_untouched(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Check all but the nodes that were replaced, and the tensors and values that went with them."""
    for proto, others in ((before, after), (after, before)):
        assert contents(proto.functions) == contents(others.functions)
        graph, other = proto.graph, others.graph
        assert contents(graph.input) == contents(other.input)
        assert contents(graph.output) == contents(other.output)
        assert contents(graph.quantization_annotation) == contents(other.quantization_annotation)
    opsets = [(entry.domain, entry.version) for entry in after.opset_import if entry.domain != OP_DOMAIN]
    assert opsets == [(entry.domain, entry.version) for entry in before.opset_import]

    old = {tuple(node.output): node.op_type for node in before.graph.node}
    kept = [
        node for node in after.graph.node if old.get(tuple(node.output)) == node.op_type and node.name not in REPLACED
    ]
    assert is_subsequence(contents(kept), contents(before.graph.node))
    gone = old.keys() - {tuple(node.output) for node in kept}
    assert {name.partition("_")[0] for names in gone for name in names} <= {"first", "second", "y"}

    produced = {name for node in after.graph.node for name in node.output}
    kinds = {"value_info": before.graph.value_info, "initializer": before.graph.initializer}
    present = produced | {tensor.name for tensor in after.graph.initializer}
    for field, old in kinds.items():
        known = {entry.name for entry in old}
        same = contents(
            entry for entry in getattr(after.graph, field) if entry.name in known and entry.name not in WEIGHTS
        )
        assert same == contents(entry for entry in old if entry.name in present and entry.name not in WEIGHTS)

    for proto in (before, after):
        for field in ("node", "initializer", "value_info", "input", "output", "quantization_annotation"):
            proto.graph.ClearField(field)
        proto.ClearField("functions")
        proto.ClearField("opset_import")
    assert before == after


REPLACED = ("/first/MatMul", "/second/MatMul", "/y/MatMul")
WEIGHTS = ("w1", "w2")


def test_compressing_touches_nothing_else(rich: Path, tmp_path: Path) -> None:
    report = compress_model(rich, tmp_path / "small.onnx")
    assert [node.name for node in report.nodes if node.status == "lowered"] == list(REPLACED)
    compressed = plain(tmp_path / "small.onnx")
    assert compressed.doc_string.startswith(f"{rich_model().doc_string}\n\n[mcd-graph] ")
    model = load_model(compressed)
    assert remove_annotations(model) == Stated("balanced", "5")
    assert_untouched(rich_model(), to_proto(model))


def test_restoring_touches_nothing_else(rich: Path, tmp_path: Path) -> None:
    compress_model(rich, tmp_path / "small.onnx")
    restore_model(tmp_path / "small.onnx", tmp_path / "again.onnx")
    restored = plain(tmp_path / "again.onnx")
    weights = {tensor.name: tensor.raw_data for tensor in restored.graph.initializer}
    for tensor in rich_model().graph.initializer:
        assert tensor.name not in WEIGHTS or weights[tensor.name] == tensor.raw_data
    assert_untouched(rich_model(), restored)
