"""The files that the guides for engineers name are there."""

import re

import pytest
from samples import ROOT

NAMED = re.compile(r"`([\w./-]+)`")
SUFFIXES = (".py", ".pyi", ".rs", ".md", ".j2", ".toml")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design/architecture.md"])
def test_every_path_that_is_named_exists(page: str) -> None:
    """A name without a folder is in the one that the last heading names."""
    folder, found = ROOT, 0
    for line in (ROOT / page).read_text().splitlines():
        names = [name for name in NAMED.findall(line) if name.endswith((*SUFFIXES, "/")) or name.startswith(".ci/")]
        if line.startswith("#"):
            folder = ROOT / names[0] if names else ROOT
        for name in names:
            assert (ROOT / name).exists() or (folder / name).exists(), f"{page}: {name}"
        found += len(names)
    assert found > 10


def test_the_map_is_complete() -> None:
    text = (ROOT / "docs" / "design" / "architecture.md").read_text()
    for folder in ("mcd_graph", "passes"):
        for path in (ROOT / folder).glob("*.py"):
            if path.name != "__init__.py":
                assert f"`{path.name}`" in text, path.name
    for folder in ("native/core/src", "native/ort/src"):
        for path in (ROOT / folder).iterdir():
            if path.name not in ("lib.rs", "fake.rs"):
                assert f"`{path.name}{'/' if path.is_dir() else ''}" in text or f"`{path.name}/" in text, path.name


def test_every_example_is_listed() -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    for path in (ROOT / "examples").glob("*/*"):
        if path.suffix in (".py", ".cpp"):
            assert f"({path.relative_to(ROOT / 'examples')})" in text, path.name
