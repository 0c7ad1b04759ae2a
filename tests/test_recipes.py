"""What models/ and docs/ show of measurements is what their records say."""

import importlib.util
import json
import re
from types import ModuleType

import pytest
from samples import ROOT


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """The script models/results.py."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "models" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes_say_what_to_fetch_and_how_to_check_it(results: ModuleType) -> None:
    page = (ROOT / "models" / "README.md").read_text()
    for file in results.recipes():
        assert re.fullmatch("[0-9a-f]{64}", file["sha256"]), file["name"]
        assert file["bytes"] > 0
        forms = {each.removesuffix(", all") for each in file["quantise"]}
        assert forms <= {"as shipped", "dynamic", "qdq", "qdq s8s8"}
        assert file["source"]["licence"] in page
        assert f"`{file['source']['package']}` {file['source']['version']}" in page


def test_the_table_is_made_of_the_record(results: ModuleType) -> None:
    rows = [json.loads(line) for line in (ROOT / "models" / "results.jsonl").read_text().splitlines()]
    measured = {(row["model"], row["form"]) for row in rows}
    assert measured == {(file["name"], form) for file in results.recipes() for form in file["quantise"]}
    assert all(row["identical"] for row in rows)
    page = (ROOT / "models" / "README.md").read_text()
    assert f"{results.BEGIN}\n\n{results.table(rows)}\n\n{results.END}" in page


def test_a_file_that_is_not_the_recipes_is_refused(results: ModuleType, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (file,) = (file for file in results.recipes() if file["name"] == "rxnmap")
    path = tmp_path / file["source"]["package"] / file["path"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another model")
    with pytest.raises(SystemExit, match="the recipe says"):
        results.fetch(file, tmp_path)


def test_every_figure_that_a_page_shows_is_there() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        for target in re.findall(r"!\[.*?\]\((?!http)(.*?)\)", page.read_text())
    }
    assert len(shown) >= 5
    assert [str(path) for path in shown if not path.is_file()] == []
