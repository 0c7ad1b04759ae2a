"""Weights compressed and written, each once, however often a model is tried."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from mcd_graph.codec.packing import pack_all
from mcd_graph.codec.weights import CompressedWeight, WeightStats
from mcd_graph.compression.request import Request
from mcd_graph.mapped import unmap
from mcd_graph.model.saving import ModelWriter
from mcd_graph.passes import ReasonCode, Refusal, WeightJob
from mcd_graph.passes.at_open import ConstantJob
from mcd_graph.passes.ways import LEAST_MULTIPLIED
from mcd_graph.progress import Progress
from mcd_graph.system import MAPPED_CAN_GO, processors

__all__ = ["Packed", "pack"]

AnyJob = WeightJob | ConstantJob
"""A weight to compress: of nodes, or a constant that is restored at opening."""

_BYTES_UNDER_WAY = 256 << 20
"""Weights compressed at a time on this machine: with their streams, maps and copies that is below 1 GiB."""

_SAID_OF_A_CONSTANT = 320
"""Bytes that the model file takes for a constant that is restored at opening: a sentence, its place and its shape."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """The weights that were compressed, by key, or why they are kept all the same; and what came of each.

    Attributes:
        weights: those of nodes, or those that are restored at opening.
        stats: sizes and entropy, of refused ones as well.
        at_open: beside those of nodes, those that are restored at opening.
    """

    weights: dict[str, CompressedWeight | Refusal] = dataclasses.field(default_factory=dict)
    stats: dict[str, WeightStats] = dataclasses.field(default_factory=dict)
    at_open: "Packed | None" = None

    @property
    def compressed(self) -> dict[str, CompressedWeight]:
        """Those that were not refused."""
        return {key: each for key, each in self.weights.items() if isinstance(each, CompressedWeight)}

    def without_file(self) -> "Packed":
        """Return the same with each stream mapped, or in memory, so that the file it is in may go."""
        weights = {
            key: each if isinstance(each, Refusal) else _without_file(each) for key, each in self.weights.items()
        }
        return Packed(weights, self.stats, None if self.at_open is None else self.at_open.without_file())

    def written(self, keys: Collection[str], writer: ModelWriter) -> dict[str, CompressedWeight]:
        """Write some of those that are restored at opening to another file; return them as they are there."""
        compressed = self.compressed
        return {key: _restored(key, compressed[key], writer) for key in compressed if key in keys}


def _without_file(weight: CompressedWeight) -> CompressedWeight:
    x2, index = weight.arrays
    if not MAPPED_CAN_GO:
        x2, index = x2.copy(), index.copy()
        for part in (weight.x2, weight.compress_index):
            unmap(part)
    return dataclasses.replace(weight, x2=x2, compress_index=index)


def pack(
    request: Request, jobs: Mapping[str, AnyJob], writer: ModelWriter, known: Packed, *, at_open: bool = False
) -> Packed:
    """Compress the weights that are not ``known`` and write all; those that save too little are refused."""
    workers = request.jobs or processors()
    limit = _BYTES_UNDER_WAY if request.executor is None or request.jobs is None else None
    packed = Packed()
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
                answer = _refused(jobs[key], weight.stats, request.min_saving, at_open=at_open) or weight
            if isinstance(answer, CompressedWeight):
                answer = _restored(key, answer, writer) if at_open else _read(key, answer, writer, jobs[key])
            packed.weights[key] = answer
            tell(key)
    return packed


def _refused(job: AnyJob, stats: WeightStats, min_saving: float, *, at_open: bool) -> Refusal | None:
    """Return why a weight is stored as it is: it would save too little."""
    if isinstance(job, WeightJob) and job.multiplied and job.nbytes < LEAST_MULTIPLIED and min_saving >= 0:
        text = f"its weight has {job.nbytes} bytes, and onnxruntime is faster with less than {LEAST_MULTIPLIED}"
        return Refusal(ReasonCode.WEIGHT_SMALL, text)
    if stats.saving < min_saving:
        return Refusal(ReasonCode.SMALL_SAVING, f"it would save {stats.saving:.1%}, less than {min_saving:.1%}")
    saved = stats.weight_bytes - stats.stored_bytes
    if at_open and saved < _SAID_OF_A_CONSTANT and min_saving >= 0:
        text = f"it would save {saved} bytes, and what the model file says of a restored constant takes as many"
        return Refusal(ReasonCode.SMALL_SAVING, text)
    return None


def _read(key: str, weight: CompressedWeight, writer: ModelWriter, job: AnyJob) -> CompressedWeight:
    """Write the stream of a weight that nodes read: from a line of the cache on, if it is read again and again."""
    return dataclasses.replace(weight, x2=writer.add(f"{key}.x2", weight.arrays[0], aligned=not job.packed))


def _restored(key: str, weight: CompressedWeight, writer: ModelWriter) -> CompressedWeight:
    """Write stream and index of a constant that is restored at opening: nothing of them is to be in the model file."""
    x2 = writer.add(f"{key}.x2", weight.arrays[0], packed=True)
    index = writer.add(f"{key}.compress_index", weight.arrays[1], packed=True)
    return dataclasses.replace(weight, x2=x2, compress_index=index)


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
