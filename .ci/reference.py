"""Writes docs/reference/cli.md and operators.md from the command line and the operators themselves.

    python .ci/reference.py

`tests/test_reference_pages.py` fails where a page differs from what this writes.
"""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from mcd_graph.cli import app
from mcd_graph.operators.registry import operators
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION, OperatorSpec

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_OF_THE_SHELL = {"--install-completion", "--show-completion", "--help"}


def cli_page() -> str:
    """The page of all commands."""
    lines = [
        "# Command line",
        "",
        "Every command of `mcd`, with its options. `mcd COMMAND --help` says the same. `--json`, where there is one,",
        "prints an object for programs.",
        "",
        "Exit status: 0 done; 1 a check found a difference or damage; 2 bad usage or input; 130 interrupted.",
        "",
    ]
    for name, command in _commands("mcd", get_command(app)):
        lines += _command(name, command)
    return "\n".join(lines)


def _commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{prefix} {name}", command)
        else:
            yield f"{prefix} {name}", command


def _command(name: str, command: Any) -> Iterator[str]:
    text, _, example = (command.help or "").partition("Example:")
    yield from (f"## {name}", "", *_paragraphs(text), "")
    if example:
        yield from ("    " + re.sub(r"\[/?\w+\]", "", example).strip(), "")
    options = [one for one in command.params if one.opts[0].startswith("-") and one.opts[0] not in _OF_THE_SHELL]
    if not options:
        return
    yield from ("| option | meaning | default |", "|---|---|---|")
    for one in options:
        spelling = ", ".join(one.opts) + _value(one)
        plain = one.default is None or isinstance(one.default, bool) or callable(one.default)
        default = "" if plain else f"`{one.default}`"
        yield f"| `{spelling}` | {_cell(one.help)} | {default} |"
    yield ""


def _value(option: Any) -> str:
    """What stands behind an option's name."""
    if option.is_flag or option.type_descriptor.annotation is bool:
        return ""
    choices = typing.get_args(option.type_descriptor.annotation)
    if choices and all(isinstance(one, str) for one in choices):
        return f" {'/'.join(choices)}"
    return f" {option.metavar or 'N'}"


def _cell(text: str | None) -> str:
    return " ".join(re.sub(r"\\(?=\[)", "", text or "").split()).replace("|", "\\|")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(re.sub(r"\[/?\w+\]", "", one).split()) for one in text.strip().split("\n\n")]


def operators_page() -> str:
    """The page of all operators."""
    lines = [
        "# Operators",
        "",
        f"The operators of the domain `{DOMAIN}`, version {DOMAIN_VERSION}: what they compute, their inputs, outputs",
        "and attributes. Each has its compressed weight in `x2`, `compress_index` and `compress_info`, as",
        "[the format](format.md) defines them.",
        "",
    ]
    for spec in sorted(operators(), key=lambda one: one.op_type):
        lines += _operator(spec)
    return "\n".join(lines)


def _operator(spec: OperatorSpec) -> Iterator[str]:
    yield from (f"## {spec.op_type}", "", "```text", spec.doc.strip(), "```", "")
    yield from ("| input | type | what it is |", "|---|---|---|")
    for each in spec.inputs:
        presence = " (optional)" if each.optional else ""
        yield f"| `{each.name}`{presence} | {_type(spec, each.type)} | {_cell(each.doc)} |"
    yield from ("", "| output | type | what it is |", "|---|---|---|")
    for output in spec.outputs:
        yield f"| `{output.name}` | {_type(spec, output.type)} | {_cell(output.doc)} |"
    yield from ("", "| attribute | type | what it is |", "|---|---|---|")
    for attribute in spec.attributes:
        if attribute.required:
            presence = " (required)"
        else:
            presence = "" if attribute.default is None else f" (default {attribute.default})"
        yield f"| `{attribute.name}`{presence} | {attribute.type.name.lower()} | {_cell(attribute.doc)} |"
    yield ""


def _type(spec: OperatorSpec, name: str) -> str:
    types = spec.types[name][0] if name in spec.types else (name,)
    return ", ".join(one.removeprefix("tensor(").removesuffix(")") for one in types)


PAGES = {"cli.md": cli_page, "operators.md": operators_page}


if __name__ == "__main__":
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page())
