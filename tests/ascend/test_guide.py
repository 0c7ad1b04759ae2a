"""The guide's pages on Ascend: every command and program in it runs, in its order, on a machine without CANN."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ascend.small_checkpoint import small_model

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walk(page: str, folder: Path, strict: str) -> str:
    """Run a page's blocks in their order and return what they print."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["MCD_ACLNN_STRICT"] = strict
    blocks = BLOCK.findall((ROOT / "docs" / "guide" / page).read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"bash", "python"}
    printed = ""
    for language, text in blocks:
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("strict", ["1", ""])
def test_the_walk(tmp_path: Path, strict: str) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    printed = walk("ascend.md", tmp_path, strict)
    for part in ("weight", "index", "info"):
        names = [tmp_path / folder / part / "weight.dat" for folder in ("data", "again")]
        assert names[0].read_bytes() == names[1].read_bytes()
    assert "1 of 1 matrix multiplications are strict" in printed
    assert "**This export is not device-ready:**" in printed
    for way in ("CPU stand-in", "msModelSlim", "ATC", "run-time hand-off"):
        assert f"{way}: " in printed


def test_the_documents_listing(tmp_path: Path) -> None:
    assert "result[0] is: " in walk("ascend-listing.md", tmp_path, "")


def test_the_checkpoint(tmp_path: Path) -> None:
    small_model().save(tmp_path / "Qwen3-8B-w8a8s")
    printed = walk("ascend-checkpoint.md", tmp_path, "")
    assert printed.count("each gave the bytes of the uncompressed product") == 2
    for path in (tmp_path / "from-python").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "Qwen3-8B-w8a8sc" / path.name).read_bytes()


def test_the_commands_are_all_described() -> None:
    pages = (ROOT / "docs" / "guide").glob("ascend*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    done = subprocess.run(
        [sys.executable, "-m", "mcd_graph", "ascend", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^│ (\w+)  ", done.stdout, re.MULTILINE)
    assert set(commands) >= {"compress", "export", "cflags", "checkpoint", "doctor", "listing"}
    assert all(f"mcd ascend {command}" in text for command in commands)
