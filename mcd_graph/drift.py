"""How far one model's outputs are from another's where equal bytes are not to be had: cosine, largest difference."""

import dataclasses

import numpy as np

__all__ = ["Drift", "DriftMeter"]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far an output is from the original's, over all runs.

    Attributes:
        output: its name.
        cosine: of the angle between the two, all values in one vector; 1 for equal ones. NaN if one of them has values
            that are not finite where the other's are, or nothing but zeros.
        largest: difference of two values.
        scale: the largest value of the original, to compare that with.
        values: numbers that were compared.
    """

    output: str
    cosine: float
    largest: float
    scale: float
    values: int


class DriftMeter:
    """Adds runs up.

    Args:
        output: name of the output.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._product = self._ours = self._theirs = 0.0
        self._largest = self._scale = 0.0
        self._values = 0

    def add(self, ours: object, theirs: object) -> None:
        """Take in one run's output; what is no array of numbers, or of another shape, is left out."""
        if not (isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)) or ours.shape != theirs.shape:
            return
        if ours.dtype.kind not in "biuf" or not ours.size:
            return
        a, b = ours.astype(np.float64).reshape(-1), theirs.astype(np.float64).reshape(-1)
        same = ~np.isfinite(a) & ((a == b) | (np.isnan(a) & np.isnan(b)))
        a, b = np.where(same, 0, a), np.where(same, 0, b)
        with np.errstate(invalid="ignore", over="ignore"):
            self._product += float(a @ b)
            self._ours += float(a @ a)
            self._theirs += float(b @ b)
            self._largest = float(np.maximum(self._largest, np.abs(a - b).max()))
            self._scale = float(np.maximum(self._scale, np.abs(b).max()))
        self._values += a.size

    def result(self) -> Drift:
        """Return the sums."""
        length = np.sqrt(self._ours) * np.sqrt(self._theirs)
        cosine = self._product / length if length else (1.0 if self._ours == self._theirs else np.nan)
        return Drift(self._output, float(min(cosine, 1.0)), self._largest, self._scale, self._values)
