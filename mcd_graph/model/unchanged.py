"""Whether the files of a model are still what they were when they were read.

A file that is written to meanwhile would give a model of which one half is old and the other new. So its identity is
taken when it is opened, and compared before anything that was made of it is put in place. Writes through a memory map
may leave no trace there at once: the bytes of weights are summed as well, when they are read and at the end.
"""

import dataclasses
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from mcd_graph.errors import InputError

__all__ = ["FileIdentity", "Watch"]

_PIECE_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class FileIdentity:
    """What tells a file, and its content of a moment, from another."""

    path: Path
    device: int
    inode: int
    nbytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result | None = None) -> Self:
        """Return a file's identity now, with links followed; OSError if there is none."""
        now = path.stat() if status is None else status
        return cls(path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)

    def difference(self) -> str | None:
        """Say what has become of the file since, if anything has."""
        try:
            now = FileIdentity.of(self.path)
        except OSError as error:
            return f"it cannot be opened any more ({error.strerror})"
        if (now.device, now.inode) != (self.device, self.inode):
            return "another file took its place"
        if now.nbytes != self.nbytes:
            return f"it has {now.nbytes:,} bytes now, and had {self.nbytes:,}"
        return None if now == self else "it was written to, or its permissions or links were changed"


@dataclasses.dataclass(frozen=True)
class _Stretch:
    path: Path
    offset: int
    nbytes: int
    checksum: int


class Watch:
    """Files and weights as they were when they were first read."""

    def __init__(self) -> None:
        self._files: tuple[FileIdentity, ...] = ()
        self._weights: dict[tuple[Path, int, int], _Stretch] = {}

    def begin(self, files: Iterable[FileIdentity]) -> None:
        """Note the files; those of a model that is read once more have to be the same as the first time.

        Raises:
            InputError: they have changed since.
        """
        if not self._files:
            self._files = tuple(files)
        self.check_files()

    def saw(self, path: str | os.PathLike[str], offset: int, nbytes: int, checksum: int) -> None:
        """Note the CRC-32 of a weight's bytes in a file; another than the last time is an error.

        Raises:
            InputError: the bytes have changed since.
        """
        stretch = _Stretch(Path(path), offset, nbytes, checksum)
        first = self._weights.setdefault((stretch.path, offset, nbytes), stretch)
        if first != stretch:
            raise _changed(stretch.path, "a weight in it is another one now")

    def check_files(self) -> None:
        """Raise InputError if a file is not what it was."""
        for each in self._files:
            difference = each.difference()
            if difference is not None:
                raise _changed(each.path, difference)

    def check(self, *, weights: bool) -> None:
        """Raise InputError if a file, or the bytes of a weight, are not what they were.

        Args:
            weights: read the weights once more.
        """
        self.check_files()
        if weights:
            for each in self._weights.values():
                self.saw(each.path, each.offset, each.nbytes, _checksum(each))


def _changed(path: Path, difference: str) -> InputError:
    return InputError(
        f"{path} changed while it was read: {difference}. Nothing was written: run it again when nobody writes there"
    )


def _checksum(stretch: _Stretch) -> int:
    """Return the CRC-32 of bytes of a file, read and not mapped: a file that became shorter gives fewer."""
    checksum, left = 0, stretch.nbytes
    with stretch.path.open("rb") as file:
        file.seek(stretch.offset)
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
    return checksum if not left else -1
