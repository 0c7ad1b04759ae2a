"""What differs between systems: how files are locked, opened and renamed, and how many processors there are.

`posix` was run on Linux, `windows` with stand-ins for the system's calls and under Wine, never on a Windows.
"""

import os
import sys

if sys.platform == "win32":
    from mcd_graph.system.windows import (
        copy_attributes,
        create,
        is_locked,
        lock,
        locked,
        reopen,
        sync_directory,
        unlock,
    )
else:
    from mcd_graph.system.posix import copy_attributes, create, is_locked, lock, locked, reopen, sync_directory, unlock

__all__ = [
    "MAPPED_CAN_GO",
    "READING",
    "copy_attributes",
    "create",
    "is_locked",
    "lock",
    "locked",
    "processors",
    "reopen",
    "sync_directory",
    "unlock",
]

MAPPED_CAN_GO = sys.platform != "win32"
"""Whether a file can be removed while it is mapped."""

READING = os.O_RDONLY
"""Flags to open a file for reading: without waiting if it is a pipe, as bytes, and not for child processes."""
for _name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
    READING |= getattr(os, _name, 0)


def processors() -> int:
    """Return how many logical processors this process may use, as far as the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux's
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
