"""Runs two models side by side and compares every byte of what they compute."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.errors import InputError
from mcd_graph.inputs import bind_dimensions, input_specs, random_inputs
from mcd_graph.model.loading import load_model
from mcd_graph.passes import reproduces_optimised
from mcd_graph.session import create_session

__all__ = ["Difference", "Verification", "verify_model"]

_BATCHES = (1, 2, 3, 5, 4)
_LENGTHS = (7, 16, 1, 33, 20, 64, 3)
"""Sizes of the runs, in turns: odd ones and ones, and some that fill whole blocks of a kernel."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """An output that is not the same.

    Attributes:
        run: number of the run, from 0.
        threads: threads that the compressed model ran on.
        optimised: graph optimisations were on.
        output: name of the output.
        what: how it differs.
    """

    run: int
    threads: int
    optimised: bool
    output: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        shapes: for each run, the shape of each input.
        threads: numbers of threads that the compressed model ran on.
        optimised: whether graph optimisations were on, for each setting that both models were run at.
        values: numbers compared in all.
        differences: every output that differs; empty when all bytes are the same.
        not_deterministic: outputs that the original itself computes otherwise from one run to the next, which
            therefore prove nothing.
        only_nan: outputs of which the original gives nothing but not-a-number in a run; they are not compared.

    Examples:
        >>> import mcd_graph
        >>> result = mcd_graph.verify_model("model.onnx", "model.onnx", runs=1, threads=[1])
        >>> result.shapes
        ({'ids': (1, 7), 'mask': (1, 7)},)
        >>> result.optimised  # the default settings, and none
        (True, False)
        >>> result.values == 2 * 1 * 7 * 128
        True
    """

    shapes: tuple[dict[str, tuple[int, ...]], ...]
    threads: tuple[int, ...]
    optimised: tuple[bool, ...]
    values: int
    differences: tuple[Difference, ...]
    not_deterministic: tuple[str, ...] = ()
    only_nan: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether every output of every run is the same to the byte, and the original gives the same numbers twice."""
        return not self.differences and not self.not_deterministic and not self.only_nan


def verify_model(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    *,
    runs: int = 3,
    seed: int = 0,
    inputs: Mapping[str, npt.NDArray[np.generic]] | None = None,
    threads: Sequence[int] = (1, 2),
    custom_ops: Sequence[str | os.PathLike[str]] = (),
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
            gives on one thread or on as many.
        custom_ops: libraries of other operators that the models need.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: onnxruntime refuses a model or its inputs, or the models have different inputs or outputs.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> mcd_graph.verify_model("model.onnx", "model.mcd.onnx").identical
        True
    """
    if runs < 1:
        raise InputError(f"runs must be at least 1, not {runs}")
    # Read here first: what a file from a stranger claims is checked before onnxruntime follows it.
    model, compressed_model = load_model(original), load_model(compressed)
    open_session = functools.partial(create_session, custom_ops=custom_ops)
    settings = (True,) if reproduces_optimised(compressed_model) else (True, False)
    feeds = None if inputs is None else [dict(inputs)]
    found = []
    for optimise in settings:
        try:
            reference = open_session(original, threads=1, optimise=optimise)
        except InputError as error:
            raise InputError(f"the original itself does not load: {error}") from error
        if feeds is None:
            feeds = _random_feeds(model, runs, seed)
        elif inputs is not None:
            feeds = [_given_feed(reference, inputs)]
        found.append(
            _compare(original, compressed, reference, feeds, threads, optimise=optimise, open_session=open_session)
        )
    return Verification(
        tuple({name: np.shape(array) for name, array in feed.items()} for feed in feeds or ()),
        tuple(threads),
        settings,
        sum(result.values for result in found),
        tuple(difference for result in found for difference in result.differences),
        tuple(sorted({name for result in found for name in result.not_deterministic})),
        tuple(sorted({name for result in found for name in result.only_nan})),
    )


@dataclasses.dataclass
class _Comparison:
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
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    reference: ort.InferenceSession,
    feeds: Sequence[Mapping[str, npt.NDArray[np.generic]]],
    threads: Sequence[int],
    *,
    optimise: bool,
    open_session: Callable[..., ort.InferenceSession],
) -> _Comparison:
    """Compare the models at one setting of graph optimisations; ``reference`` is the original at it on one thread."""
    candidates = {count: open_session(compressed, threads=count, optimise=optimise) for count in threads}
    for session in candidates.values():
        _check_same_interface(reference, session)
    names = [value.name for value in reference.get_outputs()]
    result = _Comparison()
    for run, feed in enumerate(feeds):
        expected = _run(reference, original, feed)
        # In the same session: a new one would begin with the same seeds, which depend on the order of the nodes.
        twice = _run(reference, original, feed)
        result.not_deterministic |= {
            name for name, one, two in zip(names, expected, twice, strict=True) if _difference(one, two) is not None
        }
        result.only_nan |= {name for name, one in zip(names, expected, strict=True) if _is_only_nan(one)}
        for count, session in candidates.items():
            for name, ours, theirs in zip(names, _run(session, compressed, feed), expected, strict=True):
                if name in result.not_deterministic | result.only_nan:
                    continue
                result.values += theirs.size if isinstance(theirs, np.ndarray) else 1
                what = _difference(ours, theirs)
                if what is not None and count != 1:
                    # Some operators (DynamicQuantizeLSTM) compute other bits on more threads: then so may we.
                    threaded = open_session(original, threads=count, optimise=optimise)
                    what = _difference(ours, _run(threaded, original, feed)[names.index(name)])
                if what is not None:
                    result.differences.append(Difference(run, count, optimise, name, what))
    return result


def _random_feeds(model: ir.Model, runs: int, seed: int) -> list[dict[str, npt.NDArray[np.generic]]]:
    specs = input_specs(model)
    rng = np.random.default_rng(seed)
    feeds = []
    for run, batch in zip(range(runs), itertools.cycle(_BATCHES), strict=False):
        lengths = itertools.islice(itertools.cycle(_LENGTHS), run, None)
        feeds.append(random_inputs(specs, bind_dimensions(specs, batch, lengths), rng))
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


def _is_only_nan(value: object) -> bool:
    """Tell whether an output has no number in it: bits of those say nothing about what was computed."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return False
    return bool(np.isnan(value).all())


def _difference(ours: object, theirs: object) -> str | None:
    if not (isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)):
        return None if ours == theirs else "the values differ"  # sequences, maps and absent optionals
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"{ours.dtype} of shape {ours.shape} instead of {theirs.dtype} of shape {theirs.shape}"
    if ours.dtype == object:
        return None if np.array_equal(ours, theirs) else "the strings differ"
    if ours.tobytes() == theirs.tobytes():
        return None
    width = ours.dtype.itemsize
    unequal = (_bytes(ours, width) != _bytes(theirs, width)).any(axis=1)
    first = int(np.flatnonzero(unequal)[0])
    return (
        f"{int(unequal.sum())} of {ours.size} values differ, "
        f"the first at {first}: {ours.flat[first]} instead of {theirs.flat[first]}"
    )


def _bytes(array: npt.NDArray[np.generic], width: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1, width)
