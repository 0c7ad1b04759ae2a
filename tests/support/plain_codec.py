"""A second decoder of compressed weights: slow, plain, and written from docs/reference/format.md alone.

It shares nothing with the Rust codec but that page. Where the two disagree, one of the three is wrong.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["FormatError", "decode"]

CODED, RAW, CONSTANT = 0, 1, 2


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
        require(kind <= CONSTANT, "kind of a tile")
        if kind == CONSTANT:
            require(checksum == 0, "a constant tile has no checksum")
            require(argument < 256, "a constant tile's argument is a symbol")
            for panel, fractal, group in places:
                put(symbols, panel, fractal, group, [argument] * 64)
            continue
        require(argument * 64 == position, "tiles follow one another")
        body = x2[position : header.length - header.tail]
        if kind == RAW:
            size = 64 * len(places)
            require(size <= len(body), "a raw tile ends before the tail")
            for index, (panel, fractal, group) in enumerate(places):
                put(symbols, panel, fractal, group, list(body[64 * index : 64 * index + 64]))
        else:
            size = decode_tile(header, body, places, symbols)
        extent = (size + 63) // 64 * 64
        if header.tail == 0:
            extent = min(extent, len(body))  # the last tile is not padded
        require(extent <= len(body), "a tile ends before the tail")
        require(not any(body[size:extent]), "padding is zero")
        require(zlib.crc32(body[:extent]) == checksum, "a tile's checksum")
        position += extent
    require(position + header.tail == header.length, "the tail follows the tiles")
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
        require(x2[4] in (3, 5), "version")
        require(zlib.crc32(x2[:44] + bytes(4) + x2[48 : self.header_size(x2)]) == self.number(x2, 44, 4), "checksum")
        require(x2[5] <= 1, "weight type")
        require(x2[6] <= 2, "profile")
        require(not any(x2[49:64]) and x2[48] < (1 if x2[4] == 3 else 4), "reserved, and what is left out")
        self.edges_are_cut = x2[48] & 1 == 1
        self.tail = 0 if x2[48] & 2 else 64
        self.unsigned = x2[5] == 1
        self.root_bits, self.step, self.levels, ranks, extra = x2[7], x2[8], x2[9], x2[10], x2[11]
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

        coded = any(compress_index[8 * tile] & 3 == CODED for tile in range(self.tiles))
        if coded:
            require(1 <= self.root_bits <= 7, "R")
            require(self.step <= 1 << self.root_bits, "A")
            require(self.levels <= 12 and (self.step > 0 or self.levels == 0), "D")
            self.direct = (1 << self.root_bits) - self.step
            most = self.direct + self.step * self.levels
            require(most <= 255, "T + A·D")
            require(ranks <= 128, "C")
            require(ranks > 0 or self.step in (0, 2, 4, 8, 16, 32, 64, 128), "A without stored ranks")
        else:
            require(not any(x2[7:12]), "no code without coded tiles")
        stored = list(x2[64 : 64 + ranks])
        self.ranks = stored_order(stored, extra) if stored else None
        self.centre = extra
        self.end = self.header_size(x2)
        require(self.end + self.tail <= len(x2), "header and tail fit")
        require(not any(x2[64 + ranks : self.end]), "padding of the header")

    @staticmethod
    def number(data: bytes, offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    @staticmethod
    def header_size(x2: bytes) -> int:
        return 64 + (x2[10] + 63) // 64 * 64

    def stored_of_fractal(self, panel: int, fractal: int) -> list[tuple[list[int], range]]:
        """Return the lanes and groups of a fractal with root fields in x2, in the parts that they are stored in."""
        if not self.edges_are_cut:
            return [(list(range(64)), range(8))]
        columns, depth = min(16, self.n - 16 * panel), min(32, self.k - 32 * fractal)
        whole, rest = divmod(depth, 4)
        behind = [lane for lane in range(4 * columns) if lane % 4 < rest]
        return [(list(range(4 * columns)), range(whole)), (behind, range(whole, whole + 1 if rest else whole))]

    def groups_of_tile(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield (panel, fractal, group) in kernel order."""
        panel, fractal = number // self.tiles_k * self.tiling_n, number % self.tiles_k * self.tiling_k
        for p in range(panel, min(panel + self.tiling_n, self.panels)):
            for f in range(fractal, min(fractal + self.tiling_k, self.fractals)):
                for g in range(8):
                    yield p, f, g


def stored_order(stored: list[int], mask: int) -> list[int]:
    require(len({min(symbol, symbol ^ mask) for symbol in stored}) == len(stored), "stored symbols are all different")
    first_half = list(stored)
    # Sorting is stable: of two at the same distance the smaller one stays first.
    for symbol in sorted(range(256), key=lambda symbol: abs(symbol - stored[0])):
        if len(first_half) < 128 and symbol not in first_half and symbol ^ mask not in first_half:
            first_half.append(symbol)
    return first_half + [symbol ^ mask for symbol in first_half]


def widths(bits: int) -> list[int]:
    """Return how many of a lane's bits each row of root fields has."""
    return [8] * (bits // 8) + [width for width in (4, 2, 1) if bits % 8 & width]


def decode_tile(header: Header, body: bytes, places: list[tuple[int, int, int]], symbols: np.ndarray) -> int:
    """Decode one coded tile that begins ``body`` and return its size without padding."""
    root_bits, step, levels = header.root_bits, header.step, header.levels
    position = 0

    def take(size: int) -> bytes:
        nonlocal position
        require(position + size <= len(body), "a coded tile ends before the tail")
        position += size
        return body[position - size : position]

    # In kernel order.
    fields = []
    for panel, fractal, _ in places[::8]:
        numbers = [0] * 64
        for lanes, groups in header.stored_of_fractal(panel, fractal):
            shift = groups.start * root_bits
            for width in widths(len(groups) * root_bits):
                row = take((len(lanes) * width + 7) // 8)
                for index, lane in enumerate(lanes):
                    at, number = index % len(row), index // len(row)
                    numbers[lane] |= (row[at] >> number * width & (1 << width) - 1) << shift
                shift += width
        for group in range(8):
            fields += [number >> group * root_bits & (1 << root_bits) - 1 for number in numbers]
    if header.ranks is None:
        roots = [field - (1 << root_bits) if field >> (root_bits - 1) else field for field in fields]
        first, add = header.direct // 2, step // 2
        going_on = [index for index, root in enumerate(roots) if step and not -first <= root < first]
    else:
        roots, add = fields, step
        going_on = [index for index, root in enumerate(roots) if step and root >= header.direct]

    sums = [0] * len(roots)
    require(int.from_bytes(take(2), "little") == len(going_on), "the count of continued weights")
    for level in range(levels):
        data = take((len(going_on) + 7) // 8)
        bits = [data[index // 8] >> index % 8 & 1 for index in range(8 * len(data))]
        require(not any(bits[len(going_on) :]), "zero bits behind the last one")
        going_on = [index for index, bit in zip(going_on, bits, strict=False) if bit]
        if level < levels - 1:
            for index in going_on:
                sums[index] += add
    for index, escape in zip(going_on, take(len(going_on)), strict=True):
        sums[index] += escape
    if header.ranks is None:
        weights = [
            (header.centre + (root ^ (first + total) % 256 ^ first)) % 256
            for root, total in zip(roots, sums, strict=True)
        ]
    else:
        weights = [header.ranks[(root + total) % 256] for root, total in zip(roots, sums, strict=True)]
    for number, place in enumerate(places):
        put(symbols, *place, weights[64 * number : 64 * number + 64])
    return position
