"""The same bits from every kernel, on any number of threads, decoded beforehand or not."""

from pathlib import Path

import pytest
from reliability import nodes
from samples import real_model

import mcd_graph
from mcd_graph import _native
from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs
from mcd_graph.model.loading import load_model
from mcd_graph.session import create_session

np = nodes.np
THREADS = (1, 2, 3, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nodes")
    assert nodes.write(path) == len(nodes.FORMS) * len(nodes.SHAPES)
    return path


@pytest.mark.parametrize("threads", [(1,), pytest.param(THREADS[1:], marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("kernel", _native.kernels())
def test_kernels_and_threads_around_every_block_size(
    kernel: str, threads: tuple[int, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCD_KERNEL", kernel)
    results = list(nodes.run(folder, mcd_graph.get_library_path(), threads))
    assert len(results) == len(nodes.FORMS) * len(nodes.SHAPES) * len(threads) * len(nodes.RESIDENCIES)
    assert not [what for what, same in results if not same]


@pytest.mark.slow
def test_kernels_and_threads_on_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = real_model("t5-small-title-encoder")
    mcd_graph.compress_model(original, tmp_path / "m.onnx")
    specs = input_specs(load_model(original))
    rng = np.random.default_rng(5)
    feeds = [
        random_inputs(specs, bind_dimensions(specs, batch, iter((length,))), rng)
        for batch, length in [(1, 1), (1, 13), (3, 16), (1, 80)]
    ]
    session = create_session(original, threads=1, optimize=False)
    expected = [session.run(None, feed)[0].tobytes() for feed in feeds]
    for kernel in _native.kernels():
        monkeypatch.setenv("MCD_KERNEL", kernel)
        for threads in THREADS:
            session = create_session(tmp_path / "m.onnx", threads=threads, optimize=False)
            assert [session.run(None, feed)[0].tobytes() for feed in feeds] == expected, (kernel, threads)
