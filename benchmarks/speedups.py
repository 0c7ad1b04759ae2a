"""What is said of measured speed-ups: their median, how far it is to be trusted, and how many rows lose."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

LEVEL, FASTER = 0.98, 1.05
"""What counts as no slower than onnxruntime, and as faster."""

Rows = list[dict[str, Any]]


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"speedup": middle, "quartiles": [low, high]}


def verdict(rows: Rows) -> Iterator[str]:
    """A line for each contestant: how many rows are level, how many faster, and which is the slowest."""
    rows = [row for row in rows if row["benchmark"] == "sessions"]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        level, faster = (sum(row["speedup"] >= least for row in own) for least in (LEVEL, FASTER))
        slower = sum(max(row["openings"]) < LEVEL for row in own if "openings" in row)
        slowest = min(own, key=lambda row: row["speedup"])
        where = f"{slowest['workload']} {slowest['shape']}, {slowest['threads'] or 'default'} threads"
        yield (
            f"{name}: {level} of {len(own)} rows at {LEVEL} or more, {faster} at {FASTER} or more; "
            f"{slower} below {LEVEL} in each opening; slowest {slowest['speedup']:.3f} ({where})"
        )
