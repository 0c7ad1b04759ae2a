"""Random inputs that a model accepts, made from nothing but the model.

Shapes are easy: one number for each symbol. Values of float inputs are too. Integers are not: token ids must lie
within the embedding table, and masks must be 0 or 1. So an integer input is followed through the graph: where it (or
what has the same values in another shape) selects rows of a table, it stays below the table's size; otherwise it is
taken for a mask. Quantised inputs (8 bits) take any value.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcd_graph.errors import InputError

__all__ = ["InputSpec", "accepted_inputs", "bind_dimensions", "input_specs", "random_inputs"]

Dimension = int | ir.SymbolicDim
Arrays = dict[str, npt.NDArray[np.generic]]
T = TypeVar("T")

_ELEMENTS_LIMIT = 1 << 28
"""More than any sensible input has; a forged shape must not take all memory."""

_HALVED, _TRAINED = 32, (224, 512)
"""What sides of images are a multiple of, and sizes that networks for images and sounds are often trained with."""

_INTEGERS = (
    ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
)  # fmt: skip
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
_FLOATS = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What one graph input accepts.

    Attributes:
        name: of the input.
        dtype: its element type.
        shape: its dimensions; each symbol is one that :func:`bind_dimensions` gives a number.
        below: for integers, the first value that is too large; 2 for masks.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[Dimension, ...]
    below: int = 2


def input_specs(model: ir.Model) -> list[InputSpec]:
    """Return what each input of a model accepts, those with a default left out.

    Raises:
        InputError: an input is not a tensor of known rank and of a type that random values make sense for.
    """
    specs = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        if not isinstance(value.type, ir.TensorType) or value.shape is None or value.dtype is None:
            raise InputError(f"input {value.name} is not a tensor of known rank; give --inputs")
        if value.dtype not in (*_INTEGERS, *_BYTES, *_FLOATS, ir.DataType.BOOL):
            raise InputError(f"no random values for input {value.name} of type {value.dtype.name}; give --inputs")
        shape = tuple(dim if isinstance(dim, int) else _symbol(dim.value, axis) for axis, dim in enumerate(value.shape))
        below = min(_table_sizes(value), default=2)
        specs.append(InputSpec(value.name or "", value.dtype, shape, below))
    return specs


def _symbol(name: str | None, axis: int) -> ir.SymbolicDim:
    """Return a symbol that can be evaluated: a sum or product of names if it looks like one, else a plain name."""
    if not name:
        # Dimensions without a name are taken for equal where they stand at the same place.
        return ir.SymbolicDim(f"axis_{axis}")
    if re.fullmatch(r"\w+(( ?[+*] ?| - )\w+)*", name, re.ASCII):
        return ir.SymbolicDim(name)
    return ir.SymbolicDim("_" + re.sub(r"\W", "_", name, flags=re.ASCII))


def bind_dimensions(specs: Sequence[InputSpec], batch: int, lengths: Iterator[int]) -> dict[str, int]:
    """Give each symbol a number: ``batch`` to those that stand first in a shape, the next of ``lengths`` to others."""
    bound: dict[str, int] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            for symbol in _names_in(dim):
                if symbol not in bound:
                    bound[symbol] = batch if axis == 0 else next(lengths)
    return bound


def _names_in(dim: Dimension) -> Sequence[str]:
    """Return the names that a dimension is computed from; a plain one is not left to SymPy, which is slow to load."""
    if isinstance(dim, int):
        return ()
    return (dim.value,) if dim.value and dim.value.isidentifier() else sorted(dim.free_symbols())


def accepted_inputs(
    specs: Sequence[InputSpec],
    runs: Iterable[tuple[int, Sequence[int], float]],
    rng: np.random.Generator,
    run: Callable[[Arrays], T | None],
) -> Iterator[tuple[Arrays, T]]:
    """Yield inputs with what a model computes of them, in other sizes where it does not take those.

    A run for which the model takes no size that is tried is left out.

    Args:
        specs: what the model accepts, as far as it says so.
        runs: batch size, sizes of other dimensions in turns, and standard deviation of float inputs of each run.
        rng: source of the values.
        run: returns what the model computes, or ``None`` where it fails.
    """
    for batch, lengths, spread in runs:
        for size, cut in _sizes(batch, lengths):
            arrays = random_inputs(specs, bind_dimensions(specs, size, itertools.cycle(cut)), rng, spread=spread)
            computed = run(arrays)
            if computed is not None:
                yield arrays, computed
                break


def _sizes(batch: int, lengths: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield a batch size and lengths, and then others for models that take no such sizes.

    A table of positions bounds the length, some models were exported for one batch size, and images have to be so large
    that a network can halve them, or of the size that it was trained with.
    """

    def at_most(limit: int) -> tuple[int, ...]:
        return tuple(min(length, limit) for length in lengths)

    whole, halved = tuple(lengths), tuple(math.ceil(length / _HALVED) * _HALVED for length in lengths)
    trained = ((1, (size,) * len(lengths)) for size in _TRAINED)
    smaller = ((size, cut) for size in (batch, 1) for cut in (whole, at_most(16)))
    tried = set()
    for each in (*smaller, (batch, halved), (1, halved), (1, at_most(4)), (1, at_most(1)), *trained):
        if each not in tried:
            tried.add(each)
            yield each


def random_inputs(
    specs: Sequence[InputSpec], bound: Mapping[str, int], rng: np.random.Generator, *, spread: float = 1.0
) -> Arrays:
    """Return random values for all inputs.

    Args:
        specs: what the model accepts.
        bound: a number for each symbol in a shape.
        rng: source of the values.
        spread: standard deviation of float inputs.

    Raises:
        InputError: an input would be unreasonably large, or has an impossible shape.
    """
    arrays: Arrays = {}
    for spec in specs:
        shape = tuple(_size(dim, bound) for dim in spec.shape)
        if min(shape, default=0) < 0:
            raise InputError(f"input {spec.name} has the impossible shape {shape}; give --inputs")
        if math.prod(shape) > _ELEMENTS_LIMIT:
            raise InputError(f"input {spec.name} would have {math.prod(shape)} elements; give --inputs")
        arrays[spec.name] = _values(spec, shape, rng, spread)
    return arrays


def _size(dim: Dimension, bound: Mapping[str, int]) -> int:
    size = dim if isinstance(dim, int) else bound.get(dim.value or "") or dim.evaluate(bound)
    if not isinstance(size, int):
        raise InputError(f"dimension {dim} cannot be computed from {dict(bound)}; give --inputs")
    return size


def _values(
    spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, spread: float
) -> npt.NDArray[np.generic]:
    dtype = spec.dtype.numpy()
    if spec.dtype in _FLOATS:
        return (rng.standard_normal(shape, np.float32) * np.float32(spread)).astype(dtype)
    if spec.dtype in _BYTES:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    values = rng.integers(0, spec.below, shape)
    if spec.below == 2 and values.ndim:
        values[..., :1] = 1  # a mask that hides everything leaves nothing to compute
    return values.astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Where an input's values go

_KEEPS_VALUES = {
    "Cast": (0,), "Concat": None, "Expand": (0,), "Flatten": (0,), "Gather": (0,), "Identity": (0,), "Reshape": (0,),
    "Slice": (0,), "Squeeze": (0,), "Tile": (0,), "Transpose": (0,), "Unsqueeze": (0,), "Where": (1, 2),
}  # fmt: skip
"""Operators whose output has the values of these inputs (None: of all) in another arrangement."""

_SELECTS = {
    ("", "Gather"): {1: 0},
    ("", "GatherElements"): {1: 0},
    ("com.microsoft", "EmbedLayerNormalization"): {0: 2, 1: 4},
    ("com.microsoft", "GatherBlockQuantized"): {1: 0},
}
"""Operators that select with one input (key) from another (value)."""


def _table_sizes(value: ir.Value) -> Iterator[int]:
    """Yield the size of each table that the input's values select from."""
    seen = {value}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        for node, index in value.uses():
            table = _SELECTS.get((node.domain, node.op_type), {}).get(index)
            if table is not None and table < len(node.inputs):
                axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
                size = _dimension(node.inputs[table], axis)
                if size:
                    yield size
            kept = _KEEPS_VALUES.get(node.op_type, ()) if node.domain == "" else ()
            if (kept is None or index in kept) and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])


def _dimension(value: ir.Value | None, axis: int) -> int | None:
    """Return a dimension of a table, looking through what changes its values but not its shape."""
    while value is not None:
        shape = value.const_value.shape if value.const_value is not None else value.shape
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        if isinstance(size, int):
            return size
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "DequantizeLinear", "Identity"):
            return None
        value = node.inputs[0]
    return None
