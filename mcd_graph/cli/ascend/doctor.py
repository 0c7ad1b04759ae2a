"""``mcd ascend doctor``."""

import dataclasses
import json
from typing import Annotated

import typer

from mcd_graph.cli.output import say

__all__ = ["doctor"]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """Say what of CANN, msModelSlim and the build tools is installed, and what is missing for which way.

    Example: [bold]mcd ascend doctor[/bold]
    """
    from mcd_graph.ascend.doctor import examine  # noqa: PLC0415

    ways = examine()
    if as_json:
        typer.echo(json.dumps([{**dataclasses.asdict(way), "complete": way.complete} for way in ways], indent=2))
        return
    for way in ways:
        missing = sum(finding.where is None for finding in way.findings)
        say(f"{way.name}: {'complete' if way.complete else f'{missing} missing'}")
        for finding in way.findings:
            say(f"  {finding.what}: {finding.where or f'missing; {finding.remedy}'}")
    say("Nothing was loaded or run; whether a device works only a run on it can tell.")
