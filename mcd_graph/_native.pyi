"""Types of the Rust module (crate native/python); its own docstrings say more."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

_Weight = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
_Info = npt.ArrayLike

class FormatError(ValueError): ...

class StreamInfo(TypedDict):
    version: int
    codec: str
    profile: str
    dtype: str
    k: int
    n: int
    tiling: tuple[int, int]
    tiles: int
    coded_tiles: int
    raw_tiles: int
    constant_tiles: int
    payload_bytes: int
    stored_bytes: int
    root_bits: int | None
    step: int | None
    levels: int | None
    ranks: int | None

def encode(
    weight: _Weight, profile: str = "balanced", tiling: tuple[int, int] = (8, 8), packed: bool = False
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.int64]]: ...
def decode(
    x2: npt.NDArray[Any], compress_index: npt.NDArray[Any], compress_info: _Info, by_columns: bool = False
) -> _Weight: ...
def inspect(x2: npt.NDArray[Any], compress_index: npt.NDArray[Any], compress_info: _Info) -> StreamInfo: ...
def verify(x2: npt.NDArray[Any], compress_index: npt.NDArray[Any], compress_info: _Info) -> None: ...
def memory_needed(index_bytes: int, compress_info: _Info, decoded: bool) -> int: ...
def histogram(weight: _Weight) -> list[int]: ...
def kernels() -> list[str]: ...
def saturates_pairs() -> bool: ...
def entropy_bits(weight: _Weight) -> float: ...
def explain_bus_error(message: bytes | None) -> None: ...
def remove_at_bus_error(path: bytes) -> int: ...
def keep_at_bus_error(slot: int) -> None: ...
