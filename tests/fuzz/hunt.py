"""Looks at random graphs until time is up: ``python tests/fuzz/hunt.py FIRST_SEED SECONDS``.

Each graph whose lowered form gives other bytes, or that cannot be lowered without an exception, is named with its seed
and the steps that made it; exit status 1 if there is any. Graphs on which onnxruntime itself ends the process are
counted, which is why the work is done in a child.
"""

import mmap
import os
import struct
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

from random_graphs import check, expect, generate  # noqa: E402 - found there

COUNTERS = struct.Struct("8q")
"""Next seed, whether onnxruntime accepted the original, graphs, refused, met, lowered, finds, crashes."""


def work(shared: mmap.mmap, end: float) -> None:
    """Run one graph after the other, and note in shared memory how far this has come."""
    seed, _, count, refused, met, lowered, finds, crashes = COUNTERS.unpack_from(shared)
    while time.time() < end:
        COUNTERS.pack_into(shared, 0, seed + 1, 0, count + 1, refused, met, lowered, finds, crashes)
        case = generate(seed)
        try:
            expected = expect(case)
            if expected is None:
                refused += 1
            else:
                COUNTERS.pack_into(shared, 0, seed + 1, 1, count + 1, refused, met, lowered, finds, crashes)
                outcome = check(case, expected)
                met, lowered = met + outcome.met, lowered + outcome.lowered
        except Exception:  # noqa: BLE001 - whatever goes wrong is a find
            finds += 1
            say(f"seed {seed}: {case.steps}\n{traceback.format_exc(limit=-3)}")
        seed, count = seed + 1, count + 1
        COUNTERS.pack_into(shared, 0, seed, 0, count, refused, met, lowered, finds, crashes)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(first: int, seconds: float) -> int:
    """Let children work until time is up; return the exit status."""
    shared = mmap.mmap(-1, COUNTERS.size)
    COUNTERS.pack_into(shared, 0, first, 0, 0, 0, 0, 0, 0, 0)
    begin = time.time()
    while time.time() < begin + seconds:
        child = os.fork()
        if child == 0:
            work(shared, begin + seconds)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            state = list(COUNTERS.unpack_from(shared))
            state[6 if state[1] else 7] += 1
            if state[1]:
                say(f"seed {state[0] - 1}: the lowered model ended the process, the original did not")
            COUNTERS.pack_into(shared, 0, *state)
    _, _, count, refused, met, lowered, finds, crashes = COUNTERS.unpack_from(shared)
    say(
        f"{count} graphs in {time.time() - begin:.0f} s; onnxruntime refuses {refused} and crashes on {crashes}; {met} "
        f"multiplications met, {lowered} lowered; {finds} finds"
    )
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
