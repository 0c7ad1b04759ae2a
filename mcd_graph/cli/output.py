"""What commands print, and where: results to standard output, progress and errors to standard error."""

import json
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcd_graph.progress import Progress as TaskProgress

__all__ = ["byte_bar", "counted", "err", "html_page", "out", "print_json", "ratio", "say", "size", "step_bar"]


_SECONDS_WITHOUT_BAR = 1.0
_PIPED_WIDTH = 160  # nobody's terminal: wide enough for names of nodes
_SMALLEST_IN_MB = 1_000_000
out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(highlight=False, stderr=True)


@contextmanager
def byte_bar(task: str, *, shown: bool = True) -> "Iterator[Callable[[TaskProgress], None]]":
    """Show a bar on a terminal for what takes longer than a second, and nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=err, transient=True, disable=not (shown and sys.stderr.isatty()))
    row = bar.add_task(task, total=None)
    timer = threading.Timer(_SECONDS_WITHOUT_BAR, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda progress: bar.update(row, completed=progress.bytes_done, total=progress.bytes_total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


@contextmanager
def step_bar() -> "Iterator[Callable[[str, int, int], None]]":
    """Show a bar of steps, named by stage, on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        rows: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done, total=total)

        yield show


def html_page(path: Path, *, force: bool) -> "Callable[..., None]":
    """Return what writes the HTML report, once it is known that this can be done: the work before takes minutes."""
    from mcd_graph.model.files import write_text  # noqa: PLC0415
    from mcd_graph.report.html import render_report, require  # noqa: PLC0415

    require()

    def write(**sections: Any) -> None:
        write_text(path, render_report(**sections), force=force)

    return write


def say(text: str, style: str | None = None, *, console: Console = out) -> None:
    """Print a line of text: on a terminal broken between words where it is too long, elsewhere in one piece.

    Words stay whole, for they may be paths.
    """
    if console.is_terminal:
        text = textwrap.fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    console.print(text, style=style, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:,.2f} MB" if abs(count) >= _SMALLEST_IN_MB else f"{count / 1e3:,.1f} kB"


def counted(count: int, what: str) -> str:
    """Return a number of things, ``what`` being the name of one."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def ratio(value: float | None) -> str:
    """Return a ratio as people read it; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"
