"""Runs two models side by side and compares every byte of what they compute."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from mcd_graph import _native
from mcd_graph.comparison import describe_difference, is_nan
from mcd_graph.determinism import random_nodes, values_before
from mcd_graph.drift import Drift, DriftMeter
from mcd_graph.errors import InputError
from mcd_graph.inputs import accepted_inputs, input_specs
from mcd_graph.isolation import death_of
from mcd_graph.model.loading import load_model
from mcd_graph.options import check_libraries
from mcd_graph.passes import reproduces_optimized
from mcd_graph.session import create_session
from mcd_graph.system import processors

__all__ = ["Difference", "Verification", "verify_model"]

_SECONDS = 60.0
"""How long each model may take once in a process of its own, where it may do no harm."""

Feed = Mapping[str, npt.NDArray[np.generic]]

_BATCHES = (1, 2, 3, 5, 4)
_LENGTHS = (7, 16, 1, 33, 20, 64, 3)
"""Sizes of the runs, in turns: odd ones and ones, and some that fill whole blocks of a kernel."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """An output that is not the same.

    Attributes:
        run: number of the run, from 0.
        threads: threads that the compressed model ran on.
        optimized: graph optimisations were on.
        output: name of the output.
        what: how it differs.
    """

    run: int
    threads: int
    optimized: bool
    output: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        shapes: for each run, the shape of each input.
        threads: numbers of threads that the compressed model ran on.
        optimized: whether graph optimisations were on, for each setting that both models were run at.
        values: numbers compared in all.
        differences: every output that differs; empty when all bytes are the same.
        not_deterministic: outputs that the original itself computes otherwise from one run to the next, which
            therefore prove nothing.
        random_nodes: nodes that draw random numbers without a seed, where there are such outputs.
        compared_before: values in front of those nodes that were compared instead.
        only_nan: outputs of which the original computed nothing but not-a-number, which prove little.
        saturates: this processor has no VNNI, so that products of 8-bit integers saturate at 16 bits in both models,
            and other processors compute other bytes of both.
        drifts: how far each output is from the original's, where that was measured.

    Examples:
        >>> import mcd_graph
        >>> result = mcd_graph.verify_model("model.onnx", "model.onnx", runs=1, threads=[1])
        >>> result.shapes
        ({'ids': (1, 7), 'mask': (1, 7)},)
        >>> result.optimized  # the default settings, and none
        (True, False)
        >>> result.values == 2 * 1 * 7 * 128
        True
    """

    shapes: tuple[dict[str, tuple[int, ...]], ...]
    threads: tuple[int, ...]
    optimized: tuple[bool, ...]
    values: int
    differences: tuple[Difference, ...]
    not_deterministic: tuple[str, ...] = ()
    random_nodes: tuple[str, ...] = ()
    compared_before: tuple[str, ...] = ()
    only_nan: tuple[str, ...] = ()
    saturates: bool = False
    drifts: tuple[Drift, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether every output of every run is the same to the byte, and the original gives the same twice."""
        return not self.differences and not self.not_deterministic


def verify_model(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    *,
    runs: int = 3,
    seed: int = 0,
    inputs: Mapping[str, npt.NDArray[np.generic]] | None = None,
    threads: Sequence[int] | None = None,
    precise: bool = False,
    custom_ops: Sequence[str | os.PathLike[str]] = (),
    measure: bool = False,
) -> Verification:
    """Run both models on the same inputs and compare the outputs' bytes.

    Both run with graph optimisations as onnxruntime has them by default, and without; with them only where the
    compressed model reproduces what onnxruntime makes of the original when it optimises (QDQ models). The original is
    compared with itself first, for a model with unseeded random operators proves nothing.

    Not-a-number equals itself here, and zero does not equal minus zero: what counts are the bytes.

    Args:
        original: path of a model.
        compressed: path of the model that should compute the same.
        runs: runs on random inputs, each of another batch size and length.
        seed: seed of the random inputs.
        inputs: inputs to use instead, by name; one run then.
        threads: numbers of threads to run the compressed model on; every one must give the bytes that the original
            gives on one thread or on as many. One and all (two at least) by default.
        precise: have products of 8-bit integers be exact on processors without VNNI, where they saturate otherwise.
            That is ``session.x64quantprecision``, which onnxruntime heeds when it optimises.
        custom_ops: libraries of other operators that the models need.
        measure: also say how far each output is from the original's, for a model that rounds otherwise, such as a
            strict export for Ascend; random inputs have the sizes then that this model takes.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: onnxruntime refuses a model or its inputs, or the models have different inputs or outputs; or the
            original computes nothing but not-a-number.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> mcd_graph.verify_model("model.onnx", "model.mcd.onnx").identical
        True
    """
    if runs < 1:
        raise InputError(f"runs must be at least 1, not {runs}")
    check_libraries(custom_ops)
    # Read here first: what an untrusted file claims is checked before onnxruntime follows it.
    model, compressed_model = load_model(original), load_model(compressed)
    settings = (True,) if reproduces_optimized(compressed_model) else (True, False)
    threads = (1, max(2, processors())) if threads is None else tuple(threads)
    feeds: list[Feed] = []
    found: list[_Comparison] = []
    meters: dict[str, DriftMeter] = {}
    for optimize in settings:
        pair = _Pair(original, compressed, optimize, precise, custom_ops)
        if not feeds:
            sizes = compressed_model if measure else model
            _refuse_fatal(pair, sizes, inputs, seed)
        reference = _open_original(pair)
        if not feeds:
            feeds = _random_feeds(sizes, original, reference, runs, seed) if inputs is None else [
                _given_feed(reference, inputs)
            ]  # fmt: skip
        found.append(_compare(pair, reference, feeds, threads, meters if measure else None))
    not_deterministic = tuple(sorted({name for result in found for name in result.not_deterministic}))
    random = random_nodes(model) if not_deterministic else []
    before = _compare_before(
        _Pair(original, compressed, False, precise, custom_ops), model, compressed_model, random, feeds
    )
    if False in settings:
        found.append(before)
    nan = set.intersection(*(result.only_nan for result in found[: len(settings)]))
    if nan.issuperset(found[0].names):
        raise InputError(
            f"{os.fspath(original)}, the original, computes nothing but NaN of these inputs; give --inputs"
        )
    return Verification(
        tuple({name: np.shape(array) for name, array in feed.items()} for feed in feeds),
        threads,
        settings,
        sum(result.values for result in found),
        tuple(difference for result in found for difference in result.differences),
        not_deterministic,
        tuple(node.name or node.outputs[0].name or node.op_type for node in random),
        before.names if False in settings else (),
        tuple(sorted(nan)),
        saturates=not precise and _native.saturates_pairs(),
        drifts=tuple(meter.result() for meter in meters.values()),
    )


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two models, and how both are opened."""

    original: str | os.PathLike[str]
    compressed: str | os.PathLike[str]
    optimize: bool
    precise: bool
    custom_ops: Sequence[str | os.PathLike[str]]

    def open(self, which: str, threads: int) -> ort.InferenceSession:
        """Open ``original`` or ``compressed``."""
        return create_session(
            getattr(self, which),
            threads=threads,
            optimize=self.optimize,
            precise=self.precise and self.optimize,
            custom_ops=self.custom_ops,
        )


def _refuse_fatal(
    pair: _Pair, model: ir.Model, inputs: Mapping[str, npt.NDArray[np.generic]] | None, seed: int
) -> None:
    """Run both models once in a fork of this process, since onnxruntime ends the process on some.

    Raises:
        InputError: a model does so.
    """
    for which in ("original", "compressed"):
        path = os.fspath(getattr(pair, which))

        def once(which: str = which, path: str = path) -> None:
            session = pair.open(which, 1)
            if inputs is None:
                _random_feeds(model, path, session, 1, seed)
            else:
                _run(session, path, _given_feed(session, inputs))

        death = death_of(once, seconds=_SECONDS)
        if death is not None:
            raise InputError(f"{path}, the {which}: onnxruntime ends its process when it runs this model ({death})")


def _open_original(pair: _Pair) -> ort.InferenceSession:
    try:
        return pair.open("original", 1)
    except InputError as error:
        raise InputError(f"the original does not load: {error}") from error


@dataclasses.dataclass
class _Comparison:
    names: tuple[str, ...] = ()
    values: int = 0
    differences: list[Difference] = dataclasses.field(default_factory=list)
    not_deterministic: set[str] = dataclasses.field(default_factory=set)
    only_nan: set[str] = dataclasses.field(default_factory=set)


def _given_feed(
    reference: ort.InferenceSession, inputs: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    names = {value.name for value in reference.get_inputs()}
    if names - inputs.keys():
        raise InputError(f"the inputs lack {', '.join(sorted(names - inputs.keys()))}")
    return {name: inputs[name] for name in names}


def _compare(
    pair: _Pair,
    reference: ort.InferenceSession,
    feeds: Sequence[Feed],
    threads: Sequence[int],
    meters: dict[str, DriftMeter] | None,
) -> _Comparison:
    """Compare the models at one setting of graph optimisations; ``reference`` is the original at it on one thread."""
    candidates = {count: pair.open("compressed", count) for count in threads}
    for session in candidates.values():
        _check_same_interface(reference, session)
    names = tuple(value.name for value in reference.get_outputs())
    result = _Comparison(names, only_nan=set(names))
    for run, feed in enumerate(feeds):
        expected = _run(reference, pair.original, feed)
        # In the same session: a new one would begin with the same seeds, which depend on the order of the nodes.
        twice = _run(reference, pair.original, feed)
        result.not_deterministic |= {
            name
            for name, one, two in zip(names, expected, twice, strict=True)
            if describe_difference(one, two) is not None
        }
        result.only_nan -= {name for name, value in zip(names, expected, strict=True) if not is_nan(value)}
        for count, session in candidates.items():
            for name, ours, theirs in zip(names, _run(session, pair.compressed, feed), expected, strict=True):
                if name in result.not_deterministic:
                    continue
                if meters is not None:
                    meters.setdefault(name, DriftMeter(name)).add(ours, theirs)
                result.values += theirs.size if isinstance(theirs, np.ndarray) else 1
                what = describe_difference(ours, theirs)
                if what is not None and count != 1:
                    # Some operators (DynamicQuantizeLSTM) compute other bits on more threads: then so may we.
                    threaded = _run(pair.open("original", count), pair.original, feed)
                    what = describe_difference(ours, threaded[names.index(name)])
                if what is not None:
                    result.differences.append(Difference(run, count, pair.optimize, name, what))
    return result


def _compare_before(
    pair: _Pair, model: ir.Model, compressed_model: ir.Model, random: Sequence[ir.Node], feeds: Sequence[Feed]
) -> _Comparison:
    """Compare what both models compute in front of random nodes, without optimisations."""
    theirs = {output.name for node in compressed_model.graph for output in node.outputs}
    names = tuple(name for name in values_before(model, random) if name in theirs)
    result = _Comparison(names)
    if not names:
        return result
    original, compressed = (
        create_session(path, threads=1, optimize=False, also=names, custom_ops=pair.custom_ops)
        for path in (pair.original, pair.compressed)
    )
    for run, feed in enumerate(feeds):
        expected, computed = (
            _run(session, path, feed)[-len(names) :]
            for session, path in ((original, pair.original), (compressed, pair.compressed))
        )
        for name, ours, wanted in zip(names, computed, expected, strict=True):
            result.values += wanted.size if isinstance(wanted, np.ndarray) else 1
            if (what := describe_difference(ours, wanted)) is not None:
                result.differences.append(Difference(run, 1, False, name, what))
    return result


def _random_feeds(
    model: ir.Model, original: str | os.PathLike[str], reference: ort.InferenceSession, runs: int, seed: int
) -> list[Feed]:
    """Return inputs that the original runs on, of sizes that it takes."""
    complaints: list[InputError] = []

    def accepted(feed: Feed) -> bool | None:
        try:
            _run(reference, original, feed)
        except InputError as error:
            complaints.append(error)
            return None
        return True

    count = len(_LENGTHS)
    wanted = (
        (_BATCHES[run % len(_BATCHES)], (*_LENGTHS[run % count :], *_LENGTHS[: run % count]), 1.0)
        for run in range(runs)
    )
    taken = accepted_inputs(input_specs(model), wanted, np.random.default_rng(seed), accepted)
    feeds: list[Feed] = [feed for feed, _ in taken]
    if not feeds:
        raise InputError(f"{complaints[0]}; so it does on inputs of other sizes: give --inputs")
    return feeds


def _check_same_interface(original: ort.InferenceSession, compressed: ort.InferenceSession) -> None:
    for kind in ("inputs", "outputs"):
        ours, theirs = (
            [(value.name, value.type) for value in getattr(session, f"get_{kind}")()]
            for session in (compressed, original)
        )
        if ours != theirs:
            raise InputError(f"the models have different {kind}: {theirs} and {ours}")


def _run(
    session: ort.InferenceSession, model: str | os.PathLike[str], feed: Mapping[str, npt.NDArray[np.generic]]
) -> list[object]:
    try:
        return list(session.run(None, dict(feed)))
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{os.fspath(model)} does not run: {' '.join(str(error).split())}") from error
