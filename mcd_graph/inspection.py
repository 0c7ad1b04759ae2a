"""Looks at a model, compressed or not, without changing anything."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.accounting import account_for, report_of
from mcd_graph.codec.weights import pack_weight
from mcd_graph.errors import InputError
from mcd_graph.integrity import Stream, over_streams, streams_of
from mcd_graph.model.at_open import is_at_open
from mcd_graph.model.constants import eight_bit_constants, readers_of
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import Source
from mcd_graph.operators import decompress_dequant, decompress_weight
from mcd_graph.operators.registry import compressed_nodes, name_of
from mcd_graph.operators.spec import DOMAIN
from mcd_graph.operators.view import CompressedNode, check_memory
from mcd_graph.options import check_kernel, check_libraries
from mcd_graph.passes import InlineWeightArgumentsPass, LoweringPlan, WeightJob, plan_lowering
from mcd_graph.passes.plan import smallest_of_few
from mcd_graph.passes.rules.registry import label_of
from mcd_graph.progress import Progress
from mcd_graph.report.data import ConstantReport, NodeReport, Reader, Report

__all__ = ["inspect_model"]

_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 19, 128
"""Bytes of a large weight that are compressed to tell its size, and the rows that they are a multiple of."""


def inspect_model(
    model_input: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
    memory_limit: int | None = None,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> Report:
    """Describe every quantised matrix multiplication, look-up and constant of a model, lowered or not.

    Compressed weights are decoded to measure their entropy, so all their checksums are checked on the way.

    Args:
        model_input: path of a model.
        progress: called after each compressed weight, from one thread at a time.
        memory_limit: bytes that a weight may take when it is decoded, for untrusted models.
        custom_ops: libraries of other operators that the model needs.

    Returns:
        A report. ``status`` is ``lowered`` for a compressed multiplication, ``lowerable`` for one that
        :func:`mcd_graph.compress_model` would try to compress, else ``kept`` with the reason.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: the file is not an ONNX model, or a compressed weight in it is damaged, or needs more memory than
            ``memory_limit``; or ``MCD_KERNEL`` names a kernel that does not run here.

    Examples:
        >>> from mcd_graph.inspection import inspect_model
        >>> [(node.name, node.k, node.n, node.status) for node in inspect_model("model.onnx").nodes][0]
        ('/first/MatMul', 256, 128, 'lowerable')
    """
    check_libraries(custom_ops)
    check_kernel()
    source = os.fspath(model_input)
    given = Source.read(source)
    model = load_model(given)
    check_memory(model, source, memory_limit, decoded=True)
    lowered = tuple(_lowered(model, source, progress))
    before = {name_of(node): node for node, *_ in compressed_nodes(model)}
    InlineWeightArgumentsPass()(model)
    plan = plan_lowering(model, custom_ops=custom_ops)
    measured = _measured(plan)
    entropies = {key: entropy for key, (_, entropy) in measured.items()}
    plain = [each for each in eight_bit_constants(model) if all(node.domain != DOMAIN for node, _ in each.readers)]
    return Report.of(
        (*lowered, *_others(plan, entropies)),
        source=source,
        output=None,
        profile=None,
        file_bytes_before=given.size,
        file_bytes_after=None,
        constants=(*_were_constants(lowered, before), *account_for(plain, plan, measured, status="lowerable")),
    )


def _lowered(model: ir.Model, source: str, progress: Callable[[Progress], None] | None) -> Iterator[NodeReport]:
    """Yield what is known of the nodes that are lowered, in the graph's order."""
    nodes = [node for node, *_ in compressed_nodes(model)]
    streams, unreadable = streams_of(nodes)
    for error in unreadable:
        raise InputError(f"{source}: {error}")

    def look(stream: Stream) -> "tuple[_native.StreamInfo, float] | str":
        try:
            parts = stream.view.parts()
            return _native.inspect(*parts), _native.entropy_bits(_native.decode(*parts))
        except (TypeError, ValueError) as error:
            return str(error)

    found = {}
    for stream, answer in over_streams(streams, look, progress):
        for view in stream.nodes:
            if isinstance(answer, str):
                raise InputError(f"{source}: node {view.name}: {answer}")
            found[view.node] = (stream, view, *answer)
    for node in nodes:
        stream, view, info, entropy = found[node]
        yield NodeReport(
            name=view.name,
            op_type=node.op_type,
            pattern=_form(view),
            status="lowered",
            weight=stream.view.weight_name,  # graphs that share it give it names of their own
            k=info["k"],
            n=info["n"],
            weight_bytes=info["k"] * info["n"],
            compressed_bytes=stream.nbytes,
            payload_bytes=info["payload_bytes"],
            entropy_bits=entropy,
            codec=info["codec"],
            profile=info["profile"],
        )


def _form(view: CompressedNode) -> str:
    """Return what a lowered node was once, as far as the node still tells, and what it computes besides."""
    rule = view.node.metadata_props.get("mcd.rule", "")
    besides = (name for name in view.spec.telling_inputs if view.input(name) is not None)
    return "+".join([label_of(rule) or view.node.op_type, *besides])


def _were_constants(lowered: Iterable[NodeReport], compressed: Mapping[str, ir.Node]) -> Iterator[ConstantReport]:
    """Yield the constants that became the compressed weights of nodes, which are given by name."""
    readers: dict[str, list[NodeReport]] = {}
    for node in lowered:
        readers.setdefault(node.weight or "", []).append(node)
    for name, nodes in readers.items():
        first = nodes[0]
        at_open = is_at_open(compressed[first.name])
        yield ConstantReport(
            name=name,
            dtype=None,
            shape=(first.k or 0, first.n or 0),
            readers=tuple(reader for each in nodes for reader in _readers(each, compressed[each.name])),
            status="lowered",
            bytes_before=first.weight_bytes or 0,
            entropy_bits=first.entropy_bits or 0.0,
            bytes_after=first.compressed_bytes,
            way="open" if at_open else "run",
        )


def _readers(report: NodeReport, node: ir.Node) -> list[Reader]:
    """Return who computes with a node's constant: the node itself, or those that read what it decodes."""
    if node.op_type not in (decompress_weight.OP_TYPE, decompress_dequant.OP_TYPE):
        return [Reader(report.pattern, report.name)]
    before = "DequantizeLinear+" if node.op_type == decompress_dequant.OP_TYPE else ""
    return [Reader(before + label, name_of(user)) for user, label in readers_of(node.outputs[0])]


def _measured(plan: LoweringPlan) -> dict[str, tuple[int, float]]:
    """Return, of each weight, about how many bytes it compresses to, and its entropy."""
    weights = smallest_of_few(plan.weights)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(weights, pool.map(_look, weights.values()), strict=True))


def _look(job: WeightJob) -> tuple[int, float]:
    """Compress a weight, or some rows out of the middle of a large one, of which the rest takes as much per bit."""
    array = job.array()
    entropy = _native.entropy_bits(array)
    rows = max(_SAMPLE_BYTES // array.shape[1], 1) // _SAMPLE_ROWS * _SAMPLE_ROWS
    if not 0 < rows < array.shape[0] // 2:
        return pack_weight(array, tiling=job.tiling, packed=job.packed).stats.stored_bytes, entropy
    first = array.shape[0] // 2 // _SAMPLE_ROWS * _SAMPLE_ROWS
    sample = np.ascontiguousarray(array[first : first + rows])
    stats = pack_weight(sample, tiling=job.tiling, packed=job.packed).stats
    return round(stats.stored_bytes * (array.size * entropy) / max(sample.size * stats.entropy_bits, 1)), entropy


def _others(plan: LoweringPlan, entropies: Mapping[str, float]) -> Iterator[NodeReport]:
    """Yield what is known of the nodes that are not lowered, in the graph's order."""
    for site in plan.sites:
        report = report_of(site, None if site.weight is None else entropies[site.weight])
        yield dataclasses.replace(report, status="kept" if site.weight is None else "lowerable")
