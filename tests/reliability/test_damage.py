"""Damaged files: nothing wrong leaves a session unnoticed, as far as there is a checksum."""

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from lowering import make_model
from onnx.reference import ReferenceEvaluator
from reliability import small
from reliability.children import child
from samples import gaussian_weight, layer, real_model, write

import mcd_graph
from mcd_graph import _native
from mcd_graph.integrity import check_model
from mcd_graph.model.loading import load_model
from mcd_graph.operators.matmul_compress_dequant import MatmulCompressDequant

RESIDENCIES = ["compressed", "decoded"]
#: Distances of the bits that are flipped: one in so many, of each place in a byte.
STEPS = [
    pytest.param(29, id="sampled"),
    pytest.param(5, id="every-fifth-bit", marks=pytest.mark.slow),
    pytest.param(1, id="every-bit", marks=pytest.mark.exhaustive),
]


def test_the_small_model_has_every_kind_of_tile() -> None:
    model = small.lowered_model()
    arrays = [onnx.numpy_helper.to_array(small.tensor(model, name)) for name in ("w.x2", "w.compress_index")]
    info = next(attribute.ints for attribute in model.graph.node[-1].attribute if attribute.name == "compress_info")
    found = _native.inspect(*arrays, list(info))
    assert (found["coded_tiles"], found["raw_tiles"], found["constant_tiles"]) == (2, 1, 1)


@pytest.mark.parametrize("residency", [*RESIDENCIES, "auto"])
@pytest.mark.parametrize("step", STEPS)
def test_a_flipped_bit_of_a_weight_is_an_error(step: int, residency: str) -> None:
    model = small.lowered_model()
    options = small.options(config={"mcd.residency": residency, "mcd.verify": "load"})
    small.session(model.SerializeToString(), options)
    for name in ("w.x2", "w.compress_index"):
        pristine = small.tensor(model, name).raw_data
        for bit in range(0, 8 * len(pristine), step):
            damaged = bytearray(pristine)
            damaged[bit // 8] ^= 1 << bit % 8
            small.tensor(model, name).raw_data = bytes(damaged)
            with pytest.raises(Exception, match=r'node "/y/MatMul".*weight "w\.x2"'):
                small.session(model.SerializeToString(), options)
        small.tensor(model, name).raw_data = pristine
    (info,) = (attribute for attribute in model.graph.node[-1].attribute if attribute.name == "compress_info")
    pristine_info = list(info.ints)
    for bit in range(0, 64 * len(pristine_info), step):
        damaged_info = np.array(pristine_info, np.int64)
        damaged_info.view(np.uint64)[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        info.ints[:] = damaged_info.tolist()
        with pytest.raises(Exception, match=r'node "/y/MatMul".*weight "w\.x2"'):
            small.session(model.SerializeToString(), options)


@pytest.mark.parametrize("residency", [*RESIDENCIES, "auto"])
def test_a_flipped_bit_is_an_error_of_the_first_run_where_it_is_verified_then(residency: str) -> None:
    model = small.lowered_model()
    options = small.options(config={"mcd.residency": residency, "mcd.verify": "use"})
    (expected,) = small.session(model.SerializeToString(), options).run(None, {"x": small.X})
    (intact,) = small.session(model.SerializeToString()).run(None, {"x": small.X})
    np.testing.assert_array_equal(expected, intact)
    for name in ("w.x2", "w.compress_index"):
        pristine = small.tensor(model, name).raw_data
        late = 0
        for bit in range(0, 8 * len(pristine), 29):
            damaged = bytearray(pristine)
            damaged[bit // 8] ^= 1 << bit % 8
            small.tensor(model, name).raw_data = bytes(damaged)
            opened = []
            for _ in range(2):
                with pytest.raises(Exception, match=r'/y/MatMul.*weight "w\.x2"'):
                    opened = opened or [small.session(model.SerializeToString(), options)]
                    opened[0].run(None, {"x": small.X})
            late += len(opened)
        assert (late > 0) == (name == "w.x2"), "tiles are verified at the first run, all else at once"
        small.tensor(model, name).raw_data = pristine


def test_tiles_are_verified_at_the_first_run_by_default() -> None:
    model = small.lowered_model()
    damage_last_tile(model)
    opened = small.session(model.SerializeToString())
    with pytest.raises(Exception, match=r'/y/MatMul.*weight "w\.x2"'):
        opened.run(None, {"x": small.X})
    with pytest.raises(Exception, match=r'/y/MatMul.*weight "w\.x2"'):
        small.session(model.SerializeToString(), small.options(config={"mcd.verify": "load"}))


@pytest.mark.parametrize("limit", [None, "0", "1024", "1000000"])
@pytest.mark.parametrize("residency", [*RESIDENCIES, "auto"])
def test_runs_that_begin_at_once_use_no_damaged_tile_that_another_session_has_intact(
    residency: str, limit: str | None
) -> None:
    """The damaged weight has the header of the intact one, by which sessions find what they could share."""
    model = small.lowered_model()
    config = {"mcd.residency": residency} | ({"mcd.decoded_limit": limit} if limit else {})
    intact = small.session(model.SerializeToString(), small.options(config=config))
    (expected,) = intact.run(None, {"x": small.X})
    damage_last_tile(model)
    damaged = small.session(model.SerializeToString(), small.options(config=config, threads=2))
    barrier = threading.Barrier(8)

    def run(session: ort.InferenceSession) -> list[str]:
        said = []
        for _ in range(3):
            barrier.wait(60)
            try:
                (y,) = session.run(None, {"x": small.X})
                said.append("as expected" if y.tobytes() == expected.tobytes() else "other bytes")
            except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions share no base class)
                said.append(str(error))
        return said

    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(run, [damaged, intact] * 4))
    for number, said in enumerate(runs):
        assert len(said) == 3
        if number % 2:
            assert said == ["as expected"] * 3
        else:
            assert all(re.search(r'/y/MatMul.*weight "w\.x2"', one) for one in said), said


def damage_last_tile(model: onnx.ModelProto) -> None:
    """Flip a bit of what the last code word of the weight is in; header and index stay."""
    tensor = small.tensor(model, "w.x2")
    data = bytearray(tensor.raw_data)
    data[-72] ^= 8  # in front of the zeros that every weight ends in
    tensor.raw_data = bytes(data)


@pytest.mark.parametrize("step", [pytest.param(61, id="sampled"), *STEPS[1:]])
def test_a_flipped_bit_of_the_model_file(step: int, tmp_path: Path) -> None:
    """It is refused, changes nothing, or makes another valid model; then the result is that model's."""
    model = small.lowered_model()
    path = write(model, tmp_path / "m.onnx")
    content = path.read_bytes()
    outcomes = child(tmp_path, "flip_model_bits", path, 0, step)
    tried = set(range(0, 8 * len(content), step))
    verdicts = [outcomes[key] for key in ("refused", "failed", "same", "different")]
    assert sorted(bit for bits in verdicts for bit in bits) == sorted(tried)

    weights = [small.tensor(model, name).raw_data for name in ("w.x2", "w.compress_index")]
    starts = [content.index(data) for data in weights]
    inside = {
        bit for start, data in zip(starts, weights, strict=True) for bit in range(8 * start, 8 * (start + len(data)))
    }
    assert inside & tried <= {*outcomes["refused"], *outcomes["failed"]}
    assert inside & set(outcomes["checked"])
    assert not inside & set(outcomes["unnoticed"]), "mcd inspect --check finds all damage of a weight"

    for bit in outcomes["different"]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        other = onnx.ModelProto.FromString(bytes(damaged))
        assert other != model
        with np.errstate(over="ignore"):
            (theirs,) = ReferenceEvaluator(other, new_ops=[MatmulCompressDequant]).run(None, {"x": small.X})
        (ours,) = small.session(bytes(damaged), small.options(config={"mcd.products": "exact"})).run(
            None, {"x": small.X}
        )
        assert ours.tobytes() == np.asarray(theirs).tobytes(), bit


def refusal_of(path: Path) -> str:
    """Return why onnxruntime refuses a model when all weights are verified at once; nothing if it does not."""
    try:
        small.session(path, small.options(config={"mcd.verify": "load"}))
    except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions share no base class)
        return str(error)
    return ""


def damage_in(path: Path, bits: int, seed: int) -> dict[str, list[bool]]:
    """Flip random bits of a model's data file, one at a time.

    Returns:
        Whether a session's creation and `check_model` noticed each, by what was hit: a compressed ``weight``, an
        ``other`` tensor, or ``padding``.
    """
    tensors = load_model(path).graph.initializers
    places = []
    for name, value in tensors.items():
        tensor = value.const_value
        if hasattr(tensor, "offset"):
            kind = "weight" if name.endswith((".x2", ".compress_index")) else "other"
            places.append((tensor.offset, tensor.offset + tensor.length, kind, name))  # type: ignore[union-attr]
    data = path.with_suffix(".onnx_data")
    size = data.stat().st_size
    rng = np.random.default_rng(seed)
    found: dict[str, list[bool]] = {"weight": [], "other": [], "padding": []}
    with data.open("r+b") as file:
        for _ in range(bits):
            position, bit = int(rng.integers(size)), int(rng.integers(8))
            kind, name = next((place[2:] for place in places if place[0] <= position < place[1]), ("padding", ""))
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ 1 << bit]))
            file.flush()
            check = check_model(path)
            refusal = refusal_of(path)
            assert check.intact is not bool(refusal), (kind, name)
            if refusal:
                stream = name.removesuffix(".compress_index").removesuffix(".x2") + ".x2"
                assert f'weight "{stream}"' in refusal
                assert [problem.tensor for problem in check.problems] == [stream]
            found[kind].append(bool(refusal))
            file.seek(position)
            file.write(bytes([byte]))
            file.flush()
    return found


@pytest.mark.parametrize(
    "bits", [pytest.param(100, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.exhaustive)]
)
def test_flipped_bits_of_a_real_models_data_file(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "m.onnx"
    mcd_graph.compress_model(real_model("t5-small-title-encoder"), path)
    found = damage_in(path, bits, seed=8)
    assert len(found["weight"]) > bits // 4
    assert all(found["weight"])
    # Nothing in ONNX covers other tensors, and the padding between tensors is nobody's.
    assert not any((*found["other"], *found["padding"]))
    assert check_model(path).intact


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one weight of 512 x 512 in a data file."""
    constants = {
        "w": gaussian_weight(512, 512),
        "w_scale": np.array(0.01, np.float32),
        "w_zero": np.array(0, np.int8),
    }
    shapes = {"x": (np.float32, ("m", 512))}, {"y": (np.float32, ("m", 512))}
    folder = tmp_path_factory.mktemp("external")
    source = write(make_model(layer("x", "w", "y"), *shapes, constants), folder / "source.onnx")
    mcd_graph.compress_model(source, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(name, marks=[pytest.mark.slow] if number else []) for number, name in enumerate(_native.kernels())],
)
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_damage_of_an_open_file_is_memory_safe(kernel: str, residency: str, external: Path, tmp_path: Path) -> None:
    """The result of a run may be anything, for the weights are read from the mapped file; the process goes on."""
    for file in external.parent.glob("m.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rounds = 60
    counts = child(tmp_path, "overwrite_while_open", tmp_path / "m.onnx", residency, rounds, MCD_KERNEL=kernel)
    assert counts["restored"] == rounds
    if residency == "decoded":
        assert counts["same"] == rounds, "decoded weights no longer depend on the file"
    else:
        assert counts["different"] + counts["error"] > rounds // 2


# Opens a session, truncates all files beside the model, and runs it again: argv, the model and the residency.
TRUNCATED = """
import os, sys
import numpy as np
import mcd_graph

model, residency = sys.argv[1:]
session = mcd_graph.InferenceSession(model, residency=residency)
feed = {"x": np.linspace(-3, 5, 2 * 256, dtype=np.float32).reshape(2, 256)}
before = session.run(None, feed)[0].tobytes()
for name in os.listdir(os.path.dirname(model)):
    os.truncate(os.path.join(os.path.dirname(model), name), 0)
sys.exit(session.run(None, feed)[0].tobytes() != before)
"""


@pytest.mark.parametrize(("inline", "residency"), [(True, "compressed"), (True, "auto"), (False, "decoded")])
def test_what_survives_a_file_that_is_truncated_under_a_session(tmp_path: Path, inline: bool, residency: str) -> None:
    constants = {"w": gaussian_weight(), "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8)}
    x, y = {"x": (np.float32, ("m", 256))}, {"y": (np.float32, ("m", 128))}
    source = write(make_model(layer("x", "w", "y"), x, y, constants), tmp_path / "plain.onnx")
    (tmp_path / "c").mkdir()
    mcd_graph.compress_model(source, tmp_path / "c" / "m.onnx", inline=inline, verify=False)
    command = [sys.executable, "-P", "-c", TRUNCATED, str(tmp_path / "c" / "m.onnx"), residency]
    assert subprocess.run(command, check=False).returncode == 0
