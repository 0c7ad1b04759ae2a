"""The models that benchmarks run: made from seeds, installed with the tests, or fetched by a recipe of models/."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from detector import SIZE, detector_model, image_feeds, mobilenet_model
from encoder import encoder_feeds, encoder_model
from fused_encoder import fused_encoder_feeds, fused_encoder_model
from matmul import gaussian_weights, layers_model
from onnx import TensorProto, helper, numpy_helper
from vocoder import vocoder_feeds, vocoder_model

from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs
from mcd_graph.model.loading import load_model

Feed = dict[str, npt.NDArray[np.generic]]

MODELS = Path(__file__).parent.parent / "models"
CACHE = Path(__file__).parent.parent / ".cache" / "models"
"""Where fetched and quantised models are kept."""

sys.path.insert(0, str(MODELS))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and the inputs to run it with.

    Attributes:
        name: what it is called.
        make: writes or finds the model, given an empty folder.
        feeds: shapes by name with inputs, given the model's path.
        asked: whether it stands for what people run; the others are for finding rules.
    """

    name: str
    make: Callable[[Path], Path]
    feeds: Callable[[Path], Iterator[tuple[str, Feed]]]
    asked: bool = True


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


def _chain(size: int, *, asked: bool) -> Workload:
    def make(folder: Path) -> Path:
        chain_model(folder / "chain.onnx", layers=64, size=size)
        return folder / "chain.onnx"

    return Workload(f"chain-{size}", make, _float_rows(size, (1, 16)), asked)


def _float_rows(k: int, rows: Sequence[int]) -> Callable[[Path], Iterator[tuple[str, Feed]]]:
    def feeds(_: Path) -> Iterator[tuple[str, Feed]]:
        for m in rows:
            yield f"{m}", {"x": np.random.default_rng(m).normal(size=(m, k)).astype(np.float32)}

    return feeds


def _layers(size: int, layers: int, rows: Sequence[int], *, asked: bool = True) -> Workload:
    def make(folder: Path) -> Path:
        layers_model(folder / "layers.onnx", layers=layers, k=size, n=size, sigma=12.0, activation="uint8")
        return folder / "layers.onnx"

    def feeds(_: Path) -> Iterator[tuple[str, Feed]]:
        for m in rows:
            yield f"{m}", {"x": np.random.default_rng(m).integers(0, 256, (m, size), np.uint8)}

    return Workload(f"layers-{layers}x{size}", make, feeds, asked)


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
    yield "step", _random(path, 1, [1, 64, *[64] * 9], 0)


def _quantized(name: str, form: str, float_model: Callable[[Path], tuple[Path, Any]], folder: Path) -> Path:
    """The model in a form of models/results.py, which is kept in the cache: calibration takes a while."""
    import results  # noqa: PLC0415 - fetching and quantising need more packages than the rest

    kept = CACHE / f"{name}-{form.replace(', ', '-').replace(' ', '-')}.onnx"
    if not kept.exists():
        model, axes = float_model(folder)
        made = results.quantize(model, form, axes, folder)
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".part")
        shutil.copyfile(made, temporary)
        temporary.replace(kept)
    return kept


def _recipe(name: str, form: str, feeds: Callable[[Path], Iterator[tuple[str, Feed]]]) -> Workload:
    """A model that a recipe of models/ fetches, in one of its forms."""

    def float_model(_: Path) -> tuple[Path, Any]:
        import results  # noqa: PLC0415 - as above

        (file,) = [file for file in results.recipes() if file["name"] == name]
        CACHE.mkdir(parents=True, exist_ok=True)
        return results.fetch(file, CACHE), file.get("axes", [])

    return Workload(
        f"{name}-{form.partition(',')[0]}", lambda folder: _quantized(name, form, float_model, folder), feeds
    )


def _lengths(*lengths: int) -> Callable[[Path], Iterator[tuple[str, Feed]]]:
    """Random inputs of a batch of one."""

    def feeds(path: Path) -> Iterator[tuple[str, Feed]]:
        for length in lengths:
            yield f"1x{length}", _random(path, 1, [length] * 9, length)

    return feeds


def _lines(path: Path) -> Iterator[tuple[str, Feed]]:
    """Images of lines of text, as the recipe of their model has them."""
    import results  # noqa: PLC0415 - as above

    (file,) = [file for file in results.recipes() if file["name"] == "pp-ocrv4-rec"]
    specs = input_specs(load_model(path))
    for sizes, bound in zip(file["axes"], results.named(path, file["axes"]), strict=True):
        yield "x".join(map(str, sizes)), random_inputs(specs, bound, np.random.default_rng(0))


def _random(path: Path, batch: int, sizes: Sequence[int], seed: int) -> Feed:
    specs = input_specs(load_model(path))
    return random_inputs(specs, bind_dimensions(specs, batch, iter(sizes)), np.random.default_rng(seed))


def _seeded(
    name: str,
    form: str,
    write: Callable[[Path], None],
    feeds: Callable[[Path], Iterator[tuple[str, Feed]]],
    axes: Sequence[Sequence[int]] = (),
) -> Workload:
    """A float model made from a seed, in a form of models/results.py."""

    def float_model(folder: Path) -> tuple[Path, Any]:
        write(folder / "float.onnx")
        return folder / "float.onnx", axes

    return Workload(
        f"{name}-{form.partition(',')[0]}", lambda folder: _quantized(name, form, float_model, folder), feeds
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        *(_chain(size, asked=size >= 64) for size in (16, 32, 48, 64, 128, 256)),
        *(
            _layers(size, layers, (1, 16), asked=False)
            for size, layers in ((512, 8), (1024, 8), (1024, 32), (2048, 16))
        ),
        _layers(4096, 8, (1, 8, 64, 256)),
        _layers(4096, 16, (1,), asked=False),
        Workload("t5-encoder", _t5("encoder"), _ids((8, 64, 256))),
        Workload("t5-decoder", _t5("decoder"), _decoder_step),
        *(_seeded("minilm-l6-like", form, encoder_model, encoder_feeds) for form in ("dynamic, all", "qdq, all")),
        _seeded("fused-encoder", "dynamic, all", fused_encoder_model, fused_encoder_feeds),
        _seeded("vocoder", "qdq, all", vocoder_model, vocoder_feeds, axes=[[32]]),
        *(
            _seeded(name, form, model, image_feeds, axes=[[SIZE, SIZE]])
            for name, model in (("detector", detector_model), ("mobilenet", mobilenet_model))
            for form in ("dynamic, all", "qdq, all", "qoperator, all")
        ),
        *(_recipe("paraphrase-minilm-l3", form, _lengths(1, 16, 64)) for form in ("dynamic", "qdq")),
        *(_recipe("rxnmap", form, _lengths(1, 16, 64)) for form in ("dynamic", "qdq")),
        *(_recipe("pp-ocrv4-rec", form, _lines) for form in ("dynamic, all", "qdq, all")),
    )
}
"""By name, those in caches first."""

ASKED = [name for name, workload in WORKLOADS.items() if workload.asked]
"""Those that stand for what people run; the others are for finding rules."""

AT_ONCE = {"layers-8x4096": "1", "t5-decoder": "step", "minilm-l6-like-dynamic": "1x16"}
"""Workloads and shapes of servers, which have a worker with one thread for each processor."""
