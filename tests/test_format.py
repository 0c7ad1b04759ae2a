"""The Rust codec against the plain decoder, on random and on adversarial matrices, whole and damaged."""

import numpy as np
import plain_codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd_graph import _native

DTYPES = (np.int8, np.uint8)


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 256, shape)


def constant(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, rng.integers(0, 256))


def one_outlier(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    values = constant(rng, shape)
    values[rng.integers(shape[0]), rng.integers(shape[1])] = rng.integers(0, 256)
    return values


def all_different(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (np.arange(shape[0] * shape[1]) + rng.integers(0, 256)).reshape(shape) % 256


def extremes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.choice([0, 127, 128, 255], shape)


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    sigma = rng.choice([0.3, 1, 4, 12, 30, 60])
    return (128 + rng.normal(0, sigma, shape)).round().clip(0, 255)


def gaussian_with_outliers(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(shape) < 0.02, uniform(rng, shape), gaussian(rng, shape))


def two_values(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(shape) < rng.random(), *rng.integers(0, 256, 2))


def geometric(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Steeper than any Gaussian: long runs of continuation bits."""
    return (rng.geometric(rng.uniform(0.05, 0.9), shape) * rng.choice([1, -1], shape)) % 256


def different_rows(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Rows of different spread: tiles of every kind in one matrix."""
    return (128 + rng.normal(0, 1, shape) * rng.choice([0, 1, 20, 200], (shape[0], 1))).round().clip(0, 255)


MATRICES = (
    uniform, constant, one_outlier, all_different, extremes, gaussian, gaussian_with_outliers, two_values, geometric,
    different_rows,
)  # fmt: skip


@st.composite
def weights(draw: st.DrawFn, largest: int = 80) -> np.ndarray:
    shape = (draw(st.integers(1, largest)), draw(st.integers(1, largest)))
    make = draw(st.sampled_from(MATRICES))
    dtype = draw(st.sampled_from(DTYPES))
    return make(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), shape).astype(np.uint8).view(dtype)


TILINGS = st.sampled_from([(8, 8), (1, 1), (2, 1), (1, 2), (3, 2), (127, 1), (1, 127)])
PROFILES = st.sampled_from(["fast", "balanced", "small"])


def assert_round_trip(w: np.ndarray, profile: str, tiling: tuple[int, int], *, packed: bool = False) -> None:
    x2, index, info = _native.encode(w, profile, tiling, packed)
    for decoded in (_native.decode(x2, index, info), plain_codec.decode(x2.tobytes(), index.tobytes(), list(info))):
        assert (decoded.dtype, decoded.shape) == (w.dtype, w.shape)
        assert decoded.tobytes() == np.ascontiguousarray(w).tobytes()


@given(weights(), PROFILES, TILINGS, st.booleans())
@settings(max_examples=1000, deadline=None)
def test_both_decoders_give_the_weight_back(w: np.ndarray, profile: str, tiling: tuple[int, int], packed: bool) -> None:
    assert_round_trip(w, profile, tiling, packed=packed)


@pytest.mark.slow
@given(weights(200), PROFILES, TILINGS, st.booleans())
@settings(max_examples=1500, deadline=None)
def test_both_decoders_give_the_weight_back_at_length(
    w: np.ndarray, profile: str, tiling: tuple[int, int], packed: bool
) -> None:
    assert_round_trip(w, profile, tiling, packed=packed)


def test_the_matrices_meet_every_kind_of_code() -> None:
    met = set()
    for make in MATRICES:
        for seed in range(10):
            w = make(np.random.default_rng(seed), (80, 80)).astype(np.uint8)
            x2, index, info = _native.encode(w, "balanced", (1, 1))
            described = _native.inspect(x2, index, info)
            met |= {f"tile of kind {first & 3}" for first in index[::8].tolist()}
            if described["levels"] is not None:
                met.add("direct ranks only" if described["levels"] == 0 else "continued ranks")
    assert met == {*(f"tile of kind {kind}" for kind in range(3)), "direct ranks only", "continued ranks"}


@pytest.mark.parametrize("make", MATRICES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_shapes_all_round(make: object, dtype: type) -> None:
    assert callable(make)
    rng = np.random.default_rng(1)
    for n in (1, 2, 15, 16, 17, 33):
        for k in (1, 3, 4, 5, 31, 32, 33, 65):
            w = make(rng, (n, k)).astype(np.uint8).view(dtype)
            assert_round_trip(w, "balanced", (2, 1))
            assert_round_trip(w, "balanced", (2, 1), packed=True)


@pytest.mark.parametrize("order", ["C", "F", "reversed", "every other"])
def test_strides(order: str) -> None:
    w = gaussian(np.random.default_rng(2), (70, 90)).astype(np.uint8).view(np.int8)
    view = {"C": w, "F": np.asfortranarray(w), "every other": w[::2, ::3]}.get(order)
    if view is None:
        with pytest.raises(ValueError, match="negative strides"):
            _native.encode(w[::-1], "balanced")
        return
    expected = _native.encode(np.ascontiguousarray(view), "balanced")
    for ours, theirs in zip(_native.encode(view, "balanced"), expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def stream_with_every_kind() -> tuple[bytearray, bytearray, list[int]]:
    """Return a small weight with raw, coded and constant tiles, escapes among them."""
    rng = np.random.default_rng(5)
    w = np.zeros((96, 32), np.uint8)
    w[:64] = rng.normal(128, 5, (64, 32)).round()
    w[3, 7] = 250
    w[64:80] = uniform(rng, (16, 32))
    x2, index, info = _native.encode(w, "balanced", (1, 1))
    described = _native.inspect(x2, index, info)
    assert (described["coded_tiles"], described["raw_tiles"], described["constant_tiles"]) == (4, 1, 1)
    return bytearray(x2.tobytes()), bytearray(index.tobytes()), [int(number) for number in info]


def test_every_flipped_bit_is_found() -> None:
    x2, index, info = stream_with_every_kind()
    plain_codec.decode(bytes(x2), bytes(index), info)
    for name, data in (("x2", x2), ("compress_index", index)):
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            arrays = np.frombuffer(x2, np.uint8), np.frombuffer(index, np.uint8)
            with pytest.raises(_native.FormatError):
                _native.decode(*arrays, info)
            if bit % 31 == 0:  # it is slow
                with pytest.raises(plain_codec.FormatError):
                    plain_codec.decode(bytes(x2), bytes(index), info)
            del arrays
            data[bit // 8] ^= 1 << bit % 8
            assert name


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("value", [0, -1, 1 << 40, 7])
def test_compress_info_must_agree(position: int, value: int) -> None:
    x2, index, info = stream_with_every_kind()
    info[position] = value
    arrays = np.frombuffer(x2, np.int8), np.frombuffer(index, np.int8)
    with pytest.raises(_native.FormatError):
        _native.decode(*arrays, info)
    with pytest.raises(plain_codec.FormatError):
        plain_codec.decode(bytes(x2), bytes(index), info)


@pytest.mark.parametrize("cut", [0, 1, 43, 63, 64, 127, 128, -64, -1])
def test_truncated_streams(cut: int) -> None:
    x2, index, info = stream_with_every_kind()
    for arrays in ((x2[:cut], index), (x2, index[:cut])):
        parts = tuple(np.frombuffer(bytes(part), np.int8) for part in arrays)
        if len(parts[1]) == len(index) and len(parts[0]) == len(x2):
            continue
        with pytest.raises(_native.FormatError):
            _native.decode(*parts, info)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.bool_])
def test_parts_of_another_type(dtype: type) -> None:
    x2, index, info = (np.asarray(part) for part in _native.encode(np.ones((4, 4), np.int8)))
    for arrays in ((x2, index.astype(dtype)), (x2.astype(dtype), index), (x2, index.reshape(1, -1))):
        for function in (_native.decode, _native.inspect):
            with pytest.raises(_native.FormatError):
                function(*arrays, info)
