"""Weights compressed on threads, processes and a Dask cluster: the same bytes everywhere, whatever dies meanwhile."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering import make_model
from samples import digests, gaussian_weight, layer, write, write_external

from mcd_graph import InputError, Progress, WorkerError, compress_model
from mcd_graph.cli import main
from mcd_graph.codec import cluster
from mcd_graph.codec.cluster import DaskExecutor
from mcd_graph.codec.packing import FileView

WIDTH, LAYERS = 768, 10


def chain() -> onnx.ModelProto:
    """A model of many multiplications, one behind the other."""
    constants: dict[str, np.ndarray] = {f"w{i}": gaussian_weight(WIDTH, WIDTH, seed=i) for i in range(LAYERS)}
    constants |= {"w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    nodes = [node for i in range(LAYERS) for node in layer(f"x{i}", f"w{i}", f"x{i + 1}")]
    shape = (np.float32, ("m", WIDTH))
    return make_model(nodes, {"x0": shape}, {f"x{LAYERS}": shape}, constants)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its weights in external data."""
    return write_external(chain(), tmp_path_factory.mktemp("source") / "m.onnx", "m.bin")


@pytest.fixture(scope="module")
def inside(source: Path) -> Path:
    """The model with its weights inside."""
    return write(chain(), source.with_name("inside.onnx"))


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("expected")
    compress_model(source, directory / "m.onnx", jobs=1)
    return digests(directory)


class Altered(Executor):
    """Runs work in this thread, on altered arguments."""

    def __init__(self, alter: Callable[[Any], Any], version: str | None = None) -> None:
        self.alter = alter
        self.version = version
        self.kinds: list[str] = []

    def submit(self, function, source, profile, version, *rest):  # type: ignore[no-untyped-def,override]
        self.kinds.append(type(source).__name__)
        future: Future[object] = Future()
        try:
            future.set_result(function(self.alter(source), profile, self.version or version, *rest))
        except Exception as error:  # noqa: BLE001 - what executors do
            future.set_exception(error)
        return future


def elsewhere(source: object) -> object:
    return dataclasses.replace(source, path="/nowhere/m.bin") if isinstance(source, FileView) else source


def test_threads_and_processes(source: Path, inside: Path, out: Path, expected: dict[str, str]) -> None:
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2, get_context("spawn")) as processes:
        for index, (executor, model) in enumerate(
            ((threads, source), (processes, source), (processes, inside), (threads, inside))
        ):
            directory = out / str(index)
            directory.mkdir()
            compress_model(model, directory / "m.onnx", executor=executor)
            assert digests(directory) == expected


def test_weights_in_files_are_sent_as_places(source: Path, out: Path, expected: dict[str, str]) -> None:
    executor = Altered(lambda source: source)
    compress_model(source, out / "m.onnx", executor=executor)
    assert executor.kinds == ["FileView"] * LAYERS
    assert digests(out) == expected


def test_a_worker_without_the_file_gets_the_bytes(source: Path, out: Path, expected: dict[str, str]) -> None:
    executor = Altered(elsewhere)
    compress_model(source, out / "m.onnx", executor=executor, jobs=3)
    assert executor.kinds.count("ndarray") == LAYERS
    assert executor.kinds.count("FileView") <= 4
    assert digests(out) == expected


def test_a_worker_with_another_file_of_the_name(
    source: Path, out: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    """Same path, size and time of change, as a careless copy has: the samples tell."""
    data = source.with_name("m.bin")
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(data.stat().st_size))
    shutil.copystat(data, other)
    executor = Altered(lambda view: dataclasses.replace(view, path=str(other)) if isinstance(view, FileView) else view)
    compress_model(source, out / "m.onnx", executor=executor)
    assert executor.kinds.count("ndarray") == LAYERS
    assert digests(out) == expected


def test_a_model_that_changes_meanwhile(tmp_path: Path, out: Path) -> None:
    source = write_external(chain(), tmp_path / "m.onnx", "m.bin")

    def touch(view: object) -> object:
        os.utime(tmp_path / "m.bin", (0, 0))
        return view

    with pytest.raises(InputError, match="was changed while it was read"):
        compress_model(source, out / "m.onnx", executor=Altered(touch))
    assert digests(out) == {}


def test_a_worker_with_another_version(source: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"a worker has mcd-graph .* installed, and not 0\.0\.0"):
        compress_model(source, out / "m.onnx", executor=Altered(lambda source: source, version="0.0.0"))
    assert digests(out) == {}


def test_a_pool_whose_process_dies(source: Path, out: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"weight w\d could not be compressed: "):
            compress_model(source, out / "m.onnx", executor=pool)
    assert digests(out) == {}


def test_how_much_is_under_way(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on bytes holds back what the bound on weights would let through, but never stops the work."""
    most = 0

    class Counting(Altered):
        waiting = 0

        def submit(self, *arguments):  # type: ignore[no-untyped-def]
            nonlocal most
            future = super().submit(*arguments)
            self.waiting += 1
            most = max(most, self.waiting)
            get = future.result

            def result(timeout: float | None = None) -> object:
                self.waiting -= 1
                return get(timeout)

            future.result = result
            return future

    for number, (limit, expected_most) in enumerate({1: 1, 3 * WIDTH * WIDTH: 3}.items()):
        most = 0
        monkeypatch.setattr("mcd_graph.compression.packed._BYTES_UNDER_WAY", limit)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
        compress_model(source, out / f"{number}.onnx", executor=Counting(lambda source: source))
        assert most == expected_most
    most = 0
    compress_model(source, out / "jobs.onnx", executor=Counting(lambda source: source), jobs=6)
    assert most == 7


# ---------------------------------------------------------------------------------------------------------------------
# Dask


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    import dask  # noqa: PLC0415 - may not be installed

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),  # half a minute to give a dead worker up
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as started,
    ):
        yield started


@pytest.mark.parametrize("place", ["source", pytest.param("inside", marks=pytest.mark.slow)])
def test_dask_with_a_worker_killed_in_the_middle(
    dask_cluster: Any, place: str, request: pytest.FixtureRequest, out: Path, expected: dict[str, str]
) -> None:
    from distributed import Client  # noqa: PLC0415 - may not be installed

    with Client(dask_cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # one killed before is started again
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.weights_done == 2:
            killed.append(next(iter(dask_cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with DaskExecutor(dask_cluster.scheduler_address) as executor:
        assert executor.threads == 2
        compress_model(request.getfixturevalue(place), out / "m.onnx", executor=executor, jobs=6, progress=kill)
    assert killed
    assert digests(out) == expected


@pytest.mark.slow
def test_dask_client_as_executor(dask_cluster: Any, source: Path, out: Path, expected: dict[str, str]) -> None:
    from distributed import Client  # noqa: PLC0415 - may not be installed

    with Client(dask_cluster, set_as_default=False) as client:
        for name, executor in (("client", client), ("executor", client.get_executor())):
            (out / name).mkdir()
            compress_model(source, out / name / "m.onnx", executor=executor)
            assert digests(out / name) == expected


def test_dask_on_the_command_line(
    dask_cluster: Any, source: Path, out: Path, expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compress", str(source), str(out / "m.onnx"), "--json", "--dask", dask_cluster.scheduler_address]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["lowered"] == LAYERS
    assert digests(out) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_cluster(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 0.5)
    assert main(["compress", str(source), str(out / "m.onnx"), "--dask", "tcp://127.0.0.1:9"]) == 2
    assert "mcd: no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert digests(out) == {}
