"""A private copy of a model's files, for a source that others may write to or truncate while it is read.

Reading a mapped file that somebody truncates ends the process (SIGBUS), in onnxruntime as well as here. The copy is
made by reads, which cannot fault, and what is mapped then is a file that nobody else knows.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import onnx

from mcd_graph.model.loading import check_tensors
from mcd_graph.model.source import Source
from mcd_graph.model.temporaries import MARK, closed_for_writing, temporary_file
from mcd_graph.model.unchanged import Watch
from mcd_graph.model.walk import Contents
from mcd_graph.system import locked

__all__ = ["private_copy"]

_PIECE_BYTES = 16 << 20


@contextlib.contextmanager
def private_copy(source: Source, destination: str | os.PathLike[str]) -> Iterator[Source]:
    """Copy the files of a model to temporaries beside ``destination``, which go away on leaving.

    Args:
        source: the model.
        destination: where something is to be made of it.

    Raises:
        InputError: external data is refused, or a file changed while it was copied.
        OSError: a file cannot be read, or there is no space left.
    """
    if source.path is None:
        yield source
        return
    check_tensors(source)
    directory = Path(destination).absolute().parent
    prefix = f".{Path(destination).name}{MARK}{secrets.token_hex(6)}-source"
    watch = Watch()
    watch.begin(source.identities)
    with contextlib.ExitStack() as stack:
        with locked(directory):  # until each has its own lock, so that nobody takes it for a dead run's
            model = stack.enter_context(temporary_file(directory / f"{prefix}.onnx"))
            copies = {
                name: stack.enter_context(temporary_file(directory / f"{prefix}-{number}.data"))
                for number, name in enumerate(source.locations)
            }
        for name, copy in copies.items():
            with (source.path.parent / name).open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    copy.write(piece)
            copy.flush()
        proto = _relocated(source.contents, {name: Path(copy.name).name for name, copy in copies.items()})
        model.write(proto.SerializeToString())
        watch.check_files()
        stack.enter_context(closed_for_writing(model, *copies.values()))
        yield Source.read(model.name, copy_of=source)


def _relocated(contents: Contents, names: dict[str, str]) -> onnx.ModelProto:
    """Return a model whose external data is in other files."""
    proto = onnx.ModelProto()
    proto.CopyFrom(contents.proto)
    for tensor in Contents.of(proto).tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = names[entry.value]
    return proto
