"""Fixtures: models on disk, and how the planner asks onnxruntime about the many models of some tests."""

import gc
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import text_model, write

from mcd_graph.passes.engine import optimized

#: Their models are made at random, and onnxruntime ends the process on some of those.
AT_RANDOM = {"test_properties.py", "test_random_graphs.py"}


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start, where a script started the tests in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let garbage collections, a tenth of a second each, pass over what is there for good: all modules and tests."""
    gc.freeze()


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


@pytest.fixture(autouse=True)
def asked_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the planner ask in this process in the tests of the rules: forks of it would take most of their time."""

    def death_of(work: Callable[[], object], *, seconds: float) -> None:
        del seconds
        work()

    if request.path.parent.name in ("field", "passes") and request.path.name not in AT_RANDOM:
        monkeypatch.setattr(optimized, "death_of", death_of)
