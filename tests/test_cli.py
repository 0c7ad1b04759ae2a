"""The command line: exit status, one line for each error, nothing half-written."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich_model import rich_model
from samples import digests, float_model, gaussian_weight, text_model, uniform_weight, write
from saved import damage, small_disk

from mcd_graph.cli import main


def mcd(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command; ``check`` is the exit status to expect."""
    command = [str(Path(sys.executable).with_name("mcd")), *map(str, arguments)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert check is None or result.returncode == check, result.stderr
    assert "Traceback" not in result.stderr
    return result


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    """Run the command in this process, expect it to fail, and return its one line."""
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("mcd: ")
    return lines[0].removeprefix("mcd: ")


def mcd_compressed(model: Path, out: Path) -> Path:
    mcd("compress", model, out / "m.onnx")
    return out / "m.onnx"


def test_the_whole_way(model: Path, out: Path) -> None:
    printed = mcd("compress", model, out / "m.mcd.onnx", "--report", out / "r.json")
    assert "3 of 3 nodes with quantised weights lowered, 2 weights" in printed.stdout
    assert printed.stderr == "", "no progress bar where nobody watches"
    report = json.loads((out / "r.json").read_text())
    assert [node["status"] for node in report["nodes"]] == ["lowered"] * 3
    assert "identical" in mcd("verify", model, out / "m.mcd.onnx").stdout
    assert "3 lowered" in mcd("inspect", out / "m.mcd.onnx").stdout
    assert "3 nodes restored" in mcd("restore", out / "m.mcd.onnx", out / "plain.onnx").stdout
    result = json.loads(mcd("verify", model, out / "plain.onnx", "--json").stdout)
    assert (result["schema"], result["schema_version"], result["identical"]) == ("mcd-verification", 1, True)


def test_as_a_module(out: Path) -> None:
    command = [sys.executable, "-m", "mcd_graph", "--version"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=out)
    assert result.stdout.strip() == f"mcd-graph {version('mcd-graph')}"


@pytest.mark.parametrize("command", ["compress", "inspect", "restore", "verify", "bench", "demo"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Example: mcd {command}" in capsys.readouterr().out


def test_kept_nodes_are_listed(tmp_path: Path, out: Path) -> None:
    source = write(text_model(w2=uniform_weight(128, 256)), tmp_path / "m.onnx")
    assert "kept /second/MatMul: it would save" in mcd("compress", source, out / "m.onnx").stdout


def test_include_exclude_and_min_saving(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = mcd("compress", model, out / "m.onnx", "--include", "/MatMul$", "--exclude", "first|^/y").stdout
    assert "1 of 3 nodes with quantised weights lowered, 1 weight;" in printed
    assert "kept /first/MatMul: its name matches --exclude" in printed
    assert "what to do (excluded): Change --exclude." in printed
    message = complaint(capsys, "compress", model, out / "n.onnx", "--min-saving", "0.5")
    assert "would save" in message
    assert "less than 50.0%" in message
    assert not (out / "n.onnx").exists()


def test_nothing_but_our_own_words_on_standard_error(out: Path, tmp_path: Path) -> None:
    """onnx_ir would warn of texts that are not UTF-8, which operators of vendors have."""
    source = write(rich_model(), tmp_path / "rich.onnx")
    assert mcd("compress", source, out / "m.onnx").stderr == ""


def test_inspect_as_json(model: Path) -> None:
    data = json.loads(mcd("inspect", model, "--json").stdout)
    assert data["schema"] == "mcd-report"
    assert [node["name"] for node in data["nodes"]] == ["/first/MatMul", "/second/MatMul", "/y/MatMul"]


def test_a_difference_is_status_1(model: Path, tmp_path: Path) -> None:
    weight = gaussian_weight(seed=1)
    weight[0, 0] += 1
    other = write(text_model(w1=weight), tmp_path / "other.onnx")
    result = mcd("verify", model, other, "--runs", 1, check=1)
    assert result.stdout.count("different: run 0") == 4  # two settings, two numbers of threads
    assert result.stderr == ""


def test_verify_with_given_inputs(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd("compress", model, out / "m.onnx")
    ids = np.arange(8).reshape(1, 8)
    np.savez(out / "inputs.npz", ids=ids, mask=np.ones_like(ids))
    assert "in 1 run on" in mcd("verify", model, out / "m.onnx", "--inputs", out / "inputs.npz").stdout
    (out / "bad.npz").write_text("no arrays")
    message = complaint(capsys, "verify", model, out / "m.onnx", "--inputs", out / "bad.npz")
    assert message.endswith("bad.npz is not an .npz file of plain arrays")
    np.savez(out / "objects.npz", ids=np.array([{}], object))
    message = complaint(capsys, "verify", model, out / "m.onnx", "--inputs", out / "objects.npz")
    assert message.endswith("objects.npz is not an .npz file of plain arrays")


@pytest.mark.slow
def test_bench_as_json(model: Path) -> None:
    result = json.loads(mcd("bench", model, "--m", "1,3", "--threads", "1", "--repeats", "2", "--json").stdout)
    assert result["schema"] == "mcd-bench"
    assert [(row["m"], row["threads"], row["repeats"]) for row in result["rows"]] == [(1, 1, 2), (3, 1, 2)]
    for row in result["rows"]:
        assert row["original_ms"] > 0
        assert row["compressed_ms"] > 0
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert row["identical"]
    assert [one["name"] for one in result["contestants"]] == ["original", "balanced"]
    assert all(one["footprints"] for one in result["contestants"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'."),
        (["compress"], "Missing argument 'SRC'."),
        (["compress", "a.onnx"], "Missing argument 'DST'."),
        (["compress", "a.onnx", "b.onnx", "--profile", "tiny"], "Invalid value for '--profile'"),
        (["compress", "a.onnx", "b.onnx", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["compress", "a.onnx", "b.onnx", "--jobs", "many"], "Invalid value for '--jobs'"),
        (["compress", "a.onnx", "b.onnx", "--colour"], "No such option: --colour"),
        (["compress", "a.onnx", "b.onnx"], "a.onnx: No such file or directory"),
        (["inspect", "a.onnx"], "a.onnx: No such file or directory"),
        (["restore", "a.onnx", "b.onnx"], "a.onnx: No such file or directory"),
        (["verify", "a.onnx", "b.onnx"], "a.onnx: No such file or directory"),
        (["bench", "a.onnx"], "a.onnx: No such file or directory"),
        (["bench", "a.onnx", "--axes", "batch"], "--axes takes name=number with commas between, not 'batch'"),
        (["bench", "a.onnx", "--profiles", "tiny"], "--profiles takes fast, balanced, small, not 'tiny'"),
        (["bench", "a.onnx", "--m", "one"], "--m takes whole numbers with commas between, not 'one'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(
    arguments: list[str],
    message: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(out)
    assert message in complaint(capsys, *arguments)
    assert digests(out) == {}


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage: mcd" in captured.out
    assert captured.err == ""


def test_not_a_model(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes\n")
    for command in ("compress", "restore"):
        assert complaint(capsys, command, path, out / "m.onnx") == f"{path} is not an ONNX model"
    for arguments in (["inspect", path], ["verify", path, path], ["bench", path]):
        assert complaint(capsys, *arguments) == f"{path} is not an ONNX model"
    assert digests(out) == {}


def test_nothing_to_compress(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(float_model(), tmp_path / "float.onnx")
    assert "nothing to compress" in complaint(capsys, "compress", path, out / "m.onnx", "--report", out / "r.json")
    assert digests(out) == {}


def test_existing_output(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "m.onnx").write_text("mine")
    message = complaint(capsys, "compress", model, out / "m.onnx")
    assert message == f"{out / 'm.onnx'}: already exists (--force replaces it)"
    assert (out / "m.onnx").read_text() == "mine"
    mcd("compress", model, out / "m.onnx", "--force")
    before = digests(out)
    assert "already exists" in complaint(capsys, "restore", model, out / "m.onnx")
    (out / "r.json").write_text("mine")
    assert "r.json: already" in complaint(capsys, "compress", model, out / "n.onnx", "--report", out / "r.json")
    (out / "r.json").unlink()
    assert digests(out) == before


def test_output_over_input(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(model.parent)
    assert "would overwrite the input" in complaint(capsys, "compress", model, model, "--force")
    assert digests(model.parent) == before


def test_a_directory_that_is_not_there(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file or directory" in complaint(capsys, "compress", model, out / "deep" / "m.onnx")
    assert "Is a directory" in complaint(capsys, "compress", model, out)
    assert digests(out) == {}


@pytest.mark.parametrize("command", ["compress", "restore", "inspect", "verify", "bench"])
def test_a_directory_as_model(model: Path, out: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    second = [out / "m.onnx"] if command in ("compress", "restore") else [model] * (command != "inspect")
    text = complaint(capsys, command, model.parent, *second)
    assert text == f"{model.parent} is a folder: give the model in it, {model}"
    assert "there is none in it" in complaint(capsys, "inspect", out)
    assert digests(out) == {}


def test_no_space(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(out, "40k"):
        assert "no space left; no file was left half-written" in complaint(capsys, "compress", model, out / "m.onnx")
        assert digests(out) == {}


def test_damage(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd("compress", model, out / "m.onnx")
    damage(out / "m.onnx")
    damaged = out / "m.onnx"
    for arguments in (
        ["inspect", damaged],
        ["restore", damaged, out / "plain.onnx"],
        ["verify", model, damaged],
        ["bench", model, damaged],
    ):
        message = complaint(capsys, *arguments)
        assert "/first/MatMul" in message
        assert "is damaged" in message


def test_external_data_outside_is_refused(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = text_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    path = write(proto, model.parent / "evil.onnx")
    assert "'table'" in complaint(capsys, "compress", path, out / "m.onnx")
    assert digests(out) == {}


def test_a_reader_that_goes_away(model: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    command = [str(Path(sys.executable).with_name("mcd")), "inspect", str(model), "--json"]
    result = subprocess.run(command, check=False, stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert result.stderr == ""
    assert result.returncode == 128 + signal.SIGPIPE, "not 1, which means that a check found a difference"


BAR = """
import sys
from mcd_graph.cli import main, output
output._SECONDS_WITHOUT_BAR = float(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def on_terminal(cwd: Path, seconds: float, *arguments: object) -> str:
    """Return what a command writes to standard error when that is a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", BAR, str(seconds), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    result = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=theirs, cwd=cwd, env=environment)
    os.close(theirs)
    assert result.returncode == 0
    written = b""
    # The other end is closed: what comes after the last byte is an error on Linux.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 4096):
            written += piece
    os.close(ours)
    return written.decode()


@pytest.mark.slow
def test_progress_bars(model: Path, out: Path) -> None:
    compress = ["compress", model, out / "m.onnx", "--force"]
    shown = on_terminal(out, 0, *compress)
    assert "compressing" in shown
    assert "/s" in shown
    assert ":" in shown, "the time that remains"
    assert on_terminal(out, 60, *compress) == "", "none for what takes no time"
    assert on_terminal(out, 0, *compress, "--json") == ""
    assert on_terminal(out, 0, *compress, "--quiet") == ""
    assert "restoring" in on_terminal(out, 0, "restore", out / "m.onnx", out / "plain.onnx")


def test_quiet_and_json(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(model), str(out / "m.onnx"), "--quiet"]) == 0
    assert main(["restore", str(out / "m.onnx"), str(out / "plain.onnx"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert main(["compress", str(model), str(out / "m.onnx"), "--json", "--inline", "--force"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["lowered"] == 3
    assert not (out / "m.onnx_data").exists()


def test_outputs_are_checked_before_the_work(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mcd_graph.compress.compress_model", lambda *_, **__: pytest.fail("too early"))
    monkeypatch.setattr("mcd_graph.bench.bench_models", lambda *_, **__: pytest.fail("too early"))
    for option in ("--report", "--html"):
        message = complaint(capsys, "compress", model, out / "m.onnx", option, out / "nowhere" / "r")
        assert message == f"{out / 'nowhere'}: there is no such folder to write to"
        assert "written twice" in complaint(capsys, "compress", model, out / "m.onnx", option, out / "m.onnx")
    (out / "r.html").write_text("mine")
    assert "already exists" in complaint(capsys, "bench", model, "--html", out / "r.html")
    both = ["--html", out / "r", "--report", out / "r"]
    assert "written twice" in complaint(capsys, "compress", model, out / "m.onnx", *both)
    assert digests(out).keys() == {"r.html"}


def test_outputs_never_take_the_place_of_a_model(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even with --force: neither what is read nor what is written, nor the data of either."""
    mcd("restore", mcd_compressed(model, out), out / "plain.onnx")
    before = digests(out)
    for source, destination, report, reason in (
        ("plain.onnx", "m.onnx", "plain.onnx", "overwrite the input"),
        ("plain.onnx", "m.onnx", "plain.onnx_data", "overwrite the input"),
        ("plain.onnx", "m.onnx", "m.onnx_data", "written twice"),
        ("plain.onnx", "m.onnx", "../" + out.name + "/m.onnx", "written twice"),
    ):
        outputs = [out / destination, "--force", "--report", out / report]
        assert reason in complaint(capsys, "compress", out / source, *outputs)
    named = ["--data-name", "w.bin", "--html", out / "w.bin"]
    assert "written twice" in complaint(capsys, "compress", model, out / "new.onnx", *named)
    for page in ("plain.onnx", "m.onnx", "m.onnx_data"):
        options = ["--force", "--html", out / page]
        assert "overwrite the input" in complaint(capsys, "bench", out / "plain.onnx", out / "m.onnx", *options)
    assert digests(out) == before


def test_a_report_that_the_file_system_refuses(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the work, and by its own name: here one that is too long."""
    message = complaint(capsys, "compress", model, out / "m.onnx", "--report", out / ("r" * 300))
    assert message == f"{out / ('r' * 300)}: File name too long"
    assert digests(out) == {}


def test_libraries_of_operators_are_looked_at_first(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["compress", model, out / "m.onnx"], ["inspect", model], ["verify", model, model]):
        assert "x.so: there is no such file" in complaint(capsys, *command, "--custom-ops", out / "x.so")
        assert f"onnxruntime refuses {model}: " in complaint(capsys, *command, "--custom-ops", model)
    assert digests(out) == {}


def test_errors_are_broken_between_words(model: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    (tmp_path / "folder").mkdir()
    script = Path(sys.executable).with_name("mcd")
    subprocess.run([script, "inspect", "folder"], check=False, cwd=tmp_path, stderr=theirs, env=environment)
    os.close(theirs)
    lines = re.sub("\x1b\\[[0-9;]*m", "", os.read(ours, 4096).decode()).splitlines()
    os.close(ours)
    assert len(lines) == 2
    assert max(map(len, lines)) <= 60


def test_temporary_names_are_not_shown(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("mcd_graph.model.saving.temporary_file", refuse)
    assert complaint(capsys, "compress", model, out / "m.onnx") == f"{out / 'm.onnx'}: Permission denied"


@pytest.mark.parametrize(
    ("arguments", "help_"),
    [(["compress"], "mcd compress"), (["bench", "--nonsense"], "mcd bench"), (["nonsense"], "mcd")],
)
def test_errors_name_the_help_of_their_command(
    arguments: list[str], help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint(capsys, *arguments).endswith(f"({help_} --help)")


def test_a_saving_that_is_no_number(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not nan" in complaint(capsys, "compress", model, out / "m.onnx", "--min-saving", "nan")
    assert "a share below 1" in complaint(capsys, "compress", model, out / "m.onnx", "--min-saving", "5")
    assert digests(out) == {}


def test_all_reasons_are_named(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exclude = ["--exclude", "first"]
    message = complaint(capsys, "compress", model, out / "m.onnx", *exclude, "--min-saving", "0.99")
    assert "all 3 nodes with quantised weights are kept: " in message
    assert message.count(" because ") >= 2
    message = complaint(capsys, "compress", model, out / "m.onnx", "--min-saving", "0.99")
    assert message.count(" because it would save ") == 1, "one reason, with other figures for each node"
    assert ", less than 99.0%, and the like" in message


def test_a_model_in_onnxruntimes_own_format(
    model: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    onnxruntime.InferenceSession(model, options)
    for arguments in (["compress", out / "m.onnx"], ["inspect"], ["bench"], ["restore", out / "m.onnx"]):
        message = complaint(capsys, arguments[0], tmp_path / "model.ort", *arguments[1:])
        assert "is in onnxruntime's own format (.ort), not ONNX: give the model that it was made of" in message


def test_json_of_restore(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mcd("compress", model, out / "m.onnx", "--data-name", "weights.bin")
    assert digests(out).keys() == {"m.onnx", "weights.bin"}
    assert main(["restore", str(out / "m.onnx"), str(out / "p.onnx"), "--json", "--data-name", "plain.bin"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["schema"], result["restored"], result["kept"]) == ("mcd-restoration", 3, {})
    assert (out / "plain.bin").is_file()


def test_more_threads_than_processors(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mcd_graph.bench.bench_models", lambda *_, **__: pytest.skip("warned, and goes on"))
    with pytest.raises(pytest.skip.Exception):
        main(["bench", str(model), "--threads", "1,999"])
    assert "999 threads on" in capsys.readouterr().err


def test_a_name_that_is_not_utf8(model: Path, out: Path) -> None:
    name = os.fsdecode(b"\xff.onnx")
    (out / name).write_bytes(model.read_bytes())
    script = Path(sys.executable).with_name("mcd")
    for arguments in (["inspect", name], ["inspect", name, "--check"], ["compress", name, "m.onnx"]):
        result = subprocess.run([script, *arguments], cwd=out, check=False, capture_output=True)
        assert (result.returncode, result.stderr) == (0, b""), arguments
    result = subprocess.run([script, "verify", name, "m.onnx"], cwd=out, check=False, capture_output=True)
    assert result.returncode == 2
    assert b"\\xff.onnx: onnxruntime opens no file whose name is not UTF-8" in result.stderr
    result = subprocess.run([script, "inspect", os.fsdecode(b"\xfe")], cwd=out, check=False, capture_output=True)
    assert result.returncode == 2
    assert result.stderr == b"mcd: \\xfe: No such file or directory\n"


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60])
def test_nothing_is_wider_than_the_terminal(model: Path, out: Path, columns: int) -> None:
    """Not tables, not sentences."""
    model.rename(out / "model.onnx")
    model, compressed = Path("model.onnx"), Path("m.onnx")
    for arguments in (
        ["compress", model, compressed],
        ["inspect", model],
        ["inspect", compressed],
        ["inspect", compressed, "--check"],
        ["verify", model, compressed],
        ["restore", compressed, "plain.onnx"],
    ):
        ours, theirs = os.openpty()
        environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
        command = [Path(sys.executable).with_name("mcd"), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=theirs, cwd=out, env=environment)
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                written += piece
        os.close(ours)
        assert written
        lines = re.sub("\x1b\\[[0-9;]*m", "", written.decode()).splitlines()
        assert [line for line in lines if len(line) > columns] == [], arguments
