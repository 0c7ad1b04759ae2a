"""Writes the tables of docs/guide/results.md from the records, as speed-ups: original time / compressed time.

    python benchmarks/tables.py

A table stands between two comments, ``<!-- NAME: RECORD -->`` and ``<!-- end of NAME -->``. Where a record has several
rows of the same measurement, the last counts.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "results.md"
PROFILES = ("fast", "balanced", "small")
_TABLE = re.compile(r"<!-- (\w+): (\S+) -->\n.*?<!-- end of \1 -->", re.DOTALL)

Rows = list[dict[str, Any]]


def _last(rows: Rows, **wanted: Any) -> dict[str, Any]:
    return matching(rows, **wanted)[-1]


def _speedups(rows: Rows, axis: str, title: str) -> Iterator[str]:
    """One line for each thread count and value of ``axis``, one column a profile."""
    yield f"| {title} | threads | onnxruntime | {' | '.join(PROFILES)} |"
    yield f"|---|---|---|{'---|' * len(PROFILES)}"
    for threads, value in sorted({(row["threads"], row[axis]) for row in rows}):
        own = [_last(rows, threads=threads, profile=profile, **{axis: value}) for profile in PROFILES]
        cells = " | ".join(f"{1 / row['ratio']:.2f}" for row in own)
        yield f"| {value} | {threads} | {own[0]['onnxruntime_ms']:.1f} ms | {cells} |"


def matching(rows: Rows, **wanted: Any) -> Rows:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def cell(row: dict[str, Any]) -> str:
    """A speed-up with its quartiles; a star where outputs are other bytes."""
    low, high = row["quartiles"]
    return f"{row['speedup']:.2f} ({low:.2f} to {high:.2f}){'' if row.get('identical', True) else ' *'}"


def sessions(rows: Rows) -> Iterator[str]:
    """Sessions as people open them, and processes that run at once: a line for each row, a column a contestant."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    yield f"| workload | shape | threads | onnxruntime | {' | '.join(names)} |"
    yield f"|---|---|---|---|{'---|' * len(names)}"
    keys = ("benchmark", "workload", "shape", "threads", "profile")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        own = matching(rows, **dict(zip(keys, key, strict=True)))
        found = {row["contestant"]: row for row in own}
        if key[0] == "throughput":
            threads, base = f"{own[-1]['processes']} processes of 1", f"{own[-1]['onnxruntime_per_second']:.3g} /s"
        else:
            threads, base = key[3] or "default", f"{own[-1]['onnxruntime_ms']:.3g} ms"
        cells = " | ".join(cell(found[name]) if name in found else "" for name in names)
        yield f"| {key[1]} | {key[2]} | {threads} | {base} | {cells} |"


def matmul(rows: Rows) -> Iterator[str]:
    """Multiplications by weights that come from memory."""
    rows = [row for row in rows if row["benchmark"] == "matmul" and row["residency"] == "compressed"]
    return _speedups([row for row in rows if row["activation"] == "uint8"], "m", "rows of the activations")


def t5(rows: Rows) -> Iterator[str]:
    """The T5-small encoder."""
    rows = [row for row in rows if row["benchmark"] == "t5" and row["residency"] == "compressed"]
    return _speedups([row for row in rows if not row.get("spinning")], "length", "tokens")


def sizes(rows: Rows) -> Iterator[str]:
    """Size of the T5-small weights by codec."""
    rows = [row for row in rows if row["benchmark"] == "sizes"]
    yield "| | encoder: ratio | over the entropy | decoder: ratio | over the entropy |"
    yield "|---|---|---|---|---|"
    for codec in dict.fromkeys(row["codec"] for row in rows if "ratio" in row):
        own = [_last(rows, codec=codec, model=model) for model in ("encoder", "decoder")]
        yield f"| {codec} | " + " | ".join(f"{row['ratio']:.3f} | {100 * row['over']:.1f} %" for row in own) + " |"


def memory(rows: Rows) -> Iterator[str]:
    """Memory and opening."""
    rows = [row for row in rows if row["benchmark"] == "memory"]
    yield "| | anonymous | resident | opening | four processes: private | proportional |"
    yield "|---|---|---|---|---|---|"
    for model in ("onnxruntime", "balanced"):
        one, four = _last(rows, model=model, processes=1), _last(rows, model=model, processes=4)
        yield (
            f"| {model} | {_mib(one['anonymous_bytes'])} | {_mib(one['resident_bytes'])} | {one['load_ms']:.0f} ms "
            f"| {_mib(four['private_bytes'])} | {_mib(four['proportional_bytes'])} |"
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:.{0 if count >= 100 * 2**20 else 1}f} MiB"


TABLES: dict[str, Callable[[Rows], Iterator[str]]] = {"matmul": matmul, "t5": t5, "sizes": sizes, "memory": memory}


def fill(page: str) -> str:
    """The page with its tables written again."""

    def table(found: re.Match[str]) -> str:
        name, record = found.groups()
        rows = [json.loads(line) for line in (ROOT / "benchmarks" / "records" / record).read_text().splitlines()]
        lines = "\n".join(TABLES[name](rows))
        return f"<!-- {name}: {record} -->\n\n{lines}\n\n<!-- end of {name} -->"

    return _TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
