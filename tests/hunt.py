"""Looks at random graphs until time is up: ``python tests/hunt.py FIRST_SEED SECONDS``. Exit status 1 if any differed.

Each difference is printed with its seed and the steps that made the graph.
"""

import sys
import time
import traceback

from random_graphs import check, generate


def main(first: int, seconds: float) -> int:
    """Run seeds from ``first`` on."""
    end, begin = time.monotonic() + seconds, time.monotonic()
    count = refused = met = lowered = finds = 0
    while time.monotonic() < end:
        seed, count = first + count, count + 1
        case = generate(seed)
        try:
            outcome = check(case)
        except Exception:  # noqa: BLE001 - whatever goes wrong is a find
            finds += 1
            print(f"seed {seed}: {case.steps}", traceback.format_exc(limit=-3), sep="\n", flush=True)
            continue
        if outcome is None:
            refused += 1
        else:
            met, lowered = met + outcome.met, lowered + outcome.lowered
        if count % 1000 == 0:
            print(f"{count} graphs, {finds} differ, {time.monotonic() - begin:.0f} s", flush=True)
    print(
        f"{count} graphs, of which onnxruntime refuses {refused}; {met} multiplications met, {lowered} lowered; "
        f"{finds} graphs differ"
    )
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
