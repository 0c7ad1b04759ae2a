"""What commands say of all int8 constants of a model."""

from typing import TYPE_CHECKING

from mcd_graph.cli.output import counted, ratio, say, size
from mcd_graph.report.forecast import forecast, open_to_restoring

if TYPE_CHECKING:
    from mcd_graph.report.data import Report, Totals

__all__ = ["print_constants", "print_forecast", "print_gain_at_open", "print_left", "print_per_channel"]

_OF_CONSTANTS = ("decoding-costs", "prepared-at-opening")
"""Codes of constants, where nodes have others."""

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


def print_left(report: "Report") -> None:
    """Print why constants are left that were looked at for decoding at run time, those of one reason together."""
    left: dict[str, list[int]] = {}
    for each in report.constants:
        if each.status == "kept" and each.code in _OF_CONSTANTS:
            left.setdefault(each.reason or "", []).append(each.bytes_before)
    for reason, sizes in left.items():
        say(f"left {counted(len(sizes), 'constant')} of {size(sum(sizes))}: {reason}")


def print_per_channel(report: "Report") -> None:
    """Print how much is quantised per channel, and what that means for its size."""
    found = [each for each in report.constants if each.per_channel]
    before = sum(each.bytes_before for each in found)
    bits = sum(each.bytes_before * each.entropy_bits for each in found) / max(1, before)
    if before < _WORTH_SAYING * report.totals.file_bytes_before or not bits:
        return
    say(
        f"{size(before)} are quantised with a scale for each channel, so that their values fill the range: "
        f"{bits:.1f} bits of entropy, a ratio of {ratio(8 / bits)} at best; with one scale for a tensor, weights have "
        "5 to 6"
    )


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
