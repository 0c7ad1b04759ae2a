"""The functions that tests run in processes of their own; every argument is text."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from reliability import small

from mcd_graph.integrity import check_model

# Damage


def flip_model_bits(path: str, first: str, step: str) -> dict[str, Any]:
    """Flip bits of a model file, one at a time, and tell what becomes of each.

    Returns:
        Positions of bits by outcome: ``refused`` by a session's creation, ``failed`` at the run, ``same`` bytes, or
        ``different`` ones; and ``odd``: what `check_model` answered with anything but a verdict.
    """
    pristine = Path(path).read_bytes()
    expected = small.session(pristine).run(None, {"x": small.X})[0]
    outcomes: dict[str, list[Any]] = {key: [] for key in ("refused", "failed", "same", "different", "unnoticed")}
    damaged_file = Path("damaged.onnx")
    for bit in range(int(first), 8 * len(pristine), int(step)):
        content = bytearray(pristine)
        content[bit // 8] ^= 1 << bit % 8
        outcome = _outcome(bytes(content), expected)
        outcomes[outcome].append(bit)
        damaged_file.write_bytes(content)
        if check_model(damaged_file).intact and outcome == "refused":
            outcomes["unnoticed"].append(bit)
    return outcomes


def _outcome(content: bytes, expected: np.ndarray) -> str:
    try:
        session = small.session(content)
    except Exception:  # noqa: BLE001  (onnxruntime's exceptions share no base class)
        return "refused"
    try:
        (y,) = session.run(None, {session.get_inputs()[0].name: small.X})
    except Exception:  # noqa: BLE001
        return "failed"
    same = (y.dtype, y.shape, y.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    return "same" if same else "different"


def overwrite_while_open(path: str, residency: str, rounds: str) -> dict[str, int]:
    """Overwrite the data file of an open session with noise, run, and put it back, again and again.

    Returns:
        How many runs gave the same bytes, others, or an error; ``restored``: how many rounds ended with the same bytes.
    """
    data = Path(path).with_suffix(".data")
    pristine = data.read_bytes()
    config = {"mcd.residency": residency}
    session = small.session(Path(path), small.options(threads=2, config=config))
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, session.get_inputs()[0].shape[-1])).astype(np.float32)
    expected = session.run(None, {"x": x})[0].tobytes()
    counts = dict.fromkeys(("same", "different", "error", "restored"), 0)
    file = os.open(data, os.O_RDWR)
    for turn in range(int(rounds)):
        # All of it, or a few bytes anywhere.
        noise = bytearray(rng.bytes(len(pristine)) if turn % 2 else pristine)
        for position in rng.integers(0, len(pristine), 20):
            noise[position] ^= int(rng.integers(1, 256))
        os.pwrite(file, noise, 0)
        try:
            (y,) = session.run(None, {"x": x})
            counts["same" if y.tobytes() == expected else "different"] += 1
        except Exception:  # noqa: BLE001
            counts["error"] += 1
        os.pwrite(file, pristine, 0)
        counts["restored"] += session.run(None, {"x": x})[0].tobytes() == expected
    return counts
