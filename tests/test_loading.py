"""Files from strangers: every refusal names the tensor and the reason, and nothing outside is read."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from lowering import make_model
from samples import text_model, write, write_external

from mcd_graph import InputError, compress_model, verify_model
from mcd_graph.model.loading import check_tensors, external_files, load_model, read_proto
from mcd_graph.model.source import Source


def tamper(path: Path, **entries: str) -> Path:
    """Change entries of the external data of ``table`` (an empty value removes one)."""
    proto = onnx.ModelProto.FromString(path.read_bytes())
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "table")
    old = {entry.key: entry.value for entry in tensor.external_data}
    tensor.ClearField("external_data")
    for key, value in {**old, **entries}.items():
        if value:
            tensor.external_data.add(key=key, value=value)
    return write(proto, path)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    return write_external(text_model(), directory / "model.onnx", "weights.bin")


def test_inline_and_external_hold_the_same(model: Path, external: Path) -> None:
    for value in load_model(model).graph.initializers.values():
        other = load_model(external).graph.initializers[value.name or ""]
        assert value.const_value is not None
        assert other.const_value is not None
        assert value.const_value.tobytes() == other.const_value.tobytes()


def test_external_data_stays_on_disk(external: Path) -> None:
    tensor = load_model(external).graph.initializers["w1"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.path == str(external.parent / "weights.bin")


def test_a_relative_path_is_checked_as_well(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(external.parent)
    tamper(external, location="../secret.bin")
    (external.parent.parent / "secret.bin").write_bytes(bytes(1 << 20))
    with pytest.raises(InputError, match="leads out of the model's directory"):
        load_model("model.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08", bytes(100), b"\xff" * 64], ids=repr)
def test_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.onnx is not an ONNX model"):
        load_model(path)


def test_truncated_model(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not an ONNX model"):
        load_model(model)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        load_model(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "/etc/passwd"}, "is an absolute path"),
        ({"location": "C:\\data"}, "cannot be read: No such file"),  # a name like any other, but on Windows
        ({"location": "../model/weights.bin"}, "leads out of the model's directory"),
        ({"location": "sub/../../x"}, "leads out of the model's directory"),
        ({"location": ""}, "is not a file name"),
        ({"location": "a\0b"}, "is not a file name"),
        ({"location": "missing.bin"}, "cannot be read: No such file"),
        ({"location": "."}, "is not a regular file"),
        ({"offset": "-4096"}, "has offset '-4096', which is not a size"),
        ({"offset": "1e3"}, "has offset '1e3', which is not a size"),
        ({"offset": "9" * 19}, "but the file has only"),
        ({"offset": "9" * 30}, "which is not a size"),
        ({"length": "4"}, "but its type and shape need 51200 bytes"),
        ({"offset": "2000000"}, "but the file has only"),
    ],
    ids=str,
)
def test_refused_external_data(external: Path, entries: dict[str, str], reason: str) -> None:
    tamper(external, **entries)
    with pytest.raises(InputError, match="tensor 'table'") as caught:
        load_model(external)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_out_of_the_directory_are_refused(external: Path, tmp_path: Path) -> None:
    data = external.parent / "weights.bin"
    data.rename(tmp_path / "elsewhere.bin")
    data.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(InputError, match="is a link out of the model's directory"):
        load_model(external)


def ask_onnxruntime(model: Path) -> bool:
    """Tell whether the installed onnxruntime opens a model."""
    try:
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - its exceptions have no common base of their own
        return False
    return True


def hard_link(folder: Path) -> Path:
    os.link(folder / "weights.bin", folder / "other name.bin")
    return folder / "model.onnx"


def hub_cache(folder: Path) -> Path:
    """As huggingface_hub lays its cache out: names are links into a folder of blobs."""
    (folder / "blobs").mkdir()
    (folder / "snapshots" / "rev").mkdir(parents=True)
    for name, blob in (("model.onnx", "aaaa"), ("weights.bin", "bbbb")):
        (folder / name).rename(folder / "blobs" / blob)
        (folder / "snapshots" / "rev" / name).symlink_to(Path("..") / ".." / "blobs" / blob)
    return folder / "snapshots" / "rev" / "model.onnx"


def linked_folder(folder: Path) -> Path:
    (folder.parent / "link").symlink_to(folder)
    return folder.parent / "link" / "model.onnx"


def linked_model(folder: Path) -> Path:
    (folder.parent / "real.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "real.onnx")
    return folder / "model.onnx"


def linked_model_and_data_elsewhere(folder: Path) -> Path:
    for name, place in (("model.onnx", "A"), ("weights.bin", "B")):
        (folder.parent / place).mkdir()
        (folder / name).rename(folder.parent / place / name)
        (folder / name).symlink_to(folder.parent / place / name)
    return folder / "model.onnx"


def linked_data(folder: Path) -> Path:
    (folder / "weights.bin").rename(folder.parent / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(folder.parent / "elsewhere.bin")
    return folder / "model.onnx"


def named(location: str) -> Callable[[Path], Path]:
    def lay(folder: Path) -> Path:
        (folder / "sub").mkdir()
        (folder / "weights.bin").rename(folder / location)
        proto = read_proto(folder / "model.onnx")
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        return write(proto, folder / "model.onnx")

    lay.__name__ = location
    return lay


@pytest.mark.parametrize(
    ("lay", "opens"),
    [
        (hard_link, True),
        (hub_cache, True),
        (linked_folder, True),
        (linked_model, True),
        (linked_model_and_data_elsewhere, False),
        (linked_data, False),
        *((named(name), True) for name in ("..x", "a\\b", "C:x", "\\x", "..\\b", "a\\..\\b", "./x", "sub/../x")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data_is_opened_where_onnxruntime_opens_it(
    external: Path, tmp_path: Path, lay: Callable[[Path], Path], opens: bool
) -> None:
    plain = {name: value.const_value.tobytes() for name, value in load_model(external).graph.initializers.items()}
    model = lay(external.parent)
    assert ask_onnxruntime(model) == opens, "onnxruntime decides; if it changed its mind, so do we"
    if not opens:
        with pytest.raises(InputError, match="out of the model's directory"):
            load_model(model)
        return
    assert {name: value.const_value.tobytes() for name, value in load_model(model).graph.initializers.items()} == plain
    compress_model(model, tmp_path / "small.onnx")
    assert verify_model(model, tmp_path / "small.onnx").identical


def test_links_within_the_directory_are_followed(external: Path) -> None:
    data = external.parent / "weights.bin"
    data.rename(external.parent / "real.bin")
    data.symlink_to("real.bin")
    assert load_model(external).graph.initializers["w1"].const_value is not None


def test_tensors_behind_links_are_called_as_in_the_file(external: Path) -> None:
    """Initialisers, and constants of nodes, of which one is in the model file itself."""
    proto = read_proto(external)
    outside = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.INT8, dims=[4], doc_string="of four")
    outside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "4")):
        outside.external_data.add(key=key, value=value)
    inside = onnx.numpy_helper.from_array(np.arange(4, dtype=np.int8), "inside")
    for tensor in (outside, inside):
        proto.graph.node.append(onnx.helper.make_node("Constant", [], [f"{tensor.name}_out"], value=tensor))
    write(proto, external)
    os.link(external.with_name("weights.bin"), external.with_name("other.bin"))
    model = load_model(external)
    assert {name: value.const_value.name for name, value in model.graph.initializers.items()} == {
        name: name for name in model.graph.initializers
    }
    found = {tensor.name: tensor for tensor in (node.attributes["value"].value for node in list(model.graph)[-2:])}
    assert found["outside"].tobytes() == external.with_name("weights.bin").read_bytes()[:4]
    assert found["outside"].doc_string == "of four"
    assert found["inside"].tobytes() == bytes(range(4))


def test_shapes_that_are_too_large_or_negative(external: Path) -> None:
    original = external.read_bytes()
    for dims, reason in (((1 << 62, 1 << 62), "type and shape need"), ((-1, 4), "type or shape that cannot be")):
        proto = onnx.ModelProto.FromString(original)
        (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "table")
        tensor.dims[:] = dims
        write(proto, external)
        with pytest.raises(InputError, match=reason):
            load_model(external)


def _redeclare(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(onnx.helper.make_node("Identity", [proto.graph.input[0].name], ["embedded"]))


def _unknown_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 99
    proto.graph.initializer[0].ClearField("raw_data")


def _too_few_bytes(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = b"123"


def _sparse(proto: onnx.ModelProto) -> None:
    proto.graph.sparse_initializer.add().values.name = "s"


def _training(proto: onnx.ModelProto) -> None:
    tensor = proto.training_info.add().algorithm.initializer.add(name="t", data_type=1, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_redeclare, "is not a valid ONNX model: Output 'embedded' is redeclared"),
        (_unknown_type, "is not a valid ONNX model: 99 is not a valid DataType"),
        (_too_few_bytes, "tensor 'table' has 3 bytes, which do not fit its type and shape"),
        (_sparse, r"sparse tensor 's' (has the shape \(\), which is not supported|cannot be read)"),
        (_training, "models whose training information has external data are not supported"),
    ],
)
def test_models_that_are_refused(model: Path, damage: Callable[[onnx.ModelProto], None], message: str) -> None:
    proto = read_proto(model)
    damage(proto)
    with pytest.raises(InputError, match=message) as caught:
        load_model(write(proto, model))
    assert "\n" not in str(caught.value)


def nested_bytes(depth: int) -> bytes:
    """A model file of Ifs inside of each other, written by hand: protobuf would refuse to copy it."""

    def field(number: int, content: bytes) -> bytes:
        size, digits = len(content), b""
        while size > 127:
            digits, size = digits + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + digits + bytes([size]) + content

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(8, b"\x10\x12") + field(7, graph)


def nested_proto(depth: int) -> onnx.ModelProto:
    model = text_model()
    graph = model.graph
    for _ in range(depth):
        node = graph.node.add(op_type="If", output=["deep"])
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
    return model


@pytest.mark.parametrize("depth", [40, 5000])
def test_deeply_nested_graphs(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested_bytes(depth))
    with pytest.raises(InputError, match=r"deep\.onnx(: .* nested too deeply| is not an ONNX model)"):
        load_model(path)
    with pytest.raises(InputError, match="the given ModelProto: its graphs are nested more than 32 deep"):
        load_model(nested_proto(depth))


def test_graphs_may_be_nested(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested_bytes(20))
    assert len(list(load_model(path).graph.subgraphs())) == 20


def with_functions(**calls: list[str]) -> onnx.ModelProto:
    """The text model with local functions that call each other, the first of them called by the graph."""
    model = text_model()
    model.opset_import.add(domain="local", version=1)
    for name, called in calls.items():
        nodes = [onnx.helper.make_node(op, ["x"], [f"x{i}"], domain="local") for i, op in enumerate(called)]
        opsets = [onnx.helper.make_opsetid("local", 1)]
        model.functions.append(onnx.helper.make_function("local", name, ["x"], ["x0"], nodes, opsets))
    model.graph.node.append(onnx.helper.make_node(next(iter(calls)), ["y"], ["called"], domain="local"))
    return model


def test_functions_that_call_each_other_in_a_circle(tmp_path: Path) -> None:
    for calls, circle in (
        ({"F": ["F"]}, "F calls F"),
        ({"F": ["G"], "G": ["H", "Other"], "H": ["G"]}, "G calls H calls G"),
    ):
        with pytest.raises(InputError, match=f"its local functions call each other in a circle: {circle}"):
            load_model(write(with_functions(**calls), tmp_path / "m.onnx"))


def test_functions_that_unfold_without_end(tmp_path: Path) -> None:
    """Forty functions, each of which calls the next one twice."""
    calls = {f"F{i}": [f"F{i + 1}", f"F{i + 1}"] for i in range(40)}
    with pytest.raises(InputError, match="its local functions unfold into more than 10,000,000 nodes"):
        load_model(write(with_functions(**calls), tmp_path / "m.onnx"))
    short = {name: calls[name] for name in list(calls)[:10]}
    assert len(load_model(write(with_functions(**short), tmp_path / "m.onnx")).functions) == 10


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_not_a_regular_file(external: Path, kind: str) -> None:
    """Neither a model nor its data is read from a pipe, which may never end; nobody waits for a writer either."""
    path = external.parent / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero has no end
        except PermissionError:
            pytest.skip("only root can make devices")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=r"is not a regular file|is a folder"):
        load_model(path)
    tamper(external, location="special")
    with pytest.raises(InputError, match="is not a regular file"):
        load_model(external)


def test_files_larger_than_a_message(tmp_path: Path) -> None:
    path = tmp_path / "m.data"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # takes no space
    with pytest.raises(InputError, match="is not an ONNX model: it is larger than 2 GiB"):
        load_model(path)


def test_a_proto_cannot_refer_to_files(external: Path) -> None:
    with pytest.raises(InputError, match="is in another file"):
        load_model(read_proto(external))


def test_external_files(model: Path, external: Path) -> None:
    assert external_files(read_proto(external)) == {"weights.bin"}
    assert external_files(read_proto(model)) == set()


@pytest.mark.parametrize("outputs", [[], [""]], ids=["none", "unnamed"])
def test_a_node_without_an_output_is_refused(outputs: list[str]) -> None:
    model = text_model()
    del model.graph.node[-1].output[:]
    model.graph.node[-1].output.extend(outputs)
    with pytest.raises(InputError, match="has no output"):
        load_model(model)


def test_onnx_under_its_other_name(tmp_path: Path) -> None:
    """onnxruntime takes an import of `ai.onnx` for one of ONNX's operators."""
    proto = text_model()
    for opset in proto.opset_import:
        opset.domain = opset.domain or "ai.onnx"
    source = write(proto, tmp_path / "named.onnx")
    report = compress_model(source, tmp_path / "small.onnx")
    assert [node.status for node in report.nodes] == ["lowered"] * 3
    assert verify_model(source, tmp_path / "small.onnx").identical


def test_initializers_among_the_inputs_are_constants_below_ir_4(tmp_path: Path) -> None:
    """They have to be listed there, and onnxruntime takes them for constants."""
    proto = text_model()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    before = proto.SerializeToString()
    model = load_model(proto)
    assert proto.SerializeToString() == before
    assert [value.name for value in model.graph.inputs] == ["ids", "mask"]
    source = write(proto, tmp_path / "old.onnx")
    report = compress_model(source, tmp_path / "small.onnx")
    assert [node.status for node in report.nodes] == ["lowered"] * 3
    assert verify_model(source, tmp_path / "small.onnx").identical


def test_initializers_among_the_inputs_are_inputs_from_ir_4_on() -> None:
    """A caller may give others."""
    proto = text_model()
    proto.ir_version = 4
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == "w_scale")
    proto.graph.input.append(onnx.helper.make_tensor_value_info(scale.name, scale.data_type, scale.dims))
    assert [value.name for value in load_model(proto).graph.inputs] == ["ids", "mask", "w_scale"]


def test_negative_sizes_are_unknown() -> None:
    """Some exporters write -1 for a size that they do not know; zero is a size."""
    proto = text_model()
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    sizes[0].dim_value, sizes[1].dim_value = -1, 0
    shape = load_model(proto).graph.inputs[0].shape
    assert shape is not None
    assert isinstance(shape[0], ir.SymbolicDim)
    assert shape[1] == 0


def test_tensors_are_checked_of_a_model_that_is_read_alone(external: Path) -> None:
    check_tensors(Source.read(external))
    tamper(external, offset="2000000")
    with pytest.raises(InputError, match=r"model\.onnx: tensor 'table'.*but the file has only"):
        check_tensors(Source.read(external))


def sparse_model(indices: list[int], dims: list[int]) -> onnx.ModelProto:
    """A model that adds a sparse constant to its input."""
    values = onnx.numpy_helper.from_array(np.array([1, 2], np.float32))
    places = onnx.numpy_helper.from_array(np.array(indices))
    sparse = onnx.helper.make_sparse_tensor(values, places, dims)
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], sparse_value=sparse),
        onnx.helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return make_model(nodes, {"x": (np.float32, (2, 3))}, {"y": (np.float32, (2, 3))}, {})


def test_a_sparse_constant_becomes_a_dense_one() -> None:
    constant = load_model(sparse_model([1, 5], [2, 3])).graph[0]
    assert constant.attributes["value"].as_tensor().numpy().tolist() == [[0, 1, 0], [0, 0, 2]]


def test_a_sparse_initializer_becomes_a_dense_one(tmp_path: Path) -> None:
    """Also one that is a weight: most of a pruned layer is zero."""
    proto = text_model()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8)
    array = onnx.numpy_helper.to_array(weight).copy()
    array[np.random.default_rng(0).random(array.shape) < 0.5] = 0
    places = onnx.numpy_helper.from_array(np.flatnonzero(array))
    values = onnx.numpy_helper.from_array(array[array != 0], weight.name)
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, array.shape))
    proto.graph.initializer.remove(weight)
    loaded = load_model(proto).graph.initializers[weight.name].const_value
    assert loaded is not None
    assert np.array_equal(loaded.numpy(), array)
    report = compress_model(write(proto, tmp_path / "m.onnx"), tmp_path / "c.onnx", force_larger=True)
    assert [node.status for node in report.nodes] == ["lowered"] * 3
    assert report.proof.proved


def test_a_sparse_constant_whose_numbers_are_elsewhere_is_refused() -> None:
    proto = sparse_model([1, 5], [2, 3])
    values = proto.graph.node[0].attribute[0].sparse_tensor.values
    values.data_location = onnx.TensorProto.EXTERNAL
    values.external_data.add(key="location", value="elsewhere")
    with pytest.raises(InputError, match="sparse tensor 'c' has its numbers in another file"):
        load_model(proto)


@pytest.mark.parametrize(
    ("indices", "dims", "message"),
    [
        ([1, 6], [2, 3], "has indices outside of its shape"),
        ([-1, 5], [2, 3], "has indices outside of its shape"),
        ([1], [2, 3], "has indices outside of its shape"),
        ([1, 5], [1 << 20, 1 << 20], "has the shape .*, which is not supported"),
        ([1, 5], [], "has the shape .*, which is not supported"),
    ],
)
def test_sparse_constants_that_are_refused(indices: list[int], dims: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(sparse_model(indices, dims))


def test_a_name_that_is_not_utf8_is_named_by_protobuf_in_python_too(tmp_path: Path) -> None:
    """Which other libraries may ask for; what it raises there is no DecodeError."""
    content = write(text_model(), tmp_path / "m.onnx").read_bytes()
    assert b"embedded" in content
    (tmp_path / "m.onnx").write_bytes(content.replace(b"embedded", b"embedd\xb2d"))
    script = "import sys, mcd_graph.model.loading as l; l.read_proto(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-P", "-c", script, "m.onnx"],
        cwd=tmp_path,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert "InputError: m.onnx is not an ONNX model" in result.stderr
