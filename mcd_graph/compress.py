"""Compresses a model: plan, pack every weight once, lower, save."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence

from mcd_graph.accounting import account_for
from mcd_graph.codec.packing import Submits
from mcd_graph.codec.weights import CompressedWeight, Profile
from mcd_graph.compression.packed import Packed, pack
from mcd_graph.compression.proving import DifferenceError, prove
from mcd_graph.compression.reasons import why_not_smaller, why_nothing
from mcd_graph.compression.reports import node_report, restored_report
from mcd_graph.compression.request import Request
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.annotations import Stated, annotate
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.model.private import private_copy
from mcd_graph.model.saving import ModelWriter, NotSmallerError
from mcd_graph.model.source import ModelSource, Source, size_of
from mcd_graph.options import check_kernel, check_libraries
from mcd_graph.passes.at_open import constants_at_open, restore_at_open
from mcd_graph.progress import Progress
from mcd_graph.proof import Prover
from mcd_graph.quantize import Form, quantized
from mcd_graph.report.data import Report

__all__ = ["compress_model"]


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
    at_open: bool = False,
    force: bool = False,
    force_larger: bool = False,
    verify: bool = True,
    mmap: bool = True,
    quantize: Form | None = None,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
) -> Report:
    """Write a smaller model that computes the same bits.

    Nodes that read a constant int8 or uint8 tensor become nodes that compute the same from the compressed one: matrix
    multiplications (MatmulCompressDequant), look-ups (GatherCompressDequant), convolutions (ConvCompressDequant), and
    each DequantizeLinear that onnxruntime would run (DecompressDequant). The weights go into a data file beside the
    output (``model.mcd.onnx_data`` for ``model.mcd.onnx``); both files appear whole or not at all. The output's bytes
    do not depend on ``jobs`` and ``executor``.

    Before they do, both models run on generated inputs, at onnxruntime's default settings and without optimisations,
    and have to give the same bytes. Nodes that would give others are kept, with the code ``differs``. The report's
    ``proof`` says what was run, or why nothing could be.

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
        convolutions: make multiplications of QLinearConv with a 1x1 kernel, however small that is.
        min_saving: share of a weight's size that must be saved; weights that save less are kept as they are.
        progress: called after each weight, in the caller's thread.
        inline: keep all weights inside of the model file, which stays below 2 GiB then, for runtimes that take a
            model as bytes.
        data_name: name of the data file, beside the model; the model's with ``_data`` appended by default.
        at_open: compress the other int8 constants as well, whatever reads them. They are restored in memory when a
            session is created, so that speed and memory are as ever; that takes :class:`mcd_graph.InferenceSession`,
            :func:`mcd_graph.enable`, or the session config entry ``mcd.model`` with the model's path.
        force: replace a model that is already there.
        force_larger: write the model even if its files are no smaller than the input's, because padding eats what many
            small weights save.
        verify: run both models, and put the new one in place only if they give the same bytes.
        mmap: map the model's files; without, a private copy of them is read, for which there has to be room beside the
            output. A mapped file that is truncated meanwhile ends the process.
        quantize: let onnxruntime quantise the model first, which is a float model then: ``dynamic``, with a scale for
            each weight, or ``dynamic-per-channel``, with one for each column, which is more accurate and larger. The
            report's ``quantization`` compares the two.
        custom_ops: libraries of other operators that the model needs: onnxruntime is asked what it makes of the model,
            and runs it, with those at hand.

    Returns:
        What was done to each node and constant.

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
    if math.isnan(min_saving):
        raise InputError("min_saving must be a number, such as 0.01, not nan")
    if min_saving >= 1:
        raise InputError(f"min_saving is a share below 1, such as 0.01 for one per cent, not {min_saving:g}")
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    check_libraries(custom_ops)
    check_kernel()
    request = Request(
        model_input=model_input, opened=model_input, model_output=model_output, profile=profile, jobs=jobs,
        executor=executor,
        include=include, exclude=exclude, convolutions=convolutions, min_saving=min_saving, progress=progress,
        inline=inline, data_name=data_name, at_open=at_open, force=force, force_larger=force_larger, verify=verify,
        custom_ops=tuple(custom_ops),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        if not mmap:
            copy = stack.enter_context(private_copy(Source.read(model_input), model_output))
            request = dataclasses.replace(request, opened=copy.path or model_input, copied_from=copy.copied_from)
            del copy  # the parsed file
        if quantize is not None:
            given = request.read()
            path, quantization = stack.enter_context(quantized(given, quantize))
            origin = given.identities + given.copied_from
            request = dataclasses.replace(request, opened=path, quantization=quantization, copied_from=origin)
            del given  # the parsed file
        return _until_equal(request)


def _until_equal(request: Request) -> Report:
    """Compress the model, less what makes it give other bytes."""
    prover, known = None, Packed()
    while True:
        try:
            return _compress(request, prover, known)
        except DifferenceError as found:
            request = dataclasses.replace(request, kept=request.kept | found.kept)
            prover, known = found.prover, found.packed


def _compress(request: Request, prover: Prover | None, known: Packed) -> Report:
    """Compress a model; ``known`` is what is left of an attempt that did not give the same bytes."""
    given = request.read()
    request.watch.begin(given.identities)
    model = request.load(given)
    files = given.files
    before = given.size if request.quantization is None else request.quantization.int8_bytes
    del given  # the parsed file, of which the model keeps what it needs
    plan = request.plan(model, request.kept.sites)
    constants = tuple(eight_bit_constants(model))
    weight_of = {id(site): site.weight or "" for site in plan.sites}
    with ModelWriter(
        request.model_output,
        force=request.force,
        sources=files,
        inline=request.inline,
        data_name=request.data_name,
    ) as writer:
        packed = pack(request, plan.weights, writer, known)
        stats = packed.stats
        if request.verify and prover is None:
            prover = Prover(
                request.opened,
                model,
                nbytes=2 * before,
                at_optimization_only=plan.optimized,
                custom_ops=request.custom_ops,
            )
        changed = plan.apply(packed.weights)
        jobs = [job for job in constants_at_open(model) if request.wants(job)] if request.at_open else []
        at_open = {job.key: job for job in jobs if job.key not in request.kept.constants}
        restored = pack(request, at_open, writer, known.at_open or Packed(), at_open=True) if jobs else Packed()
        restored.weights.update(request.kept.refusals())
        if not changed and not restored.compressed:
            raise NothingToCompressError(f"{request.source}: nothing to compress: {why_nothing(plan)}")
        restore_at_open(model, jobs, restored.compressed)
        weights = [*packed.weights.values(), *restored.weights.values()]
        versions = {weight.stats.format_version for weight in weights if isinstance(weight, CompressedWeight)}
        annotate(model, Stated(request.profile, "+".join(map(str, sorted(versions)))))
        proof = prove(request, plan, dataclasses.replace(packed, at_open=restored), writer, prover)
        # Before the output is there, which may take the place of the input.
        measured = {key: (each.stored_bytes, each.entropy_bits) for key, each in stats.items()}
        ways = {each.value: restored.weights[job.key] for job in jobs for each in job.constants}
        accounts = account_for(constants, plan, measured, status="lowered", at_open=ways)
        try:
            writer.commit(
                model,
                below=None if request.force_larger else before,
                check=lambda: request.watch.check(weights=request.verify),
            )
        except NotSmallerError as error:
            raise NothingToCompressError(why_not_smaller(request.source, before, error.args[0])) from None
    return Report.of(
        (
            *(node_report(site, stats.get(weight_of[id(site)])) for site in plan.sites),
            *(restored_report(at_open[key].names[0], weight.stats) for key, weight in restored.compressed.items()),
        ),
        source=request.source,
        output=os.fspath(request.model_output),
        profile=request.profile,
        file_bytes_before=before,
        file_bytes_after=size_of(request.model_output),
        proof=proof,
        constants=accounts,
        quantization=request.quantization,
    )
