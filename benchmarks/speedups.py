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
    keys = ("profile", "workload", "shape", "threads", "contestant")
    last = {tuple(row.get(key) for key in keys): row for row in rows if row["benchmark"] == "sessions"}
    for name in dict.fromkeys(row["contestant"] for row in last.values()):
        own = [row for row in last.values() if row["contestant"] == name]
        level, faster = (sum(row["speedup"] >= least for row in own) for least in (LEVEL, FASTER))
        said = [f"{level} of {len(own)} rows at {LEVEL} or more", f"{faster} at {FASTER} or more"]
        if all("openings" in row for row in own):
            said.append(f"{sum(max(row['openings']) < LEVEL for row in own)} below {LEVEL} in each opening")
        slowest = min(own, key=lambda row: row["speedup"])
        where = f"{slowest['workload']} {slowest['shape']}, threads: {slowest['threads'] or 'default'}"
        yield f"{name}: {', '.join(said)}; slowest {slowest['speedup']:.3f} ({where})"
