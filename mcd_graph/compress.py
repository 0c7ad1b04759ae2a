"""Compresses a model: plan, pack every weight once, lower, save."""

import contextlib
import dataclasses
import logging
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import onnx_ir as ir

from mcd_graph.accounting import account_for, report_of
from mcd_graph.codec.packing import Submits, pack_all
from mcd_graph.codec.weights import CompressedWeight, Profile, WeightStats
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.annotations import Stated, annotate
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.model.loading import load_model
from mcd_graph.model.private import private_copy
from mcd_graph.model.saving import ModelWriter, NotSmallerError
from mcd_graph.model.source import ModelSource, Source, size_of
from mcd_graph.model.unchanged import FileIdentity, Watch
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.operators.registry import compressed_nodes, name_of
from mcd_graph.passes import (
    InlineWeightArgumentsPass,
    LoweringPlan,
    ReasonCode,
    Refusal,
    Site,
    WeightJob,
    plan_lowering,
)
from mcd_graph.passes.at_open import ConstantJob, constants_at_open, restore_at_open
from mcd_graph.passes.functions import InlineConstantsPass
from mcd_graph.progress import Progress
from mcd_graph.proof import NOT_ASKED_FOR, Prover, find_culprits
from mcd_graph.quantize import Form, quantized
from mcd_graph.report.data import NodeReport, Proof, Quantization, Report

__all__ = ["compress_model"]

AnyJob = WeightJob | ConstantJob
"""A weight to compress: of nodes, or a constant that is restored at opening."""

logger = logging.getLogger(__name__)

_BYTES_UNDER_WAY = 256 << 20
"""Weights compressed at a time on this machine: with their streams, maps and copies that is below 1 GiB."""

_SAID_OF_A_CONSTANT = 320
"""Bytes that the model file takes for a constant that is restored at opening: a sentence, its place and its shape."""


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
) -> Report:
    """Write a smaller model that computes the same bits.

    Every matrix multiplication with a constant int8 or uint8 weight becomes a MatmulCompressDequant node with the
    weight compressed, and every look-up in such a table a GatherCompressDequant. The weights go into a data file beside
    the output (``model.mcd.onnx_data`` for ``model.mcd.onnx``); both files appear whole or not at all. The output's
    bytes do not depend on ``jobs`` and ``executor``.

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
        convolutions: compress convolutions with a 1x1 kernel as well, which run slower then.
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
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    if at_open and inline:
        raise InputError("constants that are restored at opening need a data file: give either inline or at_open")
    request = _Request(
        model_input=model_input, opened=model_input, model_output=model_output, profile=profile, jobs=jobs,
        executor=executor,
        include=include, exclude=exclude, convolutions=convolutions, min_saving=min_saving, progress=progress,
        inline=inline, data_name=data_name, at_open=at_open, force=force, force_larger=force_larger, verify=verify,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        if not mmap:
            copy = stack.enter_context(private_copy(Source.read(model_input), model_output))
            request = dataclasses.replace(request, opened=copy.path or model_input, copied_from=copy.copied_from)
            del copy  # the parsed file
        if quantize is not None:
            path, quantization = stack.enter_context(quantized(request.opened, quantize))
            origin = Source.read(request.opened).identities + request.copied_from
            request = dataclasses.replace(request, opened=path, quantization=quantization, copied_from=origin)
        return _until_equal(request)


def _until_equal(request: "_Request") -> Report:
    """Compress the model, less what makes it give other bytes."""
    differing: frozenset[int] = frozenset()
    prover, known = None, _Packed()
    while True:
        try:
            return _compress(request, differing, prover, known)
        except _DifferenceError as found:
            differing, prover, known = differing | found.sites, found.prover, found.packed


@dataclasses.dataclass(frozen=True)
class _Request:
    """The arguments of :func:`compress_model`, and what is opened for them: the model, or a private copy of it."""

    model_input: ModelSource
    opened: ModelSource
    model_output: str | os.PathLike[str]
    profile: Profile
    jobs: int | None
    executor: Submits | None
    include: str | None
    exclude: str | None
    convolutions: bool
    min_saving: float
    progress: Callable[[Progress], None] | None
    inline: bool
    data_name: str | None
    at_open: bool
    force: bool
    force_larger: bool
    verify: bool
    copied_from: tuple[FileIdentity, ...] = ()
    quantization: Quantization | None = None
    watch: Watch = dataclasses.field(default_factory=Watch)

    @property
    def source(self) -> str:
        """What messages call the model."""
        given = self.model_input
        return os.fspath(given) if isinstance(given, (str, os.PathLike)) else "the given ModelProto"

    def read(self) -> Source:
        """Return the model, parsed, with the name that it was given by."""
        return dataclasses.replace(Source.read(self.opened), name=self.source, copied_from=self.copied_from)

    def load(self, given: Source | None = None) -> ir.Model:
        """Return the model, functions that are given their weights put in place of their calls."""
        model = load_model(given or self.read())
        InlineWeightArgumentsPass()(model)
        if self.at_open:
            InlineConstantsPass()(model)
        return model

    def wants(self, job: ConstantJob) -> bool:
        """Tell whether a constant is to be compressed, going by the names of itself and of those that read it."""
        readers = (node for constant in job.constants for node, _ in constant.readers)
        names = [*job.names, *map(name_of, readers)]
        included = self.include is None or any(re.search(self.include, name) for name in names)
        return included and not (self.exclude and any(re.search(self.exclude, name) for name in names))

    def plan(self, model: ir.Model, differing: Collection[int]) -> LoweringPlan:
        """Return what can be lowered of the model, less the sites that are known to differ."""
        try:
            plan = plan_lowering(model, include=self.include, exclude=self.exclude, convolutions=self.convolutions)
        except re.error as error:
            raise InputError(f"not a regular expression: {error.pattern!r}: {error}") from None
        plan.keep(differing, Refusal(ReasonCode.DIFFERS, "lowered, it gave other bytes than the original when run"))
        if not plan.weights and not (self.at_open and any(constants_at_open(model))):
            raise NothingToCompressError(f"{self.source}: nothing to compress: {_why_nothing(plan)}")
        return plan


@dataclasses.dataclass(frozen=True)
class _Packed:
    """The weights that were compressed, by key, or why they are kept all the same; and what came of each.

    Attributes:
        weights: those of nodes, or those that are restored at opening.
        stats: sizes and entropy, of refused ones as well.
        at_open: beside those of nodes, those that are restored at opening.
    """

    weights: dict[str, CompressedWeight | Refusal] = dataclasses.field(default_factory=dict)
    stats: dict[str, WeightStats] = dataclasses.field(default_factory=dict)
    at_open: "_Packed | None" = None

    @property
    def compressed(self) -> dict[str, CompressedWeight]:
        """Those that were not refused."""
        return {key: each for key, each in self.weights.items() if isinstance(each, CompressedWeight)}

    def without_file(self) -> "_Packed":
        """Return the same with each stream mapped, so that the file it is in may go."""
        weights = {
            key: each
            if isinstance(each, Refusal)
            else dataclasses.replace(each, x2=each.arrays[0], compress_index=each.arrays[1])
            for key, each in self.weights.items()
        }
        return _Packed(weights, self.stats, None if self.at_open is None else self.at_open.without_file())


class _DifferenceError(Exception):
    """A lowered model gives other bytes than the original; ``sites`` are to be kept the next time."""

    def __init__(self, sites: Collection[int], prover: Prover, packed: _Packed) -> None:
        super().__init__()
        self.sites = frozenset(sites)
        self.prover = prover
        self.packed = packed.without_file()


def _compress(request: _Request, differing: Collection[int], prover: Prover | None, known: _Packed) -> Report:
    """Compress a model, less some sites; the rest is what is left of an attempt that did not give the same bytes."""
    given = request.read()
    request.watch.begin(given.identities)
    model = request.load(given)
    files = given.files
    before = given.size if request.quantization is None else request.quantization.int8_bytes
    del given  # the parsed file, of which the model keeps what it needs
    plan = request.plan(model, differing)
    constants = tuple(eight_bit_constants(model))
    weight_of = {id(site): site.weight or "" for site in plan.sites}
    with ModelWriter(
        request.model_output,
        force=request.force,
        sources=files,
        inline=request.inline,
        data_name=request.data_name,
    ) as writer:
        packed = _pack(request, plan.weights, writer, known)
        stats = packed.stats
        if request.verify and prover is None:
            prover = Prover(request.opened, model, nbytes=2 * before, at_optimization_only=plan.optimized)
        changed = plan.apply(packed.weights)
        jobs = [job for job in constants_at_open(model) if request.wants(job)] if request.at_open else []
        at_open = {job.key: job for job in jobs}
        restored = _pack(request, at_open, writer, known.at_open or _Packed(), at_open=True) if jobs else _Packed()
        if not changed and not restored.compressed:
            raise NothingToCompressError(f"{request.source}: nothing to compress: {_why_nothing(plan)}")
        restore_at_open(model, jobs, restored.compressed)
        weights = [*packed.weights.values(), *restored.weights.values()]
        versions = {weight.stats.format_version for weight in weights if isinstance(weight, CompressedWeight)}
        annotate(model, Stated(request.profile, "+".join(map(str, sorted(versions)))))
        proof = _prove(request, plan, dataclasses.replace(packed, at_open=restored), writer, prover)
        # Before the output is there, which may take the place of the input.
        measured = {key: (each.stored_bytes, each.entropy_bits) for key, each in stats.items()}
        ways = {name: restored.weights[job.key] for job in jobs for name in job.names}
        accounts = account_for(constants, plan, measured, status="lowered", at_open=ways)
        try:
            writer.commit(
                model,
                below=None if request.force_larger else before,
                check=lambda: request.watch.check(weights=request.verify),
            )
        except NotSmallerError as error:
            raise NothingToCompressError(_why_not_smaller(request.source, before, error.args[0])) from None
    return Report.of(
        (
            *(_node_report(site, stats.get(weight_of[id(site)])) for site in plan.sites),
            *(_restored_report(name, weight.stats) for name, weight in restored.compressed.items()),
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


def _pack(
    request: _Request, jobs: Mapping[str, AnyJob], writer: ModelWriter, known: _Packed, *, at_open: bool = False
) -> _Packed:
    """Compress the weights that are not ``known`` and write all; those that save too little are refused."""
    workers = request.jobs or len(os.sched_getaffinity(0))
    limit = _BYTES_UNDER_WAY if request.executor is None or request.jobs is None else None
    packed = _Packed()
    with contextlib.ExitStack() as stack:
        executor = request.executor or stack.enter_context(ThreadPoolExecutor(workers))
        new = [job for key, job in jobs.items() if key not in known.weights]
        weights = pack_all(new, request.profile, executor, most=workers + 1, most_bytes=limit, saw=request.watch.saw)
        stack.enter_context(contextlib.closing(weights))
        tell = _ProgressReporter(jobs, request.progress)
        for key in jobs:
            if key in known.weights:
                answer, packed.stats[key] = known.weights[key], known.stats[key]
            else:
                weight = next(weights)[1]
                packed.stats[key] = weight.stats
                answer = _refused(weight.stats, request.min_saving, at_open=at_open) or weight
            if isinstance(answer, CompressedWeight):
                answer = _written(key, answer, writer, at_open=at_open)
            packed.weights[key] = answer
            tell(key)
    return packed


def _refused(stats: WeightStats, min_saving: float, *, at_open: bool) -> Refusal | None:
    """Return why a weight is stored as it is: it would save too little."""
    if stats.saving < min_saving:
        return Refusal(ReasonCode.SMALL_SAVING, f"it would save {stats.saving:.1%}, less than {min_saving:.1%}")
    saved = stats.weight_bytes - stats.stored_bytes
    if at_open and saved < _SAID_OF_A_CONSTANT and min_saving >= 0:
        text = f"it would save {saved} bytes, and what the model file says of a restored constant takes as many"
        return Refusal(ReasonCode.SMALL_SAVING, text)
    return None


def _written(key: str, weight: CompressedWeight, writer: ModelWriter, *, at_open: bool) -> CompressedWeight:
    """Write a weight's stream; and its index, where nothing of it is to be in the model file."""
    x2 = writer.add(f"{key}.x2", weight.arrays[0], packed=at_open)
    if not at_open:
        return dataclasses.replace(weight, x2=x2)
    index = writer.add(f"{key}.compress_index", weight.arrays[1], packed=True)
    return dataclasses.replace(weight, x2=x2, compress_index=index)


def _prove(
    request: _Request,
    plan: LoweringPlan,
    packed: _Packed,
    writer: ModelWriter,
    prover: Prover | None,
) -> Proof:
    """Run the lowered model of a plan beside the original.

    Raises:
        _DifferenceError: it gives other bytes.
    """
    if prover is None:
        return Proof(proved=False, reason=NOT_ASKED_FOR)
    if prover.reason is None:
        with writer.trial(plan.model) as path:
            difference = prover.difference(path)
        if difference is not None:
            request.watch.check(weights=True)  # or nodes would be kept because of what somebody else did
            logger.info("%s: the compressed model differs: %s", request.source, difference)
            lowered = [number for number, site in enumerate(plan.sites) if site.status == "lowered"]
            culprits = find_culprits(lowered, _differs_alone(request, packed.weights, prover, plan))
            if not culprits:
                raise InputError(
                    f"{request.source}: nothing is written: the compressed model does not do what the original does, "
                    f"and no node alone is the cause: {difference}"
                )
            raise _DifferenceError(culprits, prover, packed)
    return prover.proof([site.name for site in plan.sites if site.code == ReasonCode.DIFFERS])


def _differs_alone(
    request: _Request, packed: Mapping[str, CompressedWeight | Refusal], prover: Prover, plan: LoweringPlan
) -> Callable[[Collection[int]], bool]:
    """Return a function that tells whether the model differs in which some sites of a plan alone are lowered."""

    def differs(sites: Collection[int]) -> bool:
        others = set(range(len(plan.sites))) - set(sites)
        model = request.load()
        try:
            partial = request.plan(model, others)
        except NothingToCompressError:
            return False
        if not partial.apply(packed):
            return False
        with (
            tempfile.TemporaryDirectory(prefix="mcd-") as folder,
            ModelWriter(f"{folder}/model.onnx") as writer,
            writer.trial(model) as path,
        ):
            return prover.difference(path) is not None

    return differs


class _ProgressReporter:
    """Adds up what is done and passes it on."""

    def __init__(self, jobs: Mapping[str, AnyJob], listener: Callable[[Progress], None] | None) -> None:
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
    report = report_of(site, None if stats is None else stats.entropy_bits)
    if stats is None or site.status != "lowered":
        return report
    return dataclasses.replace(
        report, compressed_bytes=stats.stored_bytes, payload_bytes=stats.payload_bytes, codec=stats.codec
    )


def _restored_report(name: str, stats: WeightStats) -> NodeReport:
    """Describe the node that restores a constant at opening."""
    site = Site(f"{name}.{OP_TYPE}", OP_TYPE, OP_TYPE, "lowered", k=stats.k, n=stats.n, weight=name)
    return _node_report(site, stats)


def _why_nothing(plan: LoweringPlan) -> str:
    sites = plan.sites
    if not sites:
        if any(compressed_nodes(plan.model)):
            return "it is compressed already"
        held = _int8_constants(plan)
        return held or "it has no int8 weights; quantise it to int8 first"
    reasons = Counter((site.code, site.reason) for site in sites)
    each = "; ".join(f"{count} because {reason}" for (_, reason), count in reasons.most_common())
    code = reasons.most_common(1)[0][0][0]
    hint = "" if code is None else f". What to do ({code}): {code.remedy}"
    if any(constants_at_open(plan.model)):
        hint += ". --at-open compresses constants whatever reads them"
    return f"all {len(sites)} nodes with quantised weights are kept: {each}{hint}"


def _int8_constants(plan: LoweringPlan) -> str | None:
    """Say which operators read the int8 constants of a model without a multiplication that could be compressed."""
    readers: Counter[str] = Counter()
    size = 0
    for constant in eight_bit_constants(plan.model):
        size += constant.tensor.nbytes
        readers.update({user.op_type for user in constant.value.consumers()})
    if not size:
        return None
    names = ", ".join(f"{name} ({count})" for name, count in readers.most_common())
    hint = "; --at-open compresses those of them that are large enough"
    return f"its int8 and uint8 constants, {size:,} bytes, are read by operators that are not compressed: {names}{hint}"


def _why_not_smaller(source: str, before: int, after: int) -> str:
    return (
        f"{source}: nothing to gain: the files would have {after:,} bytes instead of {before:,}, because tables and "
        "what is said of each weight eat what they save; --force-larger writes them all the same"
    )
