"""Arrays of a rank's tensors: read, fused and cut."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.checkpoint.plan import Output
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.errors import InputError

__all__ = ["output_array", "output_blocks", "output_kind"]


def output_array(checkpoint: Checkpoint, output: Output) -> npt.NDArray[Any]:
    """Return a tensor of a rank.

    Raises:
        InputError: layers cannot be fused because a number that they share differs, or a tensor cannot be read.
    """
    dtype, shape = output_kind(checkpoint, output)
    if output.zeros:
        return np.zeros(shape, dtype)
    arrays = [checkpoint.array(part) for part in output.parts]
    if output.shared:
        if any(array.tobytes() != arrays[0].tobytes() for array in arrays):
            names = ", ".join(part.name for part in output.parts)
            raise InputError(f"{names} differ: layers that are fused read the same activations and need the same one")
        return arrays[0]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def output_blocks(checkpoint: Checkpoint, output: Output) -> Iterator[npt.NDArray[Any]]:
    """Yield a tensor of a rank in pieces, one behind another: embeddings are larger than any layer.

    Raises:
        InputError: as :func:`output_array` does.
    """
    if output.zeros or output.shared:
        yield output_array(checkpoint, output)
        return
    for part in output.parts:
        yield from checkpoint.blocks(part)


def output_kind(checkpoint: Checkpoint, output: Output) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape of a rank's tensor; nothing of it is read.

    Raises:
        InputError: the parts do not fit each other, or NumPy lacks their type.
    """
    types = [checkpoint.dtype(part.name) for part in output.parts]
    shapes = [part.shape(checkpoint.shapes[part.name]) for part in output.parts]
    if len(set(types)) != 1:
        raise InputError(f"{output.name} cannot be fused: its parts are {', '.join(map(str, types))}")
    if output.shared or len(shapes) == 1:
        return types[0], shapes[0]
    if not all(shapes) or len({shape[1:] for shape in shapes}) != 1:
        raise InputError(f"{output.name} cannot be fused: its parts have shapes {', '.join(map(str, shapes))}")
    return types[0], (sum(shape[0] for shape in shapes), *shapes[0][1:])
