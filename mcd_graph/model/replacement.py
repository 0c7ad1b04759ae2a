"""Puts a finished temporary file at its final path without losing anything that lies there.

Only regular files, and links to them, are ever replaced, and only where the caller was told to (``force``). Whoever
replaces a file keeps its permissions, its owner where the system allows that, and its extended attributes.
"""

import errno
import os
from pathlib import Path

__all__ = ["put_new", "refuse_existing", "replace"]


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise FileExistsError if there is anything at ``path`` that may not be replaced.

    Args:
        path: where a file is to be written.
        force: allow a regular file there, or a link to one; a device, pipe, socket, directory or broken link never is.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(errno.EEXIST, "already exists (--force replaces it)", str(path))
    if not path.is_file():
        raise FileExistsError(errno.EEXIST, "is not a regular file: choose another path", str(path))


def replace(temporary: Path, path: Path, *, force: bool) -> None:
    """Move a finished temporary to ``path``; it took on what was there with :func:`system.copy_attributes` before.

    Args:
        temporary: the finished file, in the same directory.
        path: where it is to be.
        force: replace a regular file, or a link to one (the link is replaced, not what it leads to).

    Raises:
        FileExistsError: something is there that may not be replaced, however late it appeared.
        OSError: moving failed; what was there still is.
    """
    refuse_existing(path, force=force)
    if force:
        temporary.replace(path)
    else:
        put_new(temporary, path)


def put_new(temporary: Path, path: Path) -> None:
    """Move a finished temporary to a path where nothing is.

    Where the file system has no hard links, somebody may take the path in the moment between asking and moving.

    Raises:
        FileExistsError: something is there, however late it appeared.
        OSError: moving failed.
    """
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        refuse_existing(path, force=False)
        raise
    except OSError:
        refuse_existing(path, force=False)
        temporary.replace(path)
    else:
        temporary.unlink()
