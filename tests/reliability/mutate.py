"""Mutation testing of one module of the package: changes one thing at a time, and names the changes that no test sees.

    python -P tests/reliability/mutate.py mcd_graph/ascend/pickles.py tests/ascend/test_pickles.py [PYTEST ARGUMENT...]

Each change runs in a fork of one process that has imported what comes from elsewhere, so it takes about as long as the
tests themselves. Comparisons are turned, conditions negated, numbers moved by one, ``and`` and ``or`` exchanged,
results and whole statements left out. What survives changes nothing, or is not tested.
"""

import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

IMPORTED = (np, onnx, onnx_ir)
SECONDS = 120

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


def survives(finder: Finder, arguments: list[str]) -> bool:
    """Tell whether the tests pass with a changed module."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        status = 1
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.meta_path.insert(0, finder)
            status = int(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *arguments]))
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(path: Path, arguments: list[str]) -> int:
    """Try all changes of a module; whether any survives."""
    name = ".".join(path.with_suffix("").parts)
    source = path.read_text()
    if not survives(Finder(name, path, ast.parse(source)), arguments):
        sys.exit("the tests fail without a change")
    count, left = 0, []
    for line, text, what, tree in mutants(source):
        count += 1
        if survives(Finder(name, path, tree), arguments):
            left.append(line)
            say(f"{path}:{line}: {what}: {text}")
    say(f"{count - len(left)} of {count} changes of {path} are seen")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
