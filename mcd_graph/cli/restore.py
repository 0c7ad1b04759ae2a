"""``mcd restore``."""

import dataclasses

from mcd_graph.cli.options import AsJson, DataName, Destination, Force, Inline, MemoryLimit, NoMmap, Quiet, Source
from mcd_graph.cli.output import byte_bar, counted, print_json, say, size

__all__ = ["restore"]


def restore(
    source: Source,
    destination: Destination,
    inline: Inline = False,
    data_name: DataName = None,
    force: Force = False,
    no_mmap: NoMmap = False,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a compressed model back into one of standard operators that computes the same bits.

    Example: [bold]mcd restore model.mcd.onnx model.restored.onnx[/bold]
    """
    from mcd_graph.restore import restore_model  # noqa: PLC0415

    with byte_bar("restoring", shown=not (as_json or quiet)) as progress:
        result = restore_model(
            source,
            destination,
            progress=progress,
            inline=inline,
            data_name=data_name,
            force=force,
            mmap=not no_mmap,
            memory_limit=memory_limit,
        )
    if as_json:
        print_json({"schema": "mcd-restoration", "schema_version": 1, **dataclasses.asdict(result)})
    if as_json or quiet:
        return
    sizes = f"{size(result.file_bytes_before)} became {size(result.file_bytes_after)}"
    say(f"{counted(result.restored, 'node')} restored; {sizes}")
    for name, reason in result.kept.items():
        say(f"kept {name}: {reason}")
