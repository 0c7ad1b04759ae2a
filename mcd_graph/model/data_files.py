"""Which data files are ours: what the data file of a model is called, and when an old one may be removed.

The data of ``model.onnx`` is in ``model.onnx_data``, where exporters and hubs put it and look for it. Where the model
that is replaced has its data there, the new data is ``model.2.onnx_data`` until that is gone. It keeps the number where
another file has the name.

A data file is removed only when it is certainly ours and no longer used: the model that was replaced says in its
metadata that it was written with it (:data:`DATA_FILE_KEY`), and no other model of the directory mentions it.
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from mcd_graph.errors import InputError
from mcd_graph.model.files import is_text, sync
from mcd_graph.model.loading import external_files, read_proto
from mcd_graph.model.temporaries import MARK
from mcd_graph.system import MAPPED_CAN_GO, is_locked

__all__ = ["DATA_FILE_KEY", "DataFiles", "check_data_name"]

DATA_FILE_KEY = "mcd.data_file"
"""Metadata of a model that was written with a data file: its name. What a model says there is ours to remove."""

_PIECE_BYTES = 16 << 20


def check_data_name(name: str, model: Path) -> None:
    """Raise InputError if a name cannot be that of the data file of ``model``."""
    if PurePath(name).name != name or name in ("", "..") or "\0" in name or not is_text(name):
        raise InputError(f"the data file lies beside the model: its name must be one without a folder, not {name!r}")
    if name == model.name:
        raise InputError(f"the data file cannot have the model's own name, {name!r}")
    if MARK in name:
        raise InputError(f"names with {MARK!r} in them are those of temporary files: choose another than {name!r}")


class DataFiles:
    """The data files that a model at ``destination`` has, had, or may get.

    Args:
        destination: path of the model.
        name: what its data file is to be called if that is possible.
    """

    def __init__(self, destination: Path, name: str) -> None:
        self.name = name
        self._destination = destination
        self._directory = destination.absolute().parent
        stem, suffix = (re.escape(part) for part in _split(name))
        self._pattern = re.compile(rf"{stem}(\.[1-9][0-9]*)?{suffix}")

    def free_name(self, old: set[str]) -> str:
        """Return the name for a new data file: the best that is neither in ``old`` nor taken."""
        return next(name for name in self._names() if name not in old and not self.exists(name))

    def exists(self, name: str) -> bool:
        """Tell whether anything in the model's directory has a name."""
        return os.path.lexists(self._directory / name)

    def own(self) -> set[str]:
        """Return the data file that was written with the model that is there, if that is one of ours.

        Raises:
            OSError: reading failed in the middle, which tells nothing of whose the data file is.
        """
        try:
            proto = read_proto(self._destination)
        except (FileNotFoundError, IsADirectoryError, PermissionError, InputError):
            return set()
        own = {entry.value for entry in proto.metadata_props if entry.key == DATA_FILE_KEY}
        return {name for name in own & external_files(proto) if self._pattern.fullmatch(name)}

    def inherited(self, old: set[str]) -> Path:
        """Return whose permissions, owner and attributes a new data file takes over: the old one's, or the model's."""
        return next((self._directory / name for name in sorted(old) if self.exists(name)), self._destination)

    def write_proof(self, proof: BinaryIO, new: os.stat_result, name: str, old: set[str]) -> None:
        """Write down which data files are ours, for a run that finds no more of this one than that.

        Args:
            proof: a temporary file.
            new: the status of the new data file.
            name: what it will be called, at first.
            old: the names of those that it replaces.
        """
        files = [(name, new), (self.name, new)]
        files += [(each, (self._directory / each).lstat()) for each in old if self.exists(each)]
        proof.write(json.dumps([[each, *_identity(status)] for each, status in files]).encode())
        sync(proof)

    def remove_proved(self, proofs: Iterable[Path]) -> None:
        """Remove the data files that proofs call ours, unless a model uses them."""
        try:
            in_use = self.own()
        except OSError:  # then a file that may be in use stays
            return
        for proof in proofs:
            self.remove_unused(set(_proved(proof)) - in_use)

    def remove_unused(self, names: set[str]) -> None:
        """Remove data files that are ours, unless a model of the directory still mentions them.

        One that a session still maps stays where the system will not remove it.
        """
        for name in names:
            if self._pattern.fullmatch(name) and not self._is_mentioned(name):
                with contextlib.suppress(*(() if MAPPED_CAN_GO else (PermissionError,))):
                    (self._directory / name).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the temporaries of dead runs, and a data file that was put in place just before its run died."""
        prefix = f".{self._destination.name}{MARK}"
        dead = [path for path in sorted(self._directory.iterdir()) if path.name.startswith(prefix)]
        dead = [path for path in dead if not is_locked(path)]
        self.remove_proved([path for path in dead if path.suffix == ".proof"])
        for path in dead:
            path.unlink(missing_ok=True)

    def _names(self) -> Iterator[str]:
        """Yield the names that the data file may have, best first."""
        stem, suffix = _split(self.name)
        names = itertools.chain([self.name], (f"{stem}.{number}{suffix}" for number in itertools.count(2)))
        return (name for name in names if name != self._destination.name)

    def _is_mentioned(self, name: str) -> bool:
        """Tell whether a model of the directory, say a copy of the replaced one, has its data in this file."""
        return any(
            _holds(path, name.encode()) and _has_data_in(path, name)
            for path in {*self._directory.glob("*.onnx"), self._destination}
            if path.is_file() and MARK not in path.name
        )


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _proved(proof: Path) -> list[str]:
    """Return the data files that a dead run proves to be its own, without those whose names others have now."""
    try:
        files = [(str(name), tuple(identity)) for name, *identity in json.loads(proof.read_bytes())]
    except (OSError, ValueError, TypeError):
        return []
    own = []
    for name, identity in files:
        with contextlib.suppress(OSError, ValueError):
            if PurePath(name).name == name and _identity((proof.parent / name).lstat()) == identity:
                own.append(name)
    return own


def _holds(path: Path, text: bytes) -> bool:
    """Tell whether a file holds some bytes; what cannot be read might."""
    try:
        with path.open("rb") as file:
            end = b""
            while piece := file.read(_PIECE_BYTES):
                if text in end + piece:
                    return True
                end = piece[-len(text) :]
    except OSError:
        return True
    return False


def _has_data_in(path: Path, name: str) -> bool:
    """Tell whether a model has external data in a file of its folder; what cannot be read might."""
    try:
        return name in {os.path.normpath(location) for location in external_files(read_proto(path))}
    except (OSError, InputError):
        return True


def _split(name: str) -> tuple[str, str]:
    """Return a name's stem and suffix: a number goes between them."""
    return PurePath(name).stem, PurePath(name).suffix
