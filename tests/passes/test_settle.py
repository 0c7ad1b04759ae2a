"""How much sites take in is settled, also where onnxruntime does not take the lowered model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering import make_model
from onnx import helper

from mcd_graph.passes.engine.answers import Answers
from mcd_graph.passes.engine.extent import Extent
from mcd_graph.passes.engine.optimized import TOO_LONG, Optimized, optimize
from mcd_graph.passes.engine.settle import settle


def answers_of(folder: Path, refused: Sequence[set[int]], ask: Callable[[Path], Optimized | str] = optimize) -> Answers:
    """Answers about a model that onnxruntime refuses when all sites of one of ``refused`` are lowered."""

    def ask_of_lowered(extents: Sequence[Extent]) -> Optimized | str:
        lowered = {number for number, extent in enumerate(extents) if extent != Extent.NONE}
        operator = "NoSuchOperator" if any(each <= lowered for each in refused) else "Relu"
        node = helper.make_node(operator, ["x"], ["y"])
        path = folder / "model.onnx"
        model = make_model([node], {"x": (np.float32, (2,))}, {"y": (np.float32, (2,))}, {})
        path.write_bytes(model.SerializeToString())
        return ask(path)

    return Answers(ask_of_lowered, lambda _: set())


def settled(answers: Answers) -> list[Extent]:
    """Settle three sites."""
    return settle(answers.ask, answers.blame, [Extent.ALL] * 3, lambda _, __: Extent.NONE)


def test_a_site_that_onnxruntime_refuses_stays(tmp_path: Path) -> None:
    assert settled(answers_of(tmp_path, [])) == [Extent.ALL] * 3
    assert settled(answers_of(tmp_path, [{1}])) == [Extent.ALL, Extent.NONE, Extent.ALL]
    assert settled(answers_of(tmp_path, [{0}, {2}])) == [Extent.NONE, Extent.ALL, Extent.NONE]


@pytest.mark.parametrize("refused", [[{1}], [{0}, {2}], [{0, 2}], [{0, 1, 2}]])
def test_what_onnxruntime_says_is_kept_of_sites_that_it_refuses(tmp_path: Path, refused: Sequence[set[int]]) -> None:
    answers = answers_of(tmp_path, refused)
    extents = settled(answers)
    assert Extent.NONE in extents
    for number, extent in enumerate(extents):
        if extent == Extent.NONE:
            assert "NoSuchOperator" in (answers.complaint(number) or "")


def test_a_site_that_differs_in_a_model_that_it_loads_has_no_complaint() -> None:
    loaded = Optimized(onnx.GraphProto(), ())
    everywhere, elsewhere = [Extent.ALL] * 3, [Extent.NONE, Extent.MULTIPLICATION, Extent.ALL]
    answers = Answers(lambda extents: loaded if extents == elsewhere else "refused", lambda _: {1})
    assert answers.ask(everywhere) == "refused"
    assert answers.ask(elsewhere) is loaded
    assert answers.blame(elsewhere, loaded) == {1}
    assert [answers.complaint(number) for number in range(3)] == ["refused", None, "refused"]


def test_sites_that_onnxruntime_refuses_together_stay(tmp_path: Path) -> None:
    assert settled(answers_of(tmp_path, [{0, 2}])) == [Extent.NONE, Extent.ALL, Extent.NONE]


def test_a_model_that_takes_too_long_is_taken_as_it_is(tmp_path: Path) -> None:
    assert settled(answers_of(tmp_path, [{1}], lambda _: TOO_LONG)) == [Extent.ALL] * 3


@pytest.mark.parametrize("wrong", [[{1}], [{0}, {2}], [{0, 2}], [{0, 1, 2}]])
def test_where_no_site_explains_a_difference_they_are_searched_for(wrong: Sequence[set[int]]) -> None:
    def blame(extents: Sequence[Extent], _: Optimized) -> set[int] | None:
        lowered = {number for number, extent in enumerate(extents) if extent != Extent.NONE}
        return None if any(each <= lowered for each in wrong) else set()

    loaded = Optimized(onnx.GraphProto(), ())
    extents = settle(lambda _: loaded, blame, [Extent.ALL] * 3, lambda _, __: Extent.NONE)
    kept = set.union(*wrong)
    assert extents == [Extent.NONE if number in kept else Extent.ALL for number in range(3)]
