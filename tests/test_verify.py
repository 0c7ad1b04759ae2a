"""verify_model finds every difference and no other, on inputs that models accept."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import make_model
from onnx import helper
from samples import TOKENS, N, float_model, gaussian_weight, text_model, write

from mcd_graph import InputError, compress_model, get_library_path, verify_model
from mcd_graph.cli import main
from mcd_graph.comparison import describe_difference
from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs


def specs_of(model: onnx.ModelProto) -> list:
    return input_specs(ir.from_proto(model))


def test_identical(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    result = verify_model(model, out / "m.onnx", runs=4, threads=(1, 2, 3))
    assert result.identical
    assert len(result.shapes) == 4
    assert len({shapes["ids"] for shapes in result.shapes}) == 4, "every run has a shape of its own"
    assert result.optimized == (True, False)
    assert result.values == 2 * 3 * sum(batch * length * N for batch, length in (s["ids"] for s in result.shapes))


def test_one_changed_weight_is_found(model: Path, out: Path) -> None:
    weight = gaussian_weight(seed=1)
    weight[3, 5] += 1
    other = write(text_model(w1=weight), out / "other.onnx")
    result = verify_model(model, other)
    assert not result.identical
    expected = {(r, t, o, "y") for r in range(3) for t in (1, 2) for o in (True, False)}
    assert {(d.run, d.threads, d.optimized, d.output) for d in result.differences} == expected
    assert "values differ, the first at" in result.differences[0].what


def constant_model(values: np.ndarray) -> onnx.ModelProto:
    """Return a model that adds nothing to its input but gives ``values`` as well."""
    return make_model(
        [helper.make_node("Identity", ["x"], ["z"]), helper.make_node("Identity", ["c"], ["y"])],
        {"x": (np.float32, ("m",))},
        {"z": (np.float32, ("m",)), "y": (values.dtype.type, values.shape)},
        {"c": values},
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([0.0, 1], [-0.0, 1], False),
        ([1, 2], [1, np.nextafter(np.float32(2), np.float32(3))], False),
        ([], [], True),
    ],
    ids=["not a number", "minus zero", "last bit", "empty"],
)
def test_bytes_count(tmp_path: Path, ours: list[float], theirs: list[float], same: bool) -> None:
    paths = [
        write(constant_model(np.array(values, np.float32)), tmp_path / f"{name}.onnx")
        for name, values in (("ours", ours), ("theirs", theirs))
    ]
    assert verify_model(*paths, runs=1).identical == same


def test_given_inputs(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    ids = np.arange(6).reshape(2, 3)
    result = verify_model(model, out / "m.onnx", inputs={"ids": ids, "mask": np.ones_like(ids), "more": ids})
    assert result.shapes == ({"ids": (2, 3), "mask": (2, 3)},)
    with pytest.raises(InputError, match="the inputs lack mask"):
        verify_model(model, out / "m.onnx", inputs={"ids": ids})
    with pytest.raises(InputError, match=r"does not run: .*indices element out of data bounds"):
        verify_model(model, out / "m.onnx", inputs={"ids": ids + TOKENS, "mask": ids})


def test_models_with_other_interfaces(model: Path, tmp_path: Path) -> None:
    other = write(float_model(), tmp_path / "float.onnx")
    with pytest.raises(InputError, match="the models have different inputs"):
        verify_model(model, other)


def test_at_least_one_run(model: Path) -> None:
    with pytest.raises(InputError, match="runs must be at least 1"):
        verify_model(model, model, runs=0)


def test_token_ids_stay_within_their_table_and_masks_are_masks() -> None:
    specs = specs_of(text_model())
    assert [(spec.name, spec.below) for spec in specs] == [("ids", TOKENS), ("mask", 2)]
    arrays = random_inputs(specs, {"batch": 40, "length": 50}, np.random.default_rng(0))
    assert (arrays["ids"].min(), arrays["ids"].max()) == (0, TOKENS - 1)
    assert set(np.unique(arrays["mask"])) == {0, 1}
    assert arrays["mask"][:, 0].all(), "no row is hidden completely"


@pytest.mark.parametrize(
    ("nodes", "constants", "below"),
    [
        ([helper.make_node("Gather", ["table", "i"], ["y"], axis=1)], {"table": (9, 7)}, 7),
        (
            [helper.make_node("Cast", ["i"], ["j"], to=6), helper.make_node("Gather", ["table", "j"], ["y"])],
            {"table": (9, 7)},
            9,
        ),
        (
            [
                helper.make_node("DequantizeLinear", ["table", "scale"], ["t"]),
                helper.make_node("Gather", ["t", "i"], ["y"]),
            ],
            {"table": (5, 3), "scale": ()},
            5,
        ),
        (
            [
                helper.make_node("Gather", ["table", "i"], ["a"]),
                helper.make_node("Gather", ["small", "i"], ["b"]),
                helper.make_node("Add", ["a", "b"], ["y"]),
            ],
            {"table": (9, 7), "small": (4, 7)},
            4,
        ),
        ([helper.make_node("Gather", ["i", "table"], ["y"])], {"table": (3,)}, 2),
    ],
    ids=["axis", "cast", "quantised table", "two tables", "selected from"],
)
def test_tables_are_found(nodes: list[onnx.NodeProto], constants: dict[str, tuple[int, ...]], below: int) -> None:
    arrays = {
        name: np.ones(shape, np.float32 if name == "scale" else np.int8 if len(constants) == 2 else np.int64)
        for name, shape in constants.items()
    }
    model = make_model(nodes, {"i": (np.int64, ("m",))}, {"y": (np.float32, None)}, arrays)
    (spec,) = specs_of(model)
    assert spec.below == below


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantized_inputs_take_any_value(dtype: type) -> None:
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": (dtype, ("m",))}, {"y": (dtype, ("m",))}, {})
    values = random_inputs(specs_of(model), {"m": 10_000}, np.random.default_rng(0))["x"]
    assert (values.min(), values.max()) == (np.iinfo(dtype).min, np.iinfo(dtype).max)


@pytest.mark.parametrize(
    ("first", "second", "shapes"),
    [
        (("b", "s"), ("b", "s + p"), [(3, 10), (3, 30)]),
        (("batch-size", "a.b:0"), ("batch-size", 4), [(3, 10), (3, 4)]),
        ((None, None), (None, 5, None), [(3, 10), (3, 5, 20)]),
        (("b", "b"), ("s", "b"), [(3, 3), (3, 3)]),
        ((), (2,), [(), (2,)]),
    ],
    ids=str,
)
def test_shapes(first: tuple, second: tuple, shapes: list[tuple[int, ...]]) -> None:
    """Symbols that stand first in a shape are batches (3 here), others lengths (10, 20 or p = 20)."""
    model = make_model(
        [helper.make_node("Identity", ["x"], ["z"])],
        {"x": (np.float32, first), "y": (np.float32, second)},
        {"z": (np.float32, first)},
        {},
    )
    specs = specs_of(model)
    bound = bind_dimensions(specs, 3, itertools.count(10, 10))
    arrays = random_inputs(specs, bound, np.random.default_rng(0))
    assert [array.shape for array in arrays.values()] == shapes


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        (np.str_, ("m",), "no random values for input x of type STRING"),
        (np.float32, None, "input x is not a tensor of known rank"),
        (np.float32, (1 << 20, 1 << 20), "input x would have 1099511627776 elements"),
    ],
    ids=["strings", "no rank", "too large"],
)
def test_inputs_that_cannot_be_made(dtype: type, shape: tuple | None, message: str) -> None:
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": (dtype, shape)}, {"y": (dtype, shape)}, {})
    with pytest.raises(InputError, match=message):
        random_inputs(specs_of(model), {"m": 1}, np.random.default_rng(0))


def test_inputs_with_defaults_are_left_out() -> None:
    model = text_model()
    model.graph.input.append(helper.make_tensor_value_info("w_scale", 1, ()))
    assert [spec.name for spec in specs_of(model)] == ["ids", "mask"]


def test_a_model_that_is_not_deterministic_proves_nothing(tmp_path: Path) -> None:
    """The output behind an unseeded random operator is named; the other one is compared as ever."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["m", 4]) for name in ("x", "noise", "y")
    ]
    nodes = [
        onnx.helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        onnx.helper.make_node("Neg", ["x"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    path = write(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    result = verify_model(path, path, runs=1)
    assert result.not_deterministic == ("noise",)
    assert result.differences == ()
    assert not result.identical
    assert result.values > 0


def positions(length: int) -> onnx.ModelProto:
    """Return a model with a table of positions: longer inputs than that fail."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zero"], ["n1"]),
        helper.make_node("Slice", ["table", "zero", "n1", "zero"], ["p"]), helper.make_node("Add", ["x", "p"], ["y"]),
    ]  # fmt: skip
    constants = {"one": np.array(1), "zero": np.array([0]), "table": np.ones((length, 4), np.float32)}
    shape = (np.float32, ("b", "m", 4))
    return make_model(nodes, {"x": shape}, {"y": shape}, constants)


IMAGES = ("batch", 3, "height", "width")


def test_images_that_a_network_halves(tmp_path: Path) -> None:
    """What is made smaller and larger again by whole factors has to be added to the image."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Add", ["x", "large"], ["y"]),
    ]
    images, constants = {"x": (np.float32, IMAGES)}, {"scales": np.array([1, 1, 32, 32], np.float32)}
    path = write(make_model(nodes, images, {"y": (np.float32, IMAGES)}, constants), tmp_path / "m.onnx")
    result = verify_model(path, path, runs=1)
    assert result.identical
    assert all(size % 32 == 0 for size in result.shapes[0]["x"][2:])


@pytest.mark.parametrize("side", [224, 512])
def test_images_of_the_size_that_a_network_was_trained_with(side: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    images, constants = {"x": (np.float32, IMAGES)}, {"shape": np.array([1, 3, side * side])}
    path = write(make_model(nodes, images, {"y": (np.float32, (1, 3, side * side))}, constants), tmp_path / "m.onnx")
    result = verify_model(path, path, runs=1)
    assert result.identical
    assert result.shapes == ({"x": (1, 3, side, side)},)


def test_lengths_are_those_that_the_model_takes(tmp_path: Path) -> None:
    path = write(positions(6), tmp_path / "m.onnx")
    result = verify_model(path, path, runs=6)
    assert result.identical
    assert len(result.shapes) == 6
    assert max(shape["x"][1] for shape in result.shapes) <= 6


def test_a_model_that_takes_no_generated_input(tmp_path: Path) -> None:
    model = make_model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])], {"x": (np.float32, ("a", "b"))},
        {"y": (np.float32, (None, None))}, {"shape": np.array([1000, 1001])},
    )  # fmt: skip
    path = write(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="so it does on inputs of other sizes: give --inputs"):
        verify_model(path, path)


def test_all_threads_are_among_those_compared(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)))
    assert verify_model(model, model, runs=1).threads == (1, 3)


def test_an_original_that_does_not_load(model: Path, tmp_path: Path) -> None:
    broken = make_model(
        [helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody")], {"x": (np.float32, (1,))},
        {"y": (np.float32, (1,))}, {},
    )  # fmt: skip
    broken.opset_import.append(helper.make_opsetid("of.nobody", 1))
    with pytest.raises(InputError, match=r"the original does not load: .*Unheard"):
        verify_model(write(broken, tmp_path / "m.onnx"), model)


def test_an_original_that_computes_only_nan(tmp_path: Path) -> None:
    def root(*more: str) -> Path:
        nodes = [helper.make_node("Sqrt", ["c"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
        nodes += [helper.make_node("Neg", ["x"], [name]) for name in more]
        shape = (np.float32, ("m",))
        model = make_model(nodes, {"x": shape}, dict.fromkeys(("y", *more), shape), {"c": np.float32([-1])})
        return write(model, tmp_path / f"m{len(more)}.onnx")

    with pytest.raises(InputError, match="computes nothing but NaN"):
        verify_model(root(), root())
    result = verify_model(root("z"), root("z"))
    assert result.identical
    assert result.only_nan == ("y",)


def noisy(weight: np.ndarray) -> onnx.ModelProto:
    """Return a model with noise behind a multiplication, as speech synthesis has it."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["a"]),
        helper.make_node("Cast", ["a"], ["f"], to=onnx.TensorProto.FLOAT), helper.make_node("Mul", ["f", "s"], ["h"]),
        helper.make_node("RandomNormalLike", ["h"], ["noise"], name="dice"),
        helper.make_node("Add", ["h", "noise"], ["y"]),
    ]  # fmt: skip
    shape = (np.float32, ("m", 64))
    return make_model(nodes, {"x": shape}, {"y": shape}, {"w": weight})


def test_the_comparison_goes_up_to_the_random_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.asarray(np.random.default_rng(0).integers(-9, 9, (64, 64)), np.int8)
    path = write(noisy(weight), tmp_path / "m.onnx")
    compress_model(path, tmp_path / "o.onnx", force_larger=True)
    result = verify_model(path, tmp_path / "o.onnx")
    assert result.not_deterministic == ("y",)
    assert result.random_nodes == ("dice",)
    assert result.compared_before == ("h",)
    assert result.differences == ()
    weight[3, 5] += 1
    result = verify_model(write(noisy(weight), tmp_path / "p.onnx"), tmp_path / "o.onnx")
    assert {difference.output for difference in result.differences} == {"h"}
    assert main(["verify", str(path), str(tmp_path / "o.onnx")]) == 1
    assert "without a seed: dice" in capsys.readouterr().out


def test_saturation_is_explained(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mcd_graph.verify._native.saturates_pairs", lambda: True)
    assert main(["verify", str(model), str(model), "--runs", "1"]) == 0
    assert "session.x64quantprecision" in capsys.readouterr().out
    assert main(["verify", str(model), str(model), "--runs", "1", "--precise"]) == 0
    assert "session.x64quantprecision" not in capsys.readouterr().out


def test_operators_of_other_libraries(model: Path) -> None:
    """The library is loaded; ours does for one, for it may be registered twice."""
    assert verify_model(model, model, runs=1, threads=[1], custom_ops=[get_library_path()]).identical
    with pytest.raises(InputError, match=r"onnxruntime refuses .*nothing\.so"):
        verify_model(model, model, custom_ops=["nothing.so"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_not_a_number_equals_another(dtype: type) -> None:
    """Signs and payloads are nobody's to promise: which operand an instruction hands on depends on their order."""
    one, other = np.array([1, np.nan, -0.0], dtype), np.array([1, -np.nan, -0.0], dtype)
    assert one.tobytes() != other.tobytes()
    assert describe_difference(one, other) is None
    assert describe_difference(one, np.array([1, 0, -0.0], dtype)) is not None
    assert describe_difference(one, np.array([1, -np.nan, 0.0], dtype)) is not None
