"""Compresses many weights wherever an executor runs: threads, processes, the workers of a cluster.

A weight that lies in a file is handed over as its place in that file, and whoever compresses it maps just that part, so
that nothing is copied and the map goes away with the work. A worker that does not find the same file there, on a
machine with other disks, says so, and gets the bytes instead.

The results come in the order of the weights, and depend on nothing but the weights and the profile.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import mmap
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcd_graph.codec.weights import CompressedWeight, Int8Matrix, Profile, pack_weight
from mcd_graph.errors import InputError, WorkerError

__all__ = ["FileView", "Submits", "pack_all"]

_SAMPLES = 16
_SAMPLE_BYTES = 64

_T_co = TypeVar("_T_co", covariant=True)
_T = TypeVar("_T")


class Pending(Protocol[_T_co]):
    """What :mod:`concurrent.futures` and dask call a future."""

    def result(self) -> _T_co:
        """Wait for the result and return it, or raise what the work raised."""

    def cancel(self) -> object:
        """Give up the work if it has not begun."""


class Constant(Protocol):
    """Where a weight was found."""

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The constant that holds its bytes."""


class Job(Protocol):
    """A weight to compress; :class:`mcd_graph.passes.WeightJob` is one."""

    @property
    def key(self) -> str:
        """What tells it from others."""

    @property
    def source(self) -> Constant:
        """Where it was found."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes, uncompressed."""

    @property
    def tiling(self) -> tuple[int, int] | None:
        """The size of its tiles; ``None``: the codec's own choice."""

    @property
    def packed(self) -> bool:
        """Whether it is decoded once, so that its size alone counts."""

    def array(self) -> Int8Matrix:
        """Return it as an (n, k) view."""

    def release(self) -> None:
        """Let go of the memory map behind it, if there is one."""


class Submits(Protocol):
    """An executor, as far as it is needed here: ``concurrent.futures.Executor`` and ``dask.distributed.Client`` fit."""

    def submit(self, fn: Callable[..., _T], /, *args: Any) -> Pending[_T]:
        """Have ``fn(*args)`` called somewhere."""


class NotSharedError(Exception):
    """The file is not what the sender saw: another machine's, or changed meanwhile."""


@dataclasses.dataclass(frozen=True)
class FileView:
    """A matrix in a file.

    Attributes:
        path: of the file, absolute.
        offset: of the first element, in bytes.
        shape: (n, k).
        strides: in bytes; not negative.
        dtype: name of the element type, ``int8`` or ``uint8``.
        file_bytes: size of the file.
        modified_ns: when it was changed last.
        sample: checksum of a few bytes here and there.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    file_bytes: int
    modified_ns: int
    sample: int = 0

    @classmethod
    def of(cls, array: npt.NDArray[Any], tensor: ir.TensorProtocol) -> Self | None:
        """Return where ``array``, a view of ``tensor``, lies; ``None`` if that is in no file that can be opened."""
        if not isinstance(tensor, ir.ExternalTensor) or min(array.strides, default=0) < 0:
            return None
        start = _address(array) - _address(tensor.numpy())
        if not 0 <= start <= tensor.nbytes - _span(array.shape, array.strides):
            return None  # a copy
        status = Path(tensor.path).stat()
        view = cls(
            str(Path(tensor.path).absolute()),
            (tensor.offset or 0) + start,
            array.shape,
            array.strides,
            array.dtype.name,
            status.st_size,
            status.st_mtime_ns,
        )
        try:
            return dataclasses.replace(view, sample=_checksum(view._map()[1]))
        except NotSharedError:  # it cannot be opened once more: the bytes are there already
            return None

    @property
    def nbytes(self) -> int:
        """Bytes in the file from the first to the last element."""
        return _span(self.shape, self.strides)

    def open(self) -> tuple[Int8Matrix, memoryview]:
        """Map the matrix; return it, and its bytes in the file. The map lives as long as they do.

        Raises:
            NotSharedError: there is no such file, or it is another one.
        """
        array, window = self._map()
        if _checksum(window) != self.sample:
            raise NotSharedError(f"{self.path} holds something else")
        return array, window

    def _map(self) -> tuple[Int8Matrix, memoryview]:
        """Return the matrix and its bytes in the file, from the first to the last element."""
        span = _span(self.shape, self.strides)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        try:
            with Path(self.path).open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (self.file_bytes, self.modified_ns):
                    raise NotSharedError(f"{self.path} was written to, or is another file")
                length = self.offset + span - start
                memory = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
        except (OSError, ValueError) as error:
            raise NotSharedError(f"{self.path}: {error}") from None
        array: Int8Matrix = np.ndarray(self.shape, self.dtype, memory, self.offset - start, self.strides)
        return array, memoryview(memory)[self.offset - start :]


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _span(shape: Iterable[int], strides: Iterable[int]) -> int:
    """Return the distance from the first byte to behind the last, for elements of one byte."""
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


def _checksum(window: memoryview) -> int:
    """Return a checksum of evenly spaced samples, which touches a few pages only."""
    value = 0
    for index in range(_SAMPLES):
        at = (len(window) - 1) * index // (_SAMPLES - 1)
        at = max(0, min(at, len(window) - _SAMPLE_BYTES))
        value = zlib.crc32(window[at : at + _SAMPLE_BYTES], value)
    return value


@functools.cache
def _version() -> str:
    return importlib.metadata.version("mcd-graph")


def _pack(
    source: FileView | Int8Matrix, profile: Profile, version: str, tiling: tuple[int, int] | None, packed: bool
) -> tuple[CompressedWeight, int | None]:
    """Compress a weight, and return the CRC-32 of its bytes in the file if it is there; this is what workers run."""
    if version != _version():
        raise InputError(f"a worker has mcd-graph {_version()} installed, and not {version}, which asks for the work")
    if not isinstance(source, FileView):
        return pack_weight(source, profile=profile, tiling=tiling, packed=packed), None
    array, window = source.open()
    before = zlib.crc32(window)
    weight = pack_weight(array, profile=profile, tiling=tiling, packed=packed)
    if zlib.crc32(window) != before:
        raise InputError(f"the model was changed while it was read: a weight in {source.path} is another one now")
    return weight, before


@dataclasses.dataclass
class _UnderWay:
    job: Job
    sent: FileView | Int8Matrix
    pending: Pending[tuple[CompressedWeight, int | None]]


def pack_all(
    jobs: Iterable[Job],
    profile: Profile,
    executor: Submits,
    *,
    most: int,
    most_bytes: int | None,
    saw: Callable[[str, int, int, int], None] = lambda *_: None,
) -> Generator[tuple[Job, CompressedWeight]]:
    """Compress weights wherever ``executor`` does it, and yield them in order.

    Args:
        jobs: the weights.
        profile: ``fast``, ``balanced`` or ``small``.
        executor: where they are compressed.
        most: weights under way at a time.
        most_bytes: their total size in bytes, uncompressed; a single larger one still gets its turn.
        saw: called with path, offset, size and CRC-32 of the bytes that were compressed, where they lie in a file.

    Raises:
        InputError: a file has changed meanwhile, or a worker has another version of this package.
        WorkerError: a worker failed.
    """
    under_way: deque[_UnderWay] = deque()
    in_files = True

    def send(job: Job) -> _UnderWay:
        array = job.array()
        view = FileView.of(array, job.source.tensor) if in_files else None
        source: FileView | Int8Matrix = array if view is None else view
        if view is not None:
            del array
            job.release()
        with _worker_errors(job):
            return _UnderWay(job, source, executor.submit(_pack, source, profile, _version(), job.tiling, job.packed))

    def first() -> tuple[Job, CompressedWeight]:
        nonlocal in_files
        try:
            weight, checksum = _result(under_way[0])
        except NotSharedError as error:
            _check_unchanged(under_way[0].sent, error)
            in_files = False
            for index, waiting in enumerate(under_way):
                waiting.pending.cancel()
                under_way[index] = send(waiting.job)
            weight, checksum = _result(under_way[0])
        done = under_way.popleft()
        job = done.job
        if isinstance(done.sent, FileView) and checksum is not None:
            saw(done.sent.path, done.sent.offset, done.sent.nbytes, checksum)
        with contextlib.suppress(BufferError):  # the executor has not let go of the bytes yet
            job.release()
        return job, weight

    try:
        for job in jobs:
            size = job.nbytes + sum(waiting.job.nbytes for waiting in under_way)
            while under_way and (len(under_way) >= most or (most_bytes is not None and size > most_bytes)):
                size -= under_way[0].job.nbytes
                yield first()
            under_way.append(send(job))
        while under_way:
            yield first()
    finally:
        for waiting in under_way:
            waiting.pending.cancel()


def _result(under_way: _UnderWay) -> tuple[CompressedWeight, int | None]:
    with _worker_errors(under_way.job):
        return under_way.pending.result()


@contextlib.contextmanager
def _worker_errors(job: Job) -> Generator[None]:
    """Turn what executors raise into WorkerError: a broken pool, a lost connection, a worker without this package."""
    try:
        yield
    except (InputError, NotSharedError, MemoryError):
        raise
    except Exception as error:  # each executor has its own
        reason = str(error) or type(error).__name__
        raise WorkerError(f"weight {job.key} could not be compressed: {reason}") from error


def _check_unchanged(sent: FileView | Int8Matrix, error: NotSharedError) -> None:
    """Raise InputError if the file is not any more what it was when it was sent."""
    if isinstance(sent, FileView):
        try:
            sent.open()
        except NotSharedError:
            raise InputError(f"the model was changed while it was read: {error}") from None
