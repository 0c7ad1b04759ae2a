"""``mcd ascend compress``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compress"]


def compress(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="A .npy with a dict of int8 weights, or a .safetensors.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.", show_default=False)],
    description: Annotated[
        Path | None, typer.Option(metavar="D.json", help="msModelSlim's description, for a .safetensors.")
    ] = None,
    transpose: Annotated[bool, typer.Option("--transpose", help="The weights are (k, n), as ONNX has them.")] = False,
    compressor: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="CANN's compress_excutor, for the device's codec instead of the open one."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Weights at a time.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
) -> None:
    """Compress weights as msModelSlim does, into the same files.

    A .npy gives OUT/weight/NAME.dat, OUT/index/NAME.dat (int8) and OUT/info/NAME.dat (int64 [8, 8, k, n, 1]); a
    .safetensors gives the W8A8SC file and its description.

    Example: [bold]mcd ascend compress weight.npy OUT[/bold]
    """
    from mcd_graph.ascend.compressor import compress_file  # noqa: PLC0415

    summary = compress_file(
        source, out, description=description, transpose=transpose, compressor=compressor, jobs=jobs, force=force
    )
    for line in summary:
        typer.echo(line)
