"""``mcd ascend checkpoint``."""

from pathlib import Path
from typing import Annotated

import typer

from mcd_graph.cli.cluster import dask_executor
from mcd_graph.cli.options import AsJson, Force, Quiet
from mcd_graph.cli.output import byte_bar, print_json

__all__ = ["checkpoint"]


def checkpoint(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of a W8A8S model.", show_default=False)],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write to.", show_default=False)],
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the tensor-parallel group that will load it.")] = 1,
    layout: Annotated[
        str, typer.Option(metavar="vllm|mindie", help="vLLM-Ascend's sharded_state, or MindIE's partN-of-M.")
    ] = "vllm",
    compressor: Annotated[
        Path | None, typer.Option(metavar="PATH", help="CANN's compress_excutor, for a device; else it is a rehearsal.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows that each layer is run with and compared; 0 for none.")] = 4,
    jobs: Annotated[int | None, typer.Option(min=1, help="Layers at a time.", show_default=False)] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Compress on a Dask cluster: its scheduler's address or file.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Compress a W8A8S model folder to W8A8SC, fused and split as its loader does, and rehearse every layer.

    Without --compressor the open codec is used: the folder shows sizes and faults, and no device reads it. A run that
    was interrupted goes on where it was. Exit status 1: a layer's results differ from the uncompressed product.

    Example: [bold]mcd ascend checkpoint SRC DST --ranks 2[/bold]
    """
    from mcd_graph.ascend.checkpoint import write_checkpoint  # noqa: PLC0415

    with byte_bar("compressing", shown=not (as_json or quiet)) as progress, dask_executor(dask) as executor:
        if executor is not None and jobs is None:
            jobs = 2 * executor.threads  # so that no worker waits for the next layer
        report = write_checkpoint(
            source,
            destination,
            ranks=ranks,
            layout=layout,
            compressor=compressor,
            rows=rows,
            jobs=jobs,
            executor=executor,
            progress=progress,
            force=force,
        )
    if as_json:
        print_json(report.as_json())
    elif not quiet:
        for line in report.lines():
            typer.echo(line)
    if report.differing:
        raise typer.Exit(1)
