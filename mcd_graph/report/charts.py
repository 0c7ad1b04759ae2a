"""Charts as SVG that a page can take in: no fonts, no scripts, and colours that the page chooses.

Matplotlib draws with one stand-in colour for each role, which is then replaced by the name of a CSS variable, so that
a chart follows the page into dark mode and onto paper. ``standalone`` puts the variables into the SVG itself, for a
file that is looked at by itself.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = ["COLOURS", "chart", "histogram_chart", "latency_chart", "layers_chart", "speedup_chart", "trade_chart"]

COLOURS = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206")
"""Stand-ins for the colours of series, in the order in which to use them."""

_TEXT, _FAINT = "#010101", "#010102"
_MARKERS = "os^Dvp"
_LONGEST_NAME = 24

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TEXT,
    "text.color": _TEXT,
    "text.parse_math": False,  # a name with dollars in it is a name
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,  # ticks say what they mean, without a "+1" in a corner
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}

_LIGHT = ("#1a1a1a", "#8a8a8a", "#0b6bcb", "#c2570c", "#1a7f4b", "#8250c4", "#b3261e", "#5f6b7a")
_DARK = ("#e8e8e8", "#8f8f8f", "#6cb2ff", "#f2a25c", "#5fcf95", "#c3a0f5", "#ff8a80", "#aab6c5")
_NAMES = ("text", "faint", *(f"c{index}" for index in range(1, 7)))


def palette() -> dict[str, str]:
    """Return the CSS declarations of the chart's variables, for ``light`` and ``dark``."""
    return {
        theme: " ".join(f"--{name}: {colour};" for name, colour in zip(_NAMES, colours, strict=True))
        for theme, colours in (("light", _LIGHT), ("dark", _DARK))
    }


def chart(
    draw: Callable[[Axes], None], *, label: str, width: float = 4.8, height: float = 3.0, standalone: bool = False
) -> str:
    """Draw one chart.

    Args:
        draw: draws into the axes that it is given.
        label: what a screen reader says; any text.
        width: in inches of 72 units.
        height: in the same.
        standalone: make it a whole file of its own, with its own colours and background.

    Returns:
        The ``<svg>`` element, without a width and a height unless it stands alone.
    """
    # The identifiers of two charts on one page must differ, and be the same each time that a page is made.
    settings: Any = {**_STYLE, "svg.hashsalt": label}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        file = io.StringIO()
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=none)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    stand_ins = (_TEXT, _FAINT, *COLOURS)
    for stand_in, name in zip(stand_ins, _NAMES, strict=True):
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"font(-family)?: ([\d.]+px )?[^;\"]*sans-serif[^;\"]*", _font, svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head) if not standalone else head
    head += f' role="img" aria-label="{_attribute(label)}"'
    style = ""
    if standalone:
        themes = palette()
        style = (
            f"<style>svg {{ {themes['light']} background: #fff; }} "
            f"@media (prefers-color-scheme: dark) {{ svg {{ {themes['dark']} background: #16181c; }} }}</style>"
        )
    return f"{head}>{style}{rest}".strip()


def _font(match: re.Match[str]) -> str:
    return f"font: {match[2] or ''}system-ui, sans-serif" if match[2] else "font-family: system-ui, sans-serif"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def layers_chart(before: Sequence[int], after: Sequence[int]) -> str:
    """Draw the size of each weight, before and after, by its number."""

    def draw(axes: Axes) -> None:
        numbers = np.arange(1, len(before) + 1)
        width = 0.85 if len(before) < 150 else 1.0
        axes.bar(numbers, np.divide(before, 1e6), width, color=COLOURS[5], alpha=0.35, label="before")
        axes.bar(numbers, np.divide(after, 1e6), width, color=COLOURS[0], label="after")
        axes.set(xlabel="weight, numbered as in the table", ylabel="MB", xlim=(0.3, len(before) + 0.7))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

    return chart(draw, label="Size of each weight before and after")


def histogram_chart(counts: npt.NDArray[np.int64], title: str, label: str) -> str:
    """Draw how often each of 256 symbols occurs."""

    def draw(axes: Axes) -> None:
        axes.bar(np.arange(-128, 128), 100 * counts / counts.sum(), 1.0, color=COLOURS[0])
        axes.set(xlabel="weight", ylabel="% of all", xlim=(-129, 128), xticks=(-128, -64, 0, 64, 127), title=title)

    return chart(draw, label=label, height=2.6)


def latency_chart(m: Sequence[int], series: Mapping[str, Sequence[float]], title: str) -> str:
    """Draw times in milliseconds against the rows of the activations."""

    def draw(axes: Axes) -> None:
        for (name, times), colour, marker in zip(series.items(), (COLOURS[5], *COLOURS), _MARKERS, strict=False):
            axes.plot(m, times, color=colour, marker=marker, label=_short(name))
        _rows_axis(axes, m)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(ylabel="ms, logarithmic", title=title)
        axes.legend()

    return chart(draw, label=f"Latency against m, {title}")


def speedup_chart(m: Sequence[int], series: Mapping[str, Sequence[tuple[float, float, float]]], title: str) -> str:
    """Draw each contestant's speed-up with its interval (low, middle, high) against the rows of the activations."""

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=COLOURS[5], linewidth=1.2, linestyle="--")
        # Side by side, so that intervals do not cover each other.
        shifts = 1.0 + 0.06 * (np.arange(len(series)) - (len(series) - 1) / 2)
        styles = zip(series.items(), shifts, COLOURS, _MARKERS[1:], strict=False)
        for (name, intervals), shift, colour, marker in styles:
            low, middle, high = np.array(intervals).T
            # An interval by resampling may miss its middle by a hair.
            error = np.maximum((middle - low, high - middle), 0)
            axes.errorbar(
                np.multiply(m, shift), middle, error, color=colour, marker=marker, capsize=3, label=_short(name)
            )
        _rows_axis(axes, m)
        axes.set(ylabel="speed-up", title=title)
        axes.set_ylim(bottom=0)
        axes.legend()

    return chart(draw, label=f"Speed-up against m, {title}")


def trade_chart(points: Mapping[str, tuple[float, float]], *, xlabel: str, ylabel: str, title: str) -> str:
    """Draw one point for each contestant: (speed, size)."""

    def draw(axes: Axes) -> None:
        for (name, (x, y)), colour, marker in zip(points.items(), (COLOURS[5], *COLOURS), _MARKERS, strict=False):
            axes.plot(x, y, color=colour, marker=marker, markersize=8, linestyle="none", label=_short(name))
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.set_xlim(0, 1.15 * max(x for x, _ in points.values()))  # from zero, so that distances are proportions
        axes.set_ylim(0, 1.15 * max(y for _, y in points.values()))
        axes.grid(visible=True, axis="both")
        axes.legend(loc="lower left")

    return chart(draw, label=f"Size against speed, {title}")


def _short(name: str) -> str:
    """Cut a name that would leave no room for the chart."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _rows_axis(axes: Axes, m: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(m), [str(rows) for rows in m])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("m, rows of the activations")
