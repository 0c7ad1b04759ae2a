"""The workflow of the operator's document, step by step: data, compression, scales, a C++ program, NumPy's answer."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from acl_runtime import Problem

from mcd_graph.ascend import deq_scale_from_float
from mcd_graph.ascend.stand_in import compiler_flags, get_aclnn_library_path, linker_flags, shell_words
from mcd_graph.cli import main
from mcd_graph.errors import InputError

CLIENT = Path(__file__).with_name("client.cpp")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built as its author is told to."""
    folder = tmp_path_factory.mktemp("client")
    command = f"g++ -std=c++11 {' '.join(WARNINGS)} {CLIENT} $(mcd ascend cflags) -o client"
    subprocess.run(["bash", "-ec", command], cwd=folder, check=True)
    return folder / "client"


def write(problem: Problem, folder: Path) -> None:
    """Write the document's files; the weight goes through `mcd ascend compress`."""
    assert problem.bias is not None
    np.save(folder / "weight.npy", {"weight": problem.w}, allow_pickle=True)  # type: ignore[arg-type]
    assert main(["ascend", "compress", str(folder / "weight.npy"), str(folder)]) == 0
    problem.x1.tofile(folder / "x1.bin")
    problem.bias.tofile(folder / "bias.bin")
    deq_scale_from_float(problem.scale).tofile(folder / "deqScale.bin")


def run(client: Path, folder: Path, problem: Problem, **environment: str) -> "subprocess.CompletedProcess[str]":
    m, k, n = *problem.x1.shape, problem.w.shape[0]
    return subprocess.run(
        [str(client), str(folder), str(m), str(k), str(n)],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("strict", ["0", "1"])
@pytest.mark.parametrize(("m", "k", "n"), [(16, 320, 128), (1, 512, 192), (512, 1024, 1024)])
def test_the_program_agrees_with_numpy(client: Path, out: Path, m: int, k: int, n: int, strict: str) -> None:
    problem = Problem.random(m, k, n, seed=n)
    write(problem, out)
    result = run(client, out, problem, MCD_ACLNN_STRICT=strict)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    expected = problem.expected()
    assert (out / "output.bin").read_bytes() == expected.tobytes()
    assert result.stdout == f"out[0][0] = {expected[0, 0]:g}\n"


def test_the_info_file_is_what_the_program_passes(out: Path) -> None:
    write(Problem.random(1, 320, 128), out)
    assert np.fromfile(out / "info" / "weight.dat", np.int64).tolist() == [8, 8, 320, 128, 1]


@pytest.mark.parametrize(
    "function",
    [
        "aclInit",
        "aclrtSetDevice",
        "aclrtCreateStream",
        "aclrtMalloc",
        "aclrtMemcpy",
        "aclCreateTensor",
        "aclnnMatmulCompressDequantGetWorkspaceSize",
        "aclnnMatmulCompressDequant",
        "aclrtSynchronizeStream",
        "execution",
    ],
)
def test_the_program_reports_every_failure_and_cleans_up(client: Path, out: Path, function: str) -> None:
    problem = Problem.random(3, 320, 128)
    write(problem, out)
    result = run(client, out, problem, MCD_ACLNN_FAIL=f"{function}:1")
    assert result.returncode == 1
    assert "failed on request" in result.stderr
    assert "cleaning up failed" not in result.stderr
    # The interface does not say whose an executor is after a second phase that failed.
    leaked = {text for line in result.stderr.splitlines() if "leaked" in line for text in line.split(": ", 2)[2:]}
    executor = "an aclOpExecutor whose second phase was not called"
    assert leaked == ({executor} if function == "aclnnMatmulCompressDequant" else set())


def test_the_devices_stream_is_refused(client: Path, out: Path) -> None:
    """The weight that the operator's public example embeds."""
    problem = Problem.random(16, 320, 128)
    write(problem, out)
    for name, size in (("weight", 8320), ("index", 16)):
        path = out / name / "weight.dat"
        path.unlink()  # it is read-only
        path.write_bytes(bytes(size))
    result = run(client, out, problem)
    assert result.returncode == 1
    assert "aclrtSynchronizeStream returned 500001" in result.stderr
    assert "not a stream of the open codec" in result.stderr


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("g++", "c++11"), ("g++", "c++20")])
@pytest.mark.parametrize(
    "header",
    ["acl/acl.h", "aclnn/acl_meta.h", "aclnn/aclnn_base.h", "aclnnop/aclnn_matmul_compress_dequant.h", "mcd_aclnn.h"],
)
def test_headers_compile_alone(tmp_path: Path, compiler: str, standard: str, header: str) -> None:
    source = tmp_path / ("alone.c" if compiler == "gcc" else "alone.cpp")
    source.write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
    flags = [f"-std={standard}", *WARNINGS, "-fsyntax-only", *compiler_flags()]
    subprocess.run([compiler, *flags, str(source)], check=True)


def test_declarations_and_symbols_are_the_same(tmp_path: Path) -> None:
    """Every declared function is exported, and nothing else is."""
    source = tmp_path / "all.c"
    source.write_text('#include "aclnnop/aclnn_matmul_compress_dequant.h"\n#include "mcd_aclnn.h"\n')
    text = subprocess.run(
        ["gcc", "-E", "-P", *compiler_flags(), str(source)], check=True, capture_output=True, text=True
    ).stdout
    declared = set(re.findall(r"\b((?:acl|mcdAclnn)\w+)\(", text))
    library = get_aclnn_library_path()
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    assert declared == {line.split()[-1] for line in symbols.splitlines()}


def test_flags_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in [
        ([], [*compiler_flags(), *linker_flags()]),
        (["--compile"], compiler_flags()),
        (["--link"], linker_flags()),
    ]:
        assert main(["ascend", "cflags", *options]) == 0
        assert capsys.readouterr().out.split() == expected


def test_flags_that_a_shell_would_tear_are_refused() -> None:
    assert shell_words(["-I/a", "-lb"]) == "-I/a -lb"
    for flag in ("-I/with blank", "-I/with\ttab", "-I/a*"):
        with pytest.raises(InputError, match="without blanks"):
            shell_words([flag])


def test_the_program_needs_only_the_stand_in(client: Path) -> None:
    ldd = shutil.which("ldd")
    assert ldd is not None
    result = subprocess.run([ldd, str(client)], check=True, capture_output=True, text=True)
    assert "libmcd_aclnn.so => " in result.stdout
    assert "not found" not in result.stdout
    assert "libpython" not in result.stdout
