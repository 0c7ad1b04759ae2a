"""Codes of reasons: the page that lists them is the enumeration, and each says what it means and what can be done."""

import json
import re
from pathlib import Path

import pytest

import mcd_graph
from mcd_graph.passes import Kept, ReasonCode, Refusal

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reasons.md"


def table() -> str:
    """Return the table of the page."""
    rows = [f"| `{code}` | {code.meaning} | {code.remedy} |" for code in ReasonCode]
    return "\n".join(["| code | what is the case | what to do |", "|---|---|---|", *rows]) + "\n"


def test_the_page_lists_every_code(tmp_path: Path) -> None:
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition("| code |")
    right = tmp_path / "reasons.md"
    right.write_text(head + table(), encoding="utf-8")
    assert mark
    assert PAGE.read_text(encoding="utf-8") == right.read_text(encoding="utf-8"), f"copy {right} to {PAGE}"


@pytest.mark.parametrize("code", ReasonCode)
def test_a_code_is_stable_and_says_what_to_do(code: ReasonCode) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
    assert code.name == code.value.upper().replace("-", "_")
    assert code.meaning.endswith(".")
    assert code.remedy.endswith(".")


def test_a_refusal_is_its_text() -> None:
    refusal = Refusal(ReasonCode.EXCLUDED, "its name matches --exclude")
    assert str(refusal) == refusal.reason == "its name matches --exclude"
    assert Kept("mine").code is ReasonCode.CALLER


def test_the_report_carries_codes(model: Path, tmp_path: Path) -> None:
    report = mcd_graph.compress_model(model, tmp_path / "out.onnx", exclude="second", min_saving=0.1)
    nodes = json.loads(report.to_json())["nodes"]
    assert {node["name"]: node["code"] for node in nodes}["/second/MatMul"] == "excluded"
    assert all((node["code"] is None) == (node["status"] == "lowered") for node in nodes)
