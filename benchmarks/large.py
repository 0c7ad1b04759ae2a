"""Memory and rate of compressing (and restoring) a model of several gigabytes in external data.

    python benchmarks/large.py [FOLDER] [--gib 6] [--limit-mib 1409] [--jobs N] [--profile balanced]

Generates the model piece by piece, compresses it in a child process, restores that in another, and compares some
layers with the original, byte for byte. It needs two and a half times --gib of disk. Of each child it reports the time
by the clock, the processor time, the rate by both, and memory, from /proc/PID/status read every 20 ms: *anonymous* is
what the process allocated, *mapped* the pages of files that were in memory at that moment, which the kernel takes back
at will, and *peak* is the largest sum (VmHWM). With --limit-mib the children run in a memory control group of that
size, which counts the page cache that they fill as well; this needs root and a writable /sys/fs/cgroup.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from matmul import processor
from onnx import TensorProto, helper

from mcd_graph import unpack_weight
from mcd_graph.model.loading import load_model
from mcd_graph.operators.matmul_compress_dequant import OP_TYPE

MIB = 1 << 20
VOCABULARY, WIDTH, INNER = 32000, 4096, 11008
BLOCK = [(WIDTH, WIDTH)] * 4 + [(WIDTH, INNER), (INNER, WIDTH)]
CHECKED = 7
"""Weights compared at the end, evenly spread and the last, which is the largest."""


def shapes(size: int) -> list[tuple[int, int]]:
    """(k, n) of each weight, ``size`` bytes in all: blocks of a language model, and its head."""
    blocks = round(size / sum(k * n for k, n in BLOCK))
    return [*BLOCK * max(blocks, 1), (WIDTH, VOCABULARY)]


def write_model(path: Path, size: int) -> int:
    """Write the model and its data file; return the weights' size."""
    rng = np.random.default_rng(0)
    weights = shapes(size)
    graph_inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["length"])]
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["embedding", "tokens"], ["x0"])],
            "large",
            graph_inputs,
            [helper.make_tensor_value_info(f"x{len(weights)}", TensorProto.FLOAT, ["length", VOCABULARY])],
        ),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 21)],
    )

    def external(name: str, dtype: int, shape: tuple[int, ...], offset: int, length: int) -> None:
        tensor = proto.graph.initializer.add(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "large.bin"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))

    def small(name: str, array: npt.NDArray[np.generic]) -> None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))

    small("zero", np.array(0, np.int8))
    with (path.parent / "large.bin").open("wb") as file:
        for _ in range(VOCABULARY // 1000):
            file.write(rng.standard_normal((1000, WIDTH), np.float32))
        external("embedding", TensorProto.FLOAT, (VOCABULARY, WIDTH), 0, file.tell())
        for index, (k, n) in enumerate(weights):
            # The quantiles of a normal distribution: looking random numbers up is ten times faster than drawing them.
            sigma = 8 + 24 * rng.random()
            table = np.sort(rng.normal(0, sigma, 1 << 16)).round().clip(-127, 127).astype(np.int8)
            external(f"w{index}", TensorProto.INT8, (k, n), file.tell(), k * n)
            for start in range(0, k, 512):
                file.write(table[rng.integers(0, 1 << 16, (min(512, k - start), n), np.uint16)])
            small(f"scale{index}", np.array(0.01 / sigma, np.float32))
            here, following = f"x{index}", f"x{index + 1}"
            proto.graph.node.extend([
                helper.make_node("DynamicQuantizeLinear", [here], [f"q{index}", f"s{index}", f"z{index}"]),
                helper.make_node(
                    "MatMulInteger",
                    [f"q{index}", f"w{index}", f"z{index}", "zero"],
                    [f"a{index}"],
                    name=f"/{index}/MatMul",
                ),
                helper.make_node("Cast", [f"a{index}"], [f"f{index}"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"s{index}", f"scale{index}"], [f"m{index}"]),
                helper.make_node("Mul", [f"f{index}", f"m{index}"], [following]),
            ])  # fmt: skip
    path.write_bytes(proto.SerializeToString())
    return sum(k * n for k, n in weights)


@contextlib.contextmanager
def memory_group(limit: int | None) -> Iterator[Path | None]:
    """A control group (version 1 or 2) whose processes may use ``limit`` bytes, page cache included."""
    if limit is None:
        yield None
        return
    root = Path("/sys/fs/cgroup")
    root = root / "memory" if (root / "memory").is_dir() else root
    group = root / f"mcd-large-{os.getpid()}"
    group.mkdir()
    try:
        file = group / "memory.limit_in_bytes"
        (file if file.exists() else group / "memory.max").write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def processor_seconds() -> float:
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(arguments: list[str], limit: int | None) -> tuple[float, float, dict[str, int]]:
    """Seconds by the clock and of the processor that a command took, and its memory in bytes by field of its status."""
    most: dict[str, int] = {}
    with memory_group(limit) as group:
        # The shell enters the group and becomes the command, so that everything of it is counted.
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = arguments if group is None else ["sh", "-c", enter, str(group), *arguments]
        start, used = time.perf_counter(), processor_seconds()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for line in status.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssFile", "VmHWM"):
                    most[name] = max(most.get(name, 0), int(value.split()[0]) * 1024)
            time.sleep(0.02)
        seconds, used = time.perf_counter() - start, processor_seconds() - used
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with status {process.returncode}")
    return seconds, used, most


def report(what: str, size: int, seconds: float, used: float, memory: dict[str, int]) -> None:
    anonymous, mapped, peak = (memory[name] / MIB for name in ("RssAnon", "RssFile", "VmHWM"))
    print(
        f"{what}: {seconds:.1f} s ({size / seconds / 1e6:.0f} MB/s), processor {used:.1f} s "
        f"({size / used / 1e6:.0f} MB/s); "
        f"MiB: anonymous {anonymous:.0f}, mapped {mapped:.0f}, peak {peak:.0f}",
        flush=True,
    )


def check(original: Path, compressed: Path, restored: Path) -> int:
    """Decode some weights of both results and compare them; return their number."""
    weights = load_model(original).graph.initializers
    again = load_model(restored).graph.initializers
    nodes = [node for node in load_model(compressed).graph if node.op_type == OP_TYPE]
    chosen = sorted({*range(0, len(nodes), max(1, len(nodes) // (CHECKED - 1))), len(nodes) - 1})
    for index in chosen:
        node = nodes[index]
        x2, table = (value.const_value.numpy() for value in node.inputs[1:3])
        expected = weights[f"w{index}"].const_value.numpy()
        assert np.array_equal(unpack_weight(x2, table, node.attributes["compress_info"].as_ints()).T, expected)
        assert np.array_equal(again[f"w{index}"].const_value.numpy(), expected)
    assert len(nodes) == len(weights) // 2 - 1
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a temporary one by default")
    parser.add_argument("--gib", type=float, default=6.0)
    parser.add_argument("--limit-mib", type=int)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--profile", default="balanced")
    arguments = parser.parse_args()
    limit = None if arguments.limit_mib is None else arguments.limit_mib * MIB
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        original, compressed, restored = (
            Path(folder) / name for name in ("large.onnx", "large.mcd.onnx", "again.onnx")
        )
        size = arguments.gib * (1 << 30)
        if shutil.disk_usage(folder).free < 2.6 * size:
            raise SystemExit(f"{folder} has too little space: give another folder, or less --gib")
        size = write_model(original, int(size))
        print(
            processor(),
            f"{size / (1 << 30):.2f} GiB of weights, the largest {VOCABULARY * WIDTH / MIB:.0f} MiB",
            flush=True,
        )
        mcd = [sys.executable, "-m", "mcd_graph"]
        options = ["--quiet", "--jobs", str(arguments.jobs), "--profile", arguments.profile]
        report("compress", size, *run([*mcd, "compress", str(original), str(compressed), *options], limit))
        before, after = (
            sum(file.stat().st_size for file in Path(folder).glob(name)) for name in ("large.[ob]*", "large.mcd.*")
        )
        print(f"files: {before / 1e9:.2f} GB became {after / 1e9:.2f} GB")
        report("restore", size, *run([*mcd, "restore", str(compressed), str(restored), "--quiet"], limit))
        print(f"{check(original, compressed, restored)} weights compared: identical")


if __name__ == "__main__":
    main()
