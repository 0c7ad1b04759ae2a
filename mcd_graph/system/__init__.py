"""What differs between systems: how files are locked, opened and renamed, and which processors one may run on.

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
    "allowed_processors",
    "copy_attributes",
    "create",
    "is_locked",
    "lock",
    "locked",
    "processors",
    "reopen",
    "run_on",
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
    return len(allowed_processors()) or os.cpu_count() or 1


def allowed_processors() -> list[int]:
    """Return the numbers of the logical processors that threads of this process may run on; none if it is not told."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux's
    return sorted(affinity(0)) if affinity is not None else []


def run_on(processor: int) -> None:
    """Have the calling thread run on one of :func:`allowed_processors`; nothing is done where there are none."""
    choose = getattr(os, "sched_setaffinity", None)  # Linux's
    if choose is not None:
        choose(0, {processor})
