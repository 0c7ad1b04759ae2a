"""Sizes of the T5-small title model's int8 weights: each profile, order-0 entropy, zstd, lz4, xz.

    python benchmarks/sizes.py [--models encoder,decoder] [--json FILE]

Everything that is stored counts: streams, tables, checksums, index, padding. Each weight is compressed by itself.
Every stream is decoded and compared before its size is taken. Rates are for one thread and vary with the machine's
load.
"""

import argparse
import lzma
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lz4.frame
import numpy as np
import numpy.typing as npt
import onnx
import traceforge_title_model
import zstandard
from matmul import append, processor
from onnx import numpy_helper

from mcd_graph import _native

if TYPE_CHECKING:
    from collections.abc import Callable


def weights_of(path: Path) -> list[npt.NDArray[np.int8]]:
    """The constant int8 weights (n, k) of all MatMulInteger nodes."""
    model = onnx.load(path)
    initializers = {i.name: i for i in model.graph.initializer}
    names = {n.input[1] for n in model.graph.node if n.op_type == "MatMulInteger"}
    return [numpy_helper.to_array(initializers[name]).T for name in sorted(names & initializers.keys())]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="encoder,decoder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    general: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "zstd -3": (zstandard.ZstdCompressor(3).compress, zstandard.ZstdDecompressor().decompress),
        "zstd -19": (zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress),
        "lz4": (lz4.frame.compress, lz4.frame.decompress),
        "xz": (lzma.compress, lzma.decompress),
    }
    folder = Path(traceforge_title_model.__file__).parent / "data" / "span"
    rows: list[dict[str, object]] = []
    print(processor())
    for model in arguments.models.split(","):
        weights = weights_of(folder / f"{model}.onnx")
        plain = sum(w.size for w in weights)
        entropy = sum(_native.entropy_bits(w) * w.size / 8 for w in weights)
        print(f"{model}: {len(weights)} weights, {plain / 1e6:.2f} MB, order-0 entropy {entropy / 1e6:.2f} MB")

        def row(codec: str, stored: int, encode: float, decode: float) -> None:
            rate = plain / 1e6  # noqa: B023 (called within this turn of the loop)
            over = stored / entropy - 1  # noqa: B023
            print(
                f"  {codec:>9}: ratio {plain / stored:.3f}, {100 * over:+6.2f} % over the entropy, "  # noqa: B023
                f"encode {rate / encode:7.1f} MB/s, decode {rate / decode:7.1f} MB/s"
            )
            rows.append(
                {
                    "benchmark": "sizes",
                    "model": model,  # noqa: B023
                    "codec": codec,
                    "over": over,
                    "ratio": plain / stored,  # noqa: B023
                    "encode_mb_s": rate / encode,
                    "decode_mb_s": rate / decode,
                }
            )

        for profile in ("fast", "balanced", "small"):
            start = time.perf_counter()
            packed = [_native.encode(w, profile) for w in weights]
            encoded = time.perf_counter()
            unpacked = [_native.decode(*p) for p in packed]
            decoded = time.perf_counter()
            assert all(np.array_equal(a, b) for a, b in zip(weights, unpacked, strict=True))
            stored = sum(x2.size + index.size for x2, index, _ in packed)
            row(profile, stored, encoded - start, decoded - encoded)
        for codec, (compress, decompress) in general.items():
            sources = [np.ascontiguousarray(w.T).tobytes() for w in weights]
            start = time.perf_counter()
            blobs = [compress(s) for s in sources]
            encoded = time.perf_counter()
            assert [decompress(b) for b in blobs] == sources
            row(codec, sum(map(len, blobs)), encoded - start, time.perf_counter() - encoded)
    if arguments.json:
        append(arguments.json, rows)


if __name__ == "__main__":
    main()
