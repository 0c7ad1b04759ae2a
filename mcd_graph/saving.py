"""Writes a model and its data file: both whole, or neither.

Everything goes to temporaries beside the destination first. They are synced, and then renamed in an order that
leaves a whole model at every moment: first the data file, under a name that the present model at the destination
does not use, then the model file, which is what makes the new data count. So ``model.onnx`` has its data in
``model.data``, and after it was overwritten in ``model.2.data``, and then in ``model.data`` again.

What a killed run left behind is removed by the next one that writes there (:mod:`mcd_graph.temporaries`).
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from google.protobuf.message import EncodeError

from mcd_graph.errors import InputError
from mcd_graph.fidelity import to_proto
from mcd_graph.loading import external_files, read_proto
from mcd_graph.progress import Progress
from mcd_graph.temporaries import MARK, is_locked, temporary_file

__all__ = ["ALIGNMENT", "ModelWriter", "refuse_existing", "write_bytes", "write_text"]

ALIGNMENT = 4096
"""Tensors in the data file start at multiples of this many bytes (a page), and smaller ones stay in the model file."""

MODEL_BYTES_LIMIT = (1 << 31) - 1
"""What a protobuf message may hold, and so a model file."""

_PIECE_BYTES = 16 << 20

_TOO_LARGE = "the model would be larger than 2 GiB, which no ONNX file can be: its weights need a file of their own"


class ModelWriter:
    """Writes one model; tensors can be handed over as they come, long before the graph that uses them is complete.

    Use it as a context manager; whatever was not committed on leaving is removed again.

    Args:
        destination: path of the model file to be.
        force: replace a model that is already there.
        sources: files that must not be touched, whatever the destination is.
        inline: keep all tensors in the model file, and write no data file.

    Raises (on entering):
        FileExistsError: something is at the destination and ``force`` is not set.
        InputError: the destination is one of the sources.
        OSError: the directory is missing or cannot be written.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        *,
        force: bool = False,
        sources: Iterable[Path] = (),
        inline: bool = False,
    ) -> None:
        self._destination = Path(destination)
        self._directory = self._destination.absolute().parent
        self._force = force
        self._sources = tuple(sources)
        self._inline = inline
        self._inline_bytes = 0
        self._data_names = (f"{self._destination.stem}.data", f"{self._destination.stem}.2.data")

    def __enter__(self) -> Self:
        if self._destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._destination))
        for source in self._sources:
            for name in (self._destination.name, *self._data_names):
                target = self._directory / name
                if target.exists() and source.exists() and target.samefile(source):
                    raise InputError(f"writing {self._destination} would overwrite the input {source}")
        with _locked(self._directory), contextlib.ExitStack() as stack:
            self._remove_leftovers()
            self._refuse_existing()
            # Created under the directory's lock, so that nobody takes them for leftovers before they are locked.
            self._model_file = stack.enter_context(self._temporary("onnx"))
            self._data_file = stack.enter_context(self._temporary("data"))
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

    def commit(self, model: ir.Model, *, progress: Callable[[Progress], None] | None = None) -> None:
        """Move the model's other large tensors to the data file, and put both files in place.

        The model is not to be used afterwards: its tensors belong to the saved one.

        Args:
            model: the model.
            progress: called after each initialiser.

        Raises:
            FileExistsError: something has appeared at the destination meanwhile and ``force`` is not set.
            InputError: the model is too large for one file.
            OSError: writing failed; the destination is what it was.
        """
        with _locked(self._directory):
            self._refuse_existing()
            used = self._data_in_use(self._destination)
            data_name = self._data_names[1 if self._data_names[0] in used else 0]
            self._place_all(model, data_name, progress)
            self._model_file.write(_serialised(model))
            _sync(self._data_file)
            _sync(self._model_file)
            if self._data_file.tell():
                Path(self._data_file.name).replace(self._directory / data_name)
            Path(self._model_file.name).replace(self._destination)
            _sync_directory(self._directory)
            for name in used if self._inline else used - {data_name}:
                (self._directory / name).unlink(missing_ok=True)

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
        # onnxruntime reads external data of initialisers only.
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            for node in graph.all_nodes():
                for name, attribute in node.attributes.items():
                    if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                        node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))

    def _temporary(self, kind: str) -> contextlib.AbstractContextManager[BinaryIO]:
        path = self._directory / f".{self._destination.name}{MARK}{secrets.token_hex(6)}.{kind}"
        return temporary_file(path)

    def _refuse_existing(self) -> None:
        """Raise FileExistsError if a file of ours is in the way."""
        for name in (self._destination.name, *(() if self._inline else self._data_names[:1])):
            refuse_existing(self._destination.with_name(name), force=self._force)

    def _data_in_use(self, model: Path) -> set[str]:
        """Return which of our data file names the model file at ``model`` refers to."""
        try:
            return external_files(read_proto(model)) & set(self._data_names)
        except (OSError, InputError):
            return set()

    def _remove_leftovers(self) -> None:
        """Remove the temporaries of dead runs, and a data file that was renamed just before its run died."""
        in_use = self._data_in_use(self._destination)
        prefix = f".{self._destination.name}{MARK}"
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith(prefix) and not is_locked(path):
                for name in self._data_in_use(path) - in_use:
                    (self._directory / name).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise FileExistsError if there is anything at ``path`` that may not be replaced."""
    if os.path.lexists(path) and not force:
        raise FileExistsError(errno.EEXIST, "already exists (--force replaces it)", str(path))


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
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        _sync(file)
        refuse_existing(path, force=force)
        temporary.replace(path)


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


def _constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _size(tensor: ir.TensorProtocol) -> int:
    return 0 if tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _serialised(model: ir.Model) -> bytes:
    try:
        data: bytes = to_proto(model).SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError(_TOO_LARGE) from error
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
