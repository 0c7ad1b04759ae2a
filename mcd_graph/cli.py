"""The command ``mcd``: arguments in, text out. Everything it does is in the Python API as well.

Results go to standard output; progress and errors, one line each, to standard error. Exit status: 0 done, 1 a check
found a difference, 2 bad usage or input. Heavy imports wait until a command needs them, so that ``--help`` is quick.
"""

import dataclasses
import errno
import json
import logging
import signal
import sys
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from mcd_graph.ascend.cli import app as ascend
from mcd_graph.errors import InputError, WorkerError
from mcd_graph.model.temporaries import remove_temporaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from mcd_graph.bench import Bench
    from mcd_graph.codec.cluster import DaskExecutor
    from mcd_graph.codec.weights import Profile as ProfileName
    from mcd_graph.progress import Progress as TaskProgress
    from mcd_graph.proof import Proof
    from mcd_graph.report.data import NodeReport, Totals
    from mcd_graph.verify import Verification

__all__ = ["app", "main"]

app = typer.Typer(
    name="mcd",
    help="Make quantised ONNX models smaller without changing one bit of what they compute.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(ascend)

_SECONDS_WITHOUT_BAR = 1.0
_PIPED_WIDTH = 160  # nobody's terminal: wide enough for names of nodes
_out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
_err = Console(highlight=False, stderr=True)

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # the base that typer does not export


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the command line and return its exit status; nothing but the last line of defence raises."""
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are not ours to print
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="mcd", standalone_mode=False)
    except _UsageError as error:
        return _complain(f"{error.format_message()} (mcd --help)")  # type: ignore[attr-defined]
    except (InputError, ValueError, WorkerError) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(_describe(error))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit:  # how typer and rich end when the reader of the output went away, as `head` does
        return 128 + signal.SIGPIPE
    if status == 128 + signal.SIGINT:  # what typer makes of KeyboardInterrupt
        return _interrupted()
    return status if isinstance(status, int) else 0


def _interrupted() -> int:
    remove_temporaries()
    _complain("interrupted; no file was left half-written")
    return 128 + signal.SIGINT


def _complain(message: str) -> int:
    _err.print(f"mcd: {escape(' '.join(message.split()))}", style="red", soft_wrap=True)
    return 2


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        reason = "no space left; no file was left half-written"
    return f"{error.filename}: {reason}" if error.filename is not None else reason


Source = Annotated[Path, typer.Argument(metavar="SRC", help="Model to read.", show_default=False)]
Destination = Annotated[Path, typer.Argument(metavar="DST", help="Model to write.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are already there.")]
Inline = Annotated[bool, typer.Option("--inline", help="Keep all weights inside of DST (below 2 GiB).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="R.html", help="Write a report as one HTML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of  # noqa: PLC0415

        _out.print(f"mcd-graph {version_of('mcd-graph')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        _out.print(context.get_help(), markup=False)
        raise typer.Exit(2)


@app.command()
def compress(
    source: Source,
    destination: Destination,
    profile: Annotated[
        Literal["fast", "balanced", "small"], typer.Option(help="Point of the trade between speed and size.")
    ] = "balanced",
    jobs: Annotated[int | None, typer.Option(min=1, help="Weights at a time; one per processor by default.")] = None,
    include: Annotated[str | None, typer.Option(metavar="RE", help="Lower only nodes whose name matches.")] = None,
    exclude: Annotated[str | None, typer.Option(metavar="RE", help="Keep nodes whose name matches.")] = None,
    convolutions: Annotated[bool, typer.Option("--convolutions", help="1x1 convolutions too, run slower.")] = False,
    min_saving: Annotated[float, typer.Option(help="Share of a weight's size that must be saved.")] = 0.01,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Compress on the Dask cluster whose scheduler is there.")
    ] = None,
    inline: Inline = False,
    report: Annotated[Path | None, typer.Option(metavar="R.json", help="Write the report as JSON.")] = None,
    html: Html = None,
    force: Force = False,
    force_larger: Annotated[
        bool, typer.Option("--force-larger", help="Write the model even if its files are not smaller.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not run both models before DST is put in place.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compress the weights of SRC's int8 matrix multiplications and write DST.

    Example: [bold]mcd compress model.onnx model.mcd.onnx[/bold]
    """
    from mcd_graph.compress import compress_model  # noqa: PLC0415
    from mcd_graph.model.replacement import refuse_existing  # noqa: PLC0415
    from mcd_graph.model.saving import write_text  # noqa: PLC0415

    if report is not None:
        refuse_existing(report, force=force)
    page = None if html is None else _page(html, force=force)
    with _progress("compressing", shown=not (as_json or quiet)) as progress, _executor(dask) as executor:
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
            force=force,
            force_larger=force_larger,
            verify=not no_verify,
        )
    if report is not None:
        write_text(report, result.to_json(), force=force)
    if page is not None:
        from mcd_graph.report.histograms import weight_histograms  # noqa: PLC0415

        page(title=f"{source.name}, compressed", report=result, histograms=weight_histograms(destination))
    if as_json:
        _print_json(result.to_dict())
    if as_json or quiet:
        return
    _print_totals(result.totals)
    _print_proof(result.proof)
    _print_kept(result.nodes)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    check: Annotated[
        bool, typer.Option("--check", help="Only verify the file, without running it; exit status 1 if it is damaged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every quantised matrix multiplication of MODEL, compressed or not, and check its compressed weights.

    Example: [bold]mcd inspect model.mcd.onnx[/bold]
    """
    if check:
        _inspect_check(model, as_json=as_json)
        return
    from mcd_graph.inspection import inspect_model  # noqa: PLC0415
    from mcd_graph.report.tables import layer_tables  # noqa: PLC0415

    with _progress("decoding", shown=not as_json) as progress:
        report = inspect_model(model, progress=progress)
    if as_json:
        _print_json(report.to_dict())
        return
    for part in layer_tables(report.nodes):
        _out.print(part)
    totals = report.totals
    _out.print(
        f"{totals.nodes} quantised matrix multiplications: {totals.lowered} lowered, "
        f"{totals.lowerable} lowerable, {totals.kept} kept",
        soft_wrap=True,
    )
    if totals.ratio is not None:
        _out.print(
            f"{totals.weights} weights: {_size(totals.weight_bytes)} became {_size(totals.compressed_bytes)}, "
            f"ratio {totals.ratio:.3f}",
            soft_wrap=True,
        )
    elif totals.lowerable:
        _out.print(f"To compress them: mcd compress {model} {model.with_suffix('.mcd.onnx').name}", soft_wrap=True)


def _inspect_check(model: Path, *, as_json: bool) -> None:
    from mcd_graph.integrity import check_model  # noqa: PLC0415

    with _progress("checking", shown=not as_json) as progress:
        result = check_model(model, progress=progress)
    if as_json:
        _print_json(result.to_dict())
    elif result.intact:
        _out.print(
            f"intact: {result.weights} compressed weights, {_size(result.compressed_bytes)}, "
            f"of {result.nodes} multiplications",
            style="green",
            soft_wrap=True,
        )
    else:
        for problem in result.problems:
            _out.print(f"damaged: {problem}", style="red", markup=False, soft_wrap=True)
    if not result.intact:
        raise typer.Exit(1)


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", show_default=False)],
    compressed: Annotated[Path, typer.Argument(metavar="COMPRESSED", show_default=False)],
    runs: Annotated[int, typer.Option(min=1, help="Runs, each of another batch size and length.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs.")] = 0,
    inputs: Annotated[
        Path | None, typer.Option(metavar="F.npz", help="Inputs by name, instead of random ones; one run then.")
    ] = None,
    precise: Annotated[
        bool,
        typer.Option(
            "--precise", help="Exact products of 8-bit integers without VNNI, where onnxruntime's saturate otherwise."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run both models on the same inputs and compare every byte of their outputs.

    Example: [bold]mcd verify model.onnx model.mcd.onnx[/bold]
    """
    from mcd_graph.verify import verify_model  # noqa: PLC0415

    arrays = None if inputs is None else _load_inputs(inputs)
    result = verify_model(original, compressed, runs=runs, seed=seed, inputs=arrays, precise=precise)
    if as_json:
        _print_json({"identical": result.identical, **dataclasses.asdict(result)})
    else:
        _print_verification(result)
    if not result.identical:
        raise typer.Exit(1)


@app.command()
def restore(
    source: Source, destination: Destination, inline: Inline = False, force: Force = False, quiet: Quiet = False
) -> None:
    """Turn a compressed model back into one of standard operators that computes the same bits.

    Example: [bold]mcd restore model.mcd.onnx model.restored.onnx[/bold]
    """
    from mcd_graph.restore import restore_model  # noqa: PLC0415

    with _progress("restoring", shown=not quiet) as progress:
        result = restore_model(source, destination, progress=progress, inline=inline, force=force)
    if quiet:
        return
    _out.print(
        f"{result.restored} nodes restored; {_size(result.file_bytes_before)} became {_size(result.file_bytes_after)}"
    )
    for name, reason in result.kept.items():
        _out.print(f"kept {name}: {reason}", markup=False)


@app.command()
def bench(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", show_default=False)],
    compressed: Annotated[
        Path | None,
        typer.Argument(metavar="[COMPRESSED]", help="Made for the occasion by default.", show_default=False),
    ] = None,
    m: Annotated[str, typer.Option(metavar="M,…", help="Rows of the activations.")] = "1,8,64,512",
    axes: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N,…", help="One shape by the model's own axes, instead of --m; may be repeated."),
    ] = None,
    profiles: Annotated[
        str, typer.Option(metavar="PROFILE,…", help="What to make where COMPRESSED is not given.")
    ] = "balanced",
    threads: Annotated[str, typer.Option(metavar="N,…", help="Threads within one operator.")] = "1,2",
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of each model.")] = 15,
    html: Html = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare latency and memory, in turns, with 95 % intervals of the ratio.

    Example: [bold]mcd bench model.onnx model.mcd.onnx --m 1,32 --threads 2[/bold]
    """
    from mcd_graph.bench import bench_models  # noqa: PLC0415

    page = None if html is None else _page(html, force=force)
    with _steps() as show:
        result = bench_models(
            original,
            compressed,
            profiles=_profiles(profiles),
            m=_numbers(m, "--m"),
            axes=[_axes(text) for text in axes or ()],
            threads=_numbers(threads, "--threads"),
            repeats=repeats,
            progress=lambda done, total: show("measuring", done, total),
        )
    if page is not None:
        page(title=f"{original.name}: benchmark", bench=result)
    if as_json:
        _print_json(result.to_dict())
    else:
        _print_bench(result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the compressed model goes.")] = Path("mcd-demo"),
) -> None:
    """Compress, verify and time the encoder of a real T5-small model (from the package traceforge-title-model).

    Example: [bold]mcd demo --out /tmp/mcd-demo[/bold]
    """
    from mcd_graph.demo import run_demo  # noqa: PLC0415

    with _steps() as progress:
        result = run_demo(out, progress=progress)
    _print_totals(result.report.totals)
    _out.print(f"compressed in {result.seconds:.2f} s")
    _print_verification(result.verification)
    _print_bench(result.bench)
    _out.print(f"Written: {result.compressed}, with its weights beside it, and {result.page}", soft_wrap=True)
    _out.print(
        "Next: open the report in a browser; look at every layer with\n"
        f"  mcd inspect {result.compressed}\n"
        "and try a model of your own, quantised to int8:\n"
        "  mcd compress model.onnx model.mcd.onnx && mcd verify model.onnx model.mcd.onnx",
        markup=False,
        soft_wrap=True,
    )
    if not result.verification.identical:
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} takes whole numbers with commas between, not {text!r}") from None


def _axes(text: str) -> dict[str, int]:
    try:
        return {name.strip(): int(size) for name, size in (part.rsplit("=", 1) for part in text.split(","))}
    except ValueError:
        raise InputError(f"--axes takes name=number with commas between, not {text!r}") from None


def _profiles(text: str) -> "tuple[ProfileName, ...]":
    from mcd_graph.codec.weights import PROFILES  # noqa: PLC0415

    chosen = text.split(",")
    for name in chosen:
        if name not in PROFILES:
            raise InputError(f"--profiles takes {', '.join(PROFILES)}, not {name!r}")
    return tuple(profile for profile in PROFILES if profile in chosen)


def _load_inputs(path: Path) -> "dict[str, npt.NDArray[np.generic]]":
    import numpy as np  # noqa: PLC0415

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (AttributeError, TypeError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{path} is not an .npz file of plain arrays") from None


# ---------------------------------------------------------------------------------------------------------------------
# Output


@contextmanager
def _progress(task: str, *, shown: bool = True) -> "Iterator[Callable[[TaskProgress], None]]":
    """Show a bar on a terminal for what takes longer than a second, and nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=_err, transient=True, disable=not (shown and sys.stderr.isatty()))
    row = bar.add_task(task, total=None)
    timer = threading.Timer(_SECONDS_WITHOUT_BAR, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda progress: bar.update(row, completed=progress.bytes_done, total=progress.bytes_total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


@contextmanager
def _executor(dask: str | None) -> "Iterator[DaskExecutor | None]":
    """Connect to the cluster, if one is given."""
    if dask is None:
        yield None
        return
    from mcd_graph.codec.cluster import DaskExecutor  # noqa: PLC0415

    with DaskExecutor(dask) as executor:
        yield executor


@contextmanager
def _steps() -> "Iterator[Callable[[str, int, int], None]]":
    """Show a bar of steps, named by stage, on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        rows: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done, total=total)

        yield show


def _page(path: Path, *, force: bool) -> "Callable[..., None]":
    """Return what writes the HTML report, once it is known that this can be done: the work before takes minutes."""
    from mcd_graph.model.replacement import refuse_existing  # noqa: PLC0415
    from mcd_graph.model.saving import write_text  # noqa: PLC0415
    from mcd_graph.report.html import render_report, require  # noqa: PLC0415

    require()
    refuse_existing(path, force=force)

    def write(**sections: Any) -> None:
        write_text(path, render_report(**sections), force=force)

    return write


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_totals(totals: "Totals") -> None:
    table = Table("", "before", "after", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("weights", _size(totals.weight_bytes), _size(totals.compressed_bytes), _ratio(totals.ratio))
    after = totals.file_bytes_after
    if after is not None:
        table.add_row("files", _size(totals.file_bytes_before), _size(after), _ratio(totals.file_bytes_before / after))
    _out.print(table)
    over = totals.payload_bytes / totals.entropy_bytes - 1 if totals.entropy_bytes else 0.0
    _out.print(
        f"{totals.lowered} of {totals.nodes} quantised matrix multiplications lowered, {totals.weights} weights; "
        f"payload {over:.1%} over the order-0 entropy",
        soft_wrap=True,
    )


def _print_proof(proof: "Proof | None") -> None:
    if proof is None:
        return
    if not proof.proved:
        _out.print(f"not proved: {proof.reason}", style="yellow", markup=False, soft_wrap=True)
        return
    settings = " and ".join(f"at {setting} settings" if setting == "default" else f"with {setting}"
                            for setting in proof.settings)  # fmt: skip
    _out.print(
        f"proved: {proof.values:,} output values the same in {proof.runs} runs {settings} of onnxruntime "
        f"{proof.onnxruntime}, {proof.seconds:.1f} s",
        style="green",
        soft_wrap=True,
    )
    for name in proof.not_deterministic:
        _out.print(
            f"not proved for {name}, which the original computes otherwise each time", style="yellow", markup=False
        )


def _print_kept(nodes: "tuple[NodeReport, ...]") -> None:
    for node in nodes:
        if node.status == "kept":
            _out.print(f"kept {node.name}: {node.reason}", markup=False)


def _print_verification(result: "Verification") -> None:
    settings = " and ".join("at default settings" if each else "without optimisations" for each in result.optimised)
    if result.identical:
        _out.print(
            f"identical: {result.values:,} output values in {len(result.shapes)} runs "
            f"on {' and '.join(str(count) for count in result.threads)} threads, {settings}",
            style="green",
        )
    for difference in result.differences:
        setting = "default settings" if difference.optimised else "no optimisations"
        _out.print(
            f"different: run {difference.run}, {difference.threads} threads, {setting}, {difference.output}: "
            f"{difference.what}",
            style="red",
            markup=False,
        )
    for name in result.not_deterministic:
        _out.print(
            f"not deterministic: the original computes {name} otherwise each time, so nothing is proved for it"
            + (f"; without a seed: {', '.join(result.random_nodes)}" if result.random_nodes else ""),
            style="red",
            markup=False,
        )
    if result.compared_before:
        _out.print(f"compared in front of that: {', '.join(result.compared_before)}", markup=False)
    for name in result.only_nan:
        _out.print(f"nothing but NaN: {name}, which proves little", style="yellow", markup=False)
    if result.saturates and result.differences:
        _out.print(
            "This processor has no VNNI: onnxruntime's products of 8-bit integers, those of the original too, saturate "
            "at 16 bits here; compressed ones do not. With --precise (session.x64quantprecision = 1) neither do.",
            style="yellow",
            soft_wrap=True,
        )


def _print_bench(result: "Bench") -> None:
    table = Table("shape", "threads", "model", "original", "compressed", "speed-up", "95 % of it")
    for column in (*table.columns[1:2], *table.columns[3:]):
        column.justify = "right"
    for row in result.rows:
        table.add_row(
            escape(row.shape),
            str(row.threads),
            escape(row.contestant),
            f"{row.original_ms:.2f} ms",
            f"{row.compressed_ms:.2f} ms",
            f"{row.speedup:.2f}",
            f"{row.speedup_low:.2f} to {row.speedup_high:.2f}",
        )
    _out.print(table)
    table = Table("model", "files", "anonymous", "private", "proportional", "opening")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in result.contestants:
        cells = [_size(one.file_bytes)]
        if one.footprints:
            memory = ("anonymous_bytes", "private_bytes", "proportional_bytes")
            cells += [_size(round(one.median(figure))) for figure in memory]
            cells.append(f"{one.median('load_ms'):.0f} ms")
        table.add_row(escape(one.name), *cells)
    _out.print(table)
    _out.print(
        f"medians; memory that a session adds to a process of its own; {result.machine}", markup=False, soft_wrap=True
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"
