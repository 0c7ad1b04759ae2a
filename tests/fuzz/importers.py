"""Fuzz target: files of msModelSlim and CANN, made of any bytes, are read in full or refused with an InputError."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from cursor import Cursor

from mcd_graph import InputError
from mcd_graph.ascend import CompressConfig, Compressor, load_weights, read_dat, read_safetensors
from mcd_graph.ascend.compressor import compress_file
from mcd_graph.ascend.layers import CompressedLayer

NPY_HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
FOLDER = Path(tempfile.mkdtemp(prefix="mcd-fuzz-"))


def check(data: bytes) -> None:
    """Run one input: which importer, and the content of its files."""
    cursor = Cursor(data)
    target = cursor.pick([npy, dat, sparse, to_sparse])
    with contextlib.suppress(InputError):
        target(cursor)


def npy(cursor: Cursor) -> None:
    path = FOLDER / "weight.npy"
    header = b"" if cursor.byte() & 1 else npy_prefix()
    path.write_bytes(header + cursor.data)
    for name, array in load_weights(path).items():
        assert type(name) is str
        assert type(array) is np.ndarray
        assert array.dtype.kind in "biuf"


def dat(cursor: Cursor) -> None:
    flags = cursor.byte()
    sizes = [8, 8, cursor.word(), cursor.word(), 1]
    info = np.array(sizes, "<i8").tobytes() if flags & 1 == 0 else cursor.take(40)
    note = cursor.take(cursor.byte()) if flags & 2 else None
    index = cursor.take(cursor.word())
    folder = FOLDER / "dat"
    parts = {"weight": cursor.data, "index": index, "compress_info" if flags & 4 else "info": info}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for part, content in parts.items():
            (folder / part).mkdir(parents=True)
            (folder / part / "w.dat").write_bytes(content)
        if note is not None:
            (folder / "mcd.json").write_bytes(note)
        use(read_dat(folder))


def sparse(cursor: Cursor) -> None:
    use(read_safetensors(*pair(cursor))[0])


def to_sparse(cursor: Cursor) -> None:
    """Compress an uncompressed pair, as ``mcd ascend compress --description`` does."""
    weights, description = pair(cursor)
    out = FOLDER / "out"
    try:
        compress_file(weights, out, description=description)
        # What is written is readable.
        read_safetensors(
            out / "quant_model_weight_w8a8sc.safetensors", out / "quant_model_description_w8a8sc.json"
        ) if (out / "quant_model_weight_w8a8sc.safetensors").exists() else None
    finally:
        shutil.rmtree(out, ignore_errors=True)


def pair(cursor: Cursor) -> tuple[Path, Path]:
    """Write a safetensors file, whose header's length is right unless a flag says no, and its description."""
    flags = cursor.byte()
    weights, description = FOLDER / "w.safetensors", FOLDER / "d.json"
    description.write_bytes(cursor.take(cursor.word()))
    header = b"" if flags & 1 else cursor.take(cursor.word())
    weights.write_bytes((b"" if flags & 1 else len(header).to_bytes(8, "little") + header) + cursor.data)
    return weights, description


def use(layers: dict[str, CompressedLayer]) -> None:
    for layer in layers.values():
        with contextlib.suppress(InputError):
            weight = layer.decode()
            assert weight.shape == (layer.compress_info[3], layer.compress_info[2])


def npy_prefix() -> bytes:
    header = NPY_HEADER.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def seeds() -> list[bytes]:
    """Inputs to start from: what the package and NumPy write."""
    found = []
    weights = {"q": (np.arange(40 * 70) % 7 - 3).astype(np.int8).reshape(40, 70), "k": np.ones((3, 5), np.float16)}
    for content in (weights, {"w": np.asfortranarray(weights["q"][:8, :8])}, {"a": np.zeros((2, 0), np.uint64)}):
        np.save(FOLDER / "seed.npy", content)  # type: ignore[arg-type]
        written = (FOLDER / "seed.npy").read_bytes()
        found.append(b"\x00\x00" + written[len(npy_prefix()) :])
        found.append(b"\x00\x01" + written)
    tensors = {"q.weight": weights["q"], "q.bias": np.zeros(40, np.int32)}
    description = {"model_quant_type": "W8A8S", "q.weight": "W8A8S", "q.bias": "W8A8S"}
    compressor = Compressor(CompressConfig(), weight=tensors, quant_model_description=description)
    streams, indices, infos = compressor.run()
    for name, stream in streams.items():
        index, info = (np.asarray(part[name]) for part in (indices, infos))
        k, n = (int(size).to_bytes(2, "little") for size in info[2:4])
        body = len(index.tobytes()).to_bytes(2, "little") + index.tobytes() + np.asarray(stream).tobytes()
        found.append(b"\x01\x00" + k + n + body)
        note = b'{"mcd.codec": "open"}'
        found.append(b"\x01\x07" + k + n + info.astype("<i8").tobytes() + bytes([len(note)]) + note + body)
    compressor.export_safetensors(FOLDER / "seed")
    (compressed,) = (FOLDER / "seed").glob("*.safetensors")
    (described,) = (FOLDER / "seed").glob("*.json")
    found.append(b"\x02\x00" + paired(described.read_bytes(), compressed.read_bytes()))
    from safetensors.numpy import save  # noqa: PLC0415

    found.append(b"\x03\x00" + paired(json.dumps(description).encode(), save(tensors)))
    return found


def paired(description: bytes, weights: bytes) -> bytes:
    length = int.from_bytes(weights[:8], "little")
    return len(description).to_bytes(2, "little") + description + length.to_bytes(2, "little") + weights[8:]
