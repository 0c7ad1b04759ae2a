"""``mcd restore``."""

from mcd_graph.cli.options import Destination, Force, Inline, Quiet, Source
from mcd_graph.cli.output import byte_bar, out, size

__all__ = ["restore"]


def restore(
    source: Source, destination: Destination, inline: Inline = False, force: Force = False, quiet: Quiet = False
) -> None:
    """Turn a compressed model back into one of standard operators that computes the same bits.

    Example: [bold]mcd restore model.mcd.onnx model.restored.onnx[/bold]
    """
    from mcd_graph.restore import restore_model  # noqa: PLC0415

    with byte_bar("restoring", shown=not quiet) as progress:
        result = restore_model(source, destination, progress=progress, inline=inline, force=force)
    if quiet:
        return
    out.print(
        f"{result.restored} nodes restored; {size(result.file_bytes_before)} became {size(result.file_bytes_after)}"
    )
    for name, reason in result.kept.items():
        out.print(f"kept {name}: {reason}", markup=False)
