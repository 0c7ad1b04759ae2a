"""What the system keeps of files in memory."""

import ctypes
import mmap
from typing import BinaryIO

import numpy as np


def cached_pages(file: BinaryIO) -> int:
    """Pages of a file that are in memory. To ask by reading would have the system read ahead."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.empty(-(-view.size // mmap.PAGESIZE), np.uint8)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return int((pages & 1).sum())
