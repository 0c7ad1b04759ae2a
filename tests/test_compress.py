"""compress_model: what is lowered, what is written, and that neither depends on how the work was shared out."""

import re
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from lowering import make_model
from onnx import helper
from samples import (
    K,
    N,
    digests,
    float_model,
    gaussian_weight,
    layer,
    text_model,
    uniform_weight,
    write,
    write_external,
)

from mcd_graph import (
    InputError,
    NothingToCompressError,
    Progress,
    compress_model,
    get_library_path,
    pack_weight,
    restore_model,
    unpack_weight,
    verify_model,
)
from mcd_graph.cli.compress import _print_kept
from mcd_graph.codec.weights import Profile
from mcd_graph.inspection import inspect_model
from mcd_graph.model.annotations import remove_annotations
from mcd_graph.model.data_files import DATA_FILE_KEY
from mcd_graph.model.fidelity import to_proto
from mcd_graph.model.layout import TensorLayout
from mcd_graph.model.loading import load_model, read_proto
from mcd_graph.passes import ReasonCode
from mcd_graph.report.data import SCHEMA_VERSION, WITHOUT_WEIGHT


def test_report(model: Path, out: Path) -> None:
    report = compress_model(model, out / "m.mcd.onnx")
    assert [(node.name, node.status, node.weight, node.k, node.n) for node in report.nodes] == [
        ("/first/MatMul", "lowered", "w1", K, N),
        ("/second/MatMul", "lowered", "w2", N, K),
        ("/y/MatMul", "lowered", "w1", K, N),
    ]
    totals = report.totals
    first, second, third = report.nodes
    assert (first.compressed_bytes, first.entropy_bits) == (third.compressed_bytes, third.entropy_bits)
    assert (totals.nodes, totals.lowered, totals.kept, totals.weights) == (3, 3, 0, 2)
    assert totals.weight_bytes == 2 * K * N
    assert totals.compressed_bytes == (first.compressed_bytes or 0) + (second.compressed_bytes or 0)
    assert totals.ratio == totals.weight_bytes / totals.compressed_bytes
    assert totals.file_bytes_before == model.stat().st_size
    assert totals.file_bytes_after == sum((out / name).stat().st_size for name in ("m.mcd.onnx", "m.mcd.onnx_data"))
    data = report.to_dict()
    assert (data["schema"], data["schema_version"]) == ("mcd-report", SCHEMA_VERSION)
    assert data["nodes"][0].keys() >= {
        "name", "op_type", "pattern", "status", "reason", "k", "n", "weight_bytes", "compressed_bytes",
        "entropy_bits", "codec",
    }  # fmt: skip


def test_products_of_activations_are_counted_apart(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = text_model()
    transposed = helper.make_node("Transpose", ["second_q"], ["turned"], perm=[0, 2, 1])
    product = helper.make_node("MatMulInteger", ["turned", "second_q"], ["scores"], name="scores")
    proto.graph.node.extend([transposed, product])
    proto.graph.output.append(helper.make_tensor_value_info("scores", onnx.TensorProto.INT32, [None] * 3))
    report = compress_model(write(proto, out / "m.onnx"), out / "m.mcd.onnx", force_larger=True)
    assert (report.totals.nodes, report.totals.kept, report.totals.activation_products) == (3, 0, 1)
    assert report.nodes[-1].code == WITHOUT_WEIGHT == ReasonCode.WEIGHT_COMPUTED
    _print_kept(report.nodes)
    assert capsys.readouterr().out == "1 multiplication of two activations, without a weight (--report names them)\n"


def test_entropy_in_the_report(model: Path, out: Path) -> None:
    counts = np.bincount(gaussian_weight(seed=1).view(np.uint8).ravel())
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    assert compress_model(model, out / "m.onnx").nodes[0].entropy_bits == pytest.approx(entropy, rel=1e-12)


def test_original_weights_are_gone(model: Path, out: Path) -> None:
    compress_model(model, out / "m.mcd.onnx")
    names = {tensor.name for tensor in read_proto(out / "m.mcd.onnx").graph.initializer}
    assert names == {
        "table", "w_scale", "w_zero", "last", "w1.x2", "w1.compress_index", "w2.x2", "w2.compress_index",
    }  # fmt: skip
    needle = gaussian_weight(seed=1).tobytes()[:64]
    assert needle in model.read_bytes()
    for path in out.iterdir():
        assert needle not in path.read_bytes()


@pytest.mark.parametrize(("profile", "alignment"), [("fast", 64), ("balanced", 1)])
def test_streams_that_are_read_again_and_again_are_aligned(
    model: Path, out: Path, profile: Profile, alignment: int
) -> None:
    """Those of few weights are decoded once, but for ``fast``."""
    compress_model(model, out / "m.mcd.onnx", profile=profile)
    places = []
    for tensor in read_proto(out / "m.mcd.onnx").graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == "m.mcd.onnx_data"
            least = alignment if tensor.name.endswith(".x2") else 64
            places.append((int(entries["offset"]), int(entries["length"]), least))
    end = 0
    for offset, length, least in sorted(places):
        assert offset % least == 0
        assert offset - end < least, "nothing more is between them"
        end = offset + length
    assert end == (out / "m.mcd.onnx_data").stat().st_size


def test_large_streams_begin_pages(tmp_path: Path) -> None:
    with (tmp_path / "data").open("wb") as file:
        layout = TensorLayout(file, inline=False)
        sizes = (5000, 1 << 20, 5000, (1 << 20) - 1, 3 << 20)
        offsets = [layout.place(ir.tensor(np.zeros(size, np.int8))).offset for size in sizes]
    assert offsets == [0, 8192, 8192 + (1 << 20), 8192 + (1 << 20) + 5056, 8192 + (2 << 20) + 8192]


def test_metadata_and_names_stay(model: Path, out: Path) -> None:
    compress_model(model, out / "m.mcd.onnx")
    before, after = read_proto(model), read_proto(out / "m.mcd.onnx")
    before.metadata_props.add(key=DATA_FILE_KEY, value="m.mcd.onnx_data")
    source = {entry.key: entry.value for entry in after.metadata_props}["mcd.source_producer_name"]
    model_after = load_model(out / "m.mcd.onnx")
    remove_annotations(model_after)
    after = to_proto(model_after)
    assert source == before.producer_name
    for field in ("ir_version", "producer_name", "producer_version", "metadata_props", "doc_string"):
        assert getattr(before, field) == getattr(after, field)
    assert (before.graph.name, before.graph.input, before.graph.output) == (
        after.graph.name, after.graph.input, after.graph.output,
    )  # fmt: skip
    assert {(opset.domain, opset.version) for opset in after.opset_import} == {
        *((opset.domain, opset.version) for opset in before.opset_import), ("mcd", 1),
    }  # fmt: skip
    onnx.checker.check_model(str(out / "m.mcd.onnx"), full_check=True)


def test_inline(model: Path, out: Path) -> None:
    """One file, which a session takes as bytes, and which computes what the original does."""
    report = compress_model(model, out / "m.onnx", inline=True)
    assert digests(out).keys() == {"m.onnx"}
    content = (out / "m.onnx").read_bytes()
    assert report.totals.file_bytes_after == len(content) < model.stat().st_size
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    reference = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    ids = np.arange(30).reshape(3, 10)
    for ours, theirs in zip(*(s.run(None, {"ids": ids, "mask": ids % 2}) for s in (session, reference)), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    restore_model(out / "m.onnx", out / "plain.onnx", inline=True)
    assert digests(out).keys() == {"m.onnx", "plain.onnx"}
    assert verify_model(model, out / "plain.onnx").identical


def test_inline_takes_the_place_of_a_model_with_data(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    assert digests(out).keys() == {"m.onnx", "m.onnx_data"}
    compress_model(model, out / "m.onnx", inline=True, force=True)
    assert digests(out).keys() == {"m.onnx"}
    compress_model(model, out / "m.onnx", force=True)
    assert digests(out).keys() == {"m.onnx", "m.onnx_data"}


@pytest.mark.parametrize("limit", [20_000, 80_000], ids=["while packing", "at the end"])
def test_too_large_for_inline(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("mcd_graph.model.content.MODEL_BYTES_LIMIT", limit)
    with pytest.raises(InputError, match="larger than 2 GiB, which no ONNX file can be"):
        compress_model(model, out / "m.onnx", inline=True)
    assert digests(out) == {}
    compress_model(model, out / "m.onnx")


class OutOfOrder(Executor):
    """Runs nothing until a result is asked for, and then the job handed in last first."""

    def __init__(self) -> None:
        self.waiting: list[Future[object]] = []
        self.most_waiting = 0

    def submit(self, function, /, *arguments, **options):  # type: ignore[no-untyped-def]
        executor = self

        class Late(Future):  # type: ignore[type-arg]
            def result(self, timeout: float | None = None) -> object:
                while executor.waiting and not self.done():
                    executor.waiting.pop().run()  # type: ignore[attr-defined]
                return super().result(timeout)

            def run(self) -> None:
                self.set_result(function(*arguments, **options))

        future = Late()
        self.waiting.append(future)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return future


def test_bytes_do_not_depend_on_the_executor(model: Path, tmp_path: Path) -> None:
    def files(name: str, **options: object) -> dict[str, str]:
        directory = tmp_path / name
        directory.mkdir()
        compress_model(model, directory / "m.onnx", **options)  # type: ignore[arg-type]
        return digests(directory)

    expected = files("one", jobs=1)
    assert files("many", jobs=7) == expected
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(1, get_context("spawn")) as processes:
        assert files("threads", executor=threads) == expected
        assert files("processes", executor=processes) == expected
    late = OutOfOrder()
    assert files("late", executor=late, jobs=2) == expected
    assert late.most_waiting <= 3


def test_input_forms_agree(model: Path, tmp_path: Path) -> None:
    external = write_external(text_model(), tmp_path / "ext.onnx", "ext.bin")
    results = {}
    for name, source in {"inline": model, "text": str(model), "external": external, "proto": text_model()}.items():
        (tmp_path / name).mkdir()
        compress_model(source, tmp_path / name / "m.onnx")
        results[name] = digests(tmp_path / name)
    assert len({str(result) for result in results.values()}) == 1


def test_the_source_is_not_touched(model: Path, out: Path) -> None:
    before = digests(model.parent)
    proto = text_model()
    copy = proto.SerializeToString(deterministic=True)
    compress_model(model, out / "a.onnx")
    compress_model(proto, out / "b.onnx")
    assert digests(model.parent) == before
    assert proto.SerializeToString(deterministic=True) == copy


def test_weights_that_save_too_little_are_kept(tmp_path: Path, out: Path) -> None:
    source = write(text_model(w2=uniform_weight(N, K)), tmp_path / "m.onnx")
    report = compress_model(source, out / "m.onnx")
    assert [node.status for node in report.nodes] == ["lowered", "kept", "lowered"]
    kept = report.nodes[1]
    assert kept.reason is not None
    assert re.fullmatch(r"it would save -?\d+\.\d%, less than 1\.0%", kept.reason)
    assert (kept.compressed_bytes, kept.codec, kept.weight_bytes) == (None, None, K * N)
    assert kept.entropy_bits == pytest.approx(8, abs=0.01)
    everything = compress_model(source, out / "all.onnx", min_saving=-1)
    assert everything.totals.kept == 0


@pytest.mark.parametrize(
    ("options", "lowered"),
    [
        ({"include": "second"}, ["/second/MatMul"]),
        ({"exclude": "^/second"}, ["/first/MatMul", "/y/MatMul"]),
        ({"include": "MatMul", "exclude": "first|y"}, ["/second/MatMul"]),
    ],
    ids=str,
)
def test_include_and_exclude(model: Path, out: Path, options: dict[str, str], lowered: list[str]) -> None:
    report = compress_model(model, out / "m.onnx", **options)  # type: ignore[arg-type]
    assert [node.name for node in report.nodes if node.status == "lowered"] == lowered
    assert all(node.reason for node in report.nodes if node.status == "kept")


def test_progress(model: Path, out: Path) -> None:
    seen: list[Progress] = []
    compress_model(model, out / "m.onnx", progress=seen.append)
    size = K * N
    assert seen == [Progress("w1", 1, 2, size, 2 * size), Progress("w2", 2, 2, 2 * size, 2 * size)]


def small_kernel() -> onnx.ModelProto:
    """Return a convolution of each channel for itself, of a kernel of bytes."""
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "scale"], ["floats"]),
        onnx.helper.make_node("Conv", ["x", "floats"], ["y"], group=16),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.arange(144, dtype=np.int8).reshape(16, 1, 3, 3), "w"),
        onnx.numpy_helper.from_array(np.float32(0.1), "scale"),
    ]
    shape = ["b", 16, "h", "w"]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "small", values[:1], values[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        (float_model(), {}, "it has no int8 weights"),
        (small_kernel(), {}, "its largest int8 weight has 144 bytes, and those below 1,024 are left as they are"),
        (
            text_model(w1=uniform_weight(), w2=uniform_weight(N, K)),
            {},
            "all 3 nodes with quantised weights are kept: . because it would",
        ),
        (text_model(), {"include": "nowhere"}, "all 3 .* 3 because its name does not match --include"),
    ],
    ids=["float", "small", "noise", "excluded"],
)
def test_nothing_to_compress(out: Path, source: onnx.ModelProto, options: dict[str, str], reason: str) -> None:
    with pytest.raises(NothingToCompressError, match=f"nothing to compress: {reason}"):
        compress_model(source, out / "m.onnx", **options)  # type: ignore[arg-type]
    assert digests(out) == {}


def many_small_layers(layers: int = 30, size: int = 80) -> onnx.ModelProto:
    """Return multiplications whose streams each need a little more than a page."""
    rng = np.random.default_rng(5)
    nodes, constants, x = [], [onnx.numpy_helper.from_array(np.float32(0.002), "scale")], "x"
    for index in range(layers):
        weight = rng.normal(0, 12, (size, size)).round().clip(-128, 127).astype(np.int8)
        constants.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
        nodes += [
            onnx.helper.make_node("DynamicQuantizeLinear", [x], [f"q{index}", f"s{index}", f"z{index}"]),
            onnx.helper.make_node("MatMulInteger", [f"q{index}", f"w{index}", f"z{index}"], [f"a{index}"]),
            onnx.helper.make_node("Cast", [f"a{index}"], [f"f{index}"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"s{index}", "scale"], [f"m{index}"]),
            onnx.helper.make_node("Mul", [f"f{index}", f"m{index}"], [f"y{index}"]),
        ]
        x = f"y{index}"
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["m", size]) for name in ("x", x)]
    graph = onnx.helper.make_graph(nodes, "layers", values[:1], values[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_small_weights_keep_their_saving(out: Path, tmp_path: Path) -> None:
    """Nothing is padded to pages, in a data file as in the model file."""
    source = write(many_small_layers(), tmp_path / "m.onnx")
    for name, inline in (("m.onnx", False), ("inline.onnx", True)):
        report = compress_model(source, out / name, inline=inline)
        assert report.totals.file_bytes_after < 0.95 * source.stat().st_size
        assert verify_model(source, out / name).identical


@pytest.mark.parametrize(("size", "status"), [(63, "kept"), (64, "lowered")])
def test_a_weight_that_onnxruntime_multiplies_faster_stays(size: int, status: str, out: Path, tmp_path: Path) -> None:
    constants = {"w": gaussian_weight(64, size), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    other = {"v": gaussian_weight()}
    nodes = [*layer("x", "w", "y"), *layer("u", "v", "z")]
    inputs = {"x": (np.float32, ("m", 64)), "u": (np.float32, ("m", K))}
    outputs = {"y": (np.float32, ("m", size)), "z": (np.float32, ("m", N))}
    source = write(make_model(nodes, inputs, outputs, constants | other), tmp_path / "m.onnx")
    report = compress_model(source, out / "m.onnx")
    (node,) = (node for node in report.nodes if node.name == "/y/MatMul")
    assert node.status == status
    if status == "kept":
        assert node.code == ReasonCode.WEIGHT_SMALL
        assert node.reason == "its weight has 4032 bytes, and onnxruntime is faster with less than 4096"
        (node,) = (node for node in compress_model(source, out / "all.onnx", min_saving=-1).nodes if node.weight == "w")
        assert node.status == "lowered"


@pytest.mark.parametrize(
    ("size", "bits", "code"),
    [(63, 4, ReasonCode.SMALL_SAVING), (64, 4, None), (64, 8, ReasonCode.SMALL_SAVING)],
    ids=["small", "lowered", "not smaller"],
)
def test_a_constant_that_saves_too_little_says_so(
    size: int, bits: int, code: ReasonCode | None, out: Path, tmp_path: Path
) -> None:
    """Its reader stands behind its DequantizeLinear, and has no reason to tell."""
    kernel = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, (size, 64, 1, 1)).astype(np.int8)
    constants = {"v": gaussian_weight(), "w": kernel, "s": np.float32(1)}
    constants |= {"w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"]), helper.make_node("Conv", ["i", "f"], ["c"])]
    inputs = {"u": (np.float32, ("m", K)), "i": (np.float32, (1, 64, 4, 4))}
    outputs = {"z": (np.float32, ("m", N)), "c": (np.float32, (1, size, 4, 4))}
    source = write(make_model([*layer("u", "v", "z"), *nodes], inputs, outputs, constants), tmp_path / "m.onnx")
    (constant,) = (each for each in compress_model(source, out / "m.onnx").constants if each.name == "w")
    assert (constant.status, constant.code) == ("kept" if code else "lowered", code)


def test_files_that_would_not_be_smaller_are_not_written(out: Path, tmp_path: Path) -> None:
    source = write(many_small_layers(size=20), tmp_path / "m.onnx")
    with pytest.raises(NothingToCompressError, match=r"the files would have .* --force-larger"):
        compress_model(source, out / "m.onnx", min_saving=-1)
    assert digests(out) == {}
    report = compress_model(source, out / "m.onnx", min_saving=-1, force_larger=True)
    assert report.totals.file_bytes_after > source.stat().st_size
    assert verify_model(source, out / "m.onnx").identical


def test_int8_constants_of_other_operators_are_named(out: Path) -> None:
    """A model that is int8 already is not told to become that."""
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.int8), "w")
    nodes = [
        onnx.helper.make_node("Cast", ["w"], ["wf"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["wf", "scale"], ["wd"]),
        onnx.helper.make_node("Add", ["x", "wd"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, 64]) for name in ("x", "y")]
    scale = onnx.numpy_helper.from_array(np.float32(0.01), "scale")
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight, scale])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(NothingToCompressError, match=r"4,096 bytes, are read by .*: Cast \(1\)"):
        compress_model(model, out / "m.onnx")


def test_compressing_twice_says_so(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    before = digests(out)
    with pytest.raises(NothingToCompressError, match="it is compressed already"):
        compress_model(out / "m.onnx", out / "n.onnx")
    assert digests(out) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "tiny"}, "no profile 'tiny'"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"include": "("}, r"not a regular expression: '\('"),
    ],
    ids=str,
)
def test_bad_arguments(model: Path, out: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compress_model(model, out / "m.onnx", **options)  # type: ignore[arg-type]
    assert digests(out) == {}


def test_a_kernel_that_does_not_run_here_is_named(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_KERNEL", "abacus")
    with pytest.raises(InputError, match="MCD_KERNEL is 'abacus'"):
        compress_model(model, out / "m.onnx")
    assert digests(out) == {}
    with pytest.raises(InputError, match="MCD_KERNEL is 'abacus'"):
        inspect_model(model)


def test_a_failing_job_leaves_nothing(model: Path, out: Path) -> None:
    class Broken(Executor):
        def submit(self, *_job: object, **_options: object) -> Future:
            future: Future = Future()
            future.set_exception(RuntimeError("a worker died"))
            return future

    with pytest.raises(RuntimeError, match="a worker died"):
        compress_model(model, out / "m.onnx", executor=Broken())
    assert digests(out) == {}


@pytest.mark.parametrize("profile", ["fast", "balanced", "small"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_pack_and_unpack(profile: str, dtype: type) -> None:
    w = gaussian_weight(70, 90).T.view(dtype)
    packed = pack_weight(w, profile=profile, tiling=(2, 3))  # type: ignore[arg-type]
    restored = unpack_weight(packed.x2, packed.compress_index, packed.compress_info)
    assert restored.dtype == dtype
    assert np.array_equal(restored, w)
    assert list(packed.compress_info) == [2, 3, 70, 90, 1]
    assert packed.stats.stored_bytes == packed.x2.nbytes + packed.compress_index.nbytes
    assert (packed.stats.k, packed.stats.n, packed.stats.weight_bytes) == (70, 90, 6300)


@pytest.mark.parametrize(
    "w", [np.zeros((2, 2), np.float32), np.zeros(4, np.int8), np.zeros((0, 4), np.int8)], ids=["float", "1-D", "empty"]
)
def test_what_is_not_a_weight(w: np.ndarray) -> None:
    with pytest.raises(InputError, match="a weight is a non-empty int8 or uint8 matrix, not"):
        pack_weight(w)


def test_a_tiling_that_does_not_exist() -> None:
    with pytest.raises(InputError):
        pack_weight(gaussian_weight(), tiling=(0, 8))
