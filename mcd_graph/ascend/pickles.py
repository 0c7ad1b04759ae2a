"""Reads the .npy files of the operator's walkthrough: a pickled dict of arrays, which is not trusted.

Unpickling runs whatever the file asks for. So nothing is unpickled here: this is an interpreter of its own for the few
opcodes that ``numpy.save`` writes for a dict of arrays. It makes strings, integers, bytes, tuples, lists and dicts, and
two kinds of notes, "an array" and "a dtype", which become NumPy arrays only after all they say has been checked. It
imports nothing and calls nothing by name. Any other opcode, name or shape of data is refused.
"""

import dataclasses
import mmap
import os
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mcd_graph.errors import InputError

__all__ = ["load_weights"]

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # up to NumPy 1, and from 2 on
_DTYPES = {
    code: np.dtype(f"<{code}") for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (True|False), 'shape': \(\), \}\s*")
_LONGEST_HEADER = 4096
_MARK = object()


def load_weights(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read a dict of arrays that ``numpy.save`` wrote, without unpickling it.

    Args:
        path: of the .npy file.

    Returns:
        The arrays by name, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not a .npy, or holds anything else than a dict of names and plain arrays.

    Examples:
        >>> import numpy
        >>> from mcd_graph.ascend import load_weights
        >>> numpy.save("weight.npy", {"query": numpy.zeros((64, 128), numpy.int8)})
        >>> {name: (array.dtype.name, array.shape) for name, array in load_weights("weight.npy").items()}
        {'query': ('int8', (64, 128))}
    """
    with Path(path).open("rb") as file:
        _read_header(file, os.fspath(path))
        # Reading past the end of a map gives what is there; a file would set aside whatever size an opcode claims.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            content.seek(file.tell())
            try:
                return _weights(_interpret(content))
            except InputError as error:
                raise InputError(f"{os.fspath(path)}: {error}") from None


def _read_header(file: BinaryIO, name: str) -> None:
    """Read up to the pickle of a .npy file of one object; NumPy's own reader would parse the header as Python."""
    start = file.read(8)
    if start[:7] not in (b"\x93NUMPY\x01", b"\x93NUMPY\x02") or start[7:] != b"\x00":
        raise InputError(f"{name} is not a .npy file")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    header = file.read(length) if length <= _LONGEST_HEADER else b""
    if not _HEADER.fullmatch(header):
        raise InputError(f"{name} is not a .npy file of one object: its header is {header[:80]!r}")


@dataclasses.dataclass(frozen=True)
class _Name:
    """Something that the pickle would import."""

    module: str
    name: str


@dataclasses.dataclass
class _Dtype:
    """A dtype as the pickle describes it: its code, such as ``i1``, and its state."""

    code: Any
    state: Any = None


@dataclasses.dataclass
class _Array:
    """An array as the pickle describes it: (version, shape, dtype, Fortran order, content)."""

    state: Any = None


def _interpret(content: mmap.mmap) -> Any:
    """Run a pickle's opcodes and return what they leave on the stack."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):  # type: ignore[arg-type]  # it only reads
            if opcode.name == "STOP":
                (result,) = stack
                return result
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise InputError(f"refused: pickle opcode {opcode.name} has no place in a dict of arrays")
            action(stack, memo, argument)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(f"damaged pickle: {error}") from None
    raise InputError("damaged pickle: no end")


def _weights(root: Any) -> dict[str, npt.NDArray[Any]]:
    """Turn what the pickle described into arrays, after checking all of it."""
    match root:
        case _Array((1, (), _Dtype("O8" | "O4" | "O"), bool(), [dict(content)])):
            pass
        case _:
            raise InputError("refused: it does not hold one dict")
    if not content:
        raise InputError("the dict of weights is empty")
    return {_weight_name(name): _array(name, value) for name, value in content.items()}


def _weight_name(name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(f"refused: a weight's name is a {type(name).__name__}, not text")
    return name


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    match value:
        case _Array(
            (1, tuple(shape), _Dtype(str(code), (3, str(order), None, None, None, *_)), bool(fortran), bytes(data))
        ):
            pass
        case _:
            raise InputError(f"refused: weight {name!r} is not a plain array")
    dtype = _DTYPES.get(code)
    if dtype is None or (order not in ("<", "=") and not (order == "|" and dtype.itemsize == 1)):
        raise InputError(f"refused: weight {name!r} has dtype {order}{code}")
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape) or len(shape) > 32:
        raise InputError(f"refused: weight {name!r} has shape {shape}")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise InputError(f"damaged: weight {name!r} has {len(data)} bytes, which do not fit its type and shape")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


# ---------------------------------------------------------------------------------------------------------------------
# Opcodes. Each action gets the stack, the memo and the opcode's argument.

_Action = Callable[[list[Any], dict[int, Any], Any], None]


def _push(stack: list[Any], _memo: dict[int, Any], argument: Any) -> None:
    stack.append(argument)


def _constant(value: Any) -> _Action:
    return lambda stack, _memo, _argument: stack.append(value)


def _nothing(_stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
    return None


def _memoize(stack: list[Any], memo: dict[int, Any], argument: int | None) -> None:
    memo[len(memo) if argument is None else argument] = stack[-1]


def _recall(stack: list[Any], memo: dict[int, Any], argument: int) -> None:
    stack.append(memo[argument])


def _tuple_of(count: int) -> _Action:
    def make(stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
        if len(stack) < count:
            raise IndexError("stack is empty")
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)

    return make


def _to_mark(stack: list[Any]) -> list[Any]:
    """Take everything above the topmost mark off the stack, and the mark."""
    for position in range(len(stack) - 1, -1, -1):
        if stack[position] is _MARK:
            items = stack[position + 1 :]
            del stack[position:]
            return items
    raise IndexError("no mark")


def _tuple(stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
    stack.append(tuple(_to_mark(stack)))


def _extend(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not list:
        raise TypeError("append to what is no list")
    stack[-1].extend(items)


def _update(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not dict or len(items) % 2:
        raise TypeError("items for what is no dict")
    for name, value in zip(items[::2], items[1::2], strict=True):
        stack[-1][_weight_name(name)] = value


def _set_item(stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
    items = [stack.pop(), stack.pop()]
    _update(stack, items[::-1])


def _name(stack: list[Any], _memo: dict[int, Any], argument: str | None) -> None:
    if argument is None:  # STACK_GLOBAL
        name, module = stack.pop(), stack.pop()
    else:  # GLOBAL: genops gives both with a blank between
        module, _, name = argument.partition(" ")
    found = _Name(module, name)
    allowed = found in (_Name("numpy", "ndarray"), _Name("numpy", "dtype")) or (
        module in _MULTIARRAY and name == "_reconstruct"
    )
    if not allowed:
        raise InputError(f"refused: it asks for {module}.{name}")
    stack.append(found)


def _reduce(stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
    arguments, called = stack.pop(), stack.pop()
    match called, arguments:
        case _Name("numpy", "dtype"), (str(code), *_):
            stack.append(_Dtype(code))
        case _Name(_, "_reconstruct"), (_Name("numpy", "ndarray"), (0,), b"b"):
            stack.append(_Array())
        case _:
            raise InputError("refused: it calls something that makes no array")


def _build(stack: list[Any], _memo: dict[int, Any], _argument: Any) -> None:
    state, target = stack.pop(), stack[-1]
    if not isinstance(target, _Array | _Dtype) or target.state is not None:
        raise InputError("refused: it sets the state of something that is no array")
    target.state = state


_ACTIONS: dict[str, _Action] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _constant(_MARK),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda stack, _memo, _argument: stack.append([]),
    "EMPTY_DICT": lambda stack, _memo, _argument: stack.append({}),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _push),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), _push),
    **dict.fromkeys(("MEMOIZE", "BINPUT", "LONG_BINPUT"), _memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _recall),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _tuple,
    "APPEND": lambda stack, _memo, _argument: _extend(stack, [stack.pop()]),
    "APPENDS": lambda stack, _memo, _argument: _extend(stack, _to_mark(stack)),
    "SETITEM": _set_item,
    "SETITEMS": lambda stack, _memo, _argument: _update(stack, _to_mark(stack)),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _name),
    "REDUCE": _reduce,
    "BUILD": _build,
}
