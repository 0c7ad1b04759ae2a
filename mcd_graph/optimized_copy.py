"""The graph that onnxruntime makes of a model at default settings, as a model that it opens again."""

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
import onnxruntime as ort

from mcd_graph.model.source import read_proto
from mcd_graph.model.walk import graphs_in

__all__ = ["optimized_copy"]


def optimized_copy(model: onnx.ModelProto, options: ort.SessionOptions, folder: Path) -> onnx.ModelProto:
    """Have onnxruntime optimise a model.

    Args:
        model: the model.
        options: for a session of it; they are changed.
        folder: where large constants of the result are written; it has to be there when that is opened.

    Returns:
        What it runs, for sessions without optimisations; constants that were to be restored are among its constants.
    """
    path = folder / "optimized.onnx"
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = read_proto(path)
    _drop_other_inputs(optimized, {value.name for value in session.get_inputs()})
    _tell_apart(optimized.graph, {}, set())
    return optimized


def _drop_other_inputs(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Drop inputs that are constants: below version 4 all constants are, and onnxruntime leaves in what it folded."""
    inputs = [value for value in model.graph.input if value.name in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _tell_apart(graph: onnx.GraphProto, around: Mapping[str, str], taken: set[str]) -> None:
    """Rename values of inner graphs that are called like others: onnxruntime writes such models and does not read them.

    Args:
        graph: it is changed.
        around: what values of the graphs around it are called now.
        taken: all names so far.
    """
    names = dict(around)
    made = (name for node in graph.node for name in node.output)
    for old in (*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer), *made):
        new = old
        while old and new in taken:
            new += "'"
        names[old] = new
        taken.add(new)
    for named in (*graph.input, *graph.initializer, *graph.value_info, *graph.output):
        named.name = names.get(named.name, named.name)
    for node in graph.node:
        for which in (node.input, node.output):
            which[:] = [names.get(name, name) for name in which]
        for inner in graphs_in([node]):
            _tell_apart(inner, names, taken)
