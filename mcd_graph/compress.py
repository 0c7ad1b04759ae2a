"""Compresses a model: plan, pack every weight once, lower, save."""

import contextlib
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir

from mcd_graph.codec.packing import Submits, pack_all
from mcd_graph.codec.weights import CompressedWeight, Profile, WeightStats
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.annotations import Stated, annotate
from mcd_graph.model.loading import load_model
from mcd_graph.model.saving import ModelWriter, NotSmallerError
from mcd_graph.model.source import ModelSource, Source, size_of
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.passes import (
    InlineWeightArgumentsPass,
    LoweringPlan,
    ReasonCode,
    Refusal,
    Site,
    WeightJob,
    plan_lowering,
)
from mcd_graph.progress import Progress
from mcd_graph.report.data import NodeReport, Report

__all__ = ["compress_model"]

_EIGHT_BIT = (ir.DataType.INT8, ir.DataType.UINT8)
_WORTH_NAMING = 1024
"""Smaller constants, in bytes, are scales and zero points rather than weights."""

_BYTES_UNDER_WAY = 256 << 20
"""Weights compressed at a time on this machine: with their streams, maps and copies that is below 1 GiB."""


def compress_model(
    model_input: ModelSource,
    model_output: str | os.PathLike[str],
    *,
    profile: Profile = "balanced",
    jobs: int | None = None,
    executor: Submits | None = None,
    include: str | None = None,
    exclude: str | None = None,
    convolutions: bool = False,
    min_saving: float = 0.01,
    progress: Callable[[Progress], None] | None = None,
    inline: bool = False,
    data_name: str | None = None,
    force: bool = False,
    force_larger: bool = False,
) -> Report:
    """Write a smaller model that computes the same bits.

    Every matrix multiplication with a constant int8 or uint8 weight becomes a MatmulCompressDequant node with the
    weight compressed. The weights go into a data file beside the output (``model.mcd.onnx_data`` for
    ``model.mcd.onnx``); both files appear whole or not at all. The output's bytes do not depend on ``jobs`` and
    ``executor``.

    Weights in external data are compressed one by one from the memory map and written as they come: with threads of
    its own this takes less memory than 1 GiB and three times the largest weight, however large the model is.

    Args:
        model_input: path of a model, or a proto without external data.
        model_output: path of the model to write.
        profile: ``fast``, ``balanced`` or ``small``.
        jobs: weights compressed at a time, at most; one per processor by default.
        executor: where they are compressed: a ``concurrent.futures.Executor``, a ``dask.distributed.Client``, or
            whatever else has a ``submit``; threads of its own by default. One of yours has 256 MiB of weights under
            way at a time, or with ``jobs`` that many weights of any size.
        include: regular expression; only nodes in whose name it is found are lowered.
        exclude: regular expression; nodes in whose name it is found are kept.
        convolutions: compress convolutions with a 1x1 kernel as well, which run slower then.
        min_saving: share of a weight's size that must be saved; weights that save less are kept as they are.
        progress: called after each weight, in the caller's thread.
        inline: keep all weights inside of the model file, which stays below 2 GiB then, for runtimes that take a
            model as bytes.
        data_name: name of the data file, beside the model; the model's with ``_data`` appended by default.
        force: replace a model that is already there.
        force_larger: write the model even if its files are no smaller than the input's, because padding eats what many
            small weights save.

    Returns:
        What was done to each multiplication.

    Raises:
        FileNotFoundError: there is no such model.
        FileExistsError: the output exists and ``force`` is not set.
        NothingToCompressError: no weight could be made smaller, or the files would not be; nothing is written.
        InputError: the model or an argument cannot be used, or the result is too large for ``inline``.
        OSError: the output cannot be written.
        WorkerError: the executor failed.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> [node.status for node in report.nodes]
        ['lowered', 'lowered', 'lowered']
        >>> 1.2 < report.totals.ratio < 1.6
        True
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    given = Source.read(model_input)
    model = load_model(given)
    source, files, before = given.name, given.files, given.size
    del given  # the parsed file, of which the model keeps what it needs
    InlineWeightArgumentsPass()(model)
    try:
        plan = plan_lowering(model, include=include, exclude=exclude, convolutions=convolutions)
    except re.error as error:
        raise InputError(f"not a regular expression: {error.pattern!r}: {error}") from None
    if not plan.weights:
        raise NothingToCompressError(f"{source}: nothing to compress: {_why_nothing(plan)}")
    weight_of = {id(site): site.weight or "" for site in plan.sites}
    workers = jobs or len(os.sched_getaffinity(0))
    stats: dict[str, WeightStats] = {}
    packed: dict[str, CompressedWeight | Refusal] = {}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            ModelWriter(model_output, force=force, sources=files, inline=inline, data_name=data_name)
        )
        limit = _BYTES_UNDER_WAY if executor is None or jobs is None else None
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(workers))
        results = stack.enter_context(
            contextlib.closing(pack_all(plan.weights.values(), profile, executor, most=workers + 1, most_bytes=limit))
        )
        tell = _Teller(plan.weights, progress)
        for job, weight in results:
            key = job.key
            stats[key] = weight.stats
            if weight.stats.saving < min_saving:
                text = f"it would save {weight.stats.saving:.1%}, less than {min_saving:.1%}"
                packed[key] = Refusal(ReasonCode.SMALL_SAVING, text)
            else:
                packed[key] = dataclasses.replace(weight, x2=writer.add(f"{key}.x2", np.asarray(weight.x2)))
            tell(key)
        if not plan.apply(packed):
            raise NothingToCompressError(f"{source}: nothing to compress: {_why_nothing(plan)}")
        versions = {weight.stats.format_version for weight in packed.values() if isinstance(weight, CompressedWeight)}
        annotate(model, Stated(profile, "+".join(map(str, sorted(versions)))))
        try:
            writer.commit(model, below=None if force_larger else before)
        except NotSmallerError as error:
            raise NothingToCompressError(_why_not_smaller(source, before, error.args[0], inline=inline)) from None
    return Report.of(
        tuple(_node_report(site, stats.get(weight_of[id(site)])) for site in plan.sites),
        source=source,
        output=os.fspath(model_output),
        profile=profile,
        file_bytes_before=before,
        file_bytes_after=size_of(model_output),
    )


class _Teller:
    """Adds up what is done and passes it on."""

    def __init__(self, jobs: Mapping[str, WeightJob], listener: Callable[[Progress], None] | None) -> None:
        self._jobs = jobs
        self._listener = listener
        self._progress = Progress("", 0, len(jobs), 0, sum(job.nbytes for job in jobs.values()))

    def __call__(self, key: str) -> None:
        self._progress = dataclasses.replace(
            self._progress,
            weight=key,
            weights_done=self._progress.weights_done + 1,
            bytes_done=self._progress.bytes_done + self._jobs[key].nbytes,
        )
        if self._listener is not None:
            self._listener(self._progress)


def _node_report(site: Site, stats: WeightStats | None) -> NodeReport:
    report = NodeReport(
        name=site.name,
        op_type=site.op_type,
        pattern=site.pattern,
        status=site.status,
        code=site.code,
        reason=site.reason,
        weight=site.weight,
        k=site.k,
        n=site.n,
        weight_bytes=None if site.k is None or site.n is None else site.k * site.n,
        entropy_bits=None if stats is None else stats.entropy_bits,
    )
    if stats is None or site.status != "lowered":
        return report
    return dataclasses.replace(
        report, compressed_bytes=stats.stored_bytes, payload_bytes=stats.payload_bytes, codec=stats.codec
    )


def _why_nothing(plan: LoweringPlan) -> str:
    sites = plan.sites
    if not sites:
        if any(compressed_nodes(plan.model)):
            return "it is compressed already"
        held = _int8_constants(plan)
        return held or "it has no quantised matrix multiplication; quantise it to int8 first"
    reasons = Counter((site.code, site.reason) for site in sites)
    (code, reason), count = reasons.most_common(1)[0]
    hint = "" if code is None else f". What to do ({code}): {code.remedy}"
    return f"all {len(sites)} quantised matrix multiplications are kept, {count} because {reason}{hint}"


def _int8_constants(plan: LoweringPlan) -> str | None:
    """Say which operators read the int8 constants of a model without a multiplication that could be compressed."""
    readers: Counter[str] = Counter()
    size = 0
    for graph in plan.model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in _EIGHT_BIT or tensor.nbytes < _WORTH_NAMING:
                continue
            size += tensor.nbytes
            readers.update({user.op_type for user in value.consumers()})
    if not size:
        return None
    names = ", ".join(f"{name} ({count})" for name, count in readers.most_common())
    hint = (
        "; --convolutions compresses those with a 1x1 kernel" if {"ConvInteger", "QLinearConv"} & readers.keys() else ""
    )
    return f"its int8 and uint8 constants, {size:,} bytes, are read by operators that are not compressed: {names}{hint}"


def _why_not_smaller(source: str, before: int, after: int, *, inline: bool) -> str:
    hint = "" if inline else "; with --inline nothing is padded to pages"
    return (
        f"{source}: nothing to gain: the files would have {after:,} bytes instead of {before:,}, because tables and "
        f"padding eat what the weights save{hint}; --force-larger writes them all the same"
    )
