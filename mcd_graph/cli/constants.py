"""What commands say of all int8 constants of a model."""

from typing import TYPE_CHECKING

from mcd_graph.cli.output import say, size

if TYPE_CHECKING:
    from mcd_graph.report.data import Report, Totals

__all__ = ["print_constants", "print_gain_at_open"]

_WORTH_SAYING = 0.01
"""Share of the files."""

_AT_OPEN_CODES = ("operator-not-compressed", "weight-shared", "weight-of-kept", "fuses-otherwise", "differs")
"""Reasons that keep a constant from being decoded at run time, and not from being restored at opening."""


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


def print_gain_at_open(report: "Report") -> None:
    """Print what --at-open would bring, where it was not asked for: by entropy, so less tables and padding."""
    open_to_it = [each for each in report.constants if each.status == "kept" and each.code in _AT_OPEN_CODES]
    gain = sum(each.bytes_before * (1 - each.entropy_bits / 8) for each in open_to_it)
    if gain >= _WORTH_SAYING * report.totals.file_bytes_before:
        before = sum(each.bytes_before for each in open_to_it)
        say(f"--at-open would compress {size(before)} more, which saves up to {size(round(gain))}")
