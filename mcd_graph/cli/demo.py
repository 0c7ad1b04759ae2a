"""``mcd demo``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcd_graph.cli.bench import print_bench
from mcd_graph.cli.compress import print_totals
from mcd_graph.cli.options import AsJson
from mcd_graph.cli.output import out, print_json, say, step_bar
from mcd_graph.cli.verify import print_verification

if TYPE_CHECKING:
    from mcd_graph.demo import DemoResult

__all__ = ["demo"]


_Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the compressed model goes.")]


def demo(folder: _Folder = Path("mcd-demo"), as_json: AsJson = False) -> None:
    """Compress, verify and time the encoder of a real T5-small model (from the package traceforge-title-model).

    Example: [bold]mcd demo --out /tmp/mcd-demo[/bold]
    """
    from mcd_graph.demo import run_demo  # noqa: PLC0415

    with step_bar() as progress:
        result = run_demo(folder, progress=progress)
    if as_json:
        _print_json(result)
    else:
        _print(result)
    if not (result.verification.identical or result.verification.only_saturation):
        raise typer.Exit(1)


def _print_json(result: "DemoResult") -> None:
    print_json(
        {
            "schema": "mcd-demo",
            "schema_version": 1,
            "compressed": str(result.compressed),
            "page": str(result.page),
            "seconds": result.seconds,
            "report": result.report.to_dict(),
            "verification": {"identical": result.verification.identical, **dataclasses.asdict(result.verification)},
            "bench": result.bench.to_dict(),
        }
    )


def _print(result: "DemoResult") -> None:
    print_totals(result.report.totals)
    out.print(f"compressed in {result.seconds:.2f} s")
    print_verification(result.verification)
    print_bench(result.bench)
    say(f"Written: {result.compressed}, with its weights beside it, and {result.page}")
    out.print(
        "Next: open the report in a browser; look at every layer with\n"
        f"  mcd inspect {result.compressed}\n"
        "and try a model of your own, quantised to int8:\n"
        "  mcd compress model.onnx model.mcd.onnx && mcd verify model.onnx model.mcd.onnx",
        markup=False,
        soft_wrap=True,
    )
