"""Where stored bytes exceed the order-0 entropy: the code, escapes, tables, edges, padding, index and header.

    python benchmarks/overheads.py [MODEL.onnx …] [--made] [--profiles balanced,small] [--least 8192] [--json FILE]

Of each int8 or uint8 constant of the models, and with `--made` of made-up Gaussians and Laplacians of 3 to 7.5 bits.
All shares are of the entropy, in percent:

- `code`: what code words take beyond the entropy, escapes aside;
- `escapes`: the bytes of symbols that have no code word of their own;
- `edges`: root fields of lanes outside of the weight;
- `padding`: levels rounded up to bytes, counts, and tiles to 64 bytes;
- `tables`: ranks that the header stores, up to the next multiple of 64;
- `index`, `header`: 8 bytes a tile; 64 bytes and the tail of 64.
"""

import argparse
import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import onnx
from matmul import append, processor
from onnx import numpy_helper

from mcd_graph import _native
from mcd_graph.codec.weights import Profile, pack_weight

PARTS = ("code", "escapes", "edges", "padding", "tables", "index", "header")
FIXED = TAIL = 64

Weight = npt.NDArray[Any]


@dataclasses.dataclass
class Overhead:
    """Bytes of one compressed weight, and what it could be stored in."""

    name: str
    profile: str
    bytes: int
    entropy: float
    code: str
    parts: dict[str, float]

    @property
    def over(self) -> float:
        """Share by which it exceeds the entropy."""
        return sum(self.parts.values()) / self.entropy


def symbols_by_rank(x2: npt.NDArray[np.uint8]) -> list[int]:
    """The symbols of ranks as docs/reference/format.md has them, as far as they have one rank."""
    stored, centre = int(x2[10]), int(x2[11])
    if stored == 0:
        return [(centre + (rank // 2 if rank % 2 == 0 else -(rank + 1) // 2)) % 256 for rank in range(256)]
    first = [int(symbol) for symbol in x2[FIXED : FIXED + stored]]
    taken = set(first) | {symbol ^ centre for symbol in first}
    for symbol in sorted(range(256), key=lambda symbol: (abs(symbol - first[0]), symbol)):
        if len(first) == 128:
            break
        if symbol not in taken:
            first.append(symbol)
            taken |= {symbol, symbol ^ centre}
    return first + [symbol ^ centre for symbol in first] if centre else first


def overhead_of(name: str, weight: Weight, profile: Profile) -> Overhead:
    """Compress a weight (n, k) and say what its bytes are for."""
    packed = pack_weight(weight, profile=profile)
    x2, index = (part.view(np.uint8) for part in packed.arrays)
    info = _native.inspect(*packed.arrays, packed.compress_info)
    counts = np.array(_native.histogram(weight))
    used = counts[counts > 0]
    entropy = float(-(used * np.log2(used / weight.size)).sum() / 8)
    header = (FIXED + (info["ranks"] or 0) + 63) // 64 * 64
    parts: dict[str, float] = {"tables": header - FIXED, "index": index.size, "header": FIXED + TAIL}
    code = "raw"
    if info["coded_tiles"]:
        width, step, levels = info["root_bits"] or 0, info["step"] or 0, info["levels"] or 0
        order = symbols_by_rank(x2)
        rarer = np.append(np.cumsum(counts[order][::-1])[::-1], np.zeros(512, np.int64))
        direct = (1 << width) - step
        entries = float(sum(rarer[direct + step * level] for level in range(levels)))
        escapes = float(rarer[direct + step * levels]) if step else 0.0
        parts["code"] = (width * weight.size + entries) / 8 - entropy
        parts["escapes"] = escapes
        n, k = weight.shape
        lanes = -(-n // 16) * 16 * (-(-k // 32) * 32) - n * k
        parts["edges"] = width * lanes / 8 if x2[48] == 0 else 0.0
        code = f"{width},{step},{levels}{'' if info['ranks'] else ' distance'} {entries / weight.size:.2f}"
    known = sum(parts.values())
    parts["padding"] = x2.size + index.size - entropy - known
    return Overhead(name, profile, weight.size, entropy, code, {part: parts.get(part, 0.0) for part in PARTS})


def of_model(path: Path, least: int) -> Iterator[tuple[str, Weight]]:
    """The int8 and uint8 initializers of a model, as matrices (n, k)."""
    for initializer in onnx.load(path).graph.initializer:
        if initializer.data_type not in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
            continue
        array = numpy_helper.to_array(initializer)
        if array.size >= least:
            matrix = array.T if array.ndim == 2 else array.reshape(array.shape[0] if array.ndim else 1, -1)
            yield f"{path.stem}: {initializer.name}", matrix


def made(sizes: tuple[int, ...]) -> Iterator[tuple[str, Weight]]:
    """Weights of one scale, bell-shaped or with long tails."""
    for side in sizes:
        rng = np.random.default_rng(side)
        for bits in np.arange(3, 7.75, 0.5):
            sigma = 2**bits / np.sqrt(2 * np.pi * np.e)
            draws = {
                "Gaussian": rng.normal(0, sigma, (side, side)),
                "Laplacian": rng.laplace(0, 2**bits / (2 * np.e), (side, side)),
            }
            for kind, draw in draws.items():
                weight = np.clip(np.rint(draw), -127, 127).astype(np.int8)
                yield f"{kind} {bits:.1f} bits, {side}x{side}", weight


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--made", action="store_true")
    parser.add_argument("--sides", default="96,256,1024,4096")
    parser.add_argument("--profiles", default=",".join(get_args(Profile)))
    parser.add_argument("--least", type=int, default=8 << 10)
    parser.add_argument("--each", action="store_true", help="a line for each constant of a model, not its sum alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(processor())
    print(f"{'':44s} {'profile':8s} {'over':>6s} " + " ".join(f"{part:>8s}" for part in PARTS) + "  code")
    rows: list[dict[str, object]] = []

    def show(overhead: Overhead) -> None:
        shares = {part: size / overhead.entropy for part, size in overhead.parts.items()}
        print(
            f"{overhead.name[-44:]:44s} {overhead.profile:8s} {overhead.over:6.2%} "
            + " ".join(f"{share:8.2%}" for share in shares.values())
            + f"  {overhead.code}"
        )
        rows.append({"benchmark": "overheads", **dataclasses.asdict(overhead), "over": overhead.over})

    profiles = [cast("Profile", profile) for profile in arguments.profiles.split(",")]
    for path in arguments.models:
        sums = {profile: Overhead(path.stem, profile, 0, 0, "", dict.fromkeys(PARTS, 0.0)) for profile in profiles}
        beyond: collections.Counter[str] = collections.Counter()
        for name, weight in of_model(path, arguments.least):
            for profile in profiles:
                one, total = overhead_of(name, weight, profile), sums[profile]
                total.bytes, total.entropy = total.bytes + one.bytes, total.entropy + one.entropy
                total.parts = {part: total.parts[part] + one.parts[part] for part in PARTS}
                limit = {"balanced": 0.02, "small": 0.01}.get(profile, 1) + (0.02 if one.bytes < 64 << 10 else 0)
                beyond[profile] += one.over > limit
                beyond[profile + " all"] += 1
                if arguments.each:
                    show(one)
        for profile, total in sums.items():
            total.code = f"{beyond[profile]} of {beyond[profile + ' all']} beyond the aim"
            show(total)
    if arguments.made:
        for name, weight in made(tuple(int(side) for side in arguments.sides.split(","))):
            for profile in profiles:
                show(overhead_of(name, weight, profile))
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
