"""A model as it is given: read once, with the files that it lies in."""

import contextlib
import dataclasses
import os
import stat
from pathlib import Path
from typing import Self

import onnx
from google.protobuf.message import DecodeError

from mcd_graph.errors import InputError
from mcd_graph.model.at_open import locations_at_open, reveal_nodes
from mcd_graph.model.tensors import external_entries
from mcd_graph.model.unchanged import FileIdentity
from mcd_graph.model.walk import Contents
from mcd_graph.system import READING

__all__ = ["ModelSource", "Source", "external_files", "read_proto", "size_of"]

_ORT_MARK = b"ORTM"
"""Where a flatbuffer has its identifier, behind the first four bytes: a model in onnxruntime's format."""

FILE_BYTES_LIMIT = (1 << 31) - 1
"""What a protobuf message may hold, and so a model file without its external data."""

ModelSource = str | os.PathLike[str] | onnx.ModelProto
"""A model is given by its path, or as a proto that holds all its data itself."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that was read.

    Attributes:
        name: what messages call it.
        path: of its file; ``None`` for a proto.
        contents: what it consists of.
        identities: what its files were when it was read, as far as they are there.
        copied_from: the files that it was copied from, if it is a private copy.
    """

    name: str
    path: Path | None
    contents: Contents
    identities: tuple[FileIdentity, ...] = ()
    copied_from: tuple[FileIdentity, ...] = ()

    @classmethod
    def read(cls, model: ModelSource, *, copy_of: "Source | None" = None) -> Self:
        """Read a model file without its external data, or take a proto.

        Args:
            model: the model.
            copy_of: the model that it is a private copy of; messages give it that one's name.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file is not an ONNX model.
        """
        if isinstance(model, onnx.ModelProto):
            return cls("the given ModelProto", None, Contents.of(reveal_nodes(model)))
        path, name = Path(model), os.fspath(model) if copy_of is None else copy_of.name
        content, own = _read_regular(path)
        proto = _parse(path, content)
        del content
        try:
            contents = Contents.of(reveal_nodes(proto))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        identities = [own]
        for location in sorted(_locations(contents)):
            with contextlib.suppress(OSError, ValueError):  # who loads it says better what is wrong with its data
                identities.append(FileIdentity.of(path.parent / location))
        return cls(name, path, contents, tuple(identities), () if copy_of is None else copy_of.identities)

    @property
    def locations(self) -> list[str]:
        """Where its external data is, as the model writes it."""
        return sorted(_locations(self.contents))

    @property
    def files(self) -> list[Path]:
        """The files that it lies in: its own and those of its external data; of a copy, the original's as well."""
        return [*self._own_files(), *(each.path for each in self.copied_from)]

    @property
    def size(self) -> int:
        """Its size in bytes, external data included; of a copy, the original's."""
        if self.path is None:
            return int(self.contents.proto.ByteSize())
        if self.copied_from:
            return sum(each.nbytes for each in self.copied_from)
        return sum(path.stat().st_size for path in self._own_files())

    def _own_files(self) -> list[Path]:
        return [] if self.path is None else [self.path, *(self.path.parent / name for name in self.locations)]


def size_of(model: ModelSource) -> int:
    """Return the size of a model in bytes, external data included."""
    return int(model.ByteSize()) if isinstance(model, onnx.ModelProto) else Source.read(model).size


def read_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model file without its external data.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an ONNX model.
    """
    content, _ = _read_regular(Path(path))
    return _parse(Path(path), content)


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    if content[4:8] == _ORT_MARK:
        raise InputError(
            f"{os.fspath(path)} is in onnxruntime's own format (.ort), not ONNX: give the model that it was made of"
        )
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except (DecodeError, UnicodeDecodeError) as error:  # the second: protobuf in Python, of names that are no UTF-8
        # Versions of protobuf before 7 say nothing but that it failed.
        if "depth" in str(error).lower():
            raise InputError(f"{os.fspath(path)}: its graphs or types are nested too deeply") from None
        raise InputError(f"{os.fspath(path)} is not an ONNX model") from None
    # Any few bytes may happen to parse: a model has at least a version, operators and a node or an output.
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{os.fspath(path)} is not an ONNX model")
    return proto


def _read_regular(path: Path) -> tuple[bytes, FileIdentity]:
    """Read a file that is one: a pipe may never end, and a device has no end."""
    # Without waiting for somebody to write into it, if it is a pipe.
    if path.is_dir():
        raise InputError(f"{path} is a folder: {_models_in(path)}")
    with os.fdopen(os.open(path, READING), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file")
        if status.st_size > FILE_BYTES_LIMIT:
            raise InputError(f"{path} is not an ONNX model: it is larger than 2 GiB")
        return file.read(), FileIdentity.of(path, status)


def _models_in(folder: Path) -> str:
    """Say which file to give instead of a folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in (*folder.glob("*.onnx"), *folder.glob("*/*.onnx")))
    if not names:
        return "give a model, a file in ONNX format; there is none in it"
    more = f", or one of {len(names) - 1} others in it" if len(names) > 1 else ""
    return f"give the model in it, {folder / names[0]}{more}"


def external_files(proto: onnx.ModelProto) -> set[str]:
    """Return the locations of all external data that the model names, unchecked, as they are written in it."""
    return _locations(Contents.of(proto)) | locations_at_open(proto)


def _locations(contents: Contents) -> set[str]:
    return {
        external_entries(tensor).get("location", "")
        for tensor in contents.tensors
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
