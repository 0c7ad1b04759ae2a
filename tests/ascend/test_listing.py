"""The program of the operator's document: its faults are named, and the corrected one that is shipped runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from acl_runtime import Problem

from mcd_graph.ascend import read_dat
from mcd_graph.cli import main

FAULTS = Path(__file__).with_name("faults.cpp")
M, K, N = 16, 320, 128


def build(source: Path, folder: Path) -> Path:
    command = f"g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror {source} $(mcd ascend cflags) -o program"
    subprocess.run(["bash", "-ec", command], cwd=folder, check=True)
    return folder / "program"


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corrected listing, its program and its data, made with the page's commands."""
    folder = tmp_path_factory.mktemp("listing")
    assert main(["ascend", "listing", str(folder)]) == 0
    build(folder / "matmul_compress_dequant.cpp", folder)
    subprocess.run([sys.executable, "gen_data.py", str(M), str(K), str(N)], cwd=folder, check=True)
    assert main(["ascend", "compress", str(folder / "data" / "weight.npy"), str(folder / "data")]) == 0
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(FAULTS, tmp_path_factory.mktemp("faults"))


def run(program: Path, folder: Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def sizes(folder: Path) -> tuple[int, ...]:
    files = (folder / "data" / part / "weight.dat" for part in ("weight", "index"))
    return (M, K, N, *(path.stat().st_size for path in files))


@pytest.mark.parametrize("strict", ["0", "1"])
def test_the_corrected_listing_agrees_with_numpy(listing: Path, strict: str) -> None:
    done = run(listing / "program", listing, *sizes(listing), MCD_ACLNN_STRICT=strict)
    assert (done.returncode, done.stderr) == (0, "")
    data = listing / "data"
    problem = Problem(
        x1=np.fromfile(data / "mat1.bin", np.int8).reshape(M, K),
        w=read_dat(data)["weight"].decode(),
        bias=np.fromfile(data / "bias.bin", np.int32),
        scale=np.fromfile(data / "deqScale.bin", np.uint64).astype(np.uint32).view(np.float32),
    )
    expected = problem.expected()
    assert np.isfinite(expected).all()
    assert (data / "output.bin").read_bytes() == expected.tobytes()
    assert f"result[0] is: {expected[0, 0]:g}\n" in done.stdout


def test_the_corrected_listing_says_what_is_wrong(listing: Path) -> None:
    m, k, n, weight, index = sizes(listing)
    done = run(listing / "program", listing, m, k, n, weight - 1, index)
    assert done.returncode == 1
    assert f"weight.dat has {weight} bytes instead of {weight - 1}" in done.stderr
    done = run(listing / "program", listing, m, k, n, weight, index, MCD_ACLNN_FAIL="execution:1", MCD_ACLNN_QUIET="1")
    assert done.returncode == 1
    assert "aclrtSynchronizeStream failed with 500001: aclrtSynchronizeStream: failed on request" in done.stderr
    assert run(listing / "program", listing).returncode == 1


@pytest.mark.parametrize(
    ("fault", "where", "text"),
    [
        (
            "overflow",
            "aclrtMemcpy failed. ERROR: 100000",
            "src: the program has written 512 bytes past the end of the 512 that aclrtMallocHost gave it",
        ),
        (
            "info",
            "aclnnMatmulCompressDequantGetWorkspaceSize failed. ERROR: 161002",
            "9 is the number of ACL_INT64, and aclCreateIntArray's second argument is a length: give 5",
        ),
        ("floats", "aclrtMemcpy failed. ERROR: 100000", "src has 8192 bytes from 0x"),
    ],
)
def test_each_fault_of_the_documents_listing_is_named(
    listing: Path, faulty: Path, fault: str, where: str, text: str
) -> None:
    done = run(faulty, listing, fault, M, K, N)
    assert done.returncode == 3, done.stderr
    assert where in done.stdout
    assert text in done.stderr
    quiet = run(faulty, listing, fault, M, K, N, MCD_ACLNN_QUIET="1")
    assert (quiet.returncode, quiet.stderr) == (3, "")


def test_a_bias_of_floats_is_guessed(listing: Path, faulty: Path, tmp_path: Path) -> None:
    """The document's script writes one, whose bits are huge integers."""
    (tmp_path / "data").mkdir()
    for path in (listing / "data").iterdir():
        (tmp_path / "data" / path.name).symlink_to(path)
    (tmp_path / "data" / "bias.bin").unlink()
    np.random.default_rng(0).normal(size=N).astype(np.float32).tofile(tmp_path / "data" / "bias.bin")
    done = run(faulty, tmp_path, "none", M, K, N)
    assert done.returncode == 0
    assert "every number of the result is infinite or no number: bias must be int32" in done.stderr


def test_the_command_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ascend", "listing", str(tmp_path / "new" / "folder")]) == 0
    assert "gen_data.py" in capsys.readouterr().out
    assert main(["ascend", "listing", str(tmp_path / "new" / "folder")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["ascend", "listing", str(tmp_path / "new" / "folder"), "--force"]) == 0
