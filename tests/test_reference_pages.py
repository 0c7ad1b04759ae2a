"""The pages of docs/ that are written from code and records say what those say."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import plain_codec
import pytest
from samples import ROOT


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "operators.md"])
def test_reference_pages(page: str) -> None:
    script = _script(ROOT / ".ci" / "reference.py")
    assert (script.FOLDER / page).read_text() == script.PAGES[page](), "run: python .ci/reference.py"


def test_the_tables_of_readme_and_results_are_made_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = _script(ROOT / "benchmarks" / "tables.py")
    found = [one for page in script.PAGES for one in re.findall(r"<!-- (\w+): (\S+) -->", page.read_text())]
    assert {name for name, _ in found} == set(script.TABLES)
    assert len({record for name, record in found if name in script.ONE_STORY}) == 1
    for page in script.PAGES:
        assert script.fill(page.read_text()) == page.read_text(), "run: python benchmarks/tables.py"


def test_the_worked_example_of_the_format_is_what_the_codec_writes() -> None:
    page = (ROOT / "docs" / "reference" / "format.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, object] = {}
    exec(program, scope)  # noqa: S102 - our own words
    packed, weight = scope["packed"], scope["weight"]
    x2, index = (np.asarray(getattr(packed, part)).tobytes() for part in ("x2", "compress_index"))
    example = page.partition("## A worked example")[2]
    shown = bytearray(len(x2))
    for offset, line in re.findall(r"^([0-9a-f]{3})  ([0-9a-f ]+)$", example, re.MULTILINE):
        shown[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(line)
    assert bytes(shown) == x2
    assert f"```text\n{index.hex(' ')}\n```" in example
    assert f"`compress_info` is `{list(map(int, packed.compress_info))}`" in example  # type: ignore[attr-defined]
    assert np.array_equal(plain_codec.decode(x2, index, packed.compress_info), weight)  # type: ignore[attr-defined]


def test_the_page_of_versions_names_the_present_ones() -> None:
    from mcd_graph import bench, pack_weight  # noqa: PLC0415
    from mcd_graph.operators.spec import DOMAIN_VERSION  # noqa: PLC0415
    from mcd_graph.report import data  # noqa: PLC0415

    page = (ROOT / "docs" / "reference" / "versions.md").read_text()
    versions = re.findall(r"^\| .*? \| ([\d and]+) \|", page, re.MULTILINE)
    weight = np.eye(16, 32, dtype=np.int8)
    oldest, newest = (pack_weight(weight, packed=packed).stats.format_version for packed in (False, True))
    formats = f"{oldest} and {newest}"
    assert versions == [formats, *map(str, (DOMAIN_VERSION, data.SCHEMA_VERSION, bench.SCHEMA_VERSION))]
    assert f"this build reads versions {oldest} and {newest}" in " ".join(page.split())
    format_page = (ROOT / "docs" / "reference" / "format.md").read_text()
    assert f"format **version {newest}**, and version {oldest}" in format_page


def test_the_figures_of_the_readme_are_those_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    plots = _script(ROOT / "benchmarks" / "plots.py")
    figure = (ROOT / "docs" / "figures" / "real-model.svg").read_text()
    readme = (ROOT / "README.md").read_text()
    for contestant in ("onnxruntime", "auto"):
        figures = plots.real_figures(plots.one_story(), contestant)
        assert len(figures) == 3
        for title, (_, shown) in figures.items():
            assert shown in figure, "run: python benchmarks/plots.py"
            assert re.search(rf"\| {title}(, 1 process)? \|.*\b{shown}", readme)
