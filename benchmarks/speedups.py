"""What is said of measured speed-ups: their median, how far it is to be trusted, and how many rows lose."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

LEVEL, FASTER = 0.98, 1.05
"""What counts as no slower than onnxruntime, and as faster."""

Rows = list[dict[str, Any]]


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and the interval that the median lies in."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"speedup": middle, "quartiles": [low, high], "interval": interval(ratios)}


def interval(ratios: Sequence[float]) -> list[float]:
    """The two ratios between which the median of further ones would be 95 times of 100, whatever their distribution.

    The ranks are those of the sign test, in its normal approximation (Conover, Practical Nonparametric Statistics,
    section 3.2). It takes ratios for independent; on a machine that is disturbed for seconds they are not quite.
    """
    ordered = sorted(ratios)
    below = max(0, math.floor((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2) - 1)
    return [ordered[below], ordered[-1 - below]]


def precise(ratios: Sequence[float], within: float) -> bool:
    """Whether the median is known to such a part of itself, in either direction."""
    low, high = interval(ratios)
    middle = statistics.median(ratios)
    return high <= middle * (1 + within) and low >= middle * (1 - within)


def verdict(rows: Rows) -> Iterator[str]:
    """A line for each contestant: how many rows are level, how many faster, and which is the slowest."""
    rows = [row for row in rows if row["benchmark"] == "sessions"]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        level, faster = (sum(row["speedup"] >= least for row in own) for least in (LEVEL, FASTER))
        slower = sum(row["interval"][1] < LEVEL for row in own if "interval" in row)
        slowest = min(own, key=lambda row: row["speedup"])
        where = f"{slowest['workload']} {slowest['shape']}, {slowest['threads'] or 'default'} threads"
        yield (
            f"{name}: {level} of {len(own)} rows at {LEVEL} or more, {faster} at {FASTER} or more; "
            f"{slower} with the whole interval below {LEVEL}; slowest {slowest['speedup']:.3f} ({where})"
        )
