"""ATC's door: what stands in the way of an offline model, the command, and the script that refuses to promise.

CANN's list of operators says that this one does not work in graphs, which is what ATC makes. The run-time hand-off is
the recommended way; what ATC makes of an export nobody has seen.
"""

import shlex
from collections import Counter

import onnx_ir as ir

__all__ = ["atc_command", "atc_doubts", "atc_obstacles", "atc_script", "unknown_operators"]

_OPSETS = (11, 18)
_INPUTS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT8)
_GRAPH_MODE = (
    "CANN's list of operators marks MatMulV2CompressDequant as not supported in graphs, which is what ATC makes",
    "the operator's definition says ND, its kernel reads x1 and writes the result in FRACTAL_NZ: the aclnn function "
    "converts, ATC inserts nothing by that definition, so that results are likely wrong without a word",
)

# Operators of quantised models for which no parser was found in CANN's public sources. One of another project covers
# what is said.
_WITHOUT_PARSER = {
    "ConvInteger": "",
    "DequantizeLinear": "a third party's covers opset 10 to 15",
    "DynamicQuantizeLinear": "a third party's covers opset 10 to 15",
    "DynamicQuantizeLSTM": "",
    "MatMulInteger": "a third party's covers opset 10 to 15",
    "QLinearConv": "",
    "QLinearMatMul": "",
    "QuantizeLinear": "",
}
_OURS = ("mcd", "MatmulCompressDequant")  # the exported plugin parses it
_STANDARD = ("", "ai.onnx")

_SCRIPT = """\
#!/usr/bin/env bash
# Builds the parser plugin and converts the model. Needs CANN's environment: source its set_env.sh first.
set -euo pipefail
{steps}"""

_CAUTION = """\
if [ "${{MCD_TRY_ATC:-}}" != 1 ]; then
{lines}    exit 1
fi
"""

_STEPS = """\
cd "$(dirname "$0")"
cmake -S plugin -B plugin/build
cmake --build plugin/build
export ASCEND_CUSTOM_OPP_PATH="$PWD/plugin${{ASCEND_CUSTOM_OPP_PATH:+:$ASCEND_CUSTOM_OPP_PATH}}"
{atc}
"""


def unknown_operators(model: ir.Model) -> Counter[str]:
    """Count the operators that no public parser is known for, by ``domain::name``."""
    found: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        if (node.domain, node.op_type) == _OURS:
            continue
        if node.domain not in _STANDARD or node.op_type in _WITHOUT_PARSER:
            found["::".join(part for part in (node.domain, node.op_type) if part)] += 1
    return found


def atc_obstacles(model: ir.Model) -> list[str]:
    """Return what is known to stand between the model and ATC, a sentence each."""
    found = list(_GRAPH_MODE)
    for name, count in sorted(unknown_operators(model).items()):
        other = _WITHOUT_PARSER.get(name, "")
        found.append(f"no parser for {name} ({count} nodes) in CANN's public sources" + (f"; {other}" if other else ""))
    opset = model.opset_imports.get("", 0)
    if not _OPSETS[0] <= opset <= _OPSETS[1]:
        found.append(f"ATC takes opset {_OPSETS[0]} to {_OPSETS[1]}; the model's is {opset}")
    found += [
        f"input {value.name} has no fixed shape: give it with --input-shape"
        for value in model.graph.inputs
        if value.shape is None or not all(isinstance(dim, int) for dim in value.shape)
    ]
    return found


def atc_doubts(model: ir.Model) -> list[str]:
    """Return what may or may not turn out to stand in the way."""
    others = [value for value in model.graph.inputs if value.dtype not in _INPUTS]
    kinds = {str(value.name): "of no type" if value.dtype is None else value.dtype.name.lower() for value in others}
    return [f"input {name} is {kind}; ATC's guide lists float32, float16 and uint8" for name, kind in kinds.items()]


def atc_command(model: ir.Model, soc: str) -> str:
    """Return the command that is to convert the model."""
    shapes = ";".join(
        f"{value.name}:{','.join(str(dim) for dim in value.shape)}"
        for value in model.graph.inputs
        if value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
    )
    command = ["atc", "--framework=5", "--model=model.onnx", "--output=model", f"--soc_version={soc}"]
    return shlex.join([*command, *([f"--input_shape={shapes}"] if shapes else [])])


def atc_script(command: str, obstacles: tuple[str, ...], atc: tuple[str, ...]) -> str:
    """Return ``convert.sh``: it never runs an export that no device reads, and another only when it is told to.

    Args:
        command: that converts.
        obstacles: what keeps the export from any device.
        atc: what stands in ATC's way.
    """
    if obstacles:
        return _SCRIPT.format(steps=_said(("not device-ready:", *(f"- {line}" for line in obstacles))) + "exit 1\n")
    lines = (
        "ATC is not known to take this model:",
        *(f"- {line}" for line in atc),
        "Use the run-time hand-off (README.md). MCD_TRY_ATC=1 tries all the same.",
    )
    return _SCRIPT.format(steps=_CAUTION.format(lines=_said(lines, "    ")) + _STEPS.format(atc=command))


def _said(lines: tuple[str, ...], indent: str = "") -> str:
    return "".join(f"{indent}echo {shlex.quote(line)} >&2\n" for line in lines)
