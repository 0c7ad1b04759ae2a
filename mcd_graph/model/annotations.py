"""What a compressed model says about itself, to whoever opens it without knowing this package.

onnxruntime's error for a missing library is that the operator is not registered, and no more. So the model and its
nodes have texts that viewers show, and metadata that programs read: what wrote the file, what it takes to run it, and
the line to add. All of it can be taken away again, so that a restored model says what the original did.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import TYPE_CHECKING

from mcd_graph.model.at_open import is_at_open
from mcd_graph.operators.matmul_compress_dequant import OP_DOMAIN, OP_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

__all__ = ["KEYS", "PRODUCER", "Stated", "annotate", "remove_annotations"]

PRODUCER = "mcd-graph"

_VERSION = "mcd.version"
_FORMAT = "mcd.format_version"
_OPERATORS = "mcd.operators"
_PROFILE = "mcd.profile"
_HOW_TO_OPEN = "mcd.how_to_open"
_SOURCE_PRODUCER = "mcd.source_producer_name"
_SOURCE_VERSION = "mcd.source_producer_version"

KEYS = (_VERSION, _FORMAT, _OPERATORS, _PROFILE, _HOW_TO_OPEN, _SOURCE_PRODUCER, _SOURCE_VERSION)
"""The model's metadata that is written here, in order."""

_MARK = "[mcd-graph] "
"""What our part of a doc string begins with; it goes to the end."""

_OPEN = 'import mcd_graph; session = mcd_graph.InferenceSession("MODEL.onnx")'

_MODEL_ENTRY = "set the session config entry mcd.model to the path of this file, and then "
"""What comes first where constants are restored when a session is created."""

_NODE_NOTE = "See the model's description."
"""Short, for each node has it."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a compressed model says that its graph does not show.

    Attributes:
        profile: what it was compressed with.
        format_version: of its compressed weights.
    """

    profile: str
    format_version: str


def annotate(model: ir.Model, stated: Stated) -> None:
    """Let a compressed model and its compressed nodes say what they are; texts that are there are kept.

    Args:
        model: a model with nodes of our domain; changed in place.
        stated: what to say besides what the graph shows.
    """
    remove_annotations(model)
    nodes = list(_compressed_nodes(model))
    version = importlib.metadata.version("mcd-graph")
    names = ", ".join(sorted({f"{node.domain}::{node.op_type}" for node in nodes}))
    props = model.metadata_props
    for key, text in ((_SOURCE_PRODUCER, model.producer_name), (_SOURCE_VERSION, model.producer_version)):
        if text is not None:
            props[key] = text
    model.producer_name, model.producer_version = PRODUCER, version
    props[_VERSION] = version
    props[_FORMAT] = stated.format_version
    props[_OPERATORS] = f"{names} (version {OP_VERSION} of domain {OP_DOMAIN})"
    props[_PROFILE] = stated.profile
    props[_HOW_TO_OPEN] = _OPEN
    note = (
        f"Compressed by mcd-graph {version} without loss: this model computes the same bits as the original. "
        f"It needs the custom operators {names}, version {OP_VERSION} (weights in format {stated.format_version}). "
        f"In Python: {_OPEN}; or mcd_graph.enable() before any other library opens it. In other languages: "
        f"{_MODEL_ENTRY if any(map(is_at_open, nodes)) else ''}"
        "RegisterCustomOpsLibrary with the file that mcd_graph.get_library_path() names. "
        "For runtimes without custom operators: mcd restore."
    )
    model.doc_string = _with_note(model.doc_string, note)
    for node in nodes:
        node.doc_string = _with_note(node.doc_string, _NODE_NOTE)


def remove_annotations(model: ir.Model) -> Stated | None:
    """Take away what :func:`annotate` added, and nothing else; return what was stated, if anything was."""
    props = model.metadata_props
    stated = Stated(props.get(_PROFILE, ""), props.get(_FORMAT, "")) if _VERSION in props else None
    if stated is not None:
        model.producer_name, model.producer_version = props.get(_SOURCE_PRODUCER), props.get(_SOURCE_VERSION)
        model.doc_string = _without_note(model.doc_string)
        for key in KEYS:
            props.pop(key, None)
    for node in _compressed_nodes(model):
        node.doc_string = _without_note(node.doc_string)
    return stated


def _compressed_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            if node.domain == OP_DOMAIN:
                yield node


def _with_note(text: str | None, note: str) -> str:
    return f"{_MARK}{note}" if text is None else f"{text}\n\n{_MARK}{note}"


def _without_note(text: str | None) -> str | None:
    if text is None or text.startswith(_MARK):
        return None
    return text.rpartition(f"\n\n{_MARK}")[0] if f"\n\n{_MARK}" in text else text
