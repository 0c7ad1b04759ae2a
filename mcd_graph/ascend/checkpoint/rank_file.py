"""The tensors of a rank's file."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from mcd_graph.ascend.checkpoint.blocks import output_array, output_blocks, output_kind
from mcd_graph.ascend.checkpoint.layout import Layout
from mcd_graph.ascend.checkpoint.plan import Output, RankPlan
from mcd_graph.ascend.checkpoint.report import CheckpointReport
from mcd_graph.ascend.checkpoint.scratch import Scratch
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.ascend.checkpoint.writer import Entry
from mcd_graph.ascend.codec import tile_count

__all__ = ["check_plan", "rank_entries"]


def check_plan(checkpoint: Checkpoint, plan: RankPlan) -> None:
    """Check, before the long work, that what a rank takes over can be fused and written.

    Raises:
        InputError: it cannot.
    """
    for output in plan.others:
        output_kind(checkpoint, output)
        if output.shared:
            output_array(checkpoint, output)


def rank_entries(
    checkpoint: Checkpoint, layout: Layout, plan: RankPlan, scratch: Scratch, report: CheckpointReport
) -> dict[str, Entry]:
    """Return a rank's tensors by the loader's names, each to be read when it is written.

    Raises:
        InputError: a tensor cannot be used.
    """
    entries: dict[str, Entry] = {}
    rank = plan.rank.index
    sizes = {result.name: result.stream_bytes for result in report.layers if result.rank == rank}
    for linear in plan.linears:
        if linear.name in report.kept:
            entries[layout.tensor(f"{linear.name}.weight")] = _entry(checkpoint, linear.weight)
            continue
        shapes = {"weight": (sizes[linear.name],), "index": (8 * tile_count(linear.n, linear.k),), "info": (5,)}
        for part, shape in shapes.items():
            dtype = np.dtype(np.int64 if part == "info" else np.int8)
            load = partial(_one, partial(scratch.tensor, rank, linear.name, part))
            entries[layout.tensor(f"{linear.name}.{part}")] = Entry(dtype, shape, load)
    for output in plan.others:
        entries[layout.tensor(output.name)] = _entry(checkpoint, output)
    return entries


def _entry(checkpoint: Checkpoint, output: Output) -> Entry:
    return Entry(*output_kind(checkpoint, output), partial(output_blocks, checkpoint, output))


def _one(load: Callable[[], np.ndarray]) -> Iterator[np.ndarray]:
    yield load()
