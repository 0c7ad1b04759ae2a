"""What Windows lacks and what it refuses, for a process of its own: ``install()`` cannot be undone.

Files that are open cannot be renamed, replaced or removed, unless they were opened by the system's own call that allows
it; onnxruntime opens none that is open for writing; there is no fork, no fcntl, and none of the calls and flags that
only POSIX has.
"""

import contextlib
import ctypes
import fcntl
import importlib
import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

_LACKS = {
    os: (
        "fork", "sched_getaffinity", "fchown", "fchmod", "listxattr", "getxattr", "setxattr", "waitpid", "WIFSIGNALED",
        "O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY",
    ),
    signal: ("SIGPIPE", "SIGKILL", "SIGBUS", "pthread_kill"),
}  # fmt: skip

_EXISTS, _SHARING, _NOT_FOUND = 80, 32, 2
_CODES = {_EXISTS: FileExistsError, _SHARING: PermissionError, _NOT_FOUND: FileNotFoundError}
_DELETE_SHARED = 4
_DELETE_ON_CLOSE = 0x0400_0000

_shared: dict[int, tuple[os.stat_result, int]] = {}
"""Files that CreateFileW opened and their share modes, by descriptor; that may stand for another file now."""
_gone_when_closed: dict[int, str] = {}
_last_error = [0]


def _open_elsewhere(path: str) -> bool:
    """Tell whether a descriptor that does not allow it holds a file."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = entry.stat()
            opened, share = _shared.get(int(entry.name), (None, 0))
            shared = opened is not None and os.path.samestat(opened, status) and share & _DELETE_SHARED
            if os.path.samestat(status, Path(path).stat()) and not shared:
                return True
    return False


def _is_open(status: os.stat_result) -> bool:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samestat(entry.stat(), status):
                return True
    return False


def _open_for_writing(path: Path) -> bool:
    """Tell whether any descriptor of this process may write to a file."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            flags = int(Path("/proc/self/fdinfo", entry.name).read_text().partition("flags:")[2].split()[0], 8)
            if entry.samefile(path) and flags & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False


def _refusing_writers(create: Callable[..., None]) -> Callable[..., None]:
    """Return how a session is created where onnxruntime shares what it opens with readers only."""

    def checked(session: object, model: str | os.PathLike[str] | bytes, *arguments: Any, **options: Any) -> None:
        if not isinstance(model, bytes):
            proto = onnx.load(model, load_external_data=False)
            data = {entry.value for each in proto.graph.initializer for entry in each.external_data
                    if entry.key == "location"}  # fmt: skip
            for path in (Path(model), *(Path(model).parent / name for name in data)):
                if _open_for_writing(path):
                    raise PermissionError(13, "somebody writes to it", str(path))
        create(session, model, *arguments, **options)

    return checked


def _create_file(path: str, access: int, share: int, _: None, disposition: int, flags: int, __: None) -> int:
    creating = {1: os.O_CREAT | os.O_EXCL, 3: 0, 4: os.O_CREAT}[disposition]
    if share == 0 and path in _gone_when_closed.values():
        _last_error[0] = _SHARING
        return ctypes.c_void_p(-1).value or 0
    try:
        descriptor = os.open(path, (os.O_RDWR if access & 0x4000_0000 else os.O_RDONLY) | creating)
    except OSError as error:
        _last_error[0] = _EXISTS if isinstance(error, FileExistsError) else _NOT_FOUND
        return ctypes.c_void_p(-1).value or 0
    _shared[descriptor] = (os.fstat(descriptor), share)
    if flags & _DELETE_ON_CLOSE:
        _gone_when_closed[descriptor] = path
    return descriptor


def _close_handle(handle: int) -> int:
    if handle in _gone_when_closed:
        _unlink(_gone_when_closed.pop(handle))
    os.close(handle)
    return 1


def _lock_file(handle: int, *_: int) -> int:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    return 1


def _failed(code: int, path: Path) -> OSError:
    error: Any = _CODES[code](0, "as Windows says it", os.fspath(path))
    error.winerror = code
    return error  # type: ignore[no-any-return]


_unlink, _plain_close, _plain_dup2 = os.unlink, os.close, os.dup2


def _close(descriptor: int) -> None:
    _shared.pop(descriptor, None)
    _plain_close(descriptor)


def _dup2(descriptor: int, other: int, inheritable: bool = True) -> int:
    """Let another descriptor stand for the same open file, which is shared as ever."""
    _shared[other] = _shared[descriptor]
    return _plain_dup2(descriptor, other, inheritable)


def _refusing(call: Callable[..., None]) -> Callable[..., None]:
    """Return a call that refuses a file that is open, and to replace one that is, however it was opened."""

    def checked(path: str | os.PathLike[str], *others: str | os.PathLike[str], **options: Any) -> None:
        if _open_elsewhere(os.fspath(path)):
            raise PermissionError(13, "it is open", os.fspath(path))
        if others and Path(others[0]).exists() and _is_open(Path(others[0]).stat()):
            raise PermissionError(13, "what it would replace is open", os.fspath(others[0]))
        call(path, *others, **options)

    return checked


def install() -> None:
    """Make this process one that has only what Windows has, with mcd_graph's part for it."""
    for name in ("onnxruntime", "onnx_ir", "typer", "rich.console", "rich.progress", "multiprocessing", "tempfile"):
        importlib.import_module(name)  # others ask for the platform as well, and expect all of it

    for module, names in _LACKS.items():
        for name in names:
            delattr(module, name)
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    os.O_BINARY = os.O_NOINHERIT = 0  # type: ignore[attr-defined]
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.open_osfhandle = lambda handle, _flags: handle  # type: ignore[attr-defined]
    msvcrt.get_osfhandle = lambda descriptor: descriptor  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = msvcrt

    kernel = types.SimpleNamespace(CreateFileW=_create_file, CloseHandle=_close_handle, LockFile=_lock_file)
    ctypes.WinDLL = lambda *_, **__: kernel  # type: ignore[attr-defined]
    ctypes.get_last_error = lambda: _last_error[0]  # type: ignore[attr-defined]
    before, sys.platform = sys.platform, "win32"
    import mcd_graph.system.windows  # noqa: PLC0415

    sys.platform = before
    del sys.modules["msvcrt"]
    mcd_graph.system.windows._failed = _failed
    os.replace, os.rename, os.unlink = _refusing(os.replace), _refusing(os.rename), _refusing(os.unlink)
    os.remove = os.unlink
    os.close, os.dup2 = _close, _dup2
    ort.InferenceSession.__init__ = _refusing_writers(ort.InferenceSession.__init__)
