"""Writes a model and its data file: both whole, or neither.

Everything goes to temporaries beside the destination first. They are synced, and then renamed in an order that
leaves a whole model at every moment: first the data file, under a name that nothing has, then the model file, which
is what makes the new data count. The name that the old data file had, the new one gets by a link and a second model
file, again so that a whole model is there at every moment (:mod:`mcd_graph.model.data_files` has the names).

What a killed run left behind is removed by the next one that writes there (:mod:`mcd_graph.model.temporaries`).
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcd_graph.errors import InputError
from mcd_graph.model.content import serialized
from mcd_graph.model.data_files import DATA_FILE_KEY, DataFiles, check_data_name
from mcd_graph.model.files import is_text, sync
from mcd_graph.model.layout import TensorLayout
from mcd_graph.model.replacement import put_new, refuse_existing, replace
from mcd_graph.model.temporaries import MARK, closed_for_writing, temporary_file
from mcd_graph.progress import Progress
from mcd_graph.system import copy_attributes, locked, sync_directory

__all__ = ["ModelWriter", "NotSmallerError"]


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
        self._data_is_named = data_name is not None
        self._data = DataFiles(self._destination, f"{self._destination.name}_data" if data_name is None else data_name)

    def __enter__(self) -> Self:
        if self._destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._destination))
        if self._data_is_named:
            if self._inline:
                raise InputError(
                    f"the weights go into the model file, so there is no data file to be named {self._data.name!r}"
                )
            check_data_name(self._data.name, self._destination)
        if not self._inline and not is_text(self._destination.name):
            raise InputError(
                f"{os.fspath(self._destination)!r} is not a name in UTF-8, which a model needs to name its data file: "
                "choose another name, or --inline"
            )
        for source in self._sources:
            for name in (self._destination.name, self._data.name):
                target = self._directory / name
                if target.exists() and source.exists() and target.samefile(source):
                    raise InputError(f"writing {self._destination} would overwrite the input {source}")
        with locked(self._directory), contextlib.ExitStack() as stack:
            self._data.remove_leftovers()
            self._refuse_existing()
            # Created under the directory's lock, so that nobody takes them for leftovers before they are locked.
            self._token = secrets.token_hex(6)
            self._model_file = stack.enter_context(self._temporary(self._token, "onnx"))
            self._data_file = stack.enter_context(self._temporary(self._token, "data"))
            self._layout = TensorLayout(self._data_file, inline=self._inline)
            self._files = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(
        self, name: str, data: npt.NDArray[np.generic], *, packed: bool = False, aligned: bool = True
    ) -> ir.TensorProtocol:
        """Write one tensor's bytes now, so that they need not be kept in memory.

        Args:
            name: name of the tensor; the model may give it another.
            data: the tensor, of any shape and dtype.
            packed: it is not mapped by itself, so that it needs no page of its own, and goes there if it is small, too.
            aligned: it begins on a line of the cache, or a page if it is large.

        Returns:
            A tensor to put into the model: it reads from the temporary file, or from memory when it is small.

        Raises:
            InputError: the tensors are too many for a model without a data file.
            OSError: writing failed.
        """
        return self._layout.place(ir.tensor(data, name=name), packed=packed, aligned=aligned)

    @contextlib.contextmanager
    def trial(self, model: ir.Model) -> Iterator[Path]:
        """Write the model beside its data, under a name of no consequence, to be opened before it is committed.

        Neither file is open for writing meanwhile.

        Args:
            model: the model; its large tensors belong to this writer afterwards.

        Raises:
            InputError: the model is too large for one file.
            OSError: writing failed.
        """
        self._layout.place_for_trial(model)
        self._directory.stat()  # for a message about it, and not about the temporary, if it is gone
        with temporary_file(self._temporary_path(self._token, "trial.onnx")) as file:
            file.write(serialized(model))
            with closed_for_writing(file, self._data_file):
                yield Path(file.name)

    def commit(
        self,
        model: ir.Model,
        *,
        below: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Move the model's other large tensors to the data file, and put both files in place.

        The model is not to be used afterwards: its tensors belong to the saved one.

        Args:
            model: the model.
            below: write nothing unless both files together have fewer bytes than this.
            progress: called after each initialiser.
            check: called when all is written, before anything is put in place; what it raises ends the commit.

        Raises:
            NotSmallerError: they have as many or more.
            FileExistsError: something has appeared at the destination meanwhile and ``force`` is not set.
            InputError: the model is too large for one file.
            OSError: writing failed; the destination is what it was.
        """
        with locked(self._directory):
            self._refuse_existing()
            old = self._data.own()
            data_name = self._data.free_name(old)
            self._layout.place_all(model, data_name, progress)
            self._set_data_file(model, data_name)
            self._model_file.write(serialized(model))
            size = self._model_file.tell() + self._data_file.tell()
            if below is not None and size >= below:
                raise NotSmallerError(size)
            copy_attributes(self._destination, self._model_file.fileno())
            copy_attributes(self._data.inherited(old), self._data_file.fileno())
            sync(self._data_file)
            sync(self._model_file)
            check()
            if self._data_file.tell():
                self._put_data(data_name, old)
            replace(Path(self._model_file.name), self._destination, force=self._force)
            sync_directory(self._directory)
            self._data.remove_unused(old)
            if self._data_file.tell() and data_name != self._data.name and not self._data.exists(self._data.name):
                self._rename_data(model, data_name)

    def _temporary_path(self, token: str, kind: str) -> Path:
        return self._directory / f".{self._destination.name}{MARK}{token}.{kind}"

    def _temporary(self, token: str, kind: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return temporary_file(self._temporary_path(token, kind))

    def _refuse_existing(self) -> None:
        """Raise FileExistsError if a file is in the way."""
        refuse_existing(self._destination, force=self._force)
        data = self._destination.with_name(self._data.name)
        if not self._inline and not self._force:
            refuse_existing(data, force=False)
        if self._data_is_named and os.path.lexists(data) and self._data.name not in self._data.own():
            raise FileExistsError(
                errno.EEXIST, "is not the data of the model that is replaced: choose another name", str(data)
            )

    def _put_data(self, name: str, old: set[str]) -> None:
        """Give the data file its name, and until the end leave proof of which data files are ours, for the next run."""
        path = self._temporary_path(self._token, "proof")
        # However the commit ends, the files that no model uses then are removed before the proof is.
        proof = self._files.enter_context(temporary_file(path, lambda: self._data.remove_proved([path])))
        self._data.write_proof(proof, os.fstat(self._data_file.fileno()), name, old)
        put_new(Path(self._data_file.name), self._directory / name)

    def _rename_data(self, model: ir.Model, name: str) -> None:
        """Give the data file, put in place as ``name``, the name that the old one had: by a second model file."""
        try:
            (self._directory / self._data.name).hardlink_to(self._directory / name)
        except OSError:  # somebody was faster, or the file system has no hard links: then it keeps its number
            return
        self._layout.relocate(model, name, self._data.name)
        self._set_data_file(model, self._data.name)
        self._model_file.close()  # it is in place, and Windows replaces nothing that is open
        with self._temporary(f"{self._token}-2", "onnx") as file:
            file.write(serialized(model))
            copy_attributes(self._destination, file.fileno())
            sync(file)
            replace(Path(file.name), self._destination, force=True)
            sync_directory(self._directory)
            self._data.remove_unused({name})

    def _set_data_file(self, model: ir.Model, name: str) -> None:
        """Say in the model's metadata which data file was written with it."""
        model.metadata_props.pop(DATA_FILE_KEY, None)
        if self._data_file.tell():
            model.metadata_props[DATA_FILE_KEY] = name
