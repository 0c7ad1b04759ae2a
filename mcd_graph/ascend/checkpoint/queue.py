"""Compresses layers wherever an executor does it, a few at a time, and keeps what is done."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from mcd_graph.ascend.checkpoint.plan import Linear, RankPlan
from mcd_graph.ascend.checkpoint.report import LayerResult
from mcd_graph.ascend.checkpoint.scratch import Scratch
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.ascend.checkpoint.work import Settings, compress_layer
from mcd_graph.codec.packing import Pending, Submits
from mcd_graph.errors import InputError, WorkerError
from mcd_graph.progress import Progress

__all__ = ["Queue"]

_Done = tuple[dict[str, np.ndarray], LayerResult]
_UnderWay = tuple[int, Linear, Pending[_Done] | None]


@dataclasses.dataclass(frozen=True)
class Queue:
    """Layers of a checkpoint on their way through an executor.

    Attributes:
        checkpoint: that they are read from.
        settings: for all of them.
        scratch: that keeps them.
        executor: where they are compressed.
        most: of them at a time.
    """

    checkpoint: Checkpoint
    settings: Settings
    scratch: Scratch
    executor: Submits
    most: int

    def run(self, plans: list[RankPlan], progress: Callable[[Progress], None] | None) -> tuple[list[LayerResult], int]:
        """Compress what is not done; return what is known of all layers, and how many were done before.

        Raises:
            InputError: a layer cannot be used.
            WorkerError: the executor failed.
            OSError: a layer cannot be read or kept.
        """
        layers = [(plan.rank.index, linear) for plan in plans for linear in plan.linears]
        total, done, resumed = sum(linear.n * linear.k for _, linear in layers), 0, 0
        results = []
        for rank, linear, pending in self._in_order(layers):
            if pending is not None:
                tensors, result = _result(linear, pending)
                self.scratch.put(tensors, result)
            else:
                kept = self.scratch.get(rank, linear.name)
                if kept is None:
                    raise InputError(f"{self.scratch.folder} was changed while it was used")
                result, resumed = kept, resumed + 1
            results.append(result)
            done += linear.n * linear.k
            if progress is not None:
                progress(Progress(linear.name, len(results), len(layers), done, total))
        return results, resumed

    def _in_order(self, layers: list[tuple[int, Linear]]) -> Iterator[_UnderWay]:
        """Yield the layers with their work, ``None`` where it is done already."""
        under_way: deque[_UnderWay] = deque()
        try:
            for rank, linear in layers:
                pending: Pending[_Done] | None = None
                if self.scratch.get(rank, linear.name) is None:
                    pending = self.executor.submit(compress_layer, self.checkpoint, rank, linear, self.settings)
                under_way.append((rank, linear, pending))
                while len(under_way) > self.most:
                    yield under_way.popleft()
            while under_way:
                yield under_way.popleft()
        finally:
            for _, _, waiting in under_way:
                if waiting is not None:
                    waiting.cancel()


def _result(linear: Linear, pending: Pending[_Done]) -> _Done:
    try:
        return pending.result()
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # each executor has its own
        raise WorkerError(f"layer {linear.name} could not be compressed: {error or type(error).__name__}") from error
