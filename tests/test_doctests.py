"""The examples in docstrings run, and everything public has one.

They run in a folder with the small model of ``samples.text_model`` as ``model.onnx``.
"""

import doctest
import inspect
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT

import mcd_graph
import mcd_graph.ascend
import mcd_graph.inspection
import mcd_graph.integrity
import mcd_graph.model.loading
import mcd_graph.passes
import mcd_graph.session
from mcd_graph.passes.ir_passes import FAMILY_PASSES

PUBLIC = [
    (module, name) for module in (mcd_graph, mcd_graph.ascend, mcd_graph.passes) for name in sorted(module.__all__)
]
PUBLIC += [
    (mcd_graph.inspection, "inspect_model"),
    (mcd_graph.integrity, "check_model"),
    (mcd_graph.model.loading, "load_model"),
    (mcd_graph.session, "create_session"),
]
IDS = [f"{module.__name__}.{name}" for module, name in PUBLIC]
#: What other functions return, with the example there, and the passes of one family, of which CompressPass has one.
SHOWN_ELSEWHERE = {
    *("Kept", "LegalSite", "LoweringPlan", "ReasonCode", "Refusal", "RestorationSite"),
    *("RestorePlan", "Site", "WeightJob"),
    *FAMILY_PASSES,
}


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_the_example_runs(module: ModuleType, name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    Path("README.md").write_text((ROOT / "README.md").read_text())
    thing = getattr(module, name)
    tests = [test for test in doctest.DocTestFinder().find(thing, name, globs={}) if test.examples]
    assert (not tests) == (name in SHOWN_ELSEWHERE)
    for test in tests:
        result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test)
        assert result.failed == 0, f"{test.name}: see the output above"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_every_argument_is_described(module: ModuleType, name: str) -> None:
    thing = getattr(module, name)
    documented = thing
    while isinstance(documented, type) and "__init__" not in vars(documented):  # the base says what it takes
        documented = documented.__bases__[0]
    if isinstance(documented, type) and not inspect.isfunction(documented.__init__):
        return  # Python's own
    internal = {"candidates"}  # of classes that only this package makes
    missing = [
        parameter
        for parameter in inspect.signature(thing).parameters
        if f"{parameter}:" not in (documented.__doc__ or "") and parameter not in internal
    ]
    assert not missing
