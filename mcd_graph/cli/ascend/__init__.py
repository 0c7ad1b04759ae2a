"""The commands ``mcd ascend …``, each in a module of its own."""

import typer

from mcd_graph.cli.ascend.cflags import cflags
from mcd_graph.cli.ascend.checkpoint import checkpoint
from mcd_graph.cli.ascend.compress import compress
from mcd_graph.cli.ascend.doctor import doctor
from mcd_graph.cli.ascend.export import export
from mcd_graph.cli.ascend.listing import listing

__all__ = ["app"]

app = typer.Typer(
    name="ascend",
    help="Take compressed weights to Ascend: msModelSlim's files, the way to ATC, a stand-in for the device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command()(compress)
app.command()(checkpoint)
app.command()(export)
app.command()(doctor)
app.command()(cflags)
app.command()(listing)
