"""Where the tensors of a model go: large ones to the data file, the others into the model file."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from mcd_graph.model.content import check_size, constants_of, in_memory, size_of_tensor, take_in_attributes
from mcd_graph.progress import Progress

__all__ = ["ALIGNMENT", "LEAST_EXTERNAL", "PAGE", "PAGED_FROM", "TensorLayout"]

LEAST_EXTERNAL = 4096
"""Smaller tensors, in bytes, stay in the model file."""

PAGE = 4096
"""Tensors of :data:`PAGED_FROM` bytes or more start at multiples of this in the data file."""

PAGED_FROM = 1 << 20
"""From here on a page is 0.4 % at most. Of smaller tensors it would be more than what many of them save."""

ALIGNMENT = 64
"""The others start at multiples of this: a line of the cache, which is what decoders read at a time. onnxruntime maps
the page that a tensor begins in, wherever in it that is."""

_PIECE_BYTES = 16 << 20


class TensorLayout:
    """Gives every tensor of a model its place, in a data file that is being written or in the model file.

    Args:
        file: the data file, under a temporary name; nothing goes there if ``inline``.
        inline: all tensors go into the model file.
    """

    def __init__(self, file: BinaryIO, *, inline: bool) -> None:
        self._file = file
        self._inline = inline
        self._inline_bytes = 0
        self._directory = Path(file.name).parent

    @property
    def temporary_name(self) -> str:
        """What the data file is called until it is put in place."""
        return Path(self._file.name).name

    def place(
        self,
        tensor: ir.TensorProtocol,
        location: str | None = None,
        *,
        packed: bool = False,
        aligned: bool = True,
    ) -> ir.TensorProtocol:
        """Append a tensor to the data file unless it is small; return the tensor to use instead.

        Args:
            tensor: the tensor.
            location: what it is to call the data file; the temporary name by default.
            packed: it goes there however small it is, and right behind the tensor before, for it is read, not mapped.
            aligned: if it goes there, it begins on a line or a page.

        Raises:
            InputError: the model file would hold more than a model file can.
            OSError: writing failed.
        """
        if self._inline:
            self._inline_bytes += size_of_tensor(tensor)
            check_size(self._inline_bytes)
            return in_memory(tensor)
        if tensor.dtype == ir.DataType.STRING or (tensor.nbytes < LEAST_EXTERNAL and not packed):
            return in_memory(tensor)
        file = self._file
        if aligned and not packed:
            file.write(bytes(-file.tell() % (PAGE if tensor.nbytes >= PAGED_FROM else ALIGNMENT)))
        offset = file.tell()
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(file)  # in bounded pieces
        else:
            _write_tensor(tensor, file)
        file.flush()
        return self._external(tensor, location or self.temporary_name, offset)

    def place_all(self, model: ir.Model, location: str, progress: Callable[[Progress], None] | None = None) -> None:
        """Give every tensor of the model its place in the data file ``location``, or in the model file.

        Args:
            model: the model.
            location: the name that the data file will have.
            progress: called after each initialiser.

        Raises:
            InputError: the model file would hold more than a model file can.
            OSError: writing failed.
        """
        placed: dict[int, tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}  # the key's object is kept alive here

        def place(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == self.temporary_name:
                return self._external(tensor, location, tensor.offset or 0)
            if id(tensor) not in placed:
                placed[id(tensor)] = (tensor, self.place(tensor, location))
            return placed[id(tensor)][1]

        values = list(constants_of(model))
        total = sum(size_of_tensor(tensor) for _, tensor in values)
        done = 0
        for number, (value, tensor) in enumerate(values, start=1):
            value.const_value = place(tensor)
            done += size_of_tensor(tensor)
            if progress is not None:
                progress(Progress(value.name or "", number, len(values), done, total))
        take_in_attributes(model)

    def place_for_trial(self, model: ir.Model) -> None:
        """Give every tensor a place under the temporary name; tensors that go into the model file are not counted."""
        counted = self._inline_bytes
        self.place_all(model, self.temporary_name)
        self._inline_bytes = counted

    def relocate(self, model: ir.Model, old: str, new: str) -> None:
        """Let the tensors that are in the data file ``old`` be read from ``new``."""
        for value, tensor in constants_of(model):
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == old:
                value.const_value = self._external(tensor, new, tensor.offset or 0)

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
