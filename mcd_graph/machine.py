"""The machine that a figure was measured on: a figure without it says little."""

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path

from mcd_graph.system import processors

__all__ = ["Machine", "this_machine"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a measurement depends on besides the models.

    Attributes:
        processor: its name, as the system gives it.
        cores: logical ones that this process may use.
        onnxruntime: version of the runtime.
        mcd_graph: version of this package.
    """

    processor: str
    cores: int
    onnxruntime: str
    mcd_graph: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} {'core' if self.cores == 1 else 'cores'}, "
            f"onnxruntime {self.onnxruntime}, mcd-graph {self.mcd_graph}"
        )


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(_processor(), processors(), _onnxruntime_version(), version("mcd-graph"))


def _onnxruntime_version() -> str:
    """Return the version of the module, which several packages may have brought."""
    import onnxruntime  # noqa: PLC0415 - takes a good part of a second

    return str(onnxruntime.__version__)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
