"""A new form is a file in rules/: planning, its pass and what inspect calls it come from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lowering import integers, make_model
from onnx import helper

import mcd_graph
from mcd_graph.passes import ReasonCode
from mcd_graph.passes.rules.registry import ALL_RULES, FAMILIES, RULES_ON_REQUEST, label_of

TOY = '''
"""toy::Project: a product of integers that goes by another name."""

from mcd_graph.passes.engine.facts import get_input
from mcd_graph.passes.engine.match import Family, Fused, Match, Rule
from mcd_graph.passes.engine.operands import find_weight
from mcd_graph.passes.refusal import ReasonCode, Refusal
import onnx_ir as ir


def _match(node):
    if node.attributes:
        raise Refusal(ReasonCode.KERNEL_SIZE, "it has attributes")
    weight = find_weight(get_input(node, 1))
    fused = Fused(get_input(node, 0), output_type=ir.DataType.INT32)
    return Match("Project", weight, fused, node.outputs[0], (node,))


_rule = Rule("toy", "toy", "Project", _match, "toy form")
FAMILY = Family("Project", "toy's Project", "`Project`", "the product", (_rule,))
'''

SCRIPT = """
import sys
import onnx_ir as ir
from mcd_graph import compress_model
from mcd_graph.inspection import inspect_model
from mcd_graph.passes import CompressProjectPass, plan_lowering

model = ir.load(sys.argv[1])
print([(site.pattern, site.status, site.code) for site in plan_lowering(model).sites])
print([each.status for each in compress_model(sys.argv[1], sys.argv[2], min_saving=-9, force_larger=True).nodes])
print([each.pattern for each in inspect_model(sys.argv[2]).nodes])
print(CompressProjectPass()(model).modified, [node.op_type for node in model.graph])
"""


def test_a_toy_form_is_one_file(tmp_path: Path) -> None:
    package = Path(mcd_graph.__file__).parent
    shutil.copytree(
        package, tmp_path / "mcd_graph", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "mcd_graph" / "passes" / "rules" / "toy.py").write_text(TOY)
    nodes = [
        helper.make_node("Project", ["x", "w"], ["y"], domain="toy"),
        helper.make_node("Project", ["x", "v"], ["z"], domain="toy", bias=1),
    ]
    outputs = dict.fromkeys(("y", "z"), (np.int32, (3, 36)))
    weights = {name: integers(np.int8, (52, 36), 1) for name in ("w", "v")}
    model = make_model(nodes, {"x": (np.uint8, (3, 52))}, outputs, weights)
    model.opset_import.append(helper.make_opsetid("toy", 1))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "script.py", "model.onnx", "out.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    sites, statuses, patterns, changed = result.stdout.splitlines()
    assert sites == f"[('Project', 'lowered', None), ('Project', 'kept', {ReasonCode.KERNEL_SIZE!r})]"
    assert statuses == "['lowered', 'kept']"
    assert patterns.startswith("['toy form'")
    assert changed == "True ['MatmulCompressDequant', 'Project']"


def test_every_family_says_what_it_is() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    rules = [rule for family in FAMILIES for rule in family.rules]
    assert len({rule.name for rule in rules}) == len(rules) == len(ALL_RULES) + len(RULES_ON_REQUEST)
    assert all(family.found and family.becomes and family.operators for family in FAMILIES)


@pytest.mark.parametrize(("rule", "label"), [("matmul_qdq_rule", "DequantizeLinear+MatMul"), ("nobody's", None)])
def test_labels(rule: str, label: str | None) -> None:
    assert label_of(rule) == label


def test_an_unknown_pass_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="CompressNothingPass"):
        mcd_graph.passes.CompressNothingPass  # noqa: B018
