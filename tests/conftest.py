"""Fixtures: models on disk."""

from pathlib import Path

import pytest
from samples import text_model, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small quantised model in a directory of its own, all data inside."""
    directory = tmp_path / "source"
    directory.mkdir()
    return write(text_model(), directory / "model.onnx")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty directory for results."""
    directory = tmp_path / "out"
    directory.mkdir()
    return directory
