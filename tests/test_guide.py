"""What the guide and the README tell people to type: the programs run, the commands and their options exist."""

import re
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT
from typer.main import get_command

import mcd_graph
from mcd_graph.cli import app

GUIDE = ROOT / "docs" / "guide"
#: Pages whose programs run in a folder with a compressed model.
PROGRAMS = ("own-model", "serving")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(page: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    mcd_graph.compress_model(model, "model.mcd.onnx")
    blocks = re.findall(r"```python\n(.*?)```", (GUIDE / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    scope: dict[str, object] = {}
    try:
        for block in blocks:
            exec(block, scope)  # noqa: S102 - our own words
    finally:
        mcd_graph.disable()


def _commands(group: Any, prefix: str = "mcd") -> dict[str, set[str]]:
    """Each command with its options."""
    found: dict[str, set[str]] = {prefix: {option for one in group.params for option in one.opts} | {"--help"}}
    for name, command in getattr(group, "commands", {}).items():
        found |= _commands(command, f"{prefix} {name}")
    return found


def test_commands_and_options_exist() -> None:
    known = _commands(get_command(app))
    found = 0
    for page in PAGES:
        for line in re.findall(r"`(mcd [^`\n]*)`|^(?:    |)(mcd .*)$", page.read_text(), re.MULTILINE):
            text = (line[0] or line[1]).partition("  #")[0].split()
            words = [word for word in text if not word.startswith("-")]
            depth = next((size for size in (3, 2, 1) if " ".join(words[:size]) in known), 0)
            name = " ".join(words[:depth])
            options = {word.partition("=")[0] for word in text if word.startswith("--")}
            assert depth > 1 or not words[1:] or not words[1].islower(), f"{page.name}: {' '.join(text)}"
            assert options <= known[name], f"{page.name}: {' '.join(text)}"
            found += 1
    assert found > 40
