"""A report as one HTML file: what was saved, what it costs in time and memory, what was kept and why.

The page is made of what was measured and nothing else; a section without figures is left out. Names in it come from
the model, an untrusted file, so the template escapes every string, no script is part of the page, and its
Content-Security-Policy lets the browser run and fetch nothing. Needs the extra ``report`` (Jinja2 and Matplotlib).
"""

import collections
import dataclasses
import datetime
import importlib.util
import string
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from mcd_graph.bench import Bench, BenchRow
from mcd_graph.errors import InputError
from mcd_graph.report.data import WITHOUT_WEIGHT, NodeReport, Report
from mcd_graph.report.histograms import Histogram
from mcd_graph.requirements import with_extra
from mcd_graph.verify import Verification

__all__ = ["render_report", "require"]

_LETTERS = string.ascii_uppercase


def require() -> None:
    """Check that a page can be made.

    Raises:
        InputError: a package that it needs is not installed.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"an HTML report needs {' and '.join(missing)}: {with_extra('report')}")


def render_report(
    *,
    title: str,
    report: Report | None = None,
    histograms: Sequence[Histogram] = (),
    verification: Verification | None = None,
    bench: Bench | None = None,
) -> str:
    """Return a page about a compression, a benchmark, or both.

    Args:
        title: of the page; any text.
        report: what was compressed.
        histograms: of the compressed weights.
        verification: the comparison with the original.
        bench: the timings.

    Returns:
        A whole HTML document that refers to nothing outside of itself.

    Raises:
        InputError: a package that it needs is not installed.
    """
    require()
    import jinja2  # noqa: PLC0415 - both are optional
    import markupsafe  # noqa: PLC0415

    from mcd_graph.report import charts  # noqa: PLC0415

    as_is = markupsafe.Markup  # for what we wrote: colours, and charts in which Matplotlib escapes every text
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mcd_graph.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A name of a node is broken behind a slash, where it has to be broken.
    environment.filters["path"] = lambda name: markupsafe.escape(name).replace("/", as_is("/<wbr>"))
    environment.filters |= {"mb": _megabytes, "ms": _milliseconds, "ratio": _ratio}
    weights = [] if report is None else _weights(report)
    drawn: dict[str, list[str]] = {
        "layers": [] if len(weights) < 2 else [charts.layers_chart(*_sizes(weights))],
        "histograms": [charts.histogram_chart(*chosen) for chosen in _chosen(histograms)],
        "trade": [] if bench is None else _trade(bench),
        "latency": [] if bench is None else _latency(bench),
    }
    return environment.get_template("report.html.j2").render(
        title=title,
        palette={theme: as_is(rules) for theme, rules in charts.palette().items()},
        charts={name: [as_is(svg) for svg in svgs] for name, svgs in drawn.items()},
        report=report,
        weights=weights,
        forms=_letters(node.pattern for node in weights),
        codecs=_letters(node.codec for node in weights),
        verdicts=[] if bench is None else _verdicts(bench),
        entropy=_entropy(weights),
        kept=[]
        if report is None
        else [node for node in report.nodes if node.status == "kept" and node.code != WITHOUT_WEIGHT],
        constants_left=[] if report is None else [each for each in report.constants if each.status == "kept"],
        verification=verification,
        bench=bench,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("mcd-graph"),
    )


def _weights(report: Report) -> list[NodeReport]:
    """Return one node for each compressed weight, in the graph's order."""
    lowered: dict[str | None, NodeReport] = {}
    for node in report.nodes:
        if node.status == "lowered":
            lowered.setdefault(node.weight, node)
    return list(lowered.values())


def _letters(names: Iterable[str | None]) -> dict[str, str]:
    """Return a letter for each different name, the most frequent first, so that a table need not repeat names."""
    counted = collections.Counter(name or "" for name in names)
    return {name: _LETTERS[index % len(_LETTERS)] for index, (name, _) in enumerate(counted.most_common())}


def _sizes(weights: Sequence[NodeReport]) -> tuple[list[int], list[int]]:
    return [node.weight_bytes or 0 for node in weights], [node.compressed_bytes or 0 for node in weights]


def _entropy(weights: Sequence[NodeReport]) -> dict[str, float] | None:
    """Return bits per weight over all weights: the entropy, the coded weights, and all that is stored."""
    before = sum(node.weight_bytes or 0 for node in weights)
    if not before:
        return None
    return {
        "entropy": sum((node.entropy_bits or 0.0) * (node.weight_bytes or 0) for node in weights) / before,
        "payload": 8 * sum(node.payload_bytes or 0 for node in weights) / before,
        "stored": 8 * sum(node.compressed_bytes or 0 for node in weights) / before,
    }


def _chosen(histograms: Sequence[Histogram]) -> list[tuple[Any, str, str]]:
    """Return what to draw: all weights together and, where they differ, the ones of least and most entropy."""
    if not histograms:
        return []
    counts = np.sum([histogram.counts for histogram in histograms], axis=0)
    mean = sum(one.entropy_bits * one.counts.sum() for one in histograms) / counts.sum()
    drawn = [(counts, f"all weights: {mean:.2f} bits on average", "Histogram of all weights")]
    if len(histograms) > 1:
        drawn += [
            (one.counts, f"{what}: {one.entropy_bits:.2f} bits", f"Histogram of the weight of {what}: {one.name}")
            for one, what in (
                (min(histograms, key=lambda histogram: histogram.entropy_bits), "least entropy"),
                (max(histograms, key=lambda histogram: histogram.entropy_bits), "most entropy"),
            )
        ]
    return drawn


@dataclasses.dataclass(frozen=True)
class _Verdict:
    """What a benchmark says of one contestant, in a line."""

    name: str
    low: float
    high: float
    faster: int
    slower: int
    unclear: int

    @property
    def text(self) -> str:
        """Count the settings whose interval is above 1, below 1, and on both sides of it."""
        counted = ((self.faster, "faster"), (self.slower, "slower"), (self.unclear, "no clear difference"))
        settings = self.faster + self.slower + self.unclear
        for count, what in counted:
            if count == settings:
                return f"{what} in all {settings} settings" if settings > 1 else what
        return ", ".join(f"{what} in {count}" for count, what in counted if count) + f" of {settings} settings"


def _verdicts(bench: Bench) -> list[_Verdict]:
    """Judge each contestant by the intervals of its speed-ups, which hold 95 % of the resampled ratios."""
    verdicts = []
    for one in bench.contestants[1:]:
        rows = [row for row in bench.rows if row.contestant == one.name]
        if not rows:
            continue
        faster = sum(row.speedup_low > 1 for row in rows)
        slower = sum(row.speedup_high < 1 for row in rows)
        speedups = [row.speedup for row in rows]
        unclear = len(rows) - faster - slower
        verdicts.append(_Verdict(one.name, min(speedups), max(speedups), faster, slower, unclear))
    return verdicts


def _by_shape(bench: Bench, threads: int) -> dict[str, list[BenchRow]]:
    """Return each contestant's rows on so many threads, by rows of the activations."""
    series: dict[str, list[BenchRow]] = {}
    for row in sorted(bench.rows, key=lambda row: row.m or 0):
        if row.threads == threads:
            series.setdefault(row.contestant, []).append(row)
    return series


def _title(threads: int) -> str:
    if not threads:
        return "default threads"
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def _latency(bench: Bench) -> list[str]:
    """Draw time and speed-up against m, for each number of threads, where m varied."""
    from mcd_graph.report import charts  # noqa: PLC0415

    if any(row.m is None for row in bench.rows) or len({row.m for row in bench.rows}) < 2:
        return []
    drawn = []
    for threads in sorted({row.threads for row in bench.rows}):
        series = _by_shape(bench, threads)
        first = next(iter(series.values()))
        m = [row.m or 0 for row in first]
        times = {"original": [row.original_ms for row in first]}
        times |= {name: [row.compressed_ms for row in rows] for name, rows in series.items()}
        speedups = {
            name: [(row.speedup_low, row.speedup, row.speedup_high) for row in rows] for name, rows in series.items()
        }
        drawn += [
            charts.latency_chart(m, times, _title(threads)),
            charts.speedup_chart(m, speedups, _title(threads)),
        ]
    return drawn


def _trade(bench: Bench) -> list[str]:
    """Draw files' size against speed at the smallest shape, for each number of threads."""
    from mcd_graph.report import charts  # noqa: PLC0415

    original, *others = bench.contestants
    drawn = []
    for threads in sorted({row.threads for row in bench.rows}):
        first = {name: rows[0] for name, rows in _by_shape(bench, threads).items()}
        points = {"original": (1.0, original.file_bytes / 1e6)}
        points |= {one.name: (first[one.name].speedup, one.file_bytes / 1e6) for one in others}
        shape = next(iter(first.values())).shape
        drawn.append(
            charts.trade_chart(
                points,
                xlabel="speed-up",
                ylabel="files, MB",
                title=f"{shape}, {_title(threads)}",
            )
        )
    return drawn


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f}"


def _milliseconds(count: float) -> str:
    return f"{count:,.3f}" if count < 1 else f"{count:,.2f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"
