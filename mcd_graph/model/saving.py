"""Writes a model and its data file: both whole, or neither.

Everything goes to temporaries beside the destination first. They are synced, and then renamed in an order that
leaves a whole model at every moment: first the data file, under a name that nothing has, then the model file, which
is what makes the new data count.

The data of ``model.onnx`` is in ``model.onnx_data``, where exporters and hubs put it and look for it. Where the model
that is replaced has its data there, the new data is ``model.2.onnx_data`` until that is gone, and then gets the name by
a link, again so that a whole model is there at every moment. It keeps the number where the name is somebody else's.

A data file is removed only when it is certainly ours and no longer used: the model that was replaced says in its
metadata that it was written with it (:data:`DATA_FILE_KEY`), and no other model of the directory mentions it.

What a killed run left behind is removed by the next one that writes there (:mod:`mcd_graph.model.temporaries`).
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from google.protobuf.message import EncodeError

from mcd_graph.errors import InputError
from mcd_graph.model.fidelity import to_proto
from mcd_graph.model.loading import external_files, read_proto
from mcd_graph.model.replacement import copy_attributes, put_new, refuse_existing, replace
from mcd_graph.model.temporaries import MARK, is_locked, temporary_file
from mcd_graph.progress import Progress

__all__ = ["ALIGNMENT", "DATA_FILE_KEY", "ModelWriter", "NotSmallerError", "model_bytes", "write_bytes", "write_text"]

ALIGNMENT = 4096
"""Tensors in the data file start at multiples of this many bytes (a page), and smaller ones stay in the model file."""

DATA_FILE_KEY = "mcd.data_file"
"""Metadata of a model that was written with a data file: its name. What a model says there is ours to remove."""

MODEL_BYTES_LIMIT = (1 << 31) - 1
"""What a protobuf message may hold, and so a model file."""

_PIECE_BYTES = 16 << 20

_TOO_LARGE = "the model would be larger than 2 GiB, which no ONNX file can be: its weights need a file of their own"


class NotSmallerError(Exception):
    """A model was not written because its files would be too large; the argument is their size in bytes."""


class ModelWriter:
    """Writes one model; tensors can be handed over as they come, long before the graph that uses them is complete.

    Use it as a context manager; whatever was not committed on leaving is removed again.

    Args:
        destination: path of the model file to be.
        force: replace a model that is already there.
        sources: files that must not be touched, whatever the destination is.
        inline: keep all tensors in the model file, and write no data file.
        data_name: name of the data file, in the model's folder; the model's with ``_data`` appended by default.

    Raises (on entering):
        FileExistsError: something is at the destination and ``force`` is not set, or ``data_name`` is not ours.
        InputError: the destination is one of the sources, its name is not UTF-8, or ``data_name`` cannot be used.
        OSError: the directory is missing or cannot be written.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        *,
        force: bool = False,
        sources: Iterable[Path] = (),
        inline: bool = False,
        data_name: str | None = None,
    ) -> None:
        self._destination = Path(destination)
        self._directory = self._destination.absolute().parent
        self._force = force
        self._sources = tuple(sources)
        self._inline = inline
        self._inline_bytes = 0
        self._data_is_named = data_name is not None
        self._data_name = f"{self._destination.name}_data" if data_name is None else data_name
        stem, suffix = (re.escape(part) for part in _split(self._data_name))
        self._data_pattern = re.compile(rf"{stem}(\.[1-9][0-9]*)?{suffix}")

    def __enter__(self) -> Self:
        if self._destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._destination))
        if self._data_is_named:
            self._check_data_name()
        if not self._inline and not _is_text(self._destination.name):
            raise InputError(
                f"{os.fspath(self._destination)!r} is not a name in UTF-8, which a model needs to name its data file: "
                "choose another name, or --inline"
            )
        for source in self._sources:
            for name in (self._destination.name, self._data_name):
                target = self._directory / name
                if target.exists() and source.exists() and target.samefile(source):
                    raise InputError(f"writing {self._destination} would overwrite the input {source}")
        with _locked(self._directory), contextlib.ExitStack() as stack:
            self._remove_leftovers()
            self._refuse_existing()
            # Created under the directory's lock, so that nobody takes them for leftovers before they are locked.
            self._token = secrets.token_hex(6)
            self._model_file = stack.enter_context(self._temporary(self._token, "onnx"))
            self._data_file = stack.enter_context(self._temporary(self._token, "data"))
            self._files = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, name: str, data: npt.NDArray[np.generic]) -> ir.TensorProtocol:
        """Write one tensor's bytes now, so that they need not be kept in memory.

        Args:
            name: name of the tensor; the model may give it another.
            data: the tensor, of any shape and dtype.

        Returns:
            A tensor to put into the model: it reads from the temporary file, or from memory when it is small.

        Raises:
            InputError: the tensors are too many for a model without a data file.
            OSError: writing failed.
        """
        return self._place(ir.tensor(data, name=name), self._temporary_name)

    @contextlib.contextmanager
    def trial(self, model: ir.Model) -> Iterator[Path]:
        """Write the model beside its data, under a name of no consequence, to be opened before it is committed.

        Args:
            model: the model; its large tensors belong to this writer afterwards.

        Raises:
            InputError: the model is too large for one file.
            OSError: writing failed.
        """
        counted = self._inline_bytes
        self._place_all(model, self._temporary_name, None)
        self._inline_bytes = counted
        self._directory.stat()  # for a message about it, and not about the temporary, if it is gone
        with temporary_file(self._temporary_path(self._token, "trial.onnx")) as file:
            file.write(_serialised(model))
            file.flush()
            self._data_file.flush()
            yield Path(file.name)

    def commit(
        self, model: ir.Model, *, below: int | None = None, progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Move the model's other large tensors to the data file, and put both files in place.

        The model is not to be used afterwards: its tensors belong to the saved one.

        Args:
            model: the model.
            below: write nothing unless both files together have fewer bytes than this.
            progress: called after each initialiser.

        Raises:
            NotSmallerError: they have as many or more.
            FileExistsError: something has appeared at the destination meanwhile and ``force`` is not set.
            InputError: the model is too large for one file.
            OSError: writing failed; the destination is what it was.
        """
        with _locked(self._directory):
            self._refuse_existing()
            old = self._own_data(self._destination)
            data_name = next(name for name in self._data_names() if name not in old and not self._exists(name))
            self._place_all(model, data_name, progress)
            self._set_data_file(model, data_name)
            self._model_file.write(_serialised(model))
            size = self._model_file.tell() + self._data_file.tell()
            if below is not None and size >= below:
                raise NotSmallerError(size)
            self._keep_attributes(old)
            _sync(self._data_file)
            _sync(self._model_file)
            if self._data_file.tell():
                self._put_data(data_name, old)
            replace(Path(self._model_file.name), self._destination, force=self._force)
            _sync_directory(self._directory)
            self._remove_unused(old)
            if self._data_file.tell() and data_name != self._data_name and not self._exists(self._data_name):
                self._rename_data(model, data_name)

    @property
    def _temporary_name(self) -> str:
        return Path(self._data_file.name).name

    def _place(self, tensor: ir.TensorProtocol, location: str) -> ir.TensorProtocol:
        """Append a tensor to the data file unless it is small; return the tensor to use instead."""
        if self._inline:
            self._inline_bytes += _size(tensor)
            if self._inline_bytes > MODEL_BYTES_LIMIT:
                raise InputError(_TOO_LARGE)
            return _in_memory(tensor)
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < ALIGNMENT:
            return _in_memory(tensor)
        file = self._data_file
        file.write(bytes(-file.tell() % ALIGNMENT))
        offset = file.tell()
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(file)  # in bounded pieces
        else:
            _write_tensor(tensor, file)
        file.flush()
        return self._external(tensor, location, offset)

    def _external(self, tensor: ir.TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=self._directory,
        )

    def _place_all(self, model: ir.Model, data_name: str, progress: Callable[[Progress], None] | None) -> None:
        """Give every tensor of the model its place in the data file ``data_name``, or in the model file."""
        placed: dict[int, tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}  # the key's object is kept alive here

        def place(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == self._temporary_name:
                return self._external(tensor, data_name, tensor.offset or 0)
            if id(tensor) not in placed:
                placed[id(tensor)] = (tensor, self._place(tensor, data_name))
            return placed[id(tensor)][1]

        values = list(_constants(model))
        total = sum(_size(tensor) for _, tensor in values)
        done = 0
        for number, (value, tensor) in enumerate(values, start=1):
            value.const_value = place(tensor)
            done += _size(tensor)
            if progress is not None:
                progress(Progress(value.name or "", number, len(values), done, total))
        _take_in_attributes(model)

    def _temporary_path(self, token: str, kind: str) -> Path:
        return self._directory / f".{self._destination.name}{MARK}{token}.{kind}"

    def _temporary(self, token: str, kind: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return temporary_file(self._temporary_path(token, kind))

    def _refuse_existing(self) -> None:
        """Raise FileExistsError if a file is in the way."""
        refuse_existing(self._destination, force=self._force)
        data = self._destination.with_name(self._data_name)
        if not self._inline and not self._force:
            refuse_existing(data, force=False)
        if self._data_is_named and os.path.lexists(data) and self._data_name not in self._own_data(self._destination):
            raise FileExistsError(
                errno.EEXIST, "is not the data of the model that is replaced: choose another name", str(data)
            )

    def _check_data_name(self) -> None:
        """Raise InputError if the name that was given cannot be that of a data file."""
        name = self._data_name
        if self._inline:
            raise InputError(f"the weights go into the model file, so there is no data file to be named {name!r}")
        if PurePath(name).name != name or name in ("", "..") or "\0" in name or not _is_text(name):
            raise InputError(
                f"the data file lies beside the model: its name must be one without a folder, not {name!r}"
            )
        if name == self._destination.name:
            raise InputError(f"the data file cannot have the model's own name, {name!r}")
        if MARK in name:
            raise InputError(f"names with {MARK!r} in them are those of temporary files: choose another than {name!r}")

    def _data_names(self) -> Iterator[str]:
        """Yield the names that the data file may have, best first."""
        stem, suffix = _split(self._data_name)
        names = itertools.chain([self._data_name], (f"{stem}.{number}{suffix}" for number in itertools.count(2)))
        return (name for name in names if name != self._destination.name)

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self._directory / name)

    def _put_data(self, name: str, old: set[str]) -> None:
        """Give the data file its name, and until the end leave proof of which data files are ours, for the next run."""
        new = os.fstat(self._data_file.fileno())
        files = [(name, new), (self._data_name, new)]
        files += [(each, (self._directory / each).lstat()) for each in old if self._exists(each)]
        path = self._temporary_path(self._token, "proof")
        # However the commit ends, the files that no model uses then are removed before the proof is.
        proof = self._files.enter_context(temporary_file(path, lambda: self._remove_proved([path])))
        proof.write(json.dumps([[each, *_identity(status)] for each, status in files]).encode())
        _sync(proof)
        put_new(Path(self._data_file.name), self._directory / name)

    def _rename_data(self, model: ir.Model, name: str) -> None:
        """Give the data file, put in place as ``name``, the name that the old one had: by a second model file."""
        try:
            (self._directory / self._data_name).hardlink_to(self._directory / name)
        except OSError:  # somebody was faster, or the file system has no hard links: then it keeps its number
            return
        self._relocate(model, name, self._data_name)
        with self._temporary(f"{self._token}-2", "onnx") as file:
            file.write(_serialised(model))
            copy_attributes(self._destination, file.fileno())
            _sync(file)
            replace(Path(file.name), self._destination, force=True)
            _sync_directory(self._directory)
            self._remove_unused({name})

    def _relocate(self, model: ir.Model, old: str, new: str) -> None:
        """Let the tensors that are in the data file ``old`` be read from ``new``."""
        for value, tensor in _constants(model):
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == old:
                value.const_value = self._external(tensor, new, tensor.offset or 0)
        self._set_data_file(model, new)

    def _set_data_file(self, model: ir.Model, name: str) -> None:
        """Say in the model's metadata which data file was written with it."""
        model.metadata_props.pop(DATA_FILE_KEY, None)
        if self._data_file.tell():
            model.metadata_props[DATA_FILE_KEY] = name

    def _keep_attributes(self, old: set[str]) -> None:
        """Hand on permissions, owner and attributes of the files that are replaced."""
        data = next((self._directory / name for name in sorted(old) if self._exists(name)), self._destination)
        copy_attributes(self._destination, self._model_file.fileno())
        copy_attributes(data, self._data_file.fileno())

    def _own_data(self, model: Path) -> set[str]:
        """Return the data file that was written with the model at ``model``, if that is one of ours."""
        try:
            proto = read_proto(model)
        except (OSError, InputError):
            return set()
        own = {entry.value for entry in proto.metadata_props if entry.key == DATA_FILE_KEY}
        return {name for name in own & external_files(proto) if self._data_pattern.fullmatch(name)}

    def _remove_proved(self, proofs: Iterable[Path]) -> None:
        """Remove the data files that proofs call ours, unless a model uses them."""
        in_use = self._own_data(self._destination)
        for proof in proofs:
            self._remove_unused(set(_proved(proof)) - in_use)

    def _remove_unused(self, names: set[str]) -> None:
        """Remove data files that are ours, unless a model of the directory still mentions them."""
        for name in names:
            if self._data_pattern.fullmatch(name) and not self._is_mentioned(name):
                (self._directory / name).unlink(missing_ok=True)

    def _is_mentioned(self, name: str) -> bool:
        """Tell whether a model of the directory, say a copy of the replaced one, has its data in this file."""
        return any(
            _holds(path, name.encode()) and _has_data_in(path, name)
            for path in {*self._directory.glob("*.onnx"), self._destination}
            if path.is_file() and MARK not in path.name
        )

    def _remove_leftovers(self) -> None:
        """Remove the temporaries of dead runs, and a data file that was put in place just before its run died."""
        prefix = f".{self._destination.name}{MARK}"
        dead = [path for path in sorted(self._directory.iterdir()) if path.name.startswith(prefix)]
        dead = [path for path in dead if not is_locked(path)]
        self._remove_proved([path for path in dead if path.suffix == ".proof"])
        for path in dead:
            path.unlink(missing_ok=True)


def model_bytes(model: ir.Model) -> bytes:
    """Return a model as the content of one file, its external data inside; its tensors are in memory then.

    Raises:
        InputError: it is too large for one file.
    """
    inline = 0
    for value, tensor in _constants(model):
        inline += _size(tensor)
        if inline > MODEL_BYTES_LIMIT:
            raise InputError(_TOO_LARGE)
        value.const_value = _in_memory(tensor)
    _take_in_attributes(model)
    return _serialised(model)


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> None:
    """Write a small text file whole or not at all; see :func:`write_bytes`."""
    write_bytes(path, text.encode(), force=force)


def write_bytes(
    path: str | os.PathLike[str], data: bytes | memoryview, *, force: bool = False, mode: int | None = None
) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file.
        data: its content.
        force: replace a file that is already there.
        mode: permissions; the usual ones by default.

    Raises:
        FileExistsError: the file exists and ``force`` is not set.
        OSError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{MARK}{secrets.token_hex(6)}")
    with temporary_file(temporary) as file:
        file.write(data)
        copy_attributes(path, file.fileno())
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        _sync(file)
        replace(temporary, path, force=force)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other writers out of a directory; the lock leaves no file behind and dies with its holder."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _take_in_attributes(model: ir.Model) -> None:
    """Read external tensors in attributes into memory: onnxruntime reads external data of initialisers only."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))


def _size(tensor: ir.TensorProtocol) -> int:
    return 0 if tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _serialised(model: ir.Model) -> bytes:
    try:
        data: bytes = to_proto(model).SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError(_TOO_LARGE) from error
    except ir.serde.SerdeError as error:  # a tensor that is made only now could not be: what it says is what is wrong
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None
    return data


def _write_tensor(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Write a tensor's bytes; a matrix of bytes in pieces, whatever its strides are, for it may be large."""
    if tensor.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        file.write(tensor.tobytes())
        return
    array = tensor.numpy()
    if array.ndim == 0:
        file.write(array.tobytes())
    elif array.size:
        rows = max(1, _PIECE_BYTES // (array.size // len(array)))
        for start in range(0, len(array), rows):
            file.write(np.ascontiguousarray(array[start : start + rows]).data)


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(
        tensor.numpy(),
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
