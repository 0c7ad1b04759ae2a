"""Contestants of a benchmark: processes of their own, each of which holds one session and runs it when it is told to.

One process cannot compare sessions as people have them: idle threads of one spin where another wants to run, its
allocator reuses what an earlier session left, and a model that ends onnxruntime would end the comparison. So each
contestant is a process with default settings that opens one model. They run in bursts, in turns and with pauses.

A contestant reads commands from its standard input, one line of JSON each, and answers each with a line of JSON.
"""

import dataclasses
import gc
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mcd_graph.errors import InputError
from mcd_graph.library import get_library_path
from mcd_graph.system import allowed_processors, run_on

__all__ = [
    "OPENINGS",
    "PAUSE",
    "ROLLUP",
    "Contestant",
    "Ready",
    "Runner",
    "Setup",
    "alternate",
    "serve",
    "shared_out",
    "stored",
]

BURST, BURST_OF_SEVERAL = 0.05, 0.15
"""Seconds of a burst of sessions with one thread, and with several; a session gets at least three runs in it.

What disturbs a machine lasts for parts of a second, and a pair of bursts should meet the same. But where another
process ran before, the calling thread often wakes on the processor that a thread of the pool is bound to; until the
system moves it, up to a tenth of a second later, runs take twice as long. Most runs of a burst must come after that.
"""

OPENINGS = 5
"""How often a comparison opens its contestants anew: two processes of the same program may differ by a tenth for as
long as they live."""

PAUSE = 0.02
"""Seconds between bursts, until threads that spin have gone to sleep."""

ROLLUP = Path("/proc/self/smaps_rollup")
"""Where Linux tells a process about its memory."""

_LEAST_RUNS = 3
_PREFIX = "feed:"

Arrays = Mapping[str, npt.NDArray[np.generic]]
Runner = Callable[[dict[str, npt.NDArray[np.generic]]], Sequence[npt.NDArray[np.generic]]]
"""What a contestant makes of a model: from inputs to outputs."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a contestant opens a model.

    Attributes:
        model: path of the model.
        config: session config entries.
        threads: threads within one operator; 0 is onnxruntime's default, all processors.
        library: whether the session knows the custom operators.
        custom_ops: libraries of other operators that the model needs.
    """

    model: str
    config: dict[str, str] = dataclasses.field(default_factory=dict)
    threads: int = 0
    library: bool = True
    custom_ops: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return what starts a process that is this contestant."""
        return [sys.executable, "-P", "-m", __spec__.name, json.dumps(dataclasses.asdict(self))]


@dataclasses.dataclass(frozen=True)
class Ready:
    """What a contestant says of its first runs with some inputs.

    Attributes:
        digest: SHA-256 of the outputs' bytes.
        seconds: the fastest of some runs.
        first: time of the first run.
    """

    digest: str
    seconds: float
    first: float

    def runs(self, burst: float) -> int:
        """Return how many runs a burst of so many seconds has."""
        return max(_LEAST_RUNS, int(burst / self.seconds))


class Contestant:
    """A process that opens a model, and runs it when it is told to.

    Args:
        command: starts it; see :meth:`Setup.command` and :func:`serve`.
        name: what messages call it.

    Raises:
        InputError: later, by any of the methods: the process failed, or ended; the message says how.
    """

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.name = name
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._output, text=True)  # noqa: S603 - ourselves
        self._opened: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def opened(self) -> float:
        """Wait until the model is open; return the seconds that it took."""
        if self._opened is None:
            self._opened = float(self._answer())
        return self._opened

    def load(self, feed: Path) -> Ready:
        """Run it with the inputs of a file (:func:`stored`), which are those of the bursts from now on."""
        return Ready(**self._ask(["load", str(feed)]))

    def run_once(self, feed: Path) -> float:
        """Run it once with the inputs of a file; return the seconds that it took."""
        return float(self._ask(["once", str(feed)]))

    def burst(self, runs: int, processor: int | None = None) -> list[float]:
        """Return the seconds of each of some runs; on one processor, if one is given and the system lets choose."""
        return list(self._ask(["burst", runs, processor]))

    def start(self, seconds: float) -> None:
        """Have it run until a time is up; :meth:`rate` is to be asked next."""
        self.opened()
        self._tell(["rate", seconds])

    def rate(self) -> float:
        """Return how many runs a second it made since :meth:`start`."""
        return float(self._answer())

    def memory(self) -> dict[str, int]:
        """Return what opening and running has added to the process, by the names of ``smaps_rollup``, in bytes."""
        return dict(self._ask(["memory"]))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None  # noqa: S101 - for mypy; it was asked for
        assert self._process.stdout is not None  # noqa: S101 - as above
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._output.close()

    def _ask(self, command: list[Any]) -> Any:
        self.opened()
        self._tell(command)
        return self._answer()

    def _tell(self, command: list[Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - as above
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - as above
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise InputError(f"{self.name}: {answer['error']}")
        return answer

    def _fail(self) -> None:
        status = self._process.wait()
        if status < 0:
            raise InputError(
                f"{self.name} ended its process ({signal.Signals(-status).name}) when it was opened or run on random "
                "inputs; onnxruntime does that with some models"
            )
        self._output.seek(0)
        said = self._output.read().strip().splitlines() or ["it exited without output"]
        raise InputError(f"{self.name}: measuring in a process of its own failed: {said[-1]}")


def alternate(
    contestants: Mapping[str, Contestant],
    ready: Mapping[str, Ready],
    *,
    threads: int,
    repeats: int,
    seconds: float = 0.0,
    turn: int = 0,
    step: Callable[[], None] = lambda: None,
) -> dict[str, list[tuple[float, float]]]:
    """Compare contestants with the first one, in bursts that take turns.

    Two contestants at a time share a burst of the first one, so that what is compared was measured within a second. The
    order is turned round each time. Sessions with one thread run on the same processor in a turn, and on another in the
    next: of a shared machine, one processor is often slower than another for seconds. Their order is turned round each
    other time, so that each is first on each processor.

    Args:
        contestants: by name; each has loaded its inputs.
        ready: what each said of them.
        threads: those of each session; 0 is onnxruntime's default, all processors.
        repeats: turns to take at least.
        seconds: take further ones until this time is up.
        turn: turns that were taken before, which say who is the first of the next one.
        step: called after each turn.

    Returns:
        For each but the first, pairs of median seconds of a run: the first one's and its own.
    """
    base, *others = contestants
    burst = BURST if threads == 1 else BURST_OF_SEVERAL
    processors = allowed_processors() if threads == 1 else []
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    deadline = time.perf_counter() + seconds
    end = turn + repeats
    while turn < end or time.perf_counter() < deadline:
        for at in range(0, len(others), 2):
            order = [base, *others[at : at + 2]]
            times = {}
            processor = processors[turn % len(processors)] if processors else None
            for name in order if (turn // 2 if processors else turn) % 2 else reversed(order):
                times[name] = statistics.median(contestants[name].burst(ready[name].runs(burst), processor))
                time.sleep(PAUSE)
            for name in order[1:]:
                pairs[name].append((times[base], times[name]))
        turn += 1
        step()
    return pairs


def shared_out(turns: int) -> list[int]:
    """Return how many of some turns each opening has, of :data:`OPENINGS` if there are as many turns."""
    each = [turns // OPENINGS + (at < turns % OPENINGS) for at in range(OPENINGS)]
    return [count for count in each if count]


@contextmanager
def stored(feed: Arrays) -> Iterator[Path]:
    """Write inputs for :meth:`Contestant.load`, and remove them at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feed.npz"
        arrays: dict[str, Any] = {_PREFIX + name: array for name, array in feed.items()}
        np.savez(path, **arrays)
        yield path


def serve(open_model: Callable[[], Runner]) -> None:
    """Be a contestant: open the model, then do as is told until standard input ends.

    Args:
        open_model: opens the model; the time that it takes is the time to open.
    """
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    before, start = _rollup(), time.perf_counter()
    run = open_model()
    say(time.perf_counter() - start)
    feed: dict[str, npt.NDArray[np.generic]] = {}
    gc.disable()  # it would run in the middle of something that is timed
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command in ("load", "once"):
            with np.load(str(arguments[0]), allow_pickle=False) as file:
                feed = {name.removeprefix(_PREFIX): file[name] for name in file}
            say(_first_runs(run, feed, further=_LEAST_RUNS if command == "load" else 0))
        elif command == "burst":
            runs, processor = arguments
            if processor is not None:
                run_on(processor)
            say([_timed(run, feed) for _ in range(runs)])
        elif command == "rate":
            say(_rate(run, feed, *arguments))
        elif command == "memory":
            say({name: value - before.get(name, 0) for name, value in _rollup().items()})


def _first_runs(run: Runner, feed: dict[str, npt.NDArray[np.generic]], further: int) -> Any:
    """Return what the first run says, and some further ones; its time alone if there are none."""
    try:
        start = time.perf_counter()
        outputs = run(feed)
        first = time.perf_counter() - start
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common base class of their own
        shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in feed.items())
        reason = " ".join(str(error).split())
        return {"error": f"the model does not run on random inputs ({shapes}); try --axes: {reason}"}
    if not further:
        return first
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(output).tobytes() for output in outputs))
    seconds = min(_timed(run, feed) for _ in range(further))
    return dataclasses.asdict(Ready(digest.hexdigest(), seconds, first))


def _timed(run: Runner, feed: dict[str, npt.NDArray[np.generic]]) -> float:
    start = time.perf_counter()
    run(feed)
    return time.perf_counter() - start


def _rate(run: Runner, feed: dict[str, npt.NDArray[np.generic]], seconds: float) -> float:
    start = time.perf_counter()
    runs = 0
    while time.perf_counter() < start + seconds or not runs:
        run(feed)
        runs += 1
    return runs / (time.perf_counter() - start)


def _rollup() -> dict[str, int]:
    """Return the fields of this process's memory map in bytes; none where the system does not tell."""
    fields = {}
    for line in ROLLUP.read_text().splitlines() if ROLLUP.exists() else ():
        if line.endswith(" kB"):
            name, value = line[:-3].split(":")
            fields[name] = int(value) * 1024
    return fields


def _open(setup: Setup) -> Runner:
    """Open a session as the setup says."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.intra_op_num_threads = setup.threads
    for key, value in setup.config.items():
        options.add_session_config_entry(key, value)
    if setup.library:
        options.add_session_config_entry("mcd.model", setup.model)
        options.register_custom_ops_library(get_library_path())
    for library in setup.custom_ops:
        options.register_custom_ops_library(os.fspath(Path(library).absolute()))
    session = ort.InferenceSession(setup.model, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


if __name__ == "__main__":
    _setup = Setup(**json.loads(sys.argv[1]))
    serve(lambda: _open(_setup))
