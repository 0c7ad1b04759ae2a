"""A compression that is killed, interrupted, out of space or of a directory: the old model or the new one, whole."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from samples import K, N, digests, text_model, write, write_external
from saved import small_disk, tensors

from mcd_graph import InputError, compress_model
from mcd_graph.cli import main
from mcd_graph.model.loading import read_proto
from mcd_graph.model.saving import ModelWriter
from mcd_graph.model.temporaries import MARK, remove_temporaries, temporary_file

# Everything is imported once, and each run is a fork of that: so the moments fall into the work, not into the imports.
# (argv: source, destination, signal, seed, runs; prints one line a run: status, then what was written to stderr.)
RUNS = """
import os, signal, sys, tempfile, time, traceback
import numpy as np
from mcd_graph import cli, compress
from mcd_graph.codec import packing
from mcd_graph.model import saving

source, destination, number, seed, runs = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
rng = np.random.default_rng(seed)

def interrupt(number, frame):
    # Python raises it wherever it is, in another's callback too, where it is printed and dropped. What is tested is the
    # command: from its first line, in compress, to its last. Elsewhere (the fork itself, the end) the child just ends.
    frames = set()
    while frame is not None:
        frames.add(frame.f_code)
        frame = frame.f_back
    if cli.compress.compress.__code__ in frames:
        raise KeyboardInterrupt

def run(delay):
    errors = tempfile.TemporaryFile()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child == 0:
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 99
        try:
            signal.signal(signal.SIGINT, interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            status = cli.main(["compress", source, destination, "--force"])
        except BaseException:
            with os.fdopen(os.dup(2), "w") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if delay is not None:
        time.sleep(delay)
        os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    return status, errors.read().decode()

def seconds():
    begin = time.perf_counter()
    run(None)
    return time.perf_counter() - begin

whole = min(seconds() for _ in range(3))
for _ in range(runs):
    status, errors = run(rng.uniform(0, whole))
    print(status, errors.replace("\\n", "|"), flush=True)
    sys.stdin.readline()
"""


def wide_model(seed: int) -> onnx.ModelProto:
    """The text model with weights that take a moment."""
    normal = np.random.default_rng(seed).normal(0, 12, (K, N * 40)).round().clip(-127, 127).astype(np.int8)
    model = text_model(w1=normal)
    del model.graph.node[9:]  # the second layer and the third, which would not fit
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, None))
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.full(1 << 20, index, np.float32), f"extra{index}") for index in range(3)
    )
    return model


def assert_whole(destination: Path, *allowed: dict[str, bytes]) -> None:
    """The model is one of those allowed, and beside it lies nothing but its data and named temporaries."""
    assert tensors(destination) in allowed
    for path in destination.parent.iterdir():
        ours = path.name in ("m.onnx", "m.onnx_data", "m.2.onnx_data") or path.name.startswith(f".m.onnx{MARK}")
        assert ours, path


@pytest.mark.parametrize(
    "runs", [2, pytest.param(30, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_signals_at_random_moments(
    tmp_path: Path, out: Path, number: signal.Signals, runs: int, record_property: Callable[[str, object], None]
) -> None:
    destination = out / "m.onnx"
    source = write(wide_model(1), tmp_path / "source.onnx")
    compress_model(source, destination)
    new = tensors(destination)
    arguments = map(str, (source, destination, int(number), 20261123, runs))
    seen: Counter[str] = Counter()
    other = write(wide_model(2), tmp_path / "other.onnx")
    compress_model(other, tmp_path / "expected.onnx")
    old = tensors(tmp_path / "expected.onnx")
    command = [sys.executable, "-c", RUNS, *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            status, _, errors = line.strip().partition(" ")
            if number == signal.SIGKILL:
                assert (status, errors) in {("0", ""), ("-9", "")}
            else:
                assert (status, errors) in {("0", ""), ("130", "mcd: interrupted; no file was left half-written|")}
                assert not any(MARK in name for name in digests(out)), "Ctrl-C tidies up itself"
            assert_whole(destination, new, old)
            after = "new" if tensors(destination) == new else "old"
            seen[f"{'ran to the end' if status == '0' else 'stopped'}, {after} model"] += 1
            # The next run puts another model there, and tidies up.
            compress_model(other, destination, force=True)
            assert digests(out).keys() in ({"m.onnx", "m.onnx_data"}, {"m.onnx", "m.2.onnx_data"})
            process.stdin.write("\n")
    assert process.returncode == 0
    assert sum(seen.values()) == runs
    stopped = sum(count for outcome, count in seen.items() if outcome.startswith("stopped"))
    assert runs < 30 or stopped > runs // 5, "the moments fall into the work"
    record_property("outcomes", dict(seen))
    print(signal.Signals(number).name, dict(seen))  # noqa: T201 - pytest -rP shows it


def test_a_temporary_whose_cleaning_up_was_interrupted(out: Path) -> None:
    path = out / f".m.onnx{MARK}0.onnx"
    never_left = temporary_file(path)
    never_left.__enter__()
    assert digests(out).keys() == {path.name}
    remove_temporaries()
    assert digests(out) == {}
    remove_temporaries()


def test_a_trial_that_ctrl_c_keeps_from_being_left_leaves_quietly(out: Path) -> None:
    """Its generator is collected after those who made the data file have closed it, and says nothing of that."""
    complaints: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", complaints.append)
        with ModelWriter(out / "m.onnx") as writer:
            trial = writer.trial(ir.from_proto(text_model()))
            trial.__enter__()
        del trial
        gc.collect()
    assert complaints == []
    assert digests(out) == {}


def test_ctrl_c_in_a_command_that_is_starting(model: Path, out: Path) -> None:
    """While modules are loaded it ends without a traceback too."""
    command = [sys.executable, "-m", "mcd_graph", "compress", str(model), str(out / "m.onnx")]
    for delay in (0.15, 0.35):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=out)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert "mcd_graph/cli/" not in errors
        for path in out.iterdir():
            path.unlink()


# NumPy's version is looked at while its C-API is fetched: Ctrl-C comes right there, and is gone when that is over.
WHILE_FETCHING = """
import os, signal, sys
import numpy, numpy.lib

class Version(numpy.lib.NumpyVersion):
    def __init__(self, version):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        super().__init__(version)

numpy.lib.NumpyVersion = Version
try:
    import mcd_graph._native
    for _ in range(1000):
        pass
except KeyboardInterrupt:
    print("interrupted")
from mcd_graph import _native
print(_native.decode(*_native.encode(numpy.eye(3, dtype=numpy.int8)))[0, 0])
"""


def test_ctrl_c_while_numpys_api_is_fetched() -> None:
    """The crate that fetches it would panic."""
    result = subprocess.run([sys.executable, "-P", "-c", WHILE_FETCHING], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n1\n", "")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("kibibytes", [16, 48, 72, 96])
def test_disk_full(model: Path, out: Path, capsys: pytest.CaptureFixture[str], kibibytes: int) -> None:
    with small_disk(out, f"{kibibytes}k"):
        message = complaint(capsys, "compress", model, out / "m.onnx")
        assert "no space left; no file was left half-written" in message
        assert digests(out) == {}


def test_disk_full_while_replacing(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(out, "200k"):
        compress_model(model, out / "m.onnx")
        before = digests(out)
        assert "no space left" in complaint(capsys, "compress", model, out / "m.onnx", "--force")
        assert digests(out) == before


def test_disk_full_for_the_report(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is whole already; the message must not claim that nothing was written."""
    (out / "disk").mkdir()
    with small_disk(out / "disk", "4k"):
        (out / "disk" / "full").write_bytes(bytes(4096))
        message = complaint(capsys, "compress", model, out / "m.onnx", "--report", out / "disk" / "r.json")
        assert "no space left; no file was left half-written" in message
        assert digests(out / "disk").keys() == {"full"}
    (out / "disk").rmdir()
    assert_whole(out / "m.onnx", tensors(out / "m.onnx"))


def test_a_file_that_may_not_grow(model: Path, out: Path) -> None:
    script = (
        "import resource, sys; from mcd_graph.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "compress", str(model), str(out / "m.onnx")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=out)
    assert result.returncode == 2
    assert result.stderr == "mcd: File too large\n"
    assert digests(out) == {}


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Permissions do not stop root, but a file system mounted for reading does."""
    if os.geteuid() != 0:
        directory.chmod(0o500)
        yield
        directory.chmod(0o700)
        return
    with small_disk(directory, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        yield


def test_a_read_only_directory(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with read_only(out):
        message = complaint(capsys, "compress", model, out / "m.onnx")
        assert message.endswith(("Read-only file system", "Permission denied"))
        assert digests(out) == {}


@pytest.mark.parametrize("moment", ["while packing", "before the commit"])
def test_a_directory_that_vanishes(model: Path, out: Path, moment: str) -> None:
    def vanish(*_: object) -> None:
        shutil.rmtree(out, ignore_errors=True)

    with pytest.raises(FileNotFoundError) as caught:
        if moment == "while packing":
            compress_model(model, out / "m.onnx", progress=vanish)
        else:
            with ModelWriter(out / "m.onnx") as writer:
                vanish()
                writer.commit(read_ir(model))
    assert caught.value.filename == str(out)
    assert not out.exists()


def read_ir(model: Path):  # type: ignore[no-untyped-def]
    from mcd_graph.model.loading import load_model  # noqa: PLC0415

    return load_model(model)


def test_a_source_that_vanishes_after_it_was_opened(tmp_path: Path, out: Path) -> None:
    """Removed files stay readable; those not opened yet are missed with a clear message."""
    source = write_external(text_model(), tmp_path / "m.onnx", "m.bin")

    def vanish(_: object) -> None:
        (tmp_path / "m.bin").unlink(missing_ok=True)

    with pytest.raises((InputError, OSError)) as caught:
        compress_model(source, out / "m.onnx", jobs=1, progress=vanish)
    assert "m.bin" in str(caught.value)
    assert digests(out) == {}


@pytest.mark.slow
def test_two_processes_writing_the_same_output(tmp_path: Path, out: Path) -> None:
    destination = out / "m.onnx"
    allowed = []
    commands = []
    for seed in (1, 2):
        source = write(wide_model(seed), tmp_path / f"{seed}.onnx")
        compress_model(source, tmp_path / f"expected{seed}.onnx")
        allowed.append(tensors(tmp_path / f"expected{seed}.onnx"))
        commands.append([sys.executable, "-m", "mcd_graph", "compress", str(source), str(destination)])
    for force in (False, True):
        processes = [
            subprocess.Popen(
                [*command, *(["--force"] if force else [])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            for command in commands
        ]
        errors = [process.communicate()[1] for process in processes]
        statuses = sorted(process.returncode for process in processes)
        assert statuses == ([0, 0] if force else [0, 2]), errors
        if not force:
            assert "already exists (--force replaces it)" in "".join(errors)
        assert_whole(destination, *allowed)
        assert len(digests(out)) == 2, "one model and its data"
        assert read_proto(destination)


def test_ctrl_c_in_a_callback_is_not_lost() -> None:
    """Python prints what a weak reference's callback raises, and goes on."""
    script = """
import signal, time, weakref
from mcd_graph.cli.interruption import no_interruption_lost
class Thing: pass
def callback(_):
    signal.raise_signal(signal.SIGINT)
    for _ in range(1000): pass
try:
    with no_interruption_lost():
        thing = Thing()
        reference = weakref.ref(thing, callback)
        del thing
        time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=25)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")


@pytest.mark.parametrize("chained", [True, False])
def test_what_ctrl_c_becomes_in_an_extension_module(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, chained: bool
) -> None:
    """It ends the command as Ctrl-C does; other errors of the same type are raised."""

    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt if chained else ZeroDivisionError
        except BaseException as error:
            raise SystemError("a result with an exception set") from error

    monkeypatch.setattr("mcd_graph.compress.compress_model", interrupted)
    arguments = ["compress", str(model), str(out / "m.onnx")]
    if chained:
        assert main(arguments) == 130
        assert capsys.readouterr().err == "mcd: interrupted; no file was left half-written\n"
    else:
        with pytest.raises(SystemError):
            main(arguments)
    assert digests(out) == {}
