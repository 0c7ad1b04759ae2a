"""``mcd bench``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mcd_graph.cli.destinations import check_outputs
from mcd_graph.cli.options import AsJson, CustomOps, Force, Html
from mcd_graph.cli.output import err, html_page, out, print_json, say, size, step_bar
from mcd_graph.errors import InputError
from mcd_graph.system import processors

if TYPE_CHECKING:
    from mcd_graph.bench import Bench
    from mcd_graph.codec.weights import Profile as ProfileName

__all__ = ["bench", "print_bench"]

_DEFAULT_THREADS = "default"


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
    residency: Annotated[
        str,
        typer.Option(metavar="RESIDENCY,…", help="What weights occupy: auto, compressed, decoded; each a contestant."),
    ] = "auto",
    alternatives: Annotated[
        str,
        typer.Option(
            "--onnxruntime",
            metavar="WAY,…",
            help="onnxruntime's ways to save memory with ORIGINAL, as contestants: unpacked (weights in external data, "
            "pre-packing off), saved (pre-packed weights in a file).",
        ),
    ] = "",
    threads: Annotated[
        str, typer.Option(metavar="N,…", help="Threads within one operator; default is onnxruntime's, all processors.")
    ] = "default,1",
    repeats: Annotated[int, typer.Option(min=1, help="Timed bursts of each model, in up to five openings.")] = 15,
    custom_ops: CustomOps = None,
    html: Html = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare latency and memory, each model in a process of its own, in turns, with 95 % intervals of the ratio.

    Example: [bold]mcd bench model.onnx model.mcd.onnx --m 1,32 --threads 2[/bold]
    """
    from mcd_graph.alternatives import ALTERNATIVES  # noqa: PLC0415
    from mcd_graph.bench import RESIDENCIES, bench_models  # noqa: PLC0415

    check_outputs(html, inputs=[path for path in (original, compressed) if path is not None], force=force)
    counts = _numbers(threads.replace(_DEFAULT_THREADS, "0"), "--threads")
    if max(counts) > (here := processors()):
        warning = f"mcd: {max(counts)} threads on {here} processors: they wait for each other"
        say(warning, "yellow", console=err)
    page = None if html is None else html_page(html, force=force)
    with step_bar() as show:
        result = bench_models(
            original,
            compressed,
            profiles=_profiles(profiles),
            residencies=_choices(residency, RESIDENCIES, "--residency"),
            alternatives=_choices(alternatives, ALTERNATIVES, "--onnxruntime") if alternatives else (),
            m=_numbers(m, "--m"),
            axes=[_axes(text) for text in axes or ()],
            threads=counts,
            repeats=repeats,
            custom_ops=custom_ops or (),
            progress=lambda done, total: show("measuring", done, total),
        )
    if page is not None:
        page(title=f"{original.name}: benchmark", bench=result)
    if as_json:
        print_json(result.to_dict())
    else:
        print_bench(result)


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

    chosen = _choices(text, PROFILES, "--profiles")
    return tuple(profile for profile in PROFILES if profile in chosen)


def _choices(text: str, of: Sequence[str], option: str) -> tuple[str, ...]:
    chosen = dict.fromkeys(text.split(","))
    for name in chosen:
        if name not in of:
            raise InputError(f"{option} takes {', '.join(of)}, not {name!r}")
    return tuple(chosen)


def print_bench(result: "Bench") -> None:
    """Print times and memory as two tables."""
    table = Table("shape", "threads", "model", "original", "compressed", "speed-up", "95 % of it")
    for column in (*table.columns[1:2], *table.columns[3:]):
        column.justify = "right"
    for row in result.rows:
        table.add_row(
            escape(row.shape),
            row.threads_used,
            escape(row.contestant),
            f"{row.original_ms:.2f} ms",
            f"{row.compressed_ms:.2f} ms",
            f"{row.speedup:.2f}",
            f"{row.speedup_low:.2f} to {row.speedup_high:.2f}",
        )
    out.print(table)
    for name in dict.fromkeys(row.contestant for row in result.rows if not row.identical):
        say(f"mcd: {name} gives other bytes than the original; mcd verify says which", "yellow", console=err)
    table = Table("model", "files", "anonymous", "private", "proportional", "opening")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in result.contestants:
        cells = [size(one.file_bytes)]
        if one.footprints:
            memory = ("anonymous_bytes", "private_bytes", "proportional_bytes")
            cells += [size(round(one.median(figure))) for figure in memory]
            cells.append(f"{one.median('load_ms'):.0f} ms")
        table.add_row(escape(one.name), *cells)
    out.print(table)
    say(f"medians; memory that a session adds to a process of its own; {result.machine}")
