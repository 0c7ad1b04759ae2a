"""Where the custom-op library lies."""

import sys
from pathlib import Path

__all__ = ["get_library_path"]

_NAMES = {"darwin": "libmcd_ort.dylib", "win32": "mcd_ort.dll"}
"""What the linker calls the library where that is not Linux's way."""


def get_library_path() -> str:
    """Return the path of the library to give to ``SessionOptions.register_custom_ops_library``.

    The library needs no Python: programs in other languages load the same file.

    Raises:
        FileNotFoundError: the package was installed without it.

    Examples:
        >>> import onnxruntime, mcd_graph
        >>> options = onnxruntime.SessionOptions()
        >>> options.register_custom_ops_library(mcd_graph.get_library_path())
    """
    path = Path(__file__).with_name(_NAMES.get(sys.platform, "libmcd_ort.so"))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: install mcd-graph again")
    return str(path)
