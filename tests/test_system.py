"""Other systems than this one: what they lack and refuse is faked in a process of its own."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from samples import ROOT

from mcd_graph import library, system
from mcd_graph.model.temporaries import closed_for_writing, temporary_file

PRELUDE = """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    import fake_windows
    fake_windows.install()
    from pathlib import Path
    import mcd_graph
    from mcd_graph import system
    assert system.create.__module__ == "mcd_graph.system.windows"
"""


def on_windows(script: str, *arguments: object) -> str:
    """Run a script in a process that has only what Windows has."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    command = [sys.executable, "-P", "-c", code, str(ROOT / "tests" / "support"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_compress_verify_and_restore(model: Path, tmp_path: Path) -> None:
    """Twice, so that files are replaced; nothing but the models is left, and their bytes are this system's."""
    script = """
        import numpy as np
        model, folder = Path(sys.argv[2]), Path(sys.argv[3])
        for force in (False, True):
            mcd_graph.compress_model(model, folder / "m.onnx", force=force)
            assert mcd_graph.verify_model(model, folder / "m.onnx", runs=1).identical
            mcd_graph.restore_model(folder / "m.onnx", folder / "restored.onnx", force=force)
        print(sorted(os.listdir(folder)))
    """
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    names = on_windows(script, model, there).strip()
    import mcd_graph  # noqa: PLC0415

    for force in (False, True):
        mcd_graph.compress_model(model, here / "m.onnx", force=force)
        mcd_graph.restore_model(here / "m.onnx", here / "restored.onnx", force=force)
    assert names == str(sorted(each.name for each in here.iterdir()))
    for each in here.iterdir():
        assert (there / each.name).read_bytes() == each.read_bytes(), each.name


def test_onnxruntime_finds_nothing_open_for_writing(model: Path, tmp_path: Path) -> None:
    """The proof opens the new model, and with ``mmap=False`` a copy of the old one: it is run, and not put off."""
    script = """
        model, folder = Path(sys.argv[2]), Path(sys.argv[3])
        for number, mmap in enumerate((True, False)):
            report = mcd_graph.compress_model(model, folder / f"{number}.onnx", mmap=mmap)
            assert report.proof.proved, report.proof
    """
    on_windows(script, model, tmp_path)


def test_what_differs_is_kept(model: Path, out: Path) -> None:
    """It is tried again without, and the first attempt's files, from which weights were taken, can be removed."""
    script = """
        import dataclasses
        from mcd_graph.codec.weights import pack_weight
        from mcd_graph.compression import packed
        right = packed.pack_all
        def wrong(jobs, *given, **named):
            for job, weight in right(jobs, *given, **named):
                if job.key == "w2":
                    array = job.array().copy()
                    array[3, 5] += 1
                    other = pack_weight(array)
                    names = ("x2", "compress_index", "compress_info")
                    weight = dataclasses.replace(weight, **{name: getattr(other, name) for name in names})
                yield job, weight
        packed.pack_all = wrong
        report = mcd_graph.compress_model(sys.argv[2], Path(sys.argv[3]) / "m.onnx", force_larger=True)
        assert [node.code for node in report.nodes].count("differs") == 1 and report.proof.proved
        print(sorted(os.listdir(sys.argv[3])))
    """
    assert on_windows(script, model, out).strip() == "['m.onnx', 'm.onnx_data']"


def test_a_model_that_is_served_is_replaced(model: Path, out: Path) -> None:
    """Its data is mapped, so it stays, and the new data has a name of its own."""
    script = """
        import mmap
        path = Path(sys.argv[3]) / "m.onnx"
        mcd_graph.compress_model(sys.argv[2], path)
        with path.with_name("m.onnx_data").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        before = bytes(mapped)
        mcd_graph.compress_model(sys.argv[2], path, force=True, profile="fast")
        assert bytes(mapped) == before
        assert mcd_graph.verify_model(sys.argv[2], path, runs=1).identical
        print(sorted(os.listdir(path.parent)))
    """
    assert on_windows(script, model, out).strip() == "['m.2.onnx_data', 'm.onnx', 'm.onnx_data']"


def test_command_line(model: Path, tmp_path: Path) -> None:
    script = """
        from mcd_graph.cli import main
        model, out = sys.argv[2:]
        assert main(["compress", model, out]) == 0
        assert main(["verify", model, out, "--runs", "1"]) == 0
        assert main(["inspect", out, "--check"]) == 0
        assert main(["inspect", "no-such-model.onnx"]) == 2
    """
    on_windows(script, model, tmp_path / "m.onnx")


def test_locks(tmp_path: Path) -> None:
    """A directory's keeps another thread out; a file's tells of its holder, and leftovers without one are removed."""
    script = """
        import threading
        from mcd_graph.model.temporaries import temporary_file
        folder, order = Path(sys.argv[2]), []
        def second():
            with system.locked(folder):
                order.append("second")
        with system.locked(folder):
            other = threading.Thread(target=second)
            other.start()
            other.join(0.2)
            order.append("first")
        other.join()
        assert order == ["first", "second"], order
        with temporary_file(folder / "a.mcd-tmp-1") as file:
            assert system.is_locked(folder / "a.mcd-tmp-1")
            file.write(b"x")
            os.replace(folder / "a.mcd-tmp-1", folder / "b")
        assert not system.is_locked(folder / "b") and not system.is_locked(folder / "none")
        assert sorted(os.listdir(folder)) == ["b"]
        system.sync_directory(folder)
        assert system.processors() == os.cpu_count()
        try:
            system.create(folder / "b")
        except FileExistsError:
            pass
        else:
            raise AssertionError
    """
    on_windows(script, tmp_path)


def test_the_fake_refuses_what_windows_refuses(tmp_path: Path) -> None:
    script = """
        path = Path(sys.argv[2])
        with path.open("wb"):
            for act in (path.unlink, lambda: path.replace(path.with_name("other"))):
                try:
                    act()
                except PermissionError:
                    continue
                raise AssertionError
    """
    on_windows(script, tmp_path / "file")


def test_the_fake_refuses_a_session_beside_a_writer(model: Path) -> None:
    script = """
        import onnxruntime
        model = sys.argv[2]
        onnxruntime.InferenceSession(model)
        with open(model, "r+b"):
            try:
                onnxruntime.InferenceSession(model)
            except PermissionError:
                sys.exit()
        raise AssertionError
    """
    on_windows(script, model)


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("linux", "libmcd_ort.so"),
        ("darwin", "libmcd_ort.dylib"),
        ("win32", "mcd_ort.dll"),
        ("freebsd14", "libmcd_ort.so"),
    ],
)
def test_the_librarys_name(platform: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(FileNotFoundError, match=name):
        library.get_library_path()
    (tmp_path / name).touch()
    assert library.get_library_path() == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without forks")
def test_a_fork_of_this_process_holds_nothing_up(tmp_path: Path) -> None:
    """Such as a worker of an executor, which has the files of the model that is being written open as well."""

    def close_and_open() -> None:
        with closed_for_writing(file):
            assert path.read_bytes() == b"abc"
        file.write(b"def")

    path = tmp_path / "a.mcd-tmp-1"
    with temporary_file(path) as file:
        file.write(b"abc")
        fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        fork.start()
        try:
            attempt = threading.Thread(target=close_and_open, daemon=True)
            attempt.start()
            attempt.join(10)
            assert not attempt.is_alive()
        finally:
            fork.kill()
            fork.join()
        assert system.is_locked(path)
        file.flush()
        assert path.read_bytes() == b"abcdef"
