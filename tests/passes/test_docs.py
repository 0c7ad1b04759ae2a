"""The snippet in docs/design/passes.md runs."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lowering import floats, make_model
from onnx import helper

DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "passes.md"


def test_snippet(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    nodes = [
        helper.make_node("MatMulInteger", ["x", name], [f"y_{name}"], name=name)
        for name in ("body", "noise", "lm_head")
    ]
    weights = {name: np.rint(floats((256, 256), 1) * 9).astype(np.int8) for name in ("body", "lm_head")}
    weights["noise"] = np.random.default_rng(2).integers(-128, 128, (256, 256)).astype(np.int8)
    outputs = {f"y_{name}": (np.int32, ("m", 256)) for name in weights}
    scope = {"model": ir.from_proto(make_model(nodes, {"x": (np.uint8, ("m", 256))}, outputs, weights))}
    exec(snippet, scope)  # noqa: S102  (it is ours)
    assert scope["modified"]
    assert capsys.readouterr().out.splitlines() == [
        "body MatMulInteger lowered None",
        "noise MatMulInteger kept it saves nothing",
        "lm_head MatMulInteger kept its name matches --exclude",
    ]
