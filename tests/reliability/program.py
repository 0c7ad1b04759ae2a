"""The C++ example held to the original's bytes, wherever it runs: on this machine, under Wine, under an emulator.

``python program.py LIBRARY COMMAND...`` runs ``COMMAND MODEL LIBRARY INPUT...`` in a folder of its own, so that no path
is one of this machine's. Every kernel that the processor has runs; damaged models must end in a message.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from lowering import make_model
from reliability import nodes
from samples import K, N, gaussian_weight, layer, real_model, write

import mcd_graph

SHAPES = [(1, 1), (1, 13), (3, 16), (1, 80)]
"""Batches and lengths for the encoder."""

DAMAGES = 24
"""Places of a data file that are damaged in turn."""

SMALL_FEED = {"x": np.random.default_rng(1).standard_normal((3, K)).astype(np.float32)}


class Program:
    """The example.

    Args:
        command: how it is started.
        library: the operator's library, as the example is to be told of it.
        folder: where it runs.
    """

    def __init__(self, command: Sequence[str], library: str, folder: Path) -> None:
        self.folder = folder
        self._command = list(command)
        self._library = library

    def run(
        self, model: str, feed: Mapping[str, np.ndarray], *entries: str, kernel: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a model of the folder."""
        inputs = []
        for number, (name, array) in enumerate(feed.items()):
            (self.folder / f"input{number}.bin").write_bytes(array.tobytes())
            inputs.append(f"{name}=input{number}.bin:{','.join(map(str, array.shape))}")
        return subprocess.run(
            [*self._command, model, self._library, *entries, *inputs],
            cwd=self.folder,
            env={**os.environ, "MCD_KERNEL": kernel},
            capture_output=True,
            check=False,
            timeout=300,
        )

    def output(self, model: str, feed: Mapping[str, np.ndarray], *entries: str, kernel: str = "") -> bytes:
        """Return the bytes of the first output."""
        result = self.run(model, feed, *entries, kernel=kernel)
        if result.returncode != 0:
            raise RuntimeError(f"{model} ended with {result.returncode}: {_said(result)}")
        return result.stdout

    def kernels(self) -> list[str]:
        """Return those that the processor has, best first, as the refusal of one that does not exist names them."""
        result = self.run("small.mcd.onnx", SMALL_FEED, kernel="none")
        found = re.search(r"available: ([^)]*)\)", _said(result))
        if found is None:
            raise RuntimeError(f"no kernels are named in: {_said(result)}")
        return found[1].split(", ")


def _said(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode(errors="replace").strip()


def small_model(program: Program) -> None:
    """Write a model of one multiplication and its compressed form."""
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    model = make_model(layer("x", "w", "y"), {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)
    write(model, program.folder / "small.onnx")
    mcd_graph.compress_model(program.folder / "small.onnx", program.folder / "small.mcd.onnx")


def single_nodes(program: Program, kernels: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Run the single nodes, the kernels in turn; yield what was run, and whether the bytes are the definition's."""
    nodes.write(program.folder)
    for path, kernel in zip(sorted(program.folder.glob("[0-9]*.npz")), itertools.cycle(kernels), strict=False):
        with np.load(path) as arrays:
            x1, expected = arrays["x1"], arrays["y"].tobytes()
        y = program.output(f"{path.stem}.onnx", {"x1": x1}, "mcd.residency=compressed", kernel=kernel)
        yield f"{path.stem}, {kernel}", y == expected


def encoder(program: Program, kernels: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Run the T5 encoder's original and its compressed forms."""
    shutil.copy(real_model("t5-small-title-encoder"), program.folder / "original.onnx")
    mcd_graph.compress_model(program.folder / "original.onnx", program.folder / "compressed.onnx")
    names = ("input_ids", "attention_mask")
    for batch, length in SHAPES:
        ids = np.arange(1, batch * length + 1).reshape(batch, length)
        feed = dict(zip(names, (ids, np.ones_like(ids)), strict=True))
        expected = program.output("original.onnx", feed)
        for kernel in kernels:
            for residency in nodes.RESIDENCIES:
                y = program.output("compressed.onnx", feed, f"mcd.residency={residency}", kernel=kernel)
                yield f"encoder, {batch} x {length}, {kernel}, {residency}", y == expected


def at_open(program: Program) -> Iterator[tuple[str, bool]]:
    """Run a model whose constant is restored when the library is registered, from a folder with a name of two words."""
    folder = program.folder / "two w\u00f6rds"
    folder.mkdir()
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 3, (2, 256, 128)).round().astype(np.int8)
    constants = {"w": weight, "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    value = {"x": (np.float32, (2, "m", 256))}
    model = make_model(layer("x", "w", "y"), value, {"y": (np.float32, (2, "m", 128))}, constants)
    write(model, folder / "original.onnx")
    report = mcd_graph.compress_model(folder / "original.onnx", folder / "at-open.onnx", at_open=True)
    assert report.totals.file_bytes_after < report.totals.file_bytes_before
    feed = {"x": rng.standard_normal((2, 3, 256)).astype(np.float32)}
    expected = program.output(f"{folder.name}/original.onnx", feed)
    yield "restored at opening", program.output(f"{folder.name}/at-open.onnx", feed) == expected


def damaged(program: Program) -> Iterator[tuple[str, bool]]:
    """Open damaged models; yield whether the program ended with a message, or gave the right bytes after all."""
    data = program.folder / "small.mcd.onnx_data"
    whole = data.read_bytes()
    expected = program.output("small.mcd.onnx", SMALL_FEED)

    def survives() -> bool:
        result = program.run("small.mcd.onnx", SMALL_FEED)
        if result.returncode == 0:
            return result.stdout == expected
        return result.returncode == 1 and any(line.startswith("run: ") for line in _said(result).splitlines())

    for place in range(0, len(whole), max(1, len(whole) // DAMAGES)):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        yield f"byte {place} of the data changed", survives()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        data.write_bytes(whole[:length])
        yield f"data cut to {length} bytes", survives()
    data.unlink()
    yield "no data", survives()
    data.write_bytes(whole)
    model = program.folder / "small.mcd.onnx"
    content = model.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        model.write_bytes(content[:length])
        yield f"model cut to {length} bytes", survives()
    model.write_bytes(content)
    yield "all of it again", program.output("small.mcd.onnx", SMALL_FEED) == expected


def everything(program: Program) -> Iterator[tuple[str, bool]]:
    """Do all of it."""
    small_model(program)
    kernels = program.kernels()
    sys.stdout.write(f"kernels: {', '.join(kernels)}\n")
    yield from encoder(program, kernels)
    yield from at_open(program)
    yield from damaged(program)
    yield from single_nodes(program, kernels)


def main() -> int:
    """Run the command line; exit status 1 if anything is not as it must be."""
    library, *command = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        program = Program(command, library, Path(folder))
        results = []
        for what, holds in everything(program):
            results.append(holds)
            if not holds:
                sys.stdout.write(f"does not hold: {what}\n")
    sys.stdout.write(f"{sum(results)} of {len(results)} runs are as they must be\n")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
