"""The tensors of a rank's file."""

from functools import partial

import numpy as np

from mcd_graph.ascend.checkpoint.blocks import output_array
from mcd_graph.ascend.checkpoint.layout import Layout
from mcd_graph.ascend.checkpoint.plan import Output, RankPlan
from mcd_graph.ascend.checkpoint.report import CheckpointReport
from mcd_graph.ascend.checkpoint.scratch import Scratch
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.ascend.checkpoint.writer import Entry
from mcd_graph.ascend.codec import tile_count

__all__ = ["rank_entries"]


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
            load = partial(output_array, checkpoint, linear.weight)
            entries[layout.tensor(f"{linear.name}.weight")] = Entry(np.dtype(np.int8), (linear.n, linear.k), load)
            continue
        shapes = {"weight": (sizes[linear.name],), "index": (8 * tile_count(linear.n, linear.k),), "info": (5,)}
        for part, shape in shapes.items():
            dtype = np.dtype(np.int64 if part == "info" else np.int8)
            load = partial(scratch.tensor, rank, linear.name, part)
            entries[layout.tensor(f"{linear.name}.{part}")] = Entry(dtype, shape, load)
    for output in plan.others:
        entries[layout.tensor(output.name)] = _entry(checkpoint, output)
    return entries


def _entry(checkpoint: Checkpoint, output: Output) -> Entry:
    # Small but for embeddings; read twice so that none stays in memory.
    array = output_array(checkpoint, output)
    return Entry(array.dtype, array.shape, partial(output_array, checkpoint, output))
