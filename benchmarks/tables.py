"""Writes the tables of README.md and docs/guide/results.md from the records, as speed-ups: original / compressed time.

    python benchmarks/tables.py [--record benchmarks/records/DATE-MACHINE.jsonl]

A table stands between two comments, ``<!-- NAME: RECORD -->`` and ``<!-- end of NAME -->``. Where a record has several
rows of the same measurement, the last counts. With ``--record``, the tables of sessions, memory and the headline are
made of that record from now on, on every page: they tell one story.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "guide" / "results.md")
RECORDS = ROOT / "benchmarks" / "records"
HEADLINE = "t5-encoder"
"""The workload of the README."""

CALLED = {
    "onnxruntime": "onnxruntime",
    "unpacked": "pre-packing off",
    "saved": "pre-packed weights saved",
    "auto": "**compressed**",
    "shared": "with `decoded_folder`",
    "compressed": 'with `residency="compressed"`',
}
"""The contestants of the headline."""

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
    rows = [row for row in rows if row["benchmark"] in ("sessions", "throughput")]
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
    """Memory of some processes, and opening: a line for each model and contestant."""
    held, opened = (matching(rows, benchmark=name) for name in ("memory", "opening"))
    counts = sorted({row["processes"] for row in held})
    columns = " | ".join(f"{count} process{'es' if count > 1 else ''}: anonymous; PSS" for count in counts)
    yield f"| model | opened by | {columns} | opening, cold | first run | opening, warm | first run |"
    yield f"|---|---|{'---|' * (len(counts) + 4)}"
    for workload, name in dict.fromkeys((row["workload"], row["contestant"]) for row in held):
        own = {"workload": workload, "contestant": name}
        cells = [_held(matching(held, processes=count, **own)) for count in counts]
        for cold in (True, False):
            last = (matching(opened, cold=cold, **own) or [{}])[-1]
            cells += [f"{last[name]:.0f} ms" if name in last else "" for name in ("open_ms", "first_run_ms")]
        yield f"| {workload} | {name} | {' | '.join(cells)} |"


def _held(rows: Rows) -> str:
    return f"{_mib(rows[-1]['anonymous_bytes'])}; {_mib(rows[-1]['proportional_bytes'])}" if rows else ""


def _mib(count: int) -> str:
    return f"{count / 2**20:.{0 if count >= 100 * 2**20 else 1}f} MiB"


def headline(rows: Rows) -> Iterator[str]:
    """What the README says of one real model: a line for each figure, a column for each way to open it."""
    rows = matching(rows, workload=HEADLINE)
    yield f"| | {' | '.join(CALLED.values())} |"
    yield f"|---|{'---|' * len(CALLED)}"
    for title, figure in _figures(rows):
        cells = [figure(name) for name in CALLED]
        if any(cells):
            yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield f"{_measured(rows)}."


def _figures(rows: Rows) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Titles, and what gives the cell of a contestant."""

    def of(benchmark: str, show: Callable[[dict[str, Any]], str], **wanted: Any) -> Callable[[str], str]:
        def figure(name: str) -> str:
            own = matching(rows, benchmark=benchmark, contestant=name, **wanted)
            if not own and benchmark == "sessions" and name == "onnxruntime":
                return "1"
            return show(own[-1]) if own else ""

        return figure

    def megabytes(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row[name] / 1e6:.1f} MB"

    def milliseconds(row: dict[str, Any]) -> str:
        return f"{row['open_ms']:.0f} ms"

    yield "files", of("memory", megabytes("file_bytes"), processes=1)
    for count in sorted({row["processes"] for row in matching(rows, benchmark="memory")}):
        who = f"{count} process{'es' * (count > 1)}"
        yield f"memory that no file backs, {who}", of("memory", megabytes("anonymous_bytes"), processes=count)
    most = max((row["processes"] for row in matching(rows, benchmark="memory")), default=1)
    if most > 1:
        yield f"all memory, {most} processes", of("memory", megabytes("proportional_bytes"), processes=most)
    yield "opening a session", of("opening", milliseconds, cold=False)
    yield "opening, files not in the page cache", of("opening", milliseconds, cold=True)
    shapes = dict.fromkeys((row["shape"], row["threads"]) for row in matching(rows, benchmark="sessions"))
    for shape, threads in shapes:
        who = "1 thread" if threads else "default threads"
        yield f"speed-up, {shape.removeprefix('1x')} tokens, {who}", of("sessions", cell, shape=shape, threads=threads)


def _measured(rows: Rows) -> str:
    """When, where and with what."""
    dates = sorted({row["date"] for row in rows})
    machines = sorted({f"{row['processor']}, onnxruntime {row['onnxruntime']}" for row in rows})
    return f"Measured {' and '.join(dates)} on {'; '.join(machines)}"


TABLES: dict[str, Callable[[Rows], Iterator[str]]] = {
    "headline": headline, "sessions": sessions, "memory": memory, "amx": sessions, "amx_memory": memory,
    "avx512": sessions, "avx512_contestants": sessions, "avx512_memory": memory, "matmul": matmul, "t5": t5,
    "sizes": sizes,
}  # fmt: skip
ONE_STORY = ("headline", "sessions", "memory")
"""Tables that are of one record."""


def fill(page: str, record: str | None = None) -> str:
    """The page with its tables written again; those of :data:`ONE_STORY` from a record, if one is given."""

    def table(found: re.Match[str]) -> str:
        name, own = found.groups()
        own = record if record and name in ONE_STORY else own
        rows = [json.loads(line) for line in (RECORDS / own).read_text().splitlines()]
        lines = "\n".join(TABLES[name](rows))
        return f"<!-- {name}: {own} -->\n\n{lines}\n\n<!-- end of {name} -->"

    return _TABLE.sub(table, page)


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="the record of the README from now on, in benchmarks/records")
    arguments = parser.parse_args()
    for page in PAGES:
        page.write_text(fill(page.read_text(), arguments.record and arguments.record.name))


if __name__ == "__main__":
    main()
