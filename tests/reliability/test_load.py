"""Many runs, sessions, threads and processes: the same bytes, nothing left behind, nothing that hangs.

All of it happens in processes of their own, which a watchdog ends.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from lowering import make_model
from reliability.children import child, start
from samples import gaussian_weight, layer, write

import mcd_graph

MIB = 1 << 20


def chain(folder: Path, *, layers: int, size: int) -> Path:
    """Write a compressed model of ``layers`` multiplications of size x size, and return its path."""
    constants = {f"w{i}": gaussian_weight(size, size, seed=i) for i in range(layers)}
    nodes = [node for i in range(layers) for node in layer(f"h{i}", f"w{i}", f"h{i + 1}")]
    shape = (np.float32, ("m", size))
    scale = np.array(0.08 / size**0.5, np.float32)  # keeps the activations' size from layer to layer
    model = make_model(
        nodes, {"h0": shape}, {f"h{layers}": shape}, {**constants, "w_scale": scale, "w_zero": np.array(0, np.int8)}
    )
    report = mcd_graph.compress_model(write(model, folder / "source.onnx"), folder / "m.onnx")
    assert report.totals.lowered == layers
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose runs take microseconds."""
    return chain(tmp_path_factory.mktemp("little"), layers=2, size=128)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 4 MiB of weights, of which threads take parts."""
    return chain(tmp_path_factory.mktemp("large"), layers=4, size=1024)


@pytest.mark.parametrize("runs", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_eight_threads_on_one_session(runs: int, little: Path, tmp_path: Path) -> None:
    assert child(tmp_path, "hammer", little, 8, runs) == {"runs": 8 * runs, "wrong": 0}


@pytest.mark.slow
def test_eight_threads_on_one_session_with_threads_of_its_own(large: Path, tmp_path: Path) -> None:
    assert child(tmp_path, "hammer", large, 8, 300) == {"runs": 2400, "wrong": 0}


@pytest.mark.parametrize(
    ("sessions", "residency"),
    [
        (60, "compressed"),
        pytest.param(300, "compressed", marks=pytest.mark.slow),
        pytest.param(300, "decoded", marks=pytest.mark.slow),
    ],
)
def test_sessions_that_come_and_go_leave_nothing(sessions: int, residency: str, large: Path, tmp_path: Path) -> None:
    first, *_, last = child(tmp_path, "come_and_go", large, sessions, residency)[0 if sessions < 100 else 4 :]
    assert last["threads"] == first["threads"]
    assert last["files"] == first["files"]
    # A session that kept one of its four column sums would show with 4 KiB, one that kept a weight with a MiB.
    assert last["private"] - first["private"] < 4096 * (sessions - 100 if sessions > 100 else sessions)


def test_sessions_of_a_process_share_what_is_decoded(large: Path, tmp_path: Path) -> None:
    residencies = ("compressed", "decoded", "auto")
    found = {residency: child(tmp_path, "pooled", large, residency) for residency in residencies}
    compressed = found["compressed"]["sizes"]
    for residency in residencies:
        assert found[residency]["digests"] == found["compressed"]["digests"]
    for residency in ("decoded", "auto"):
        one, four, none = (own - other for own, other in zip(found[residency]["sizes"], compressed, strict=True))
        assert 3 * MIB < one < 6 * MIB, residency
        # Each of the three others would have 4 MiB of its own.
        assert four < one + 2 * MIB, residency
        # The last has dropped them.
        assert none < 2 * MIB, residency


def test_processes_share_one_copy(large: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path, "share", large) for _ in range(4)]
    for message in ("ready", "measured"):
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == message, process.communicate()[1]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go on\n")
            process.stdin.flush()
    answers = []
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        answers.append(json.loads(out))
    assert len({answer["digest"] for answer in answers}) == 1
    size = large.with_suffix(".onnx_data").stat().st_size
    for answer in answers:
        assert answer["rss"] > size // 2, "the weights are used in the mapping"
        assert answer["private"] == 0
    # This process may have pages of the file as well, which then count for less.
    # The kernel rounds up to KiB.
    assert sum(answer["pss"] for answer in answers) <= size + 1024 * len(answers)


def test_odd_settings_of_threads(little: Path, tmp_path: Path) -> None:
    found = child(tmp_path, "odd_threads", little)
    assert len(found) == 16 * 2 + 9 + 3
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_odd_settings_of_threads_where_they_take_parts(large: Path, tmp_path: Path) -> None:
    found = child(tmp_path, "odd_threads", large)
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("parallel", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_can_be_cancelled_and_the_session_goes_on(parallel: bool, tmp_path: Path) -> None:
    model = chain(tmp_path, layers=40, size=128)
    counts = child(tmp_path, "cancel", model, 50, parallel)
    assert counts["wrong"] == 0
    assert counts["cancelled"] >= 5
    assert counts["cancelled"] + counts["finished"] == 50


@pytest.mark.parametrize(
    "threads", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_sessions_that_share_a_pool_of_threads(threads: int, large: Path, tmp_path: Path) -> None:
    found = child(tmp_path, "shared_pool", large, threads)
    assert found["found"] == [child(tmp_path, "digest", large)]
    assert found["added"] == 0
