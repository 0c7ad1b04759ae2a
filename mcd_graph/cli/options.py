"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "CustomOps",
    "DataName",
    "Destination",
    "Force",
    "Html",
    "Inline",
    "MemoryLimit",
    "NoMmap",
    "Quiet",
    "Source",
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CustomOps = Annotated[
    list[Path] | None,
    typer.Option("--custom-ops", metavar="LIB", help="Library of operators that the models need; may be repeated."),
]
DataName = Annotated[
    str | None,
    typer.Option("--data-name", metavar="NAME", help="Name of DST's data file; DST_data by default."),
]
Destination = Annotated[Path, typer.Argument(metavar="DST", help="Model to write.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are already there.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="R.html", help="Write a report as one HTML file.")]
Inline = Annotated[bool, typer.Option("--inline", help="Keep all weights inside of DST (below 2 GiB).")]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        metavar="BYTES",
        min=0,
        help="Refuse a weight that takes more memory than this, for untrusted models; no limit by default.",
    ),
]
NoMmap = Annotated[
    bool,
    typer.Option(
        "--no-mmap", help="Read a private copy of SRC, made beside DST, so that SRC may be truncated meanwhile."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Source = Annotated[Path, typer.Argument(metavar="SRC", help="Model to read.", show_default=False)]
