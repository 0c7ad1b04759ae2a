"""``mcd inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from mcd_graph.cli.constants import print_constants, print_forecast, print_left, print_per_channel
from mcd_graph.cli.options import AsJson, CustomOps, MemoryLimit
from mcd_graph.cli.output import byte_bar, counted, out, print_json, say, size

__all__ = ["inspect"]


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    check: Annotated[
        bool, typer.Option("--check", help="Only verify the file, without running it; exit status 1 if it is damaged.")
    ] = False,
    custom_ops: CustomOps = None,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
) -> None:
    """Show every node of MODEL with quantised weights, compressed or not, and check its compressed weights.

    Example: [bold]mcd inspect model.mcd.onnx[/bold]
    """
    if check:
        _inspect_check(model, as_json=as_json, memory_limit=memory_limit)
        return
    from mcd_graph.inspection import inspect_model  # noqa: PLC0415
    from mcd_graph.report.tables import layer_tables  # noqa: PLC0415

    with byte_bar("decoding", shown=not as_json) as progress:
        report = inspect_model(model, progress=progress, custom_ops=custom_ops or (), memory_limit=memory_limit)
    if as_json:
        print_json(report.to_dict())
        return
    for part in layer_tables(report.nodes):
        out.print(part)
    totals = report.totals
    say(
        f"{counted(totals.nodes, 'node')} with quantised weights: {totals.lowered} lowered, "
        f"{totals.lowerable} lowerable, {totals.kept} kept"
    )
    if totals.ratio is not None:
        say(
            f"{counted(totals.weights, 'weight')}: {size(totals.weight_bytes)} became {size(totals.compressed_bytes)}, "
            f"ratio {totals.ratio:.3f}"
        )
    print_constants(totals, "compressed" if totals.lowered else "can be compressed")
    if totals.ratio is None:
        print_left(report)
        print_per_channel(report)
        print_forecast(report)
    if totals.ratio is None and totals.lowerable:
        say(f"To compress them: mcd compress {model} {model.with_suffix('.mcd.onnx').name}")


def _inspect_check(model: Path, *, as_json: bool, memory_limit: int | None) -> None:
    from mcd_graph.integrity import check_model  # noqa: PLC0415

    with byte_bar("checking", shown=not as_json) as progress:
        result = check_model(model, progress=progress, memory_limit=memory_limit)
    if as_json:
        print_json(result.to_dict())
    elif result.intact:
        say(
            f"intact: {counted(result.weights, 'compressed weight')}, {size(result.compressed_bytes)}, "
            f"of {counted(result.nodes, 'node')}",
            "green",
        )
    else:
        for problem in result.problems:
            say(f"damaged: {problem}", "red")
    if not result.intact:
        raise typer.Exit(1)
