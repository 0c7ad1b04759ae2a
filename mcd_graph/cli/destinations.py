"""Looks at where a command is to write before the work that takes minutes."""

import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from mcd_graph.errors import InputError

__all__ = ["check_outputs"]


def check_outputs(*outputs: Path | None, model: Sequence[Path] = (), inputs: Sequence[Path] = (), force: bool) -> None:
    """Refuse pages and reports that cannot be written, or that would take the place of a model.

    Args:
        outputs: where they are to be written; ``None`` for one that was not asked for.
        model: the files of the model that the command writes, which are checked where they are written.
        inputs: models that the command reads.
        force: files that are there may be replaced, but never those of a model that is read.

    Raises:
        InputError: two outputs have the same path, or one is a file of a model.
        OSError: one cannot be written.
    """
    from mcd_graph.model.replacement import refuse_existing  # noqa: PLC0415

    asked = [path for path in outputs if path is not None]
    names = [os.path.realpath(path.parent) + os.sep + path.name for path in (*model, *asked)]
    for path, name in zip((*model, *asked), names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{path} is to be written twice: give each output a name of its own")
    for path in asked:
        _refuse_input(path, inputs)
        folder = path.absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(folder))
        refuse_existing(path, force=force)
        _try_to_write(path)


def _refuse_input(path: Path, models: Sequence[Path]) -> None:
    """Refuse to write where one of the models is, or the data of one."""
    from mcd_graph.model.source import Source  # noqa: PLC0415

    if not path.exists():
        return
    for model in models:
        files = Source.read(model).files if model.is_file() else [model]
        if any(file.exists() and path.samefile(file) for file in files):
            raise InputError(f"writing {path} would overwrite the input {model}")


def _try_to_write(path: Path) -> None:
    """Create a file beside the one that is to be there, and remove it: rights, disks and names show no other way."""
    from mcd_graph.model.temporaries import MARK, temporary_file  # noqa: PLC0415

    with temporary_file(path.with_name(f".{path.name}{MARK}{secrets.token_hex(6)}")):
        pass
