"""Imports that wait until they are used: SymPy, which takes the command line as long to load as all the rest.

onnx_ir computes with it where dimensions are expressions, which nothing here does.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["postpone_sympy"]

#: SymPy, and the module of onnx_ir that asks it for functions when it is loaded.
_POSTPONED = frozenset(("sympy", "onnx_ir._symbolic_shapes"))


class _Finder(MetaPathFinder):
    """Finds these modules as Python does, and has them executed when something of them is first asked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _POSTPONED else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def postpone_sympy() -> None:
    """Let SymPy wait until it is used, for all imports to come: for processes that are the command line's own."""
    sys.meta_path.insert(0, _Finder())
