"""The models that benchmarks run: made from seeds, installed with the tests, or fetched by a recipe of models/."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from matmul import gaussian_weights, layers_model
from onnx import TensorProto, helper, numpy_helper

Feed = dict[str, npt.NDArray[np.generic]]

MODELS = Path(__file__).parent.parent / "models"
CACHE = Path(__file__).parent.parent / ".cache" / "models"


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and the inputs to run it with.

    Attributes:
        name: what it is called.
        make: writes or finds the model, given an empty folder.
        feeds: shapes by name with inputs, given the model's path.
    """

    name: str
    make: Callable[[Path], Path]
    feeds: Callable[[Path], Iterator[tuple[str, Feed]]]


def chain_model(path: Path, *, layers: int, size: int) -> None:
    """Write a chain of dynamically quantised layers with weights of shape (size, size)."""
    scale = numpy_helper.from_array(np.array(1 / (35 * np.sqrt(size)), np.float32), "scale")
    zero_point = numpy_helper.from_array(np.array(0, np.int8), "zero_point")
    initializers, nodes, x = [scale, zero_point], [], "x"
    for i in range(layers):
        initializers.append(numpy_helper.from_array(gaussian_weights(size, size, 25.0, seed=i), f"w{i}"))
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [x], [f"q{i}", f"qs{i}", f"qz{i}"]),
            helper.make_node(
                "MatMulInteger", [f"q{i}", f"w{i}", f"qz{i}", "zero_point"], [f"acc{i}"], name=f"matmul{i}"
            ),
            helper.make_node("Cast", [f"acc{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"qs{i}", "scale"], [f"s{i}"]),
            helper.make_node("Mul", [f"f{i}", f"s{i}"], [f"y{i}"]),
        ]
        x = f"y{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "chain", [value("x", TensorProto.FLOAT, ["m", size])], [value(x, TensorProto.FLOAT, ["m", size])],
        initializers,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _chain(size: int) -> Workload:
    def make(folder: Path) -> Path:
        chain_model(folder / "chain.onnx", layers=64, size=size)
        return folder / "chain.onnx"

    return Workload(f"chain-{size}", make, _float_rows(size, (1, 16)))


def _float_rows(k: int, rows: Sequence[int]) -> Callable[[Path], Iterator[tuple[str, Feed]]]:
    def feeds(_: Path) -> Iterator[tuple[str, Feed]]:
        for m in rows:
            yield f"{m}", {"x": np.random.default_rng(m).normal(size=(m, k)).astype(np.float32)}

    return feeds


def _layers(size: int, layers: int, rows: Sequence[int]) -> Workload:
    def make(folder: Path) -> Path:
        layers_model(folder / "layers.onnx", layers=layers, k=size, n=size, sigma=12.0, activation="uint8")
        return folder / "layers.onnx"

    def feeds(_: Path) -> Iterator[tuple[str, Feed]]:
        for m in rows:
            yield f"{m}", {"x": np.random.default_rng(m).integers(0, 256, (m, size), np.uint8)}

    return Workload(f"layers-{layers}x{size}", make, feeds)


def _ids(lengths: Sequence[int]) -> Callable[[Path], Iterator[tuple[str, Feed]]]:
    """Token ids of a T5 encoder."""

    def feeds(_: Path) -> Iterator[tuple[str, Feed]]:
        for length in lengths:
            ids = np.random.default_rng(length).integers(0, 32000, (1, length))
            yield f"1x{length}", {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    return feeds


def _t5(half: str) -> Callable[[Path], Path]:
    def make(_: Path) -> Path:
        import traceforge_title_model  # noqa: PLC0415 - only where it is asked for

        return Path(traceforge_title_model.__file__).parent / "data" / "span" / f"{half}.onnx"

    return make


def _decoder_step(path: Path) -> Iterator[tuple[str, Feed]]:
    """One step of a T5 decoder, whatever its inputs are called."""
    sys.path.insert(0, str(MODELS))
    from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs  # noqa: PLC0415
    from mcd_graph.model.loading import load_model  # noqa: PLC0415

    specs = input_specs(load_model(path))
    bound = bind_dimensions(specs, 1, iter([1, 64, *[64] * 9]))
    yield "step", random_inputs(specs, bound, np.random.default_rng(0))


def _recipe(name: str, form: str, lengths: Sequence[int]) -> Workload:
    """A model that a recipe of models/ fetches, in one of its forms."""
    sys.path.insert(0, str(MODELS))

    def make(folder: Path) -> Path:
        import results  # noqa: PLC0415 - fetching needs more packages than the rest

        (file,) = [file for file in results.recipes() if file["name"] == name]
        CACHE.mkdir(parents=True, exist_ok=True)
        return results.quantize(results.fetch(file, CACHE), form, file.get("axes", []), folder)

    def feeds(path: Path) -> Iterator[tuple[str, Feed]]:
        from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs  # noqa: PLC0415
        from mcd_graph.model.loading import load_model  # noqa: PLC0415

        specs = input_specs(load_model(path))
        for length in lengths:
            bound = bind_dimensions(specs, 1, iter([length] * 9))
            yield f"1x{length}", random_inputs(specs, bound, np.random.default_rng(length))

    return Workload(f"{name}-{form}", make, feeds)


WORKLOADS = {
    workload.name: workload
    for workload in (
        *map(_chain, (64, 128, 256)),
        *(_layers(size, layers, (1, 16)) for size, layers in ((512, 8), (1024, 8), (1024, 32), (2048, 16))),
        _layers(4096, 8, (1, 8, 64, 256)),
        Workload("t5-encoder", _t5("encoder"), _ids((8, 64, 256))),
        Workload("t5-decoder", _t5("decoder"), _decoder_step),
        _recipe("paraphrase-minilm-l3", "dynamic", (1, 16, 64)),
        _recipe("paraphrase-minilm-l3", "qdq", (1, 16, 64)),
        _recipe("rxnmap", "dynamic", (1, 16, 64)),
        _recipe("rxnmap", "qdq", (1, 16, 64)),
    )
}
"""By name, those in caches first."""
