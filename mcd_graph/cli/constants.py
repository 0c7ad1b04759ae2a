"""What commands say of all int8 constants of a model."""

from typing import TYPE_CHECKING

from mcd_graph.cli.output import say, size

if TYPE_CHECKING:
    from mcd_graph.report.data import Totals

__all__ = ["print_constants"]


def print_constants(totals: "Totals", what: str) -> None:
    """Print how many of the bytes of int8 constants were compressed, or can be, and who reads the others."""
    if not totals.constant_bytes:
        return
    share = totals.constant_bytes_lowered / totals.constant_bytes
    text = f"{share:.1%} of the bytes of int8 constants {what}: "
    text += f"{size(totals.constant_bytes_lowered)} of {size(totals.constant_bytes)}"
    if totals.constant_bytes_left:
        text += "; left: " + ", ".join(f"{name} {size(left)}" for name, left in totals.constant_bytes_left.items())
    say(text)
