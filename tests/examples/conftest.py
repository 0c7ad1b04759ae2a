"""The examples are programs of their own, not a package: this loads one."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from samples import ROOT


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Load an example by its path below examples/, for one test."""

    def load(path: str) -> ModuleType:
        file = ROOT / "examples" / path
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        return module

    return load
