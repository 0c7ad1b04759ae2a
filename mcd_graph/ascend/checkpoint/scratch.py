"""Layers that are done, kept in the destination until all are: a run that was interrupted goes on from them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mcd_graph.ascend.checkpoint.report import LayerResult
from mcd_graph.ascend.tensors import write_tensors
from mcd_graph.model.files import write_text

__all__ = ["Scratch"]

_FOLDER = ".mcd-checkpoint"
_KEY = "key"


class Scratch:
    """A folder of finished layers.

    Args:
        destination: that it lies in.
        key: what the layers depend on; those of another key are not used.
    """

    def __init__(self, destination: Path, key: str) -> None:
        self.folder = destination / _FOLDER
        self._key = key

    @property
    def begun(self) -> bool:
        """Whether a run with the same key has begun here and not come to its end."""
        note = self.folder / _KEY
        return note.is_file() and note.read_text() == self._key

    def begin(self) -> None:
        """Note the key, so that what this run leaves behind is known for its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / _KEY, self._key, force=True)

    def path(self, rank: int, layer: str) -> Path:
        """Return the file of a layer."""
        return self.folder / f"{rank}-{hashlib.sha256(layer.encode()).hexdigest()[:32]}.safetensors"

    def put(self, tensors: dict[str, npt.NDArray[Any]], result: LayerResult) -> None:
        """Keep a layer."""
        note = {"key": self._key, "result": json.dumps(result.__dict__)}
        write_tensors(self.path(result.rank, result.name), tensors, note)

    def get(self, rank: int, layer: str) -> LayerResult | None:
        """Return what is known of a layer that is done; ``None`` if it is not."""
        path = self.path(rank, layer)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                note = file.metadata() or {}
                if note.get("key") != self._key or sorted(file.keys()) != ["index", "info", "weight"]:
                    return None
            fields = json.loads(note["result"])
            return LayerResult(**{**fields, "faults": tuple(fields["faults"])})
        except (SafetensorError, KeyError, TypeError, ValueError):
            return None  # cut off, or of another version: it is done again

    def tensor(self, rank: int, layer: str, part: str) -> npt.NDArray[Any]:
        """Read one tensor of a layer that is done."""
        with safe_open(self.path(rank, layer), "numpy") as file:
            return np.asarray(file.get_tensor(part))

    def remove(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)
