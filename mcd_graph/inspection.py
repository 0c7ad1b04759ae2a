"""Looks at a model, compressed or not, without changing anything."""

import os
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.compress import size_of
from mcd_graph.errors import InputError
from mcd_graph.loading import load_model
from mcd_graph.operator import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.passes import plan_lowering
from mcd_graph.report import NodeReport, Report

__all__ = ["inspect_model"]


def inspect_model(model_input: str | os.PathLike[str]) -> Report:
    """Describe every quantised matrix multiplication of a model, lowered or not.

    Compressed weights are decoded to measure their entropy, so all their checksums are checked on the way.

    Args:
        model_input: path of a model.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: the file is not an ONNX model, or a compressed weight in it is damaged.
    """
    model = load_model(model_input)
    nodes = [*_lowered(model, os.fspath(model_input)), *_others(model)]
    return Report.of(
        tuple(nodes),
        source=os.fspath(model_input),
        output=None,
        profile=None,
        file_bytes_before=size_of(model_input),
        file_bytes_after=None,
    )


def _lowered(model: ir.Model, source: str) -> Iterator[NodeReport]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            if (node.domain, node.op_type) == (OP_DOMAIN, OP_TYPE):
                yield _describe(node, source)


def _describe(node: ir.Node, source: str) -> NodeReport:
    name = node.name or node.outputs[0].name or ""
    x2, index = (node.inputs[INPUT_NAMES.index(part)] for part in ("x2", "compress_index"))
    attribute = node.attributes.get("compress_info")
    tensors = [None if value is None else ir.convenience.get_const_tensor(value) for value in (x2, index)]
    if tensors[0] is None or tensors[1] is None or attribute is None or x2 is None:
        raise InputError(f"{source}: node {name}: its compressed weight is not constant")
    parts = (tensors[0].numpy(), tensors[1].numpy(), np.array(attribute.as_ints(), np.int64))
    try:
        stream = _native.inspect(*parts)
        weight = _native.decode(*parts)
    except ValueError as error:
        raise InputError(f"{source}: node {name}: {error}") from None
    return NodeReport(
        name=name,
        op_type=node.op_type,
        pattern=node.metadata_props.get("mcd.rule", node.op_type),
        status="lowered",
        weight=(x2.name or "").removesuffix(".x2"),
        k=stream["k"],
        n=stream["n"],
        weight_bytes=weight.nbytes,
        compressed_bytes=parts[0].nbytes + parts[1].nbytes,
        payload_bytes=stream["payload_bytes"],
        entropy_bits=_native.entropy_bits(weight),
        codec=stream["codec"],
    )


def _others(model: ir.Model) -> Iterator[NodeReport]:
    plan = plan_lowering(model)
    for site in plan.sites:
        job = None if site.weight is None else plan.weights[site.weight]
        yield NodeReport(
            name=site.name,
            op_type=site.op_type,
            pattern=site.pattern,
            status="kept" if job is None else "lowerable",
            reason=site.reason,
            weight=site.weight,
            k=site.k,
            n=site.n,
            weight_bytes=None if site.k is None or site.n is None else site.k * site.n,
            entropy_bits=None if job is None else _native.entropy_bits(job.array()),
        )
