"""What contestants of benchmarks/sessions.py and memory.py open: a workload's model, and what it becomes for each."""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import workloads

import mcd_graph
from mcd_graph.alternatives import ALTERNATIVES, CONFIG, written
from mcd_graph.contestants import Contestant, Setup

BASE = "onnxruntime"
AGAIN = "again"
OPENVINO = "openvino"
SHARED = "shared"
COMPRESSED = ("auto", SHARED, "compressed", "decoded")
CONTESTANTS = (*COMPRESSED, *ALTERNATIVES, AGAIN, OPENVINO)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A workload's model, and what it becomes for each contestant."""

    workload: workloads.Workload
    original: Path
    profile: str
    folder: Path

    @functools.cache  # noqa: B019 - as many entries as workloads
    def model(self, name: str) -> Path:
        """The model that a contestant opens, made when it is first asked for."""
        if name in COMPRESSED:
            compressed = self.folder / "compressed.mcd.onnx"
            if not compressed.exists():
                # The smallest chains would stay as they are; what is timed is their nodes.
                settings = {"min_saving": -1.0, "force_larger": True} if "chain" in self.workload.name else {}
                mcd_graph.compress_model(self.original, compressed, profile=self.profile, **settings)
            return compressed
        return written(name, self.original, self.folder) if name in ALTERNATIVES else self.original

    def contestant(self, name: str, threads: int) -> Contestant:
        """A process that opens it."""
        model = str(self.model(name))
        if name == OPENVINO:
            script = Path(__file__).with_name("openvino_contestant.py")
            return Contestant([sys.executable, str(script), model, str(threads)], name)
        return Contestant(Setup(model, self._config(name), threads, library=name in COMPRESSED).command(), name)

    def _config(self, name: str) -> dict[str, str]:
        """The session config entries of a contestant."""
        if name == SHARED:
            return {"mcd.residency": "auto", "mcd.decoded_folder": str(self.folder / "decoded")}
        return {"mcd.residency": name} if name in COMPRESSED else CONFIG.get(name, {})


def read(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a record, if there is one."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
