"""A second decoder of compressed weights: slow, plain, and written from docs/format.md alone.

It shares nothing with the Rust codec but that page. Where the two disagree, one of the three is wrong.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["FormatError", "decode"]

NARROW_BITS = 57


class FormatError(Exception):
    """The page says that a reader refuses this."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(what)


def decode(x2: bytes, compress_index: bytes, compress_info: Sequence[int]) -> np.ndarray:
    """Return the weight (n, k), int8 or uint8."""
    header = Header(x2, compress_index, compress_info)
    position = header.end
    symbols = np.zeros((header.panels * 16, header.fractals * 32), np.uint8)
    for number in range(header.tiles):
        first = int.from_bytes(compress_index[8 * number : 8 * number + 4], "little")
        checksum = int.from_bytes(compress_index[8 * number + 4 : 8 * number + 8], "little")
        kind, argument = first & 3, first >> 2
        places = list(header.groups_of_tile(number))
        if kind == 3:
            require(checksum == 0, "a constant tile has no checksum")
            require(argument < 256, "a constant tile's argument is a symbol")
            for panel, fractal, group in places:
                put(symbols, panel, fractal, group, [argument] * 64)
            continue
        require(argument * 64 == position, "tiles follow one another")
        body = x2[position : header.length - 64]
        if kind == 2:
            size = 64 * len(places)
            require(size <= len(body), "a raw tile ends before the tail")
            for index, (panel, fractal, group) in enumerate(places):
                put(symbols, panel, fractal, group, list(body[64 * index : 64 * index + 64]))
        else:
            size = decode_tile(header, body, places, symbols, narrow=kind == 0)
        extent = (size + 63) // 64 * 64
        require(extent <= len(body), "a tile ends before the tail")
        require(not any(body[size:extent]), "padding is zero")
        require(zlib.crc32(body[:extent]) == checksum, "a tile's checksum")
        position += extent
    require(position + 64 == header.length, "the tail follows the tiles")
    require(not any(x2[position:]), "the tail is zero")
    symbols = symbols[: header.n, : header.k]
    return symbols if header.unsigned else (symbols.astype(np.int16) - 128).astype(np.int8)


def put(symbols: np.ndarray, panel: int, fractal: int, group: int, lanes: Sequence[int]) -> None:
    for lane, symbol in enumerate(lanes):
        symbols[16 * panel + lane // 4, 32 * fractal + 4 * group + lane % 4] = symbol


class Header:
    """The fields of the header, checked, and what follows from them."""

    def __init__(self, x2: bytes, compress_index: bytes, info: Sequence[int]) -> None:
        require(len(x2) >= 64, "there is a header")
        require(x2[:4] == b"MCDW", "magic")
        require(x2[4] == 1, "version")
        require(zlib.crc32(x2[:44] + bytes(4) + x2[48 : self.header_size(x2)]) == self.number(x2, 44, 4), "checksum")
        require(x2[5] <= 1, "weight type")
        require(x2[6] <= 2, "profile")
        require(x2[11] == 0, "reserved")
        require(not any(x2[48:64]), "reserved")
        self.unsigned = x2[5] == 1
        self.root_bits, self.step, self.levels, ranks = x2[7], x2[8], x2[9], x2[10]
        self.tiling_k, self.tiling_n = self.number(x2, 12, 2), self.number(x2, 14, 2)
        self.k, self.n, self.length = (self.number(x2, offset, 8) for offset in (16, 24, 32))
        require([self.tiling_k, self.tiling_n, self.k, self.n, 1] == list(info), "compress_info")
        require(self.tiling_k >= 1 and self.tiling_n >= 1 and self.tiling_k * self.tiling_n <= 127, "tiling")
        require(1 <= self.k < 1 << 31 and 1 <= self.n < 1 << 31, "shape")
        require(self.length == len(x2), "length of x2")

        self.panels, self.fractals = -(-self.n // 16), -(-self.k // 32)
        self.tiles_k = -(-self.fractals // self.tiling_k)
        self.tiles = self.tiles_k * -(-self.panels // self.tiling_n)
        require(len(compress_index) == 8 * self.tiles, "length of compress_index")
        require(zlib.crc32(compress_index) == self.number(x2, 40, 4), "checksum of compress_index")

        coded = any(compress_index[8 * tile] & 3 < 2 for tile in range(self.tiles))
        if coded:
            require(1 <= self.root_bits <= 7, "R")
            require(self.step <= 1 << self.root_bits, "A")
            require(self.levels <= 8 and (self.step > 0 or self.levels == 0), "D")
            self.direct = (1 << self.root_bits) - self.step
            most = self.direct + self.step * self.levels
            require(most <= 128 and 1 <= ranks <= most, "C")
        else:
            require(not any(x2[7:11]), "no code without coded tiles")
        self.ranks = list(x2[64 : 64 + ranks])
        require(len(set(self.ranks)) == ranks, "the symbols by rank are all different")
        self.end = self.header_size(x2)
        require(self.end + 64 <= len(x2), "header and tail fit")
        require(not any(x2[64 + ranks : self.end]), "padding of the header")

    @staticmethod
    def number(data: bytes, offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    @staticmethod
    def header_size(x2: bytes) -> int:
        return 64 + (x2[10] + 63) // 64 * 64

    def groups_of_tile(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield (panel, fractal, group) in kernel order."""
        panel, fractal = number // self.tiles_k * self.tiling_n, number % self.tiles_k * self.tiling_k
        for p in range(panel, min(panel + self.tiling_n, self.panels)):
            for f in range(fractal, min(fractal + self.tiling_k, self.fractals)):
                for g in range(8):
                    yield p, f, g


class Bits:
    """A bit sequence, least significant bit of the first byte first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def next(self) -> int:
        require(self.position < 8 * len(self.data), "a stream is long enough")
        bit = self.data[self.position // 8] >> self.position % 8 & 1
        self.position += 1
        return bit

    def finish(self) -> None:
        require((self.position + 7) // 8 == len(self.data), "a stream is consumed exactly")
        while self.position < 8 * len(self.data):
            require(self.next() == 0, "zero bits behind the last one")


def decode_tile(
    header: Header, body: bytes, places: list[tuple[int, int, int]], symbols: np.ndarray, *, narrow: bool
) -> int:
    """Decode one coded tile that begins ``body`` and return its size without padding."""
    root_bits, step, levels, direct = header.root_bits, header.step, header.levels, header.direct
    fractals = len(places) // 8
    position = fractals * root_bits * 64
    streams = {0: 0, 1: 1}.get(levels, 5)
    require(position + 2 * (streams + 1) <= len(body), "a coded tile ends before the tail")

    def root(index: int, lane: int) -> int:
        """Return the root field of a lane of the tile's group number ``index``."""
        fractal, group = divmod(index, 8)
        rows = body[fractal * root_bits * 64 : (fractal + 1) * root_bits * 64]
        number = int.from_bytes(rows[lane::64], "little")
        return number >> group * root_bits & (1 << root_bits) - 1

    parts = []
    lengths = [Header.number(body, position + 2 * index, 2) for index in range(streams + 1)]
    position += 2 * len(lengths)
    for length in lengths:
        require(position + length <= len(body), "a coded tile ends before the tail")
        parts.append(body[position : position + length])
        position += length
    bits = [Bits(part) for part in parts[:-1]]
    escapes = iter(parts[-1])
    escaped = 0

    for index, place in enumerate(places):
        roots = [root(index, lane) for lane in range(64)]
        ones = [0] * 64
        open_lanes = [lane for lane in range(64) if roots[lane] >= direct]
        deep_bits = 0
        for level in range(levels):
            if level == 0:
                require(not narrow or len(open_lanes) <= NARROW_BITS, "a narrow tile is narrow")
            else:
                deep_bits += len(open_lanes)
            stream = bits[0] if level == 0 else bits[1 + index % 4]
            open_lanes = [lane for lane in open_lanes if stream.next()]
            for lane in open_lanes:
                ones[lane] += 1
        require(not narrow or deep_bits <= NARROW_BITS, "a narrow tile is narrow")
        lanes = []
        for lane in range(64):
            if roots[lane] >= direct and ones[lane] == levels:
                symbol = next(escapes, -1)
                require(symbol >= 0, "there are enough escapes")
                escaped += 1
            else:
                rank = (roots[lane] + step * ones[lane]) % 256 % 128
                symbol = header.ranks[rank] if rank < len(header.ranks) else 0
            lanes.append(symbol)
        put(symbols, *place, lanes)
    for stream in bits:
        stream.finish()
    require(escaped == len(parts[-1]), "the escapes are consumed exactly")
    return position
