"""The reader of .npy files with a pickled dict: what it admits, and that nothing else gets through or runs."""

import io
import os
import pickle  # noqa: TID251  (the hostile files are made with it)
import pickletools
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd_graph import InputError
from mcd_graph.ascend import load_weights

WEIGHT = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)


def npy(payload: bytes, *, shape: str = "()", descr: str = "'|O'", length: int = 0) -> bytes:
    """Return a .npy file of objects around a pickle, whose header has that length if one is given."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (length - 1 - len(header) if length else -(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def pickled(value: Any, protocol: int = 4) -> bytes:
    """Return what numpy.save writes behind the header for one object."""
    holder = np.empty((), object)
    holder[()] = value
    return pickle.dumps(holder, protocol=protocol)


def load(tmp_path: Path, content: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "weight.npy"
    path.write_bytes(content)
    return load_weights(path)


@pytest.mark.parametrize(
    "array",
    [
        WEIGHT,
        WEIGHT.T,
        WEIGHT[:, ::2],
        np.zeros((0, 4), np.int8),
        np.array(3, np.int8),
        np.ones((1,) * 32, np.int8),
        *(np.arange(6).reshape(2, 3).astype(code) for code in ("u1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8", "?")),
    ],
)
def test_what_numpy_saves_comes_back(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "weight.npy"
    np.save(path, {"a": array, "model.layers.0.weight": WEIGHT})  # type: ignore[arg-type]
    weights = load_weights(path)
    assert list(weights) == ["a", "model.layers.0.weight"]
    assert (weights["a"].dtype, weights["a"].shape) == (array.dtype, array.shape)
    assert np.array_equal(weights["a"], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(tmp_path: Path, protocol: int) -> None:
    """Protocol 2 has no bytes, so that Python 3 would have to call a function to make them."""
    content = npy(pickled({"a": WEIGHT}, protocol))
    if protocol == 2:
        with pytest.raises(InputError, match=r"it asks for _codecs\.encode"):
            load(tmp_path, content)
        return
    if protocol == 5:
        with pytest.raises(InputError, match="refused"):
            load(tmp_path, content)
        return
    assert np.array_equal(load(tmp_path, content)["a"], WEIGHT)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Stateful:
    """Pickles as an object whose state is set by ``__setstate__``."""

    def __init__(self) -> None:
        self.x = 1


@pytest.mark.parametrize("place", ["value", "key", "root", "beside", "nested"])
def test_nothing_runs(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "ran"
    evil = Call(os.system, f"touch {mark}")
    content = {
        "value": pickled({"a": evil}),
        "key": pickled({evil: WEIGHT}),
        "root": pickle.dumps(evil),
        "beside": pickled([{"a": WEIGHT}, evil]),
        "nested": pickled({"a": WEIGHT, "b": {"c": [evil]}}),
    }[place]
    with pytest.raises(InputError, match=r"refused: it asks for (posix|nt)\.system"):
        load(tmp_path, npy(content))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": Call(eval, "1")}, r"asks for builtins\.eval"),
        ({"a": Call(getattr, WEIGHT, "tobytes")}, r"asks for builtins\.getattr"),
        ({"a": Call(subprocess.Popen, "true")}, r"asks for subprocess\.Popen"),
        ({"a": Stateful()}, r"asks for ascend\.test_pickles\.Stateful|asks for .*Stateful"),
        ({"a": np.load}, r"asks for numpy\.load"),
        ({"a": np.float64(1)}, r"asks for numpy\.(_core|core)\.multiarray\.scalar"),
        ({"a": np.array([{"b": 1}], object)}, r"weight 'a' is not a plain array|dtype"),
        ({"a": np.zeros(2, [("x", "i1")])}, "not a plain array"),
        ({"a": np.zeros(2, ">i4")}, "dtype >i4"),
        ({"a": np.zeros(2, "S3")}, r"weight 'a' (has dtype|is not a plain array)"),
        ({"a": np.zeros(2, "M8[s]")}, r"weight 'a' (has dtype|is not a plain array)"),
        ({"a": np.zeros(2, np.complex64)}, "dtype <c8"),
        ({"a": 1}, "weight 'a' is not a plain array"),
        ({"a": None}, "weight 'a' is not a plain array"),
        ({"a": [WEIGHT]}, "weight 'a' is not a plain array"),
        ({1: WEIGHT}, "a weight's name is a int, not text"),
        ({("a",): WEIGHT}, "a weight's name is a tuple, not text"),
        ({}, "the dict of weights is empty"),
        ([WEIGHT], "does not hold one dict"),
        ("text", "does not hold one dict"),
        ({"a": {1, 2}}, "opcode EMPTY_SET"),
        ({"a": 1.5}, "opcode BINFLOAT"),
        ({"a": bytearray(b"x")}, r"asks for builtins\.bytearray"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load(tmp_path, npy(pickled(value)))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i1tR(K\x03X\x01\x00\x00\x00|NNNK\x00K\x00K\x00tb"


def by_hand(array_state: bytes) -> bytes:
    """Return a pickle of a dict with one array whose state is given as opcodes."""
    objects = DTYPE.replace(b"i1", b"O8")
    inner = ARRAY + array_state + b"b"
    return b"\x80\x03" + ARRAY + b"(K\x01)" + objects + b"\x89](}X\x01\x00\x00\x00a" + inner + b"setb."


def test_the_hand_made_pickle_is_a_valid_one(tmp_path: Path) -> None:
    state = b"(K\x01(K\x02K\x03t" + DTYPE + b"\x89C\x06abcdeft"
    content = by_hand(state)
    assert np.array_equal(pickle.loads(content)[()]["a"], load(tmp_path, npy(content))["a"])  # noqa: S301  (our own)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + DTYPE + b"\x89C\x06abcdeft", "6 bytes, which do not fit"),
        (b"(K\x01(J\xff\xff\xff\xfft" + DTYPE + b"\x89C\x06abcdeft", r"has shape \(-1,\)"),
        (b"(K\x01(\x88t" + DTYPE + b"\x89C\x01at", r"has shape \(True,\)"),
        (b"(K\x01(\x8a\x09" + b"\xff" * 8 + b"\x00t" + DTYPE + b"\x89C\x06abcdeft", "has shape"),
        (b"(K\x01(K\x00\x8a\x05\x00\x00\x00\x80\x00t" + DTYPE + b"\x89C\x00t", r"has shape \(0, 2147483648\)"),
        (b"(K\x02(K\x06t" + DTYPE + b"\x89C\x06abcdeft", "not a plain array"),
        (b"(K\x01(K\x06t" + DTYPE.replace(b"i1", b"V6") + b"\x89C\x06abcdeft", "has dtype"),
        (b"(K\x01(K\x06t" + DTYPE.replace(b"NNN", b"NN)") + b"\x89C\x06abcdeft", "not a plain array"),
        (b"(K\x01(K\x06tN\x89C\x06abcdeft", "not a plain array"),
        (b"(K\x01(" + b"K\x01" * 33 + b"t" + DTYPE + b"\x89C\x01at", "has shape"),
        (b"(K\x01(K\x06t" + DTYPE + b"\x89C\x06abcdeftbN", "it sets the state"),
    ],
)
def test_states_that_numpy_would_have_to_survive(tmp_path: Path, state: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load(tmp_path, npy(by_hand(state)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04N",
        b"\x80\x04NN.",
        b"\x80\x04t.",
        b"\x80\x04R.",
        b"\x80\x04b.",
        b"\x80\x04s.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x94.",
        b"\x80\x04r\xff\xff\xff\xff.",
        b"\x80\x04\x86.",
        b"\x80\x04]K\x01K\x02s.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04(e.",
        b"\x80\x04]a.",
        b"\x80\x04\x93.",
        b"\x80\x04NN\x93.",
        b"\x80\x04]]\x93.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b"abc",
        b"\x80\x04B\xff\xff\xff\x7fabc",
        b"\x80\x04X\xff\xff\xff\xffabc",
        b"\x80\x04\x8c\x01\xff.",
        b"\x80\x04\x8a\xff\x01",
        b"\x80\x04\xff.",
        b"\x80\x04cbroken\n",
        b"\x80\x04I1\n.",
        b"\x80\x04(K\x01l.",
        b"\x80\x04](h\x00e\x94.",
    ],
)
def test_broken_pickles(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(InputError, match=r"weight\.npy: (damaged|refused)"):
        load(tmp_path, npy(payload))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x80\x04", "damaged pickle: .*exhausted"),
        (b"\x80\x04t.", "damaged pickle: no mark"),
        (b"\x80\x04(t.", "it does not hold one dict"),
        (b"\x80\x04N\x86.", "damaged pickle: stack is empty"),
        (b"\x80\x04NN\x86.", "it does not hold one dict"),
        (b"\x80\x04]K\x01K\x02s.", "damaged pickle: items for what is no dict"),
        (b"\x80\x04}(K\x01u.", "damaged pickle: items for what is no dict"),
        (b"\x80\x04cnumpy\nndarray\n)R.", "refused: it calls something that makes no array"),
    ],
)
def test_what_is_said_of_broken_pickles(tmp_path: Path, payload: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"weight\.npy: .*{reason}"):
        load(tmp_path, npy(payload))


def test_a_list_that_holds_itself_is_no_dict(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refused: it does not hold one dict"):
        load(tmp_path, npy(b"\x80\x04]\x94h\x00a."))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a .npy file"),
        (b"PK\x03\x04", "is not a .npy file"),
        (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "is not a .npy file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "is not a .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "is not a .npy file"),
        (npy(b"", descr="__import__('os')"), "is not a .npy file"),
        (npy(b"abcdef", descr="'|i1'", shape="(6,)"), r"its header is b\"\{'descr': '\|i1'"),
        (npy(b"", shape="(2,)"), "is not a .npy file of one object"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16, "is not a .npy file"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load(tmp_path, content)


def test_headers_that_numpy_does_not_write(tmp_path: Path) -> None:
    payload = pickled({"a": WEIGHT})
    assert load(tmp_path, npy(payload, length=4096)).keys() == {"a"}
    second = npy(payload)
    second = b"\x93NUMPY\x02\x00" + second[8:10] + b"\0\0" + second[10:]  # its length has four bytes
    assert load(tmp_path, second).keys() == {"a"}
    other_version = npy(payload).replace(b"NUMPY\x01\x00", b"NUMPY\x01\x01")
    for content in (npy(payload, length=4097), other_version):
        with pytest.raises(InputError, match=r"is not a \.npy file"):
            load(tmp_path, content)


def test_types_that_no_weight_has(tmp_path: Path) -> None:
    one_byte, two_bytes = pickled({"a": WEIGHT}), pickled({"a": WEIGHT.astype("<i2")})
    assert (one_byte.count(b"\x8c\x01|"), two_bytes.count(b"\x8c\x01<")) == (1, 1)
    for payload in (
        pickled({"a": WEIGHT.astype(np.complex64)}),
        pickled({"a": WEIGHT.astype(">i2")}),
        one_byte.replace(b"\x8c\x01|", b"\x8c\x01>"),
        two_bytes.replace(b"\x8c\x01<", b"\x8c\x01|"),
    ):
        with pytest.raises(InputError, match="weight 'a' has dtype"):
            load(tmp_path, npy(payload))


GOOD = pickled({"a": WEIGHT, "b": np.ones(3, np.float32)})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
def test_damage_is_an_error_or_gives_plain_arrays(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: bool
) -> None:
    content = bytearray(GOOD)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.mktemp("damaged") / "weight.npy"
    path.write_bytes(npy(bytes(content[: changes[0][0]] if cut else content)))
    try:
        weights = load_weights(path)
    except InputError:
        return
    assert all(type(array) is np.ndarray and array.dtype.kind in "iufb" for array in weights.values())


def test_the_opcodes_of_numpy_are_all_there_are() -> None:
    """A new NumPy that saves with other opcodes is noticed here."""
    buffer = io.BytesIO()
    np.save(buffer, {"a": WEIGHT})  # type: ignore[arg-type]
    content = buffer.getvalue()
    pickle_bytes = content[10 + struct.unpack("<H", content[8:10])[0] :]
    names = {opcode.name for opcode, _, _ in pickletools.genops(pickle_bytes)}
    assert names <= {
        *("PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"),
        *("BININT", "BININT1", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "MEMOIZE", "BINPUT", "BINGET"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "APPEND", "APPENDS"),
        *("SETITEM", "SETITEMS", "NEWTRUE", "BININT2", "LONG_BINPUT", "LONG_BINGET", "BINBYTES"),
    }
