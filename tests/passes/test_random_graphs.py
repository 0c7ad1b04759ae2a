"""Random graphs in exporters' dialects: whatever is lowered gives the original's bytes, at default settings and without
optimisations. The same graphs every time; ``python tests/fuzz/hunt.py`` looks at others."""

import functools

import pytest
from random_graphs import check, expect, generate

from mcd_graph.isolation import death_of

CASES = 160
GROUPS = 4


@pytest.mark.parametrize("group", [0, *(pytest.param(group, marks=pytest.mark.slow) for group in range(1, GROUPS))])
def test_random_graphs(group: int) -> None:
    met = lowered = ran = 0
    for seed in range(group, CASES, GROUPS):
        case = generate(seed)
        if death_of(functools.partial(expect, case), seconds=60):
            continue  # onnxruntime ends the process when it opens the original
        expected = expect(case)
        if expected is None:
            continue
        try:
            outcome = check(case, expected)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {case.steps}: {error}") from error
        ran, met, lowered = ran + 1, met + outcome.met, lowered + outcome.lowered
    # What is generated is worth looking at.
    assert ran > 0.8 * CASES / GROUPS
    assert lowered > 0.5 * met
