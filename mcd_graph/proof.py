"""Proves a compressed model on generated inputs before it is put in place.

The original is run once at onnxruntime's default settings and once without optimisations, on inputs of several shapes
and of several ranges, some of which saturate; whatever was made of it has to give the same bytes. Time and memory are
bounded. What cannot be run is not proved, and the reason is said. Where bytes differ, the lowered nodes that cause it
are found by bisection.
"""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.comparison import describe_difference, is_nan
from mcd_graph.errors import InputError
from mcd_graph.inputs import InputSpec, accepted_inputs, input_specs
from mcd_graph.isolation import death_of
from mcd_graph.machine import saturates
from mcd_graph.model.loading import ModelSource
from mcd_graph.report.data import Proof
from mcd_graph.session import create_session

__all__ = ["NOT_ASKED_FOR", "Prover", "find_culprits"]

T = TypeVar("T", bound=Hashable)

NOT_ASKED_FOR = "it was not asked for (--no-verify)"

_RUNS = (
    # batch, sizes of other symbols in turns, range of float inputs
    (1, (1, 17), 1.0),
    (3, (17, 1), 30.0),
    (2, (7, 16), 1.0),
    (1, (33, 20, 5), 0.03),
    (5, (1, 3), 300.0),
)
"""Shapes of a prompt and of single tokens, odd ones and ones that fill a kernel's blocks; ranges that saturate."""

_SECONDS = 30.0
"""After so much time no further run begins, and one that is under way is ended."""

_OUTPUT_BYTES = 256 << 20
"""So much of what the original computes is remembered, at most."""

_BISECTION_SECONDS = 120.0

Feed = Mapping[str, npt.NDArray[np.generic]]


class _NotProvableError(Exception):
    """The original cannot be run; the message is the reason."""


@dataclasses.dataclass
class _Reference:
    """What the original computes at one setting, for each input that it ran on."""

    optimize: bool
    names: list[str]
    runs: list[tuple[Feed, list[object]]] = dataclasses.field(default_factory=list)

    @property
    def label(self) -> str:
        return "default" if self.optimize else "no optimisations"

    @property
    def threads(self) -> int | None:
        """Threads of a session: onnxruntime's own choice at default settings."""
        return None if self.optimize else 1


class Prover:
    """Knows what a model computes, and compares others with it.

    Args:
        source: the original, as it is opened.
        model: the same, loaded; it is looked at only here.
        nbytes: size of its files.
        at_optimization_only: what is made of it reproduces it at default settings, not without optimisations (QDQ).
        custom_ops: libraries of other operators that the model needs.
    """

    def __init__(
        self,
        source: ModelSource,
        model: ir.Model,
        *,
        nbytes: int,
        at_optimization_only: bool,
        custom_ops: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self._source = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
        self._custom_ops = custom_ops
        # On processors that saturate, the original would be wrong; what is written is for others as well.
        self._precise = saturates()
        self._settings = (True,) if at_optimization_only else (True, False)
        self._begin = time.monotonic()
        self._references: list[_Reference] = []
        self._not_deterministic: set[str] = set()
        self._values = 0
        self.reason: str | None = None
        try:
            if nbytes > (limit := _bytes_limit()):
                raise _NotProvableError(f"its files are larger than {limit >> 20} MiB, a quarter of the free memory")
            specs = input_specs(model)
            death = death_of(lambda: self._try(specs), seconds=_SECONDS)
            if death is not None:
                raise _NotProvableError(f"onnxruntime ends its process when it runs the original ({death})")
            for optimize in self._settings:
                self._references.append(self._run_original(optimize, specs))
            self._refuse_vain()
        except (_NotProvableError, InputError) as error:
            self.reason = str(error)

    def difference(self, path: str | os.PathLike[str]) -> str | None:
        """Run a model that should compute the same; return how it differs, if it does."""
        self._values = 0
        for reference in self._references:
            try:
                session = self._open(path, reference)
                for feed, expected in reference.runs:
                    computed = _run(session, feed)
                    for name, ours, theirs in zip(reference.names, computed, expected, strict=True):
                        if name in self._not_deterministic:
                            continue
                        what = describe_difference(ours, theirs)
                        if what is not None and not self._varies(reference, feed, name):
                            return f"{name} at {reference.label} settings: {what}"
                        self._values += theirs.size if isinstance(theirs, np.ndarray) else 1
            except (_NotProvableError, InputError) as error:
                return str(error)
        return None

    def proof(self, differing: Sequence[str] = ()) -> Proof:
        """Return what was found, once there is no difference (any more)."""
        return Proof(
            proved=self.reason is None,
            reason=self.reason,
            onnxruntime=ort.__version__,
            settings=tuple(reference.label for reference in self._references),
            runs=min((len(reference.runs) for reference in self._references), default=0),
            values=self._values,
            seconds=round(time.monotonic() - self._begin, 2),
            not_deterministic=tuple(sorted(self._not_deterministic)),
            exact_products=self._precise,
            differing=tuple(differing),
        )

    def _open(self, model: str | os.PathLike[str] | bytes, reference: _Reference) -> ort.InferenceSession:
        return create_session(
            model,
            threads=reference.threads,
            optimize=reference.optimize,
            precise=self._precise,
            custom_ops=self._custom_ops,
        )

    def _try(self, specs: Sequence[InputSpec]) -> None:
        """Run the original once at each setting, for what that may do to the process."""
        for optimize in self._settings:
            session = self._open(self._source, _Reference(optimize, []))
            next(accepted_inputs(specs, _RUNS[:1], np.random.default_rng(0), _attempt(session, [])), None)

    def _run_original(self, optimize: bool, specs: Sequence[InputSpec]) -> _Reference:
        reference = _Reference(optimize, [])
        session = self._open(self._source, reference)
        reference.names = [value.name for value in session.get_outputs()]
        complaints: list[str] = []
        runs: Iterator[tuple[Feed, list[object]]]
        if self._references:  # the inputs that the model took
            runs = ((feed, _run(session, feed)) for feed, _ in self._references[0].runs)
        else:
            runs = accepted_inputs(specs, _RUNS, np.random.default_rng(0), _attempt(session, complaints))
        remembered = 0
        for feed, computed in runs:
            if not reference.runs:
                self._note_variation(reference.names, computed, _run(session, feed))
            reference.runs.append((feed, computed))
            remembered += sum(value.nbytes for value in computed if isinstance(value, np.ndarray))
            if time.monotonic() - self._begin > _SECONDS or remembered > _OUTPUT_BYTES:
                break
        if not reference.runs:
            raise _NotProvableError(f"the original does not run on generated inputs: {complaints[0]}")
        return reference

    def _note_variation(self, names: Sequence[str], first: Sequence[object], second: Sequence[object]) -> None:
        for name, one, two in zip(names, first, second, strict=True):
            if describe_difference(one, two) is not None:
                self._not_deterministic.add(name)

    def _varies(self, reference: _Reference, feed: Feed, name: str) -> bool:
        """Tell whether the original itself computes an output otherwise when it is run again, and remember that."""
        session = self._open(self._source, reference)
        for _ in range(3):
            self._note_variation(reference.names, _run(session, feed), _run(session, feed))
        return name in self._not_deterministic

    def _refuse_vain(self) -> None:
        """Raise if comparing with what the original computes would prove nothing."""
        runs = [run for reference in self._references for run in reference.runs]
        names = self._references[0].names
        if self._not_deterministic.issuperset(names):
            raise _NotProvableError("the original is not deterministic: it computes all outputs otherwise each time")
        if all(is_nan(value) for _, computed in runs for value in computed):
            raise _NotProvableError("the original computes nothing but NaN of generated inputs")


def find_culprits(
    suspects: Sequence[T], differs: Callable[[Sequence[T]], bool], *, seconds: float = _BISECTION_SECONDS
) -> set[T]:
    """Return which of some lowered nodes, or restored constants, make a model differ, by halves.

    Where a group differs of which neither half does, all of it is returned; and so is what is left when time is up.

    Args:
        suspects: numbers of nodes, or keys, that differ when all of them are lowered.
        differs: tells whether a model differs in which these alone are lowered.
        seconds: time for it.
    """
    end = time.monotonic() + seconds

    def search(group: Sequence[T]) -> set[T]:
        if len(group) == 1 or time.monotonic() > end:
            return set(group)
        middle = len(group) // 2
        halves = [half for half in (group[:middle], group[middle:]) if differs(half)]
        return {each for half in halves for each in search(half)} if halves else set(group)

    return search(list(suspects)) if suspects else set()


def _attempt(session: ort.InferenceSession, complaints: list[str]) -> Callable[[Feed], list[object] | None]:
    """Return a function that runs a model, or says why that fails and returns ``None``."""

    def run(feed: Feed) -> list[object] | None:
        try:
            return _run(session, feed)
        except _NotProvableError as error:
            complaints.append(str(error))
            return None

    return run


def _run(session: ort.InferenceSession, feed: Feed) -> list[object]:
    """Run a model, but not for ever."""
    options = ort.RunOptions()
    timer = threading.Timer(_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return list(session.run(None, dict(feed), options))
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        text = " ".join(str(error).split())
        reason = f"a run took longer than {_SECONDS:.0f} s" if "terminate" in text.lower() else text
        raise _NotProvableError(reason) from error
    finally:
        timer.cancel()


def _bytes_limit() -> int:
    """Return how large the files of a model may be that is run beside its compressed form."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            sizes = dict(line.split(":") for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024 // 4
    except (OSError, KeyError, ValueError):
        return math.inf  # type: ignore[return-value]
