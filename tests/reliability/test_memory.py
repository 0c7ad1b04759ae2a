"""Little that stands for a large weight, under a limit of memory: an error, and never the end of the process."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples import K, text_model, write

import mcd_graph
from mcd_graph.cli import main
from mcd_graph.errors import InputError
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model

N = 1 << 27

# Argv: the model. Of each line it reads, what to do and the limit in MiB, it does that in a fork, where everything is
# imported before the limit counts, and prints in JSON the status and what was written to stderr.
SCRIPT = """
import json, os, resource, sys, tempfile
import onnxruntime as ort
from mcd_graph import _native, get_library_path, integrity
from mcd_graph.cli import main
from mcd_graph.model.loading import load_model
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.operators.view import CompressedNode

model = sys.argv[1]
options = ort.SessionOptions()
options.register_custom_ops_library(get_library_path())
parts = CompressedNode.of(next(iter(compressed_nodes(load_model(model))))[0]).parts()

def do(what, limit):
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if what == "check":
        return main(["inspect", "--check", model])
    try:
        if what == "session":
            ort.InferenceSession(model, options)
        else:
            getattr(_native, what)(*parts)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0

for line in sys.stdin:
    what, limit = line.split()
    errors = tempfile.TemporaryFile()
    child = os.fork()
    if child == 0:
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 99
        try:
            status = do(what, int(limit) << 20)
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    print(json.dumps([status, errors.read().decode()]), flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight (2 ** 27, 1) of constant tiles, half a megabyte of index."""
    tiles = -(-N // (16 * 127))
    index = bytes([2, 0, 0, 0, 0, 0, 0, 0]) * tiles
    x2 = bytearray(128)
    x2[:5] = b"MCDW\x03"
    struct.pack_into("<HHQQQ", x2, 12, 1, 127, 1, N, len(x2))
    struct.pack_into("<I", x2, 40, zlib.crc32(index))
    struct.pack_into("<I", x2, 44, zlib.crc32(bytes(x2[:64])))
    tensors = [
        numpy_helper.from_array(np.frombuffer(bytes(data), np.int8), name)
        for name, data in (("x2", x2), ("index", index))
    ]
    node = helper.make_node(
        "MatmulCompressDequant", ["x1", "x2", "index"], ["y"], domain="mcd", compress_info=[1, 127, 1, N, 1]
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x1", TensorProto.INT8, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mcd", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return write(made, tmp_path_factory.mktemp("memory") / "m.onnx")


@pytest.fixture(scope="module")
def limited(model: Path) -> Iterator[subprocess.Popen[str]]:
    """The process whose forks are under a limit."""
    command = [sys.executable, "-P", "-c", SCRIPT, str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process
    assert process.returncode == 0


@pytest.mark.parametrize("limit", [1024, 700])
@pytest.mark.parametrize("what", ["session", "verify", "decode", "check"])
def test_constant_tiles_under_a_limit(limited: subprocess.Popen[str], what: str, limit: int) -> None:
    assert limited.stdin is not None
    assert limited.stdout is not None
    limited.stdin.write(f"{what} {limit}\n")
    status, errors = json.loads(limited.stdout.readline())
    assert status in (0, 1, 2), errors  # and not the signal of an abort
    if status:
        last = errors.splitlines()[-1]
        assert "out of memory" in last, errors
        assert "Traceback" not in errors
    elif limit < N * 4 >> 20:
        assert what == "decode", "column sums alone need more"


@pytest.mark.parametrize("arguments", [["inspect", "--check"], ["inspect"], ["restore", "--force"]])
def test_a_limit_by_choice(
    model: Path, tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [str(model), *([str(tmp_path / "restored.onnx")] if "restore" in arguments else [])]
    assert main([*arguments, "--memory-limit", str(64 << 20), *paths]) == 2
    error = capfd.readouterr().err
    assert "out of memory: weight 'x2' needs" in error
    assert f"the memory limit is {64 << 20}" in error
    assert not list(tmp_path.iterdir())


def test_a_session_keeps_to_its_limit(model: Path) -> None:
    with pytest.raises(Exception, match=r'weight "x2": out of memory: it needs \d+ bytes, .*mcd\.memory_limit'):
        mcd_graph.InferenceSession(model, memory_limit=64 << 20)
    for wrong in ("", "-1", "4G"):
        options = mcd_graph.session_options()
        options.add_session_config_entry("mcd.memory_limit", wrong)
        with pytest.raises(Exception, match=r"mcd\.memory_limit is \"" + wrong + r"\", not a number of bytes"):
            mcd_graph.InferenceSession(model, options)


def test_a_decoded_weight_counts_as_kernels_have_it(model: Path) -> None:
    """Its elements are 128 MiB, and whole fractals of them 4 GiB."""
    with pytest.raises(Exception, match=r'weight "x2": out of memory: it needs \d+ bytes, .*mcd\.memory_limit'):
        mcd_graph.InferenceSession(model, residency="decoded", memory_limit=4 << 30)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three multiplications, two of them by one weight."""
    folder = tmp_path_factory.mktemp("three")
    write(text_model(), folder / "plain.onnx")
    mcd_graph.compress_model(folder / "plain.onnx", folder / "m.onnx")
    return folder / "m.onnx"


def test_what_needs_less_is_as_ever(three: Path, tmp_path: Path) -> None:
    feed = {"ids": np.ones((2, 5), np.int64), "mask": np.ones((2, 5), np.int64)}
    expected = mcd_graph.InferenceSession(three).run(None, feed)[0].tobytes()
    tables, decoded = 1 << 16, 1 << 18
    assert mcd_graph.InferenceSession(three, memory_limit=decoded).run(None, feed)[0].tobytes() == expected
    # `auto` and a `decoded` with a limit of its own decode what fits into the rest; `decoded` alone asks for all.
    assert mcd_graph.InferenceSession(three, memory_limit=tables).run(None, feed)[0].tobytes() == expected
    options = mcd_graph.session_options(residency="decoded", memory_limit=tables)
    options.add_session_config_entry("mcd.decoded_limit", "1000000")
    assert mcd_graph.InferenceSession(three, options).run(None, feed)[0].tobytes() == expected
    with pytest.raises(Exception, match=r"mcd\.memory_limit"):
        mcd_graph.InferenceSession(three, residency="decoded", memory_limit=tables)
    assert check_model(three, memory_limit=tables).intact
    assert inspect_model(three, memory_limit=decoded).totals.lowered == 3
    assert mcd_graph.restore_model(three, tmp_path / "r.onnx", memory_limit=tables).restored == 3
    # With all weights in one file they are in memory together; one after the other they need less.
    with pytest.raises(InputError, match="and with those before it"):
        mcd_graph.restore_model(three, tmp_path / "i.onnx", memory_limit=K * 200, inline=True)


def test_each_session_has_an_account_of_its_own(three: Path) -> None:
    sessions = [mcd_graph.InferenceSession(three, residency="decoded", memory_limit=1 << 18) for _ in range(5)]
    del sessions
    for _ in range(5):
        mcd_graph.InferenceSession(three, residency="decoded", memory_limit=1 << 18)

    # A session is known by its logger, whose address another one may get as soon as it has gone.
    def come_and_go(_: int) -> None:
        mcd_graph.InferenceSession(three, residency="decoded", memory_limit=1 << 17)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(200)))
    mcd_graph.enable(memory_limit=10)
    try:
        with pytest.raises(Exception, match=r"mcd\.memory_limit"):
            mcd_graph.runtime.sessions.ort.InferenceSession(three)
    finally:
        mcd_graph.disable()
