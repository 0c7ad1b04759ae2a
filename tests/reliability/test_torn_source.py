"""A source that changes while it is read: an error and nothing written, never a model of two halves."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import digests, text_model, write_external
from saved import tensors

from mcd_graph import InputError, compress_model, restore_model
from mcd_graph.cli import main
from mcd_graph.model.unchanged import FileIdentity, Watch
from mcd_graph.progress import Progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_external(text_model(), tmp_path / "m.onnx", "m.bin")


def overwrite(path: Path) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(255 - byte for byte in content[:4096]))


def overwrite_and_set_the_clock_back(path: Path) -> None:
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_another_in_its_place(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = [overwrite, overwrite_and_set_the_clock_back, put_another_in_its_place, append]


def once(change: Callable[[Path], None], path: Path) -> Callable[[object], None]:
    waiting = [change]

    def progress(_: object) -> None:
        if waiting:
            waiting.pop()(path)

    return progress


@pytest.mark.parametrize("name", ["m.bin", "m.onnx"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_while_compressing(source: Path, out: Path, change: Callable[[Path], None], name: str) -> None:
    path = source.with_name(name)
    with pytest.raises(InputError, match=r"(changed|was changed) while it was read"):
        compress_model(source, out / "m.onnx", jobs=1, progress=once(change, path))
    assert digests(out) == {}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_while_restoring(source: Path, out: Path, change: Callable[[Path], None]) -> None:
    compress_model(source, source.with_name("c.onnx"))
    path = source.with_name("c.onnx_data")
    with pytest.raises(InputError):
        restore_model(source.with_name("c.onnx"), out / "m.onnx", progress=once(change, path))
    assert digests(out) == {}


def test_a_change_between_two_readings(source: Path) -> None:
    watch = Watch()
    watch.begin([FileIdentity.of(source)])
    append(source)
    with pytest.raises(InputError, match=r"changed while it was read: it has [\d,]+ bytes now"):
        watch.begin([FileIdentity.of(source)])


def test_a_file_that_is_gone_has_changed(source: Path) -> None:
    watch = Watch()
    watch.begin([FileIdentity.of(source)])
    source.unlink()
    with pytest.raises(InputError, match=r"it cannot be opened any more \(No such file"):
        watch.check(weights=False)


def test_a_change_in_an_old_model_that_is_replaced(source: Path, out: Path) -> None:
    compress_model(source, out / "m.onnx")
    before = digests(out)
    with pytest.raises(InputError, match="while it was read"):
        compress_model(source, out / "m.onnx", force=True, progress=once(overwrite, source.with_name("m.bin")))
    assert digests(out) == before


def test_weights_are_compared_besides_the_files_identity(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write through a memory map may leave no trace in the file's times before the pages are written back."""
    monkeypatch.setattr(FileIdentity, "difference", lambda _: None)
    path = source.with_name("m.bin")

    def poke(progress: Progress) -> None:
        if progress.weights_done < progress.weights_total:
            return
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[:] = bytes(255 - byte for byte in memory[:])

    with pytest.raises(InputError, match="a weight in it is another one now"):
        compress_model(source, out / "m.onnx", progress=poke)
    assert digests(out) == {}


def test_what_others_do_to_a_source_that_is_copied_first(source: Path, out: Path) -> None:
    compress_model(source, out / "expected.onnx")
    restore_model(out / "expected.onnx", out / "plain.onnx")
    (out / "copied").mkdir()
    progress = once(lambda path: os.truncate(path, 0), source.with_name("m.bin"))
    compress_model(source, out / "copied" / "m.onnx", progress=progress, mmap=False)
    assert tensors(out / "copied" / "m.onnx") == tensors(out / "expected.onnx")
    progress = once(lambda path: os.truncate(path, 0), out / "copied" / "m.onnx_data")
    restore_model(out / "copied" / "m.onnx", out / "copied" / "plain.onnx", progress=progress, mmap=False)
    assert tensors(out / "copied" / "plain.onnx") == tensors(out / "plain.onnx")
    names = {"m.onnx", "m.onnx_data", "plain.onnx", "plain.onnx_data"}
    assert digests(out / "copied").keys() == names


def test_a_private_copy_says_what_it_is_a_copy_of(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compress_model(source, out / "m.onnx", mmap=False)
    sizes = [path.stat().st_size for path in (source, source.with_name("m.bin"))]
    assert report.totals.file_bytes_before == sum(sizes)
    assert main(["compress", str(source), str(source), "--no-mmap", "--force"]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    os.truncate(source.with_name("m.bin"), 0)
    assert main(["compress", str(source), str(out / "n.onnx"), "--no-mmap"]) == 2
    assert f"{source}: tensor" in " ".join(capsys.readouterr().err.split())
    assert digests(out).keys() == {"m.onnx", "m.onnx_data"}


TRUNCATED = """
import os, sys
from mcd_graph import cli
from mcd_graph.codec import packing

def torn(weight, **arguments):
    os.truncate(sys.argv[1], 0)
    return whole(weight, **arguments)

whole, packing.pack_weight = packing.pack_weight, torn
sys.exit(cli.main(sys.argv[2:]))
"""


def test_the_last_word_of_a_command_whose_source_is_truncated(source: Path, out: Path) -> None:
    command = [sys.executable, "-P", "-c", TRUNCATED, source.with_name("m.bin"), "compress", source, out / "m.onnx"]
    result = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("mcd: a file was truncated, or could not be read, while it was mapped (SIGBUS)")
    assert "--no-mmap" in line
    assert digests(out) == {}


SEVERAL = """
import mmap, os, sys, threading, time, zlib
from mcd_graph.cli.last_word import with_last_word

with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
os.truncate(sys.argv[1], 0)
os.set_blocking(2, False)
try:
    while os.write(2, b"." * 4096):  # nobody reads: who writes next has to wait
        pass
except BlockingIOError:
    os.set_blocking(2, True)

@with_last_word
def read():
    open(sys.argv[2], "w").close()
    for _ in range(4):
        threading.Thread(target=zlib.crc32, args=[mapped], daemon=True).start()
    time.sleep(60)

read()
"""


def test_one_of_several_threads_has_the_last_word(tmp_path: Path) -> None:
    file, reading = tmp_path / "weights", tmp_path / "reading"
    file.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-P", "-c", SEVERAL, file, reading]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        while not reading.exists() and child.poll() is None:
            time.sleep(0.05)
        time.sleep(1)
        said = child.stderr.read().decode()
        assert child.wait() == 2
    assert said.count("was truncated") == 1
