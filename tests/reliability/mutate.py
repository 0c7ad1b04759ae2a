"""Mutation testing of one module of the package: changes one thing at a time, and names the changes that no test sees.

    python -P tests/reliability/mutate.py mcd_graph/ascend/pickles.py tests/ascend/test_pickles.py [PYTEST ARGUMENT...]

Each change runs in a fork of one process that has imported what comes from elsewhere, with the tests that call the
function that is changed, and what is outside of functions with all. Comparisons are turned, conditions negated, numbers
moved by one, ``and`` and ``or`` exchanged, results and whole statements left out. What survives changes nothing, or is
not tested.
"""

import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import math
import os
import resource
import signal
import sys
import tempfile
import threading
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

IMPORTED = (np, onnx, onnx_ir, onnxruntime)
# Tests that take this many times as much of a processor as without a change have an endless loop; those that take this
# many seconds wait for ever.
PATIENCE, WAIT = 10, 1800
ALL = "all"

TURNED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in a node's place, with a word for it."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in TURNED:
            other = copy.copy(node)
            other.ops = [TURNED[type(operator)]()]
            yield "compared otherwise", other
        case ast.BoolOp() | ast.BinOp() if type(node.op) in TURNED:
            other = copy.copy(node)
            other.op = TURNED[type(node.op)]()
            yield "another operator", other
        case ast.Constant(value=bool(value)):
            yield "the other truth", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "one more", ast.Constant(value + 1)
        case ast.If() | ast.IfExp() | ast.While():
            other = copy.copy(node)
            other.test = ast.UnaryOp(ast.Not(), node.test)
            yield "the other way", other
        case ast.Return(value=ast.expr()):
            yield "nothing returned", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Continue():
            yield "not done", ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield "not called", ast.Pass()


def mutants(source: str) -> Iterator[tuple[int, str, str, ast.Module]]:
    """All changes of a module: the line, its text, the change, and the module with it."""
    tree = ast.parse(source)
    lines = source.splitlines()
    for number, node in enumerate(ast.walk(tree)):
        for what, other in changes(node):
            line = getattr(node, "lineno", 0)
            changed = copy.deepcopy(tree)
            target = next(found for at, found in enumerate(ast.walk(changed)) if at == number)

            class Exchange(ast.NodeTransformer):
                def visit(self, found: ast.AST, target: ast.AST = target, other: ast.AST = other) -> ast.AST:
                    return copy.deepcopy(other) if found is target else self.generic_visit(found)

            yield line, lines[line - 1].strip(), what, ast.fix_missing_locations(Exchange().visit(changed))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Find the module."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def create_module(self, _: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the system."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the tree."""
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)  # noqa: S102 (what importing is)


class Reached:
    """A plugin of pytest that finds out which tests call which functions of a file."""

    def __init__(self, path: Path, found: Path) -> None:
        self.file, self.found = str(path), found
        self.tests: dict[int, set[str]] = defaultdict(set)  # by the first line of a function
        self.name = ALL

    def _trace(self, frame: types.FrameType, *_: object) -> None:
        if frame.f_code.co_filename == self.file:
            self.tests[frame.f_code.co_firstlineno].add(self.name)

    @contextlib.contextmanager
    def _called_by(self, name: str) -> Iterator[None]:
        before, self.name = self.name, name
        try:
            yield
        finally:
            self.name = before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watch a test."""
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            with self._called_by(item.nodeid):
                return (yield)
        finally:
            sys.settrace(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        """Take what several tests share for a part of all."""
        with self._called_by(self.name if fixturedef.scope == "function" else ALL):
            return (yield)

    def pytest_sessionfinish(self) -> None:
        """Write it down."""
        self.found.write_text(json.dumps({line: sorted(names) for line, names in self.tests.items()}))


class Chosen:
    """A plugin of pytest that leaves out all other tests."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave them out."""
        items[:] = [item for item in items if item.nodeid in self.names]


def passes(finder: Finder, arguments: list[str], plugins: list[object], seconds: float) -> tuple[bool, float]:
    """Tell whether the tests pass with a changed module, and the seconds of a processor that they have used."""
    child = os.fork()
    if child == 0:
        signal.alarm(WAIT)
        limit = math.ceil(min(seconds, WAIT))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        status = 1
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.meta_path.insert(0, finder)
            options = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
            status = int(pytest.main([*options, *arguments], plugins=plugins))
        os._exit(status)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status) == 0, used.ru_utime + used.ru_stime


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def functions(tree: ast.Module) -> list[range]:
    """The lines of each function and method, with what is inside of it."""
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    found = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    return [range(min([n.lineno, *(d.lineno for d in n.decorator_list)]), n.end_lineno + 1) for n in found]


def reached(name: str, path: Path, arguments: list[str]) -> tuple[dict[int, set[str]], float]:
    """The tests that call the functions of a module, by their first lines, and what the tests take in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        finder = Finder(name, path, ast.parse(path.read_text()))
        done, seconds = passes(finder, arguments, [Reached(path, found)], math.inf)
        if not done:
            sys.exit("the tests fail without a change")
        return {int(line): set(names) for line, names in json.loads(found.read_text()).items()}, seconds


def main(path: Path, arguments: list[str]) -> int:
    """Try all changes of a module; whether any survives."""
    name = ".".join(path.with_suffix("").parts)
    source = path.read_text()
    tests, seconds = reached(name, path, arguments)
    parts = functions(ast.parse(source))
    count, left = 0, []
    for line, text, what, tree in mutants(source):
        count += 1
        part = next((part for part in parts if line in part), range(0))
        names = set[str]().union(*(tests.get(first, set()) for first in part))
        chosen = [Chosen(names)] if names and ALL not in names else []
        if passes(Finder(name, path, tree), arguments, chosen, PATIENCE * seconds)[0]:
            left.append(line)
            say(f"{path}:{line}: {what}: {text}")
    say(f"{count - len(left)} of {count} changes of {path} are seen")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
