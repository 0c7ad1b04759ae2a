"""``mcd ascend listing``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["listing"]


def listing(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
) -> None:
    """Write the program of the operator's document, put right, and the script that makes its data.

    Example: [bold]mcd ascend listing DIR[/bold]
    """
    from mcd_graph.ascend.stand_in import write_listing  # noqa: PLC0415

    for path in write_listing(folder, force=force):
        typer.echo(path)
