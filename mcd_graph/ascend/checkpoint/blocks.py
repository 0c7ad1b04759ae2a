"""Arrays of a rank's tensors: read, fused and cut."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mcd_graph.ascend.checkpoint.plan import Output
from mcd_graph.ascend.checkpoint.source import Checkpoint
from mcd_graph.errors import InputError

__all__ = ["output_array"]


def output_array(checkpoint: Checkpoint, output: Output) -> npt.NDArray[Any]:
    """Return a tensor of a rank.

    Raises:
        InputError: layers cannot be fused because a number that they share differs, or a tensor cannot be read.
    """
    arrays = [checkpoint.array(part) for part in output.parts]
    if len({array.dtype for array in arrays}) != 1:
        raise InputError(f"{output.name} cannot be fused: its parts are {', '.join(str(a.dtype) for a in arrays)}")
    if output.zeros:
        return np.zeros_like(arrays[0])
    if output.shared:
        if any(array.tobytes() != arrays[0].tobytes() for array in arrays):
            names = ", ".join(part.name for part in output.parts)
            raise InputError(f"{names} differ: layers that are fused read the same activations and need the same one")
        return arrays[0]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
