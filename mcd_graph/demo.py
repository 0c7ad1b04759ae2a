"""The demonstration: a real int8 model from a data package is compressed, verified and timed."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from mcd_graph.bench import BenchRow, bench_models
from mcd_graph.compress import compress_model
from mcd_graph.errors import InputError
from mcd_graph.progress import Progress
from mcd_graph.report import Report
from mcd_graph.verify import Verification, verify_model

__all__ = ["DemoResult", "demo_model", "run_demo"]

_PACKAGE = "traceforge_title_model"


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        compressed: path of the compressed model.
        seconds: time that compression took.
        report: what was done to each multiplication.
        verification: comparison with the original.
        bench: timings.
    """

    compressed: Path
    seconds: float
    report: Report
    verification: Verification
    bench: tuple[BenchRow, ...]


def demo_model(part: str = "encoder") -> Path:
    """Return the path of the T5-small title model's ``encoder`` or ``decoder``.

    Raises:
        InputError: the package that brings it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the demo's model is not installed: pip install 'mcd-graph[demo]'")
    return Path(spec.origin).parent / "data" / "span" / f"{part}.onnx"


def run_demo(out: Path, *, progress: Callable[[Progress], None] | None = None) -> DemoResult:
    """Compress the encoder into directory ``out``, replacing an earlier demonstration, and verify and time it."""
    original = demo_model()
    out.mkdir(parents=True, exist_ok=True)
    compressed = out / "encoder.mcd.onnx"
    start = time.perf_counter()
    report = compress_model(original, compressed, progress=progress, force=True)
    seconds = time.perf_counter() - start
    verification = verify_model(original, compressed)
    rows = tuple(bench_models(original, compressed, m=(1, 32), threads=(1, 2)))
    return DemoResult(compressed, seconds, report, verification, rows)
