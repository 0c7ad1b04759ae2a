"""The planner asks onnxruntime in a fork of its process, lest onnxruntime end it; most of these models are harmless."""

from collections.abc import Callable

import pytest

from mcd_graph.passes.engine import optimized

#: Their models are made at random, and onnxruntime ends the process on some of those.
AT_RANDOM = {"test_properties.py", "test_random_graphs.py"}


@pytest.fixture(autouse=True)
def asked_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask in this process: a fork of one so large takes most of the time of these tests."""

    def death_of(work: Callable[[], object], *, seconds: float) -> None:
        del seconds
        work()

    if request.path.name not in AT_RANDOM:
        monkeypatch.setattr(optimized, "death_of", death_of)
