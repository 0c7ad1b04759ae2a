"""Every command on every operator: one model that has them all, so that none is forgotten by a command.

Its branches do not meet, and each ends in an output that is called like the operator that makes it. The branch
``open`` has constants that are restored when a session is created; ``DecompressWeight`` is the same one with the node
in the file.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lowering import make_model, node, scales
from onnx import TensorProto, numpy_helper

import mcd_graph
from mcd_graph.ascend import export_model
from mcd_graph.bench import bench_models
from mcd_graph.errors import InputError
from mcd_graph.inspection import inspect_model
from mcd_graph.integrity import check_model
from mcd_graph.model.at_open import AT_OPEN, WAY_KEY, reveal_nodes
from mcd_graph.runtime.sessions import Residency

WEIGHTS = {
    "MatmulCompressDequant": "w_matmul",
    "GatherCompressDequant": "w_gather",
    "ConvCompressDequant": "w_conv",
    "DecompressDequant": "w_dequant",
    "open": "w_open",
}
WAYS = ("apart", "inline")

FEEDS = {
    "x": np.random.default_rng(0).integers(0, 256, (4, 192)).astype(np.uint8),
    "ids": np.array([[0, 5, -1], [7, 7, 499]]),
    "image": np.random.default_rng(1).integers(0, 256, (1, 32, 12, 12)).astype(np.uint8),
    "f": np.random.default_rng(2).normal(0, 1, (3, 64, 96)).astype(np.float32),
    "a": np.random.default_rng(3).integers(-9, 9, (64, 96)).astype(np.int8),
}


def bell(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, 14, shape)), -127, 127).astype(np.int8)


def everything() -> onnx.ModelProto:
    constants = {
        "w_matmul": bell((192, 128), 1), "w_gather": bell((500, 64), 2), "w_conv": bell((96, 32, 3, 3), 3),
        "w_dequant": bell((3, 96, 256), 4), "w_open": bell((64, 96), 5) // 4,
        "s": np.float32(0.02), "z": np.uint8(128), "sz": np.int8(0), "ss": scales((256,), 6),
    }  # fmt: skip
    nodes = [
        node("MatMulInteger", "x w_matmul z", "i"), node("Cast", "i", "p", to=1),
        node("Mul", "p s", "MatmulCompressDequant"),
        node("Gather", "w_gather ids", "rows"),
        node("DequantizeLinear", "rows s sz", "GatherCompressDequant"),
        node("ConvInteger", "image w_conv z", "ConvCompressDequant"),
        node("DequantizeLinear", "w_dequant ss", "d", axis=2), node("MatMul", "f d", "DecompressDequant"),
        node("Add", "a w_open", "open"),
    ]  # fmt: skip
    inputs = {name: (feed.dtype.type, feed.shape) for name, feed in FEEDS.items()}
    outputs = {
        "MatmulCompressDequant": (np.float32, (4, 128)), "GatherCompressDequant": (np.float32, (2, 3, 64)),
        "ConvCompressDequant": (np.int32, (1, 96, 10, 10)), "DecompressDequant": (np.float32, (3, 64, 256)),
        "open": (np.int8, (64, 96)),
    }  # fmt: skip
    return make_model(nodes, inputs, outputs, constants)


def write_apart(model: onnx.ModelProto, folder: Path) -> None:
    """Write ``external.onnx``, all its constants in a data file."""
    data = bytearray()
    for tensor in model.graph.initializer:
        content = tensor.raw_data
        for key, value in (("location", "external.data"), ("offset", len(data)), ("length", len(content))):
            tensor.external_data.add(key=key, value=str(value))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        data += content
    (folder / "external.data").write_bytes(data)
    (folder / "external.onnx").write_bytes(model.SerializeToString())


def run(session: onnxruntime.InferenceSession) -> dict[str, bytes]:
    names = [value.name for value in session.get_outputs()]
    return {name: value.tobytes() for name, value in zip(names, session.run(None, FEEDS), strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, with its weights inside and in a data file, and what compression makes of it."""
    path = tmp_path_factory.mktemp("everything")
    (path / "original.onnx").write_bytes(everything().SerializeToString())
    write_apart(everything(), path)
    for way in WAYS:
        report = mcd_graph.compress_model(
            path / "original.onnx", path / f"{way}.onnx", at_open=True, inline=way == "inline"
        )
        assert {each.name: (each.status, each.way) for each in report.constants} == {
            name: ("lowered", "open" if operator == "open" else "run") for operator, name in WEIGHTS.items()
        }
        assert report.proof is not None
        assert report.proof.proved
    proto = reveal_nodes(onnx.load(path / "inline.onnx", load_external_data=False))
    (marked,) = [
        each for each in proto.graph.node if (WAY_KEY, AT_OPEN) in {(p.key, p.value) for p in each.metadata_props}
    ]
    assert marked.op_type == "DecompressWeight"
    del marked.metadata_props[:]
    (path / "nodes.onnx").write_bytes(proto.SerializeToString())
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    return run(onnxruntime.InferenceSession(folder / "original.onnx"))


COMPRESSED = (*WAYS, "nodes")


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("residency", ["auto", "compressed", "decoded", "plain"])
def test_sessions(folder: Path, expected: dict[str, bytes], name: str, residency: Residency) -> None:
    assert run(mcd_graph.InferenceSession(folder / f"{name}.onnx", residency=residency)) == expected


@pytest.mark.parametrize("name", COMPRESSED)
def test_verify(folder: Path, name: str) -> None:
    assert mcd_graph.verify_model(folder / "original.onnx", folder / f"{name}.onnx", runs=1, threads=(1, 2)).identical


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("inline", [False, True])
def test_restore(folder: Path, expected: dict[str, bytes], name: str, inline: bool, tmp_path: Path) -> None:
    """The same bytes of weights, no operator of ours, and a file as large as the original."""
    result = mcd_graph.restore_model(folder / f"{name}.onnx", tmp_path / "r.onnx", inline=inline)
    assert not result.kept
    assert result.restored == len(WEIGHTS)
    back = onnx.load(tmp_path / "r.onnx")
    assert not [each for each in back.graph.node if each.domain == "mcd"]
    original = sorted(t.raw_data for t in everything().graph.initializer if t.data_type == 3 and len(t.raw_data) > 1)
    assert sorted(t.raw_data for t in back.graph.initializer if t.data_type == 3 and len(t.raw_data) > 1) == original
    slack = 5 * 64 if not inline else 0
    assert result.file_bytes_after < (folder / "original.onnx").stat().st_size + 600 + slack
    assert run(onnxruntime.InferenceSession(tmp_path / "r.onnx")) == expected


@pytest.mark.parametrize("name", COMPRESSED)
def test_inspect_and_check(folder: Path, name: str) -> None:
    report = inspect_model(folder / f"{name}.onnx")
    assert {each.name for each in report.constants} == set(WEIGHTS.values())
    assert {each.status for each in report.constants} == {"lowered"}
    checked = check_model(folder / f"{name}.onnx")
    assert checked.intact
    assert not checked.problems


@pytest.mark.parametrize("operator", WEIGHTS)
@pytest.mark.parametrize("name", COMPRESSED)
def test_damage(folder: Path, name: str, operator: str, tmp_path: Path) -> None:
    """One bit of any operator's stream: `inspect --check`, a session and `restore` end in an error that names it."""
    for file in folder.glob(f"{name}.onnx*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / f"{name}.onnx"
    proto = reveal_nodes(onnx.load(path, load_external_data=False))
    (tensor,) = [each for each in proto.graph.initializer if each.name == f"{WEIGHTS[operator]}.x2"]
    place = {entry.key: entry.value for entry in tensor.external_data}
    file = tmp_path / place["location"] if place else path
    content = bytearray(file.read_bytes())
    begin = int(place["offset"]) if place else content.find(tensor.raw_data)
    length = int(place["length"]) if place else len(tensor.raw_data)
    content[begin + length // 2] ^= 4
    file.write_bytes(content)
    assert not check_model(path).intact
    with pytest.raises(Exception, match=r"checksum|damaged|corrupt"):
        run(mcd_graph.InferenceSession(path))
    with pytest.raises(InputError):
        mcd_graph.restore_model(path, tmp_path / "r.onnx")
    assert not (tmp_path / "r.onnx").exists()


@pytest.mark.parametrize("name", COMPRESSED)
def test_bounds_of_memory(folder: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"mcd\.memory_limit|memory limit"):
        run(mcd_graph.InferenceSession(folder / f"{name}.onnx", residency="decoded", memory_limit=6000))
    with pytest.raises(InputError, match="memory limit"):
        mcd_graph.restore_model(folder / f"{name}.onnx", tmp_path / "r.onnx", memory_limit=6000)


def test_external_data_and_executors(folder: Path, tmp_path: Path) -> None:
    """The weights' source, and who compresses them, change no byte."""
    data = [(folder / "apart.onnx_data").read_bytes()]
    mcd_graph.compress_model(folder / "external.onnx", tmp_path / "e.onnx", at_open=True)
    data.append((tmp_path / "e.onnx_data").read_bytes())
    with ThreadPoolExecutor(2) as executor:
        mcd_graph.compress_model(folder / "original.onnx", tmp_path / "x.onnx", at_open=True, executor=executor)
    data.append((tmp_path / "x.onnx_data").read_bytes())
    assert data[1:] == data[:1] * 2


def test_bench(folder: Path) -> None:
    result = bench_models(folder / "original.onnx", folder / "apart.onnx", threads=(1,), repeats=2)
    assert all(row.identical for row in result.rows)


@pytest.mark.parametrize("name", ["original", *COMPRESSED])
def test_ascend_export(folder: Path, name: str, tmp_path: Path) -> None:
    """Its only operator there is the multiplication; what else is compressed becomes standard operators."""
    result = export_model(folder / f"{name}.onnx", tmp_path / "ascend")
    assert [site.status for site in result.sites if site.k == 192] == ["strict"]
    model = onnx.load(tmp_path / "ascend" / "model.onnx")
    held = {numpy_helper.to_array(each).tobytes() for each in model.graph.initializer if each.data_type == 3}
    assert {each.op_type for each in model.graph.node if each.domain == "mcd"} <= {"MatmulCompressDequant"}
    for operator in ("GatherCompressDequant", "ConvCompressDequant", "DecompressDequant", "open"):
        (weight,) = [each for each in everything().graph.initializer if each.name == WEIGHTS[operator]]
        assert weight.raw_data in held
