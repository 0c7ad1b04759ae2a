"""``mcd ascend export``."""

from pathlib import Path
from typing import Annotated

import typer

from mcd_graph.cli.output import say
from mcd_graph.errors import InputError

__all__ = ["export"]


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to read.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.", show_default=False)],
    soc: Annotated[str, typer.Option(metavar="NAME", help="ATC's name of the chip.")] = "Ascend310P3",
    compressor: Annotated[
        Path | None, typer.Option(metavar="PATH", help="CANN's compress_excutor, for the device's codec.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="NAME:1,8;…", help="Sizes of the inputs, where the model leaves them open.")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Cut activations into chunks of so many rows; CANN's document says 256.")
    ] = None,
    split_activations: Annotated[
        bool,
        typer.Option(
            "--split-activations",
            help="Multiply upper and lower four bits by themselves: twice the rows, less rounding to float16.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
) -> None:
    """Write MODEL in the form of Ascend's operator, for the run-time hand-off, with what ATC would need besides.

    Example: [bold]mcd ascend export model.onnx DIR --input-shape x:1,256[/bold]
    """
    from mcd_graph.ascend.export import export_model  # noqa: PLC0415

    result = export_model(
        model,
        folder,
        soc=soc,
        compressor=compressor,
        input_shapes=_shapes(input_shape),
        max_rows=max_rows,
        split_activations=split_activations,
        force=force,
    )
    strict = sum(site.status == "strict" for site in result.sites)
    say(f"{strict} of {len(result.sites)} matrix multiplications are strict; written to {result.folder}")
    for name in result.grown:
        say(f"{name} does not compress: its stream is larger than the weight")
    if result.device_ready:
        say("no known blocker of the run-time hand-off (mcd.device=ascend:0); untested on hardware")
    else:
        say("not device-ready:")
        for obstacle in result.obstacles:
            say(f"- {obstacle}")
    say("ATC is not known to take it; the run-time hand-off is the recommended way:")
    for obstacle in result.atc_obstacles:
        say(f"- {obstacle}")
    for doubt in result.doubts:
        say(f"- doubtful: {doubt}")


def _shapes(text: str | None) -> dict[str, tuple[int, ...]]:
    """Read ``x:1,256;mask:1,1``, as atc's --input_shape is written."""
    shapes = {}
    for part in (text or "").split(";"):
        if not part:
            continue
        name, colon, sizes = part.rpartition(":")
        numbers = sizes.split(",")
        if not colon or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InputError(f"--input-shape takes NAME:1,8;NAME:1,8, not {part!r}")
        shapes[name] = tuple(int(number) for number in numbers)
    return shapes
