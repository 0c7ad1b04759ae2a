"""What commands say of all int8 constants of a model."""

from typing import TYPE_CHECKING

from mcd_graph.cli.output import ratio, say, size
from mcd_graph.report.forecast import forecast, open_to_restoring

if TYPE_CHECKING:
    from mcd_graph.report.data import Report, Totals

__all__ = ["print_constants", "print_forecast", "print_gain_at_open"]

_WORTH_SAYING = 0.01
"""Share of the files."""


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
    """Print what --at-open would bring to a compressed model, where it was not asked for."""
    gain = (expected := forecast(report)).compressed - expected.at_open
    if gain >= _WORTH_SAYING * report.totals.file_bytes_before:
        before = sum(each.bytes_before for each in open_to_restoring(report))
        say(f"--at-open would compress {size(before)} more, which saves about {size(gain)}")


def print_forecast(report: "Report") -> None:
    """Print what size compression would give the files of a model that was only looked at."""
    expected, before = forecast(report), report.totals.file_bytes_before
    if expected.at_open == before:
        return
    sizes = {"": expected.compressed, "with --at-open ": expected.at_open}
    if expected.compressed - expected.at_open < _WORTH_SAYING * before:
        del sizes["with --at-open "]
    each = (
        f"{how}about {size(after)}, ratio {ratio(before / after)}" for how, after in sizes.items() if after < before
    )
    say(f"compressed, the files of {size(before)} would have " + ", and ".join(each))
