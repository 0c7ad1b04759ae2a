"""A compressed model says what it is and what to do, to people, to viewers, and to programs; a restored one no more."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
from rich_model import rich_model
from samples import text_model, write

import mcd_graph
from mcd_graph.model.annotations import KEYS, Stated, annotate, remove_annotations
from mcd_graph.model.loading import load_model, read_proto

OPTIONAL = ("producer_name", "producer_version", "doc_string")


def test_without_the_library_error_and_file_together_say_what_to_do(model: Path, out: Path) -> None:
    mcd_graph.disable()  # which a test before may have left on
    mcd_graph.compress_model(model, out / "m.onnx")
    with pytest.raises(Exception, match="mcd:MatmulCompressDequant") as caught:
        onnxruntime.InferenceSession(out / "m.onnx")
    assert "m.onnx" in str(caught.value), "it names the file, so that one looks there"
    proto = onnx.load(out / "m.onnx", load_external_data=False)
    props = {entry.key: entry.value for entry in proto.metadata_props}
    assert proto.producer_name == "mcd-graph"
    assert proto.producer_version == props["mcd.version"]
    assert props["mcd.format_version"] == "5"
    assert props["mcd.operators"] == "mcd::MatmulCompressDequant (version 1 of domain mcd)"
    assert props["mcd.profile"] == "balanced"
    for needed in ("mcd::MatmulCompressDequant", "format 5", props["mcd.how_to_open"], "mcd_graph.enable()", "restore"):
        assert needed in proto.doc_string
    for node in proto.graph.node:
        assert ("[mcd-graph]" in node.doc_string) == (node.domain == "mcd")


def test_the_line_that_it_says_opens_it(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mcd_graph.compress_model(model, out / "MODEL.onnx")
    props = {entry.key: entry.value for entry in read_proto(out / "MODEL.onnx").metadata_props}
    monkeypatch.chdir(out)
    names: dict[str, onnxruntime.InferenceSession] = {}
    exec(props["mcd.how_to_open"], names)  # noqa: S102 - our own words
    assert [value.name for value in names["session"].get_inputs()] == ["ids", "mask"]


def head(proto: onnx.ModelProto) -> tuple[object, ...]:
    """Return what a model says about itself, and its nodes."""
    props = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != "mcd.data_file"]
    said = [getattr(proto, name) for name in OPTIONAL]
    nodes = [(node.name, node.doc_string) for node in proto.graph.node if node.name]
    return props, said, sorted(nodes)


@pytest.mark.parametrize("doc", [None, "", "about it", "two\n\nparagraphs\n"])
@pytest.mark.parametrize("producer", [None, "", "pytorch"])
def test_a_restored_model_says_what_the_original_did(
    tmp_path: Path, out: Path, doc: str | None, producer: str | None
) -> None:
    proto = text_model()
    proto.ClearField("producer_name")
    for target in (proto, *proto.graph.node[:6]):
        if doc is not None:
            target.doc_string = doc
    if producer is not None:
        proto.producer_name, proto.producer_version = producer, "2.9"
    source = write(proto, tmp_path / "source.onnx")
    mcd_graph.compress_model(source, out / "m.onnx")
    assert doc is None or read_proto(out / "m.onnx").doc_string.startswith(doc)
    mcd_graph.restore_model(out / "m.onnx", out / "plain.onnx")
    expected, found = head(read_proto(source)), head(read_proto(out / "plain.onnx"))
    assert found[:2] == expected[:2]
    kept = {name for name, *_ in expected[2]} & {name for name, *_ in found[2]}  # type: ignore[attr-defined]
    assert kept >= {"/first/MatMul", "/second/MatMul", "/y/MatMul"}
    assert [entry for entry in found[2] if entry[0] in kept] == [  # type: ignore[attr-defined]
        entry
        for entry in expected[2]
        if entry[0] in kept  # type: ignore[attr-defined]
    ]


def test_annotating_twice_says_it_once(tmp_path: Path, out: Path) -> None:
    mcd_graph.compress_model(write(rich_model(), tmp_path / "rich.onnx"), out / "m.onnx")
    model = load_model(out / "m.onnx")
    first = (model.doc_string, dict(model.metadata_props), [node.doc_string for node in model.graph])
    annotate(model, Stated("balanced", "5"))
    assert (model.doc_string, dict(model.metadata_props), [node.doc_string for node in model.graph]) == first
    assert remove_annotations(model) == Stated("balanced", "5")
    assert not set(KEYS) & set(model.metadata_props)
    assert remove_annotations(model) is None
    assert (model.producer_name, model.doc_string) == (rich_model().producer_name, rich_model().doc_string)
