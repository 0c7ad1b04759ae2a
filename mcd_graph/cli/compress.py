"""``mcd compress``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from mcd_graph.cli.cluster import dask_executor
from mcd_graph.cli.constants import print_constants, print_gain_at_open, print_left, print_per_channel
from mcd_graph.cli.destinations import check_outputs
from mcd_graph.cli.options import AsJson, CustomOps, DataName, Destination, Force, Html, Inline, NoMmap, Quiet, Source
from mcd_graph.cli.output import byte_bar, counted, html_page, out, print_json, ratio, say, size

if TYPE_CHECKING:
    from mcd_graph.report.data import NodeReport, Proof, Quantization, Totals

__all__ = ["compress", "print_proof", "print_totals"]


def compress(
    source: Source,
    destination: Destination,
    profile: Annotated[
        Literal["fast", "balanced", "small"], typer.Option(help="Point of the trade between speed and size.")
    ] = "balanced",
    jobs: Annotated[int | None, typer.Option(min=1, help="Weights at a time; one per processor by default.")] = None,
    include: Annotated[str | None, typer.Option(metavar="RE", help="Lower only nodes whose name matches.")] = None,
    exclude: Annotated[str | None, typer.Option(metavar="RE", help="Keep nodes whose name matches.")] = None,
    convolutions: Annotated[bool, typer.Option("--convolutions", help="1x1 QLinearConv as multiplications.")] = False,
    min_saving: Annotated[float, typer.Option(help="Share of a weight's size that must be saved.")] = 0.01,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Compress on the Dask cluster whose scheduler is there.")
    ] = None,
    inline: Inline = False,
    data_name: DataName = None,
    at_open: Annotated[
        bool, typer.Option("--at-open", help="Compress the other int8 constants too; restored when a session opens.")
    ] = False,
    quantize: Annotated[
        Literal["dynamic", "dynamic-per-channel"] | None,
        typer.Option(help="SRC is a float model: let onnxruntime quantise it first."),
    ] = None,
    custom_ops: CustomOps = None,
    report: Annotated[Path | None, typer.Option(metavar="R.json", help="Write the report as JSON.")] = None,
    html: Html = None,
    force: Force = False,
    force_larger: Annotated[
        bool, typer.Option("--force-larger", help="Write the model even if its files are not smaller.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not run both models before DST is put in place.")
    ] = False,
    no_mmap: NoMmap = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compress the int8 weights of SRC and write DST.

    Example: [bold]mcd compress model.onnx model.mcd.onnx[/bold]
    """
    from mcd_graph.compress import compress_model  # noqa: PLC0415
    from mcd_graph.model.files import write_text  # noqa: PLC0415

    data = [] if inline else [destination.parent / (data_name or f"{destination.name}_data")]
    check_outputs(report, html, model=[destination, *data], inputs=[source], force=force)
    page = None if html is None else html_page(html, force=force)
    with byte_bar("compressing", shown=not (as_json or quiet)) as progress, dask_executor(dask) as executor:
        if executor is not None and jobs is None:
            jobs = 2 * executor.threads  # so that no worker waits for the next weight
        result = compress_model(
            source,
            destination,
            profile=profile,
            jobs=jobs,
            executor=executor,
            include=include,
            exclude=exclude,
            convolutions=convolutions,
            min_saving=min_saving,
            progress=progress,
            inline=inline,
            data_name=data_name,
            at_open=at_open,
            force=force,
            force_larger=force_larger,
            verify=not no_verify,
            mmap=not no_mmap,
            quantize=quantize,
            custom_ops=custom_ops or (),
        )
    if report is not None:
        write_text(report, result.to_json(), force=force)
    if page is not None:
        from mcd_graph.report.histograms import weight_histograms  # noqa: PLC0415

        page(title=f"{source.name}, compressed", report=result, histograms=weight_histograms(destination))
    if as_json:
        print_json(result.to_dict())
    if as_json or quiet:
        return
    if result.quantization is not None:
        _print_quantization(result.quantization)
    print_totals(result.totals)
    print_constants(result.totals, "compressed")
    print_left(result)
    print_per_channel(result)
    if not at_open:
        print_gain_at_open(result)
    if result.proof is not None:
        print_proof(result.proof)
    _print_kept(result.nodes)


def _print_quantization(quantization: "Quantization") -> None:
    """Print what each way to quantise costs: sizes, and the outputs beside the float model's."""
    table = Table("quantised", "files", "at entropy", "cosine", "largest\ndifference")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in quantization.forms:
        cosine = "-" if each.cosine is None else f"{each.cosine:.4f}"
        largest = "-" if each.largest is None or not each.scale else f"{each.largest / each.scale:.1%}"
        name = f"{each.form} *" if each.form == quantization.form else each.form
        table.add_row(name, size(each.int8_bytes), size(each.entropy_bytes), cosine, largest)
    out.print(table)
    say(f"* compressed; the float model has {size(quantization.float_bytes)}, and outputs are compared with its")
    for each in quantization.forms:
        if each.not_compared is not None:
            out.print(f"{each.form}: outputs not compared: {each.not_compared}", style="yellow", markup=False)


def print_totals(totals: "Totals") -> None:
    """Print the sums of a report."""
    table = Table("", "before", "after", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("weights", size(totals.weight_bytes), size(totals.compressed_bytes), ratio(totals.ratio))
    after = totals.file_bytes_after
    if after is not None:
        table.add_row("files", size(totals.file_bytes_before), size(after), ratio(totals.file_bytes_before / after))
    out.print(table)
    over = totals.payload_bytes / totals.entropy_bytes - 1 if totals.entropy_bytes else 0.0
    say(
        f"{totals.lowered} of {totals.nodes} nodes with quantised weights lowered, "
        f"{counted(totals.weights, 'weight')}; payload {over:.1%} over the order-0 entropy"
    )


def print_proof(proof: "Proof") -> None:
    """Print whether the compressed model was run, and what came of it."""
    if not proof.proved:
        say(f"not proved: {proof.reason}", "yellow")
        return
    settings = " and ".join("at default settings" if each == "default" else f"with {each}" for each in proof.settings)
    say(
        f"proved: {proof.values:,} output values the same in {counted(proof.runs, 'run')} {settings} of onnxruntime "
        f"{proof.onnxruntime}, {proof.seconds:.1f} s",
        "green",
    )
    for name in proof.not_deterministic:
        out.print(
            f"not proved for {name}, which the original computes otherwise each time", style="yellow", markup=False
        )


def _print_kept(nodes: "tuple[NodeReport, ...]") -> None:
    """Print what was kept and why; products of two activations have no weight that could be compressed."""
    from mcd_graph.passes import ReasonCode  # noqa: PLC0415
    from mcd_graph.report.data import WITHOUT_WEIGHT  # noqa: PLC0415

    kept = [node for node in nodes if node.status == "kept" and node.code != WITHOUT_WEIGHT]
    for node in kept:
        out.print(f"kept {node.name}: {node.reason}", markup=False)
    codes = dict.fromkeys(node.code for node in kept if node.code is not None)
    for code in [each for each in ReasonCode if each in codes]:
        out.print(f"what to do ({code}): {code.remedy}", markup=False)
    others = sum(node.code == WITHOUT_WEIGHT for node in nodes)
    if others:
        say(f"{counted(others, 'multiplication')} of two activations, without a weight (--report names them)")
