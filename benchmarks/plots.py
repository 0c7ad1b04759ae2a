"""Draws docs/figures: from a record size against speed and speed-up against m; from the README's, one real model.

    python benchmarks/plots.py [--record benchmarks/records/DATE-MACHINE.jsonl]

The record is the newest one of Zen 4 by default. Memory, and the figure of the README, are of the record that the
tables of the README are made of (benchmarks/tables.py).

Where a record has several rows of the same measurement, the last counts. A figure whose rows are missing is not drawn.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tables
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mcd_graph.report.charts import COLOURS, chart

ROOT = Path(__file__).parents[1]
PROFILES = ("fast", "balanced", "small")
MARKERS = "os^Dvp"
MEMORY_OF = "layers-16x4096"
"""The workload of the figure of memory, 256 MiB of weights, where the record has it."""

Rows = list[dict[str, Any]]


def select(rows: Rows, **wanted: Any) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def last(rows: Rows, figure: str, **wanted: Any) -> float:
    """A figure of the last row with these values."""
    return float(select(rows, **wanted)[-1][figure])


def sizes(rows: Rows) -> Callable[[Axes], None] | None:
    """Compressed size of the T5 encoder's weights against the rate of decoding them to memory on one thread."""
    rows = select(rows, benchmark="sizes", model="encoder")
    codecs = list(dict.fromkeys(row["codec"] for row in rows if "decode_mb_s" in row))
    if not codecs:
        return None

    def draw(axes: Axes) -> None:
        for index, codec in enumerate(codecs):
            x, y = last(rows, "decode_mb_s", codec=codec), 100 / last(rows, "ratio", codec=codec)
            colour = COLOURS[0] if codec in PROFILES else COLOURS[1 + index // 5]
            axes.plot(x, y, MARKERS[index % len(PROFILES)], color=colour, markersize=8, label=codec)
        axes.set_xscale("log")
        _plain_log(axes)
        axes.margins(0.18, 0.2)
        axes.legend(loc="upper left", ncols=2)
        axes.set(xlabel="decoded to memory, MB/s, one thread", ylabel="% of the plain size")

    return draw


def trade(rows: Rows) -> Callable[[Axes], None] | None:
    """Size of the T5 encoder's weights against the speed-up of a multiplication with weights from memory."""
    matmul = select(rows, benchmark="matmul", m=1, threads=1, activation="uint8", residency="compressed")
    small = select(rows, benchmark="sizes", model="encoder")
    if not matmul or not any("ratio" in row for row in small):
        return None

    def draw(axes: Axes) -> None:
        points = {"onnxruntime": (1.0, 100.0)}
        for profile in PROFILES:
            points[profile] = (
                1 / last(matmul, "ratio", profile=profile),
                100 / last([row for row in small if "ratio" in row], "ratio", codec=profile),
            )
        for (name, (x, y)), marker, colour in zip(points.items(), MARKERS, (COLOURS[5], *COLOURS), strict=False):
            axes.plot(x, y, marker, color=colour, markersize=8, label=name)
        axes.legend()
        axes.margins(0.15)
        axes.set(xlabel="speed-up over onnxruntime, m = 1", ylabel="% of the plain size")

    return draw


def latency(rows: Rows) -> Callable[[Axes], None] | None:
    """Speed-up over onnxruntime against m, on one thread and on two."""
    rows = select(rows, benchmark="matmul", activation="uint8", residency="compressed")
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=COLOURS[5], linestyle="--", linewidth=1.2)
        for profile, colour, marker in zip(PROFILES, COLOURS, MARKERS, strict=False):
            for threads, style in ((1, "-"), (2, ":")):
                own = select(rows, profile=profile, threads=threads)
                m = sorted({row["m"] for row in own})
                speedups = [1 / last(own, "ratio", m=one) for one in m]
                label = f"{profile}, {threads} thread{'s' * (threads > 1)}"
                axes.plot(m, speedups, linestyle=style, marker=marker, color=colour, label=label)
        ticks = sorted({row["m"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(one) for one in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0)
        axes.set(xlabel="m, rows of the activations", ylabel="speed-up over onnxruntime")
        axes.legend(ncols=2, loc="lower right")

    return draw


def memory(rows: Rows) -> Callable[[Axes], None] | None:
    """Memory that processes with a session each take together, by how they open the model."""
    rows = select(rows, benchmark="memory")
    if not rows:
        return None
    rows = select(rows, workload=MEMORY_OF) or select(rows, workload=rows[0]["workload"])
    # All decoded takes what onnxruntime does.
    names = [name for name in dict.fromkeys(row["contestant"] for row in rows) if name != "decoded"]
    colours = COLOURS[5::-1][: len(names)]
    counts = sorted({row["processes"] for row in rows})

    def draw(axes: Axes) -> None:
        wide = 0.8 / len(names)
        for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
            heights = [
                last(rows, "proportional_bytes", contestant=name, processes=count) / 2**20 / count for count in counts
            ]
            at = np.arange(len(counts)) + wide * (index - (len(names) - 1) / 2)
            drawn = axes.bar(at, heights, 0.95 * wide, color=colour, label=name)
            axes.bar_label(drawn, [f"{height:.0f}" for height in heights], padding=2, fontsize=7)
        axes.set_xticks(range(len(counts)), [f"{count} process{'es' * (count > 1)}" for count in counts])
        axes.set(ylabel="MiB for each process (PSS)")
        axes.margins(y=0.12)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)

    return draw


def t5(rows: Rows) -> Callable[[Axes], None] | None:
    """Speed-up of the T5 encoder over onnxruntime against the length."""
    rows = select(rows, benchmark="t5", residency="compressed")
    if not rows:
        return None
    lengths = sorted({row["length"] for row in rows})

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=COLOURS[5], linestyle="--", linewidth=1.2)
        for index, (profile, colour) in enumerate(zip(PROFILES, COLOURS, strict=False)):
            heights = [1 / last(rows, "ratio", profile=profile, threads=1, length=length) for length in lengths]
            axes.bar(np.arange(len(lengths)) + 0.27 * (index - 1), heights, 0.25, color=colour, label=profile)
        axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set(xlabel="length of the input, batch 1, one thread", ylabel="speed-up over onnxruntime")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)

    return draw


def real_model(rows: Rows) -> Callable[[Axes], None] | None:
    """Files, memory and opening of the README's model, original and compressed."""
    original, compressed = (real_figures(rows, name) for name in ("onnxruntime", "auto"))
    if not original or not compressed:
        return None

    def draw(axes: Axes) -> None:
        for index, (name, figures, colour) in enumerate(
            (("original", original, COLOURS[5]), ("compressed", compressed, COLOURS[0]))
        ):
            heights = [100 * figures[title][0] / original[title][0] for title in original]
            drawn = axes.bar(np.arange(len(heights)) + 0.4 * (index - 0.5), heights, 0.38, color=colour, label=name)
            axes.bar_label(drawn, [text for _, text in figures.values()], padding=2, fontsize=8)
        axes.set_xticks(range(len(original)), list(original))
        axes.set(ylabel="% of the original")
        axes.margins(y=0.14)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

    return draw


def real_figures(rows: Rows, contestant: str) -> dict[str, tuple[float, str]]:
    """Three figures of the README's model, each with the text to print."""
    own = select(rows, workload=tables.HEADLINE, contestant=contestant)
    held, opened = select(own, benchmark="memory", processes=1), select(own, benchmark="opening", cold=False)
    if not held or not opened:
        return {}
    return {
        "files": (held[-1]["file_bytes"], f"{held[-1]['file_bytes'] / 1e6:.1f} MB"),
        "memory that no file backs": (held[-1]["anonymous_bytes"], f"{held[-1]['anonymous_bytes'] / 1e6:.1f} MB"),
        "opening a session": (opened[-1]["open_ms"], f"{opened[-1]['open_ms']:.0f} ms"),
    }


def _plain_log(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


Figure = Callable[[Rows], Callable[[Axes], None] | None]
FIGURES: dict[str, tuple[Figure, str]] = {
    "size-against-decoding": (sizes, "Size of the T5 encoder's weights against the rate of decoding, by codec"),
    "size-against-speed": (trade, "Size against the speed of a multiplication, by profile"),
    "latency-against-m": (latency, "Speed-up of a multiplication against m, by profile"),
    "t5": (t5, "Speed-up of the T5 encoder, by length and profile"),
}
ONE_STORY: dict[str, tuple[Figure, str]] = {
    "memory": (memory, "Memory of processes that open one model, by how they open it"),
    "real-model": (real_model, "Files, memory and opening of the T5 encoder, original and compressed"),
}
"""Figures of the record that the README's tables are made of."""


def one_story() -> Rows:
    """The rows of that record."""
    (record,) = re.findall(r"<!-- headline: (\S+) -->", (ROOT / "README.md").read_text())
    return [json.loads(line) for line in (tables.RECORDS / record).read_text().splitlines()]


def main() -> None:
    """Draws what the records have figures for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    newest = max((ROOT / "benchmarks" / "records").glob("*-zen4.jsonl"))
    parser.add_argument("--record", type=Path, default=newest)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.record.read_text().splitlines()]
    folder = ROOT / "docs" / "figures"
    folder.mkdir(exist_ok=True)
    figures = {name: (figure(rows), label) for name, (figure, label) in FIGURES.items()}
    figures |= {name: (figure(one_story()), label) for name, (figure, label) in ONE_STORY.items()}
    for name, (draw, label) in figures.items():
        if draw is None:
            print(f"{name}: the record has no rows for it")
            continue
        svg = chart(draw, label=label, width=6.4, height=3.6, standalone=True)
        (folder / f"{name}.svg").write_text(f"{svg}\n")
        print(f"docs/figures/{name}.svg")


if __name__ == "__main__":
    main()
