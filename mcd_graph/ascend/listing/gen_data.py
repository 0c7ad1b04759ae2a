"""The data of the operator's document, put right: ``python gen_data.py m k n`` writes it into ./data.

The document's own script writes a bias of float32, whose bits the operator reads as int32, and scales around 1, with
which sums of a thousand products exceed float16: every result is infinite. Here the bias is int32, and the scales are
positive and small.
"""

import sys
from pathlib import Path

import numpy as np


def main(m: int, k: int, n: int) -> None:
    """Write mat1.bin, weight.npy, bias.bin and deqScale.bin."""
    rng = np.random.default_rng(0)
    data = Path("data")
    data.mkdir(exist_ok=True)
    rng.integers(-128, 128, (m, k), np.int8).tofile(data / "mat1.bin")
    weight = rng.integers(-9, 10, (n, k)) * (rng.random((n, k)) < 0.5)  # sparse, as W8A8S weights are
    np.save(data / "weight.npy", {"weight": weight.astype(np.int8)})  # type: ignore[arg-type]
    rng.integers(-1000, 1000, n, np.int32).tofile(data / "bias.bin")
    scale = rng.uniform(1e-4, 1e-3, n).astype(np.float32)
    scale.view(np.uint32).astype(np.uint64).tofile(data / "deqScale.bin")


if __name__ == "__main__":
    main(*(int(size) for size in sys.argv[1:]))
