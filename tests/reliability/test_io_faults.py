"""Every call that reads, writes, syncs, renames or maps fails once: the old model or the new one, and a reason."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import digests, text_model, write_external
from saved import tensors

from mcd_graph import compress_model, restore_model
from mcd_graph.model.temporaries import MARK

# Everything is imported once, and each run is a fork of that. A line of JSON says which command is run and which call
# fails; the answer is its status, 200 more if no call was left to fail, and what it wrote to stderr.
RUNS = """
import ctypes, json, os, sys, tempfile, traceback
import numpy as np
from mcd_graph import cli, compress, restore
from mcd_graph.codec import packing
from mcd_graph.model import saving

faults = ctypes.CDLL(None)
for line in sys.stdin:
    directory, kind, error, number, command = json.loads(line)
    errors = tempfile.TemporaryFile()
    child = os.fork()
    if child == 0:
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 99
        try:
            faults.faults_arm(os.fsencode(directory), kind.encode(), ctypes.c_long(number), error)
            status = cli.main(command)
            if faults.faults_count() < number:
                status = 200 + status
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    print(json.dumps([status, errors.read().decode()]), flush=True)
"""

KINDS = {
    "write": errno.EIO,
    "read": errno.EIO,
    "open": errno.EMFILE,
    "fsync": errno.EIO,
    "rename": errno.EIO,
    "link": errno.EPERM,
    "mmap": errno.ENOMEM,
    "copy_file_range": errno.EIO,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process that runs commands with a call that fails."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", RUNS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "LD_PRELOAD": str(library)},
    ) as process:
        yield process
    assert process.returncode == 0


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["compress", "restore"])
def test_a_call_that_fails(
    runs: subprocess.Popen[str], tmp_path: Path, out: Path, command: str, kind: str, step: int
) -> None:
    source = write_external(text_model(), tmp_path / "source.onnx", "source.bin")
    destination = out / "m.onnx"
    compressed = tmp_path / "compressed.onnx"
    compress_model(source, compressed, verify=False)
    new = tensors(compressed)
    if command == "restore":
        source = compressed
        restore_model(source, tmp_path / "expected.onnx")
        new = tensors(tmp_path / "expected.onnx")
    # What is replaced is another model, with a data file of its own.
    other = text_model()
    other.graph.doc_string = "old"
    compress_model(other, destination, profile="fast", verify=False)
    old, before = tensors(destination), digests(out)
    kept = {path: path.read_bytes() for path in out.iterdir()}
    words = [command, str(source), str(destination), "--force"]
    if command == "compress" and step > 1:
        words.append("--no-verify")  # which takes longer than all the rest
    assert runs.stdin is not None
    assert runs.stdout is not None
    failed = 0
    for number in itertools.count(1, step):
        runs.stdin.write(json.dumps([str(tmp_path), kind, KINDS[kind], number, words]) + "\n")
        status, errors = json.loads(runs.stdout.readline())
        where = f"{kind} {number}: {status} {errors}"
        assert not [name for name in digests(out) if MARK in name], where
        if status == 2:
            failed += 1
            assert errors.startswith("mcd: ") and errors.count("\n") == 1, where  # noqa: PT018 - one line
        else:
            assert status in (0, 200), where
            assert errors == "", where
        if status == 2 and tensors(destination) == old:
            assert digests(out) == before, where
        else:
            assert tensors(destination) == new, where
            assert len(digests(out)) == 2, where
            for path in out.iterdir():
                path.unlink()
            for path, content in kept.items():
                path.write_bytes(content)
        if status == 200:  # no call was left to fail
            break
    # These may fail without harm: there is another way (a weight that cannot be mapped is read), or what is asked of
    # onnxruntime stays unproved.
    assert failed or kind in ("link", "copy_file_range") or (command, kind) == ("compress", "mmap")
