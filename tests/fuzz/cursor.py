"""Reads a fuzzer's bytes from the front; zeros when they run out. The Python half of native/fuzz/src/input.rs."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Cursor:
    """What is left of ``data``."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def byte(self) -> int:
        (first,) = self.take(1) or b"\0"
        return first

    def word(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def take(self, count: int) -> bytes:
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def pick(self, items: Sequence[T]) -> T:
        return items[self.byte() % len(items)]
