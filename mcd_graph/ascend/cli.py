"""The commands ``mcd ascend …``, each in a module of its own."""

import typer

from mcd_graph.ascend.cflags_command import cflags
from mcd_graph.ascend.compress_command import compress
from mcd_graph.ascend.doctor_command import doctor
from mcd_graph.ascend.export_command import export

__all__ = ["app"]

app = typer.Typer(
    name="ascend",
    help="Take compressed weights to Ascend: msModelSlim's files, the way to ATC, a stand-in for the device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command()(compress)
app.command()(export)
app.command()(doctor)
app.command()(cflags)
