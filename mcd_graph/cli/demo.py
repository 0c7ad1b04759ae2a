"""``mcd demo``."""

from pathlib import Path
from typing import Annotated

import typer

from mcd_graph.cli.bench import print_bench
from mcd_graph.cli.compress import print_totals
from mcd_graph.cli.output import out, step_bar
from mcd_graph.cli.verify import print_verification

__all__ = ["demo"]


_Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the compressed model goes.")]


def demo(folder: _Folder = Path("mcd-demo")) -> None:
    """Compress, verify and time the encoder of a real T5-small model (from the package traceforge-title-model).

    Example: [bold]mcd demo --out /tmp/mcd-demo[/bold]
    """
    from mcd_graph.demo import run_demo  # noqa: PLC0415

    with step_bar() as progress:
        result = run_demo(folder, progress=progress)
    print_totals(result.report.totals)
    out.print(f"compressed in {result.seconds:.2f} s")
    print_verification(result.verification)
    print_bench(result.bench)
    out.print(f"Written: {result.compressed}, with its weights beside it, and {result.page}", soft_wrap=True)
    out.print(
        "Next: open the report in a browser; look at every layer with\n"
        f"  mcd inspect {result.compressed}\n"
        "and try a model of your own, quantised to int8:\n"
        "  mcd compress model.onnx model.mcd.onnx && mcd verify model.onnx model.mcd.onnx",
        markup=False,
        soft_wrap=True,
    )
    if not result.verification.identical:
        raise typer.Exit(1)
