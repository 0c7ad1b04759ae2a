"""Compares what two models computed, byte by byte."""

import numpy as np
import numpy.typing as npt

__all__ = ["describe_difference", "is_nan"]


def describe_difference(ours: object, theirs: object) -> str | None:
    """Return how a value differs from what it should be; ``None`` if it is the same to the byte.

    One not-a-number equals another here, whatever their signs and payloads, which IEEE 754 leaves open and which depend
    on the order of an instruction's operands. Zero does not equal minus zero.
    """
    if not (isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)):
        return None if ours == theirs else "the values differ"  # sequences, maps and absent optionals
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"{ours.dtype} of shape {ours.shape} instead of {theirs.dtype} of shape {theirs.shape}"
    if ours.dtype == object:
        return None if np.array_equal(ours, theirs) else "the strings differ"
    if ours.tobytes() == theirs.tobytes():
        return None
    width = ours.dtype.itemsize
    unequal = (_bytes(ours, width) != _bytes(theirs, width)).any(axis=1)
    if ours.dtype.kind == "f":
        unequal &= ~(np.isnan(ours) & np.isnan(theirs)).reshape(-1)
    if not unequal.any():
        return None
    first = int(np.flatnonzero(unequal)[0])
    return (
        f"{int(unequal.sum())} of {ours.size} values differ, "
        f"the first at {first}: {ours.flat[first]} instead of {theirs.flat[first]}"
    )


def is_nan(value: object) -> bool:
    """Tell whether a value holds floating-point numbers, and all of them are not-a-number."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return False
    return bool(np.isnan(value).all())


def _bytes(array: npt.NDArray[np.generic], width: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1, width)
