"""Codes of reasons: the page that lists them is the enumeration, and each says what it means and what can be done."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mcd_graph
from mcd_graph.passes import Kept, ReasonCode, Refusal

ROOT = Path(__file__).parents[2]


def test_the_pages_list_every_code_and_family() -> None:
    command = [sys.executable, ROOT / ".ci" / "pages", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


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
