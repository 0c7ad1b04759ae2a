"""The functions that tests run in processes of their own; every argument is text."""

import ctypes
import gc
import hashlib
import itertools
import os
import sys
import threading
import timeit
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from reliability import small

from mcd_graph.integrity import check_model

# Damage


def flip_model_bits(path: str, first: str, step: str) -> dict[str, Any]:
    """Flip bits of a model file, one at a time, and tell what becomes of each.

    Returns:
        Positions of bits by outcome: ``refused`` by a session's creation, ``failed`` at the run, ``same`` bytes, or
        ``different`` ones; and which of those that gave an error `check_model` looked at, and did not notice.
    """
    pristine = Path(path).read_bytes()
    expected = small.session(pristine).run(None, {"x": small.X})[0]
    outcomes: dict[str, list[Any]] = {
        key: [] for key in ("refused", "failed", "same", "different", "checked", "unnoticed")
    }
    damaged_file = Path("damaged.onnx")
    for bit in range(int(first), 8 * len(pristine), int(step)):
        content = bytearray(pristine)
        content[bit // 8] ^= 1 << bit % 8
        outcome = _outcome(bytes(content), expected)
        outcomes[outcome].append(bit)
        if outcome in ("refused", "failed") and bit % 5 == 0:  # a check takes several times as long
            damaged_file.write_bytes(content)
            outcomes["checked"].append(bit)
            if check_model(damaged_file).intact:
                outcomes["unnoticed"].append(bit)
    return outcomes


def _outcome(content: bytes, expected: np.ndarray) -> str:
    try:
        session = small.session(content)
    except Exception:  # noqa: BLE001  (onnxruntime's exceptions share no base class)
        return "refused"
    try:
        (y,) = session.run(None, {session.get_inputs()[0].name: small.X})
    except Exception:  # noqa: BLE001
        return "failed"
    same = (y.dtype, y.shape, y.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    return "same" if same else "different"


def overwrite_while_open(path: str, residency: str, rounds: str) -> dict[str, int]:
    """Overwrite the data file of an open session with noise, run, and put it back, again and again.

    Returns:
        How many runs gave the same bytes, others, or an error; ``restored``: how many rounds ended with the same bytes.
    """
    data = Path(path).with_suffix(".onnx_data")
    pristine = data.read_bytes()
    config = {"mcd.residency": residency}
    session = small.session(Path(path), small.options(threads=2, config=config))
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, session.get_inputs()[0].shape[-1])).astype(np.float32)
    expected = session.run(None, {"x": x})[0].tobytes()
    counts = dict.fromkeys(("same", "different", "error", "restored"), 0)
    file = os.open(data, os.O_RDWR)
    for turn in range(int(rounds)):
        # All of it, or a few bytes anywhere.
        noise = bytearray(rng.bytes(len(pristine)) if turn % 2 else pristine)
        for position in rng.integers(0, len(pristine), 20):
            noise[position] ^= int(rng.integers(1, 256))
        os.pwrite(file, noise, 0)
        try:
            (y,) = session.run(None, {"x": x})
            counts["same" if y.tobytes() == expected else "different"] += 1
        except Exception:  # noqa: BLE001
            counts["error"] += 1
        os.pwrite(file, pristine, 0)
        counts["restored"] += session.run(None, {"x": x})[0].tobytes() == expected
    return counts


# Load


def _batches(session: ort.InferenceSession, rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Return inputs with these numbers of rows, the same in every process."""
    rng = np.random.default_rng(4)
    (x,) = session.get_inputs()
    return [{x.name: rng.standard_normal((count, x.shape[-1])).astype(np.float32)} for count in rows]


def _digest(session: ort.InferenceSession, rows: Sequence[int] = (1, 2, 7, 30)) -> str:
    """Return the SHA-256 of a session's outputs."""
    digest = hashlib.sha256()
    for feed in _batches(session, rows):
        digest.update(session.run(None, feed)[0].tobytes())
    return digest.hexdigest()


def digest(path: str) -> str:
    """Return the digest of a model's outputs in an ordinary session."""
    return _digest(small.session(Path(path)))


def hammer(path: str, threads: str, runs: str) -> dict[str, int]:
    """Run one session from several threads at once.

    Returns:
        How many runs were made, and how many gave other bytes than the first.
    """
    session = small.session(Path(path), small.options(threads=2))
    feeds = _batches(session, (1, 2, 3, 5, 8, 13))
    expected = [session.run(None, feed)[0].tobytes() for feed in feeds]

    def work(_: int) -> int:
        wrong = 0
        for number in range(int(runs)):
            (y,) = session.run(None, feeds[number % len(feeds)])
            wrong += y.tobytes() != expected[number % len(feeds)]
        return wrong

    with ThreadPoolExecutor(int(threads)) as pool:
        wrong = sum(pool.map(work, range(int(threads))))
    return {"runs": int(threads) * int(runs), "wrong": wrong}


def come_and_go(path: str, sessions: str, residency: str) -> list[dict[str, int]]:
    """Create, run and destroy sessions in a loop.

    Returns:
        After every 20 sessions: private memory in bytes, threads and open files of this process.
    """
    samples = []
    for number in range(int(sessions)):
        config = {"mcd.residency": residency}
        session = small.session(Path(path), small.options(threads=2, spin=False, config=config))
        session.run(None, _batches(session, (1 + number % 5,))[0])
        del session
        if number % 20 == 19:
            gc.collect()
            # Freed memory goes back to the system, so that what is left is in use.
            ctypes.CDLL(None).malloc_trim(0)
            samples.append(
                {
                    "private": memory("/proc/self/smaps_rollup")["private"],
                    "threads": entries("/proc/self/task"),
                    "files": entries("/proc/self/fd"),
                }
            )
    return samples


def entries(folder: str) -> int:
    """Count what is in a folder."""
    return sum(1 for _ in Path(folder).iterdir())


def memory(path: str, of: str = "") -> dict[str, int]:
    """Add up, in bytes, what /proc tells of the mappings whose line has ``of`` in it."""
    names = {
        "Rss": "rss", "Pss": "pss", "Private_Clean": "private", "Private_Dirty": "private", "Anonymous": "anonymous",
    }  # fmt: skip
    totals = dict.fromkeys(names.values(), 0)
    counts = False
    for line in Path(path).read_text().splitlines():
        field, *rest = line.split()
        if field.endswith(":"):
            if counts and field[:-1] in names:
                totals[names[field[:-1]]] += 1024 * int(rest[0])
        else:
            counts = of in line
    return totals


def pooled(path: str, residency: str) -> dict[str, Any]:
    """Open a session of a model, then three more at once, and close them one by one.

    Returns:
        Anonymous memory in bytes with one session, with four, and with none, and the different digests of outputs.
    """

    def opened(_: int) -> ort.InferenceSession:
        given = small.options(threads=1, config={"mcd.residency": residency})
        session = ort.InferenceSession(path, given, providers=["CPUExecutionProvider"])
        digests.add(_digest(session))
        return session

    def anonymous() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return memory("/proc/self/smaps_rollup")["anonymous"]

    digests: set[str] = set()
    sessions = [opened(0)]
    sizes = [anonymous()]
    with ThreadPoolExecutor(3) as pool:
        sessions += pool.map(opened, range(3))
    sizes.append(anonymous())
    while sessions:
        del sessions[0]
        digests.update(map(_digest, sessions))
    return {"sizes": [*sizes, anonymous()], "digests": sorted(digests)}


def share(path: str) -> dict[str, Any]:
    """Open a model, run it, and wait; measure the mapping of its data file when told to, and end when told to.

    Returns:
        The digest of the outputs, and the mapping's resident, proportional and private bytes.
    """
    session = small.session(Path(path), small.options(threads=1))
    digest = _digest(session)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sizes = memory("/proc/self/smaps", str(Path(path).with_suffix(".onnx_data")))
    sys.stdout.write("measured\n")
    sys.stdout.flush()
    sys.stdin.readline()
    return {"digest": digest, **sizes}


def odd_threads(path: str) -> dict[str, str]:
    """Run a model under odd settings of threads and return the digest of its outputs under each."""
    found = {}
    for threads in range(1, 17):
        for spin in (True, False):
            given = small.options(threads=threads, spin=spin)
            found[f"{threads} threads, spinning {spin}"] = _digest(small.session(Path(path), given))
    for threads, inter in itertools.product((1, 2, 5), (1, 2, 8)):
        given = small.options(threads=threads, spin=threads == 2)
        given.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        given.inter_op_num_threads = inter
        found[f"{threads} threads, {inter} nodes at a time"] = _digest(small.session(Path(path), given))
    for key, value in {
        "session.dynamic_block_base": "4",
        "session.force_spinning_stop": "1",
        "session.intra_op_thread_affinities": "1;1",
    }.items():
        given = small.options(threads=3, spin=True, config={key: value})
        found[f"{key} {value}"] = _digest(small.session(Path(path), given))
    return found


def cancel(path: str, tries: str, parallel: str) -> dict[str, int]:
    """Terminate runs from another thread, at many moments, and run again undisturbed after each.

    Returns:
        How many runs ended with an error, and how many with a result; how many of these and of the undisturbed ones
        gave other bytes.
    """
    given = small.options(threads=2)
    if parallel == "True":
        given.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        given.inter_op_num_threads = 2
    session = small.session(Path(path), given)
    (feed,) = _batches(session, (1000,))
    expected = session.run(None, feed)[0].tobytes()
    usual = min(timeit.repeat(lambda: session.run(None, feed), number=1, repeat=5))
    counts = dict.fromkeys(("cancelled", "finished", "wrong"), 0)
    for number in range(int(tries)):
        run = ort.RunOptions()
        timer = threading.Timer(usual * number / int(tries), setattr, (run, "terminate", True))
        timer.start()
        try:
            (y,) = session.run(None, feed, run)
            counts["finished"] += 1
            counts["wrong"] += y.tobytes() != expected
        except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions share no base class)
            counts["cancelled" if "terminate" in str(error) else "wrong"] += 1
        timer.cancel()
        timer.join()
        counts["wrong"] += session.run(None, feed)[0].tobytes() != expected
    return counts


def shared_pool(path: str, threads: str) -> dict[str, Any]:
    """Run several sessions at once that all use one pool of threads.

    Returns:
        The different digests of their outputs, and how many threads the sessions added.
    """
    ort.set_global_thread_pool_sizes(int(threads), int(threads))
    before = entries("/proc/self/task")
    sessions = []
    for _ in range(4):
        given = small.options(threads=0)
        given.use_per_session_threads = False
        sessions.append(small.session(Path(path), given))
    added = entries("/proc/self/task") - before
    with ThreadPoolExecutor(len(sessions)) as pool:
        found = list(pool.map(_digest, sessions * 6))
    return {"found": sorted(set(found)), "added": added}
