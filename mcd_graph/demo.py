"""The demonstration: a real int8 model from a data package is compressed, verified and timed."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from mcd_graph.bench import Bench, bench_models
from mcd_graph.codec.weights import PROFILES
from mcd_graph.compress import compress_model
from mcd_graph.errors import InputError
from mcd_graph.model.files import write_text
from mcd_graph.report.data import Report
from mcd_graph.report.histograms import weight_histograms
from mcd_graph.report.html import render_report, require
from mcd_graph.requirements import with_extra
from mcd_graph.verify import Verification, verify_model

__all__ = ["DemoResult", "demo_model", "run_demo"]

_PACKAGE = "traceforge_title_model"


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        original: path of the model that was compressed.
        compressed: path of the compressed model.
        page: path of the HTML report.
        seconds: time that compression took.
        report: what was done to each node.
        verification: comparison with the original.
        bench: timings of every profile.
    """

    original: Path
    compressed: Path
    page: Path
    seconds: float
    report: Report
    verification: Verification
    bench: Bench


def demo_model(part: str = "encoder") -> Path:
    """Return the path of the T5-small title model's ``encoder`` or ``decoder``.

    Raises:
        InputError: the package that brings it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(f"the demo's model is not installed: {with_extra('demo')}")
    return Path(spec.origin).parent / "data" / "span" / f"{part}.onnx"


def run_demo(
    out: Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> DemoResult:
    """Compress the encoder into directory ``out``, replacing an earlier demonstration, verify and time it.

    Args:
        out: directory for the compressed model and the report; made if it is not there.
        progress: called with the name of the stage and the number of its steps done and in all.

    Raises:
        InputError: a package that it needs is not installed.
        OSError: the directory cannot be written to.
    """
    require()

    def tell(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    original = demo_model()
    out.mkdir(parents=True, exist_ok=True)
    compressed = out / "encoder.mcd.onnx"
    start = time.perf_counter()
    report = compress_model(
        original,
        compressed,
        progress=lambda now: tell("compressing", now.weights_done, now.weights_total),
        force=True,
    )
    seconds = time.perf_counter() - start
    verification = verify_model(original, compressed)
    bench = bench_models(
        original,
        profiles=PROFILES,
        m=(1, 8, 64),
        threads=(0, 1),
        progress=lambda done, total: tell("measuring", done, total),
    )
    page = out / "report.html"
    text = render_report(
        title="T5-small encoder: the demonstration of mcd-graph",
        report=report,
        histograms=weight_histograms(compressed),
        verification=verification,
        bench=bench,
    )
    write_text(page, text, force=True)
    return DemoResult(original, compressed, page, seconds, report, verification, bench)
