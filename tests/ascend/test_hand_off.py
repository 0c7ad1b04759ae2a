"""Nodes on a device: the hand-off to CANN's interface, with the strict stand-in as CANN."""

import gc
import itertools
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from acl_runtime import FUNCTIONS, Acl, Problem
from onnx import TensorProto, helper, numpy_helper
from samples import ROOT

import mcd_graph

M, K, N = 5, 320, 128
#: Calls of one kind that a session of one node may make.
MANY = 30
#: Functions that give back; what they fail to give back is lost.
RELEASES = ("aclDestroyTensor", "aclDestroyIntArray", "aclDestroyAclOpExecutor", "aclrtFree", "aclrtDestroyStream")
CALLS = tuple(name for name in FUNCTIONS if name not in RELEASES and not name.startswith("mcd"))
ROOTS = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "MCD_ASCEND_LIBRARY")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acl]:
    """The stand-in that sessions find in the place of CANN, behaving as the public implementation."""
    monkeypatch.setenv("MCD_ACLNN_STRICT", "1")
    acl = Acl(tmp_path)
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", acl.path)
    yield acl
    gc.collect()
    acl.ok("mcdAclnnFail", b"")
    assert acl.mcdAclnnLiveObjects() == acl.lost
    acl.aclFinalize()  # fails where no session came so far


@pytest.fixture
def problem() -> Problem:
    return Problem.random(M, K, N)


def node_inputs(problem: Problem, name: str) -> dict[str, np.ndarray]:
    packed = mcd_graph.pack_weight(problem.w, tiling=(8, 8))
    inputs = {
        f"{name}.x2": np.asarray(packed.x2),
        f"{name}.compress_index": packed.compress_index,
        f"{name}.deq_scale": problem.words(),
    }
    if problem.bias is not None:
        inputs[f"{name}.bias"] = problem.bias
    return inputs


def model(problems: dict[str, Problem], **changes: Any) -> bytes:
    """One node for each problem, all fed by x1. ``changes``: arrays by input, or attributes, of every node."""
    attributes = {"compress_info": changes.pop("compress_info", None)}
    fed = changes.pop("fed", ())
    x1_type = changes.pop("x1_type", TensorProto.INT8)
    nodes, tensors, outputs = [], {}, []
    inputs = [helper.make_tensor_value_info("x1", x1_type, None)]
    for name, problem in problems.items():
        arrays = node_inputs(problem, name)
        for key, array in changes.items():
            arrays[f"{name}.{key}"] = array
        n, k = problem.w.shape
        order = ["x2", "compress_index", "deq_scale", "bias", "offset_w", "x1_zero_point", "w_zero_point", "addend"]
        names = [f"{name}.{part}" if f"{name}.{part}" in arrays else "" for part in order]
        nodes.append(
            helper.make_node(
                "MatmulCompressDequant",
                ["x1", *names],
                [name],
                name=name,
                domain="mcd",
                compress_info=attributes["compress_info"] or [8, 8, k, n, 1],
            )
        )
        for key in fed:
            array = arrays.pop(f"{name}.{key}")
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(f"{name}.{key}", kind, array.shape))
        tensors.update(arrays)
        out_type = TensorProto.FLOAT if arrays.get(f"{name}.deq_scale", np.uint64(0)).dtype == np.float32 else None
        outputs.append(helper.make_tensor_value_info(name, out_type or TensorProto.FLOAT16, None))
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mcd", 1)]
    serialised: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return serialised


def open_session(
    serialised: bytes, where: str = "ascend:0", severity: int = 4, rows: str | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.add_session_config_entry("mcd.device", where)
    if rows is not None:
        options.add_session_config_entry("mcd.ascend.max_rows", rows)
    options.register_custom_ops_library(mcd_graph.get_library_path())
    return ort.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])


def check(session: ort.InferenceSession, problem: Problem, x1: np.ndarray | None = None) -> None:
    x1 = problem.x1 if x1 is None else x1
    (found,) = session.run(None, {"x1": x1})
    rows = x1.reshape(-1, x1.shape[-1])
    wanted = Problem(rows, problem.w, problem.bias, problem.scale).expected()
    assert found.dtype == np.float16
    assert found.shape == (*x1.shape[:-1], problem.w.shape[0])
    assert found.tobytes() == wanted.tobytes()


def refusal(serialised: bytes, where: str = "ascend:0") -> str:
    with pytest.raises(Exception, match="MatmulCompressDequant") as caught:  # onnxruntime's have no common base
        open_session(serialised, where)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Results


@pytest.mark.parametrize(("k", "n"), [(320, 128), (512, 192), (1024, 1024)])
def test_the_result_is_numpys(device: Acl, k: int, n: int) -> None:
    problem = Problem.random(7, k, n, seed=k)
    check(open_session(model({"y": problem})), problem)


def test_the_device_gives_what_the_cpu_gives(device: Acl, problem: Problem) -> None:
    serialised = model({"y": problem})
    feeds = {"x1": problem.x1}
    results = [open_session(serialised, where).run(None, feeds)[0].tobytes() for where in ("ascend:0", "cpu")]
    assert results[0] == results[1] == problem.expected().tobytes()


def test_any_number_of_rows_through_one_session(device: Acl, problem: Problem) -> None:
    """Rows above 256 go in several launches; buffers grow and are used again."""
    session = open_session(model({"y": problem}))
    rng = np.random.default_rng(3)
    for shape in [(1,), (300,), (256,), (257,), (2, 3), (0,), (), (600,), (2, 0), (5,)]:
        check(session, problem, rng.integers(-128, 128, (*shape, K), dtype=np.int8))


def test_forms_of_bias_and_scale(device: Acl, problem: Problem) -> None:
    bias, scale = problem.bias, problem.scale
    problem.bias = None
    check(open_session(model({"y": problem})), problem)
    problem.bias, problem.scale = bias, scale[:1]
    check(open_session(model({"y": problem})), problem)
    problem.scale = scale
    check(open_session(model({"y": problem}, deq_scale=problem.words()[0], bias=bias.reshape(1, -1))), problem)


def test_nodes_share_a_stream_and_buffers(device: Acl, problem: Problem) -> None:
    """Uploaded once per node; whatever a run needs stays, and all goes with the last session."""
    other = Problem(problem.x1, *dataclass_tail(Problem.random(M, K, 192, seed=1)))
    session = open_session(model({"a": problem, "b": other}))
    per_node, shared = 4 + 4 + 1, 1  # tensors, their memory, the list; the stream
    assert device.mcdAclnnLiveObjects() == 2 * per_node + shared
    buffers = 3
    for _ in range(3):
        a, b = session.run(None, {"x1": problem.x1})
        assert a.tobytes() == problem.expected().tobytes()
        assert b.tobytes() == other.expected().tobytes()
        assert device.mcdAclnnLiveObjects() == 2 * per_node + shared + buffers
    second = open_session(model({"y": problem}))
    assert device.mcdAclnnLiveObjects() == 3 * per_node + shared + buffers
    del session
    gc.collect()
    assert device.mcdAclnnLiveObjects() == per_node + shared + buffers
    check(second, problem)
    del second
    gc.collect()
    assert device.mcdAclnnLiveObjects() == 0


def dataclass_tail(problem: Problem) -> tuple[Any, Any, Any]:
    return problem.w, problem.bias, problem.scale


def test_a_run_copies_the_activations_and_the_result_only(device: Acl, problem: Problem) -> None:
    session = open_session(model({"y": problem}))
    device.ok("mcdAclnnFail", b"aclrtMemcpy:3")
    check(session, problem)
    with pytest.raises(Exception, match="aclrtMemcpy returned 500001"):
        check(session, problem)


def test_a_bias_computed_at_run_time_is_copied_with_the_activations(device: Acl, problem: Problem) -> None:
    """Dynamically quantised models have it: the zero point of their activations becomes a part of the bias."""
    session = open_session(model({"y": problem}, fed=["bias"]))
    for seed, m in enumerate((1, 300, 5)):
        other = Problem.random(m, K, N, seed=seed)
        (found,) = session.run(None, {"x1": other.x1, "y.bias": other.bias})
        assert found.tobytes() == Problem(other.x1, problem.w, other.bias, problem.scale).expected().tobytes()


def test_threads_take_turns(device: Acl, problem: Problem) -> None:
    session = open_session(model({"y": problem}))
    inputs = [Problem.random(m, K, N, seed=m).x1 for m in (1, 40, 300)]
    failures = []

    def work(x1: np.ndarray) -> None:
        try:
            for _ in range(10):
                check(session, problem, x1)
        except BaseException as error:  # noqa: BLE001 - a thread has no other way to tell
            failures.append(error)

    threads = [threading.Thread(target=work, args=(x1,)) for x1 in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---------------------------------------------------------------------------------------------------------------------
# Failures


def test_failures_with_a_bias_that_is_computed(device: Acl, problem: Problem) -> None:
    """It takes one allocation at the first run, and one copy and one description at every run."""
    serialised = model({"y": problem}, fed=["bias"])
    feeds = {"x1": problem.x1, "y.bias": problem.bias}
    for function, count in (("aclrtMalloc", 4), ("aclrtMemcpy", 3), ("aclCreateTensor", 3)):
        met = []
        for number in range(1, MANY):
            session = open_session(serialised)
            device.ok("mcdAclnnFail", f"{function}:{number}".encode())
            try:
                (found,) = session.run(None, feeds)
            except Exception as error:  # noqa: BLE001 - onnxruntime's own
                message = str(error)
                assert f"{function}: failed on request" in message
                met.append(number)
                (found,) = session.run(None, feeds)
            device.ok("mcdAclnnFail", b"")
            assert found.tobytes() == problem.expected().tobytes()
            del session
            gc.collect()
            assert device.mcdAclnnLiveObjects() == 0, (function, number)
            if number not in met:
                break
        assert met == list(range(1, count + 1)), function


def test_failures_at_every_call_of_a_session_s_creation(device: Acl, problem: Problem) -> None:
    serialised = model({"y": problem})
    met = set()
    for function in CALLS:
        for number in itertools.count(1):
            assert number < MANY
            device.ok("mcdAclnnFail", f"{function}:{number}".encode())
            try:
                session = open_session(serialised)
            except Exception as error:  # noqa: BLE001 - onnxruntime's own
                message = str(error)
                assert 'MatmulCompressDequant node "y": on ascend:0: ' in message
                assert f"{function} returned " in message
                assert f"{function}: failed on request" in message
                assert device.mcdAclnnLiveObjects() == 0, (function, number)
                met.add((function, number))
                continue
            device.ok("mcdAclnnFail", b"")
            check(session, problem)
            del session
            gc.collect()
            break
    made = [("aclrtMalloc", 4), ("aclrtMemcpy", 4), ("aclCreateTensor", 4), ("aclCreateIntArray", 1)]
    made += [("aclInit", 1), ("aclrtSetDevice", 1), ("aclrtCreateStream", 1)]
    assert met == {(function, number) for function, count in made for number in range(1, count + 1)}


def test_failures_at_every_call_of_a_run(device: Acl, problem: Problem) -> None:
    """The session goes on, with nothing left behind; 300 rows take two launches."""
    session = open_session(model({"y": problem}))
    x1 = np.random.default_rng(5).integers(-128, 128, (300, K), dtype=np.int8)
    before = device.mcdAclnnLiveObjects()
    met = set()
    for function in (*CALLS, "execution"):
        for number in itertools.count(1):
            assert number < MANY
            device.ok("mcdAclnnFail", f"{function}:{number}".encode())
            if function == "aclrtMalloc":  # the first run is the one that allocates
                del session
                gc.collect()
                device.ok("mcdAclnnFail", b"")
                session = open_session(model({"y": problem}))
                device.ok("mcdAclnnFail", f"{function}:{number}".encode())
            try:
                (found,) = session.run(None, {"x1": x1})
            except Exception as error:  # noqa: BLE001 - onnxruntime's own
                message = str(error)
                assert 'MatmulCompressDequant node "y": ' in message
                assert "failed on request" in message
                met.add((function, number))
            else:
                assert found.tobytes() == Problem(x1, problem.w, problem.bias, problem.scale).expected().tobytes()
                break
            device.ok("mcdAclnnFail", b"")
            check(session, problem, x1)
            assert device.mcdAclnnLiveObjects() == before + 3, (function, number)
    get, run = "aclnnMatmulCompressDequantGetWorkspaceSize", "aclnnMatmulCompressDequant"
    made = [("aclrtSetDevice", 1), ("aclrtMalloc", 3), ("aclrtMemcpy", 2), ("aclCreateTensor", 4), (get, 2), (run, 2)]
    made += [("aclSetAclOpExecutorRepeatable", 2), ("aclrtSynchronizeStream", 1), ("execution", 2)]
    assert met == {(function, number) for function, count in made for number in range(1, count + 1)}


@pytest.mark.parametrize("function", RELEASES)
def test_what_cannot_be_given_back_is_lost_and_no_more(device: Acl, problem: Problem, function: str) -> None:
    serialised = model({"y": problem})
    session = open_session(serialised)
    device.ok("mcdAclnnFail", f"{function}:1".encode())
    check(session, problem)
    del session
    gc.collect()
    device.lost = 1
    assert device.mcdAclnnLiveObjects() == device.lost
    check(open_session(serialised), problem)


def test_a_damaged_weight_is_found_when_the_session_is_made(device: Acl, problem: Problem) -> None:
    packed = mcd_graph.pack_weight(problem.w, tiling=(8, 8))
    damaged = np.array(packed.x2)
    damaged[-100] ^= 1
    message = refusal(model({"y": problem}, x2=damaged))
    assert 'weight "y.x2"' in message
    assert "checksum" in message


def test_wrong_activations(device: Acl, problem: Problem) -> None:
    session = open_session(model({"y": problem}))
    with pytest.raises(Exception, match=re.escape("x1: has shape [2, 64] instead of (..., 320)")):
        session.run(None, {"x1": np.zeros((2, 64), np.int8)})


# ---------------------------------------------------------------------------------------------------------------------
# Nodes that cannot run there

REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "runtime form": (
        {"deq_scale": np.ones(N, np.float32)},
        "only nodes with a uint64 deq_scale run there, and float16 output; mcd ascend export makes such of a model",
    ),
    "zero point": ({"x1_zero_point": np.array(3, np.int8)}, "x1_zero_point: must be absent there"),
    "addend": ({"addend": np.ones(N, np.float32)}, "addend: must be absent there"),
    "unsigned": ({"x1_type": TensorProto.UINT8}, "x1: is uint8 instead of int8"),
    "computed scale": ({"fed": ["deq_scale"]}, "deq_scale: must be an initializer there"),
    "negative scale": (
        {"deq_scale": np.full(N, 0xBF800000, np.uint64)},
        "deq_scale: has -1; Ascend requires positive scales",
    ),
    "zero scale": ({"deq_scale": np.zeros(N, np.uint64)}, "deq_scale: has 0; Ascend requires positive scales"),
    "infinite scale": (
        {"deq_scale": np.full(N, 0x7F800000, np.uint64)},
        "deq_scale: has inf; Ascend requires positive scales",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_node_of_another_form(device: Acl, problem: Problem, case: str) -> None:
    changes, reason = REASONS[case]
    serialised = model({"y": problem}, **changes)
    message = refusal(serialised)
    assert 'MatmulCompressDequant node "y": on ascend:0: ' in message
    assert reason in message
    session = open_session(serialised, "ascend:0,cpu")
    assert device.mcdAclnnLiveObjects() == 0
    assert session is not None


@pytest.mark.parametrize(("k", "n"), [(256, 128), (320, 64), (352, 128), (320, 144)])
def test_a_weight_beyond_the_limits(device: Acl, k: int, n: int) -> None:
    problem = Problem.random(2, k, n)
    serialised = model({"y": problem})
    assert f"compress_info is [8, 8, {k}, {n}, 1] instead of" in refusal(serialised)
    check(open_session(serialised, "ascend:0,cpu"), problem)


def test_what_cannot_run_there_runs_on_the_cpu_and_says_so(
    device: Acl, problem: Problem, capfd: pytest.CaptureFixture[str]
) -> None:
    small = Problem(problem.x1, problem.w[:64], problem.bias[:64], problem.scale[:64])
    session = open_session(model({"large": problem, "small": small}), "ascend:0,cpu", severity=2)
    large_y, small_y = session.run(None, {"x1": problem.x1})
    assert large_y.tobytes() == problem.expected().tobytes()
    assert small_y.tobytes() == small.expected().tobytes()
    text = capfd.readouterr().err
    assert 'node "small": on ascend:0: compress_info is [8, 8, 320, 64, 1]' in text
    assert "the node runs on the CPU" in text
    assert 'node "large"' not in text
    assert device.mcdAclnnLiveObjects() > 0


def test_a_session_is_warned_once(device: Acl, problem: Problem, capfd: pytest.CaptureFixture[str]) -> None:
    small = Problem(problem.x1, problem.w[:64], problem.bias[:64], problem.scale[:64])
    serialised = model({"one": small, "two": small, "three": small})
    for _ in range(2):  # each of them
        session = open_session(serialised, "ascend:0,cpu", severity=2)
        text = capfd.readouterr().err
        assert text.count("the node runs on the CPU, and so does any other of this session") == 1
        assert "ascend:0,cpu" not in text
        del session


def test_rows_of_a_call(device: Acl, problem: Problem) -> None:
    """By default the document's 256; a failure at a call that there is or is not tells how many there are."""
    serialised = model({"y": problem})
    x1 = Problem.random(700, *problem.w.shape[::-1]).x1
    for rows, calls in [(None, 3), ("256", 3), ("350", 2), ("2064", 1)]:
        session = open_session(serialised, rows=rows)
        device.ok("mcdAclnnFail", f"aclnnMatmulCompressDequant:{calls + 1}".encode())
        check(session, problem, x1)
        device.ok("mcdAclnnFail", f"aclnnMatmulCompressDequant:{calls}".encode())
        with pytest.raises(Exception, match="failed on request"):
            check(session, problem, x1)
        device.ok("mcdAclnnFail", b"")
        check(session, problem, x1)
    for wrong in ("0", "many"):
        with pytest.raises(Exception, match=f'mcd.ascend.max_rows is "{wrong}", not a number of rows from 1 on'):
            open_session(serialised, rows=wrong)


def test_the_cpu_says_where_a_weight_of_canns_codec_runs(problem: Problem) -> None:
    message = refusal(model({"y": problem}, x2=np.zeros(8320, np.int8)), "cpu")
    assert 'only a device reads it: set session config entry mcd.device to "ascend:0"' in message


def test_there_is_no_other_device(device: Acl, problem: Problem) -> None:
    serialised = model({"y": problem})
    assert "aclrtSetDevice returned 100000: aclrtSetDevice: there is no device 7" in refusal(serialised, "ascend:7")
    check(open_session(serialised, "ascend:7,cpu"), problem)


@pytest.mark.parametrize("where", ["", "ascend", "ascend:x", "npu:0", "ascend:0,gpu"])
def test_places_that_are_none(problem: Problem, where: str) -> None:
    with pytest.raises(Exception, match=re.escape(f'mcd.device is "{where}", not "cpu", "ascend:0" or')):
        open_session(model({"y": problem}), where)


# ---------------------------------------------------------------------------------------------------------------------
# Finding CANN


def build(path: Path, functions: "list[str] | tuple[str, ...]") -> None:
    """A library with functions of CANN's names: only `aclInit` has a result that matters here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "".join(f"int {function}(void) {{ return 0; }}\n" for function in functions)
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=source, text=True, check=True)


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ROOTS:
        monkeypatch.delenv(variable, raising=False)
    if any(Path(root).exists() for root in ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit")):
        pytest.skip("CANN is installed here")


@pytest.mark.usefixtures("no_device")
def test_without_cann(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    serialised = model({"y": problem})
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/nowhere")
    message = refusal(serialised)
    assert "CANN was not found: searched for libacl_rt.so or libascendcl.so in the loader's path" in message
    assert "/opt/nowhere/lib64, /usr/local/Ascend/cann/lib64" in message
    assert "set_env.sh" in message
    assert "ascend:0,cpu" in message
    check(open_session(serialised, "ascend:0,cpu"), problem)


@pytest.mark.usefixtures("no_device")
def test_libraries_that_do_not_load(problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serialised = model({"y": problem})
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", str(tmp_path / "missing.so"))
    message = refusal(serialised)
    assert f"{tmp_path / 'missing.so'}, which MCD_ASCEND_LIBRARY names: " in message
    build(tmp_path / "partial.so", ["aclInit"])
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", str(tmp_path / "partial.so"))
    assert f"none of {tmp_path / 'partial.so'} has the function aclrtSetDevice" in refusal(serialised)


GENERATIONS = [
    ("libascendcl.so", "libopapi.so"),
    ("libascendcl.so", "libopapi_math.so"),
    ("libacl_rt.so", "libopapi_nn.so"),
]


@pytest.mark.usefixtures("no_device")
@pytest.mark.parametrize(("runtime", "operators"), GENERATIONS)
def test_the_libraries_of_every_release_are_found_and_get_no_weight_of_ours(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str, operators: str
) -> None:
    """What is found is not the stand-in, so the open codec must not reach it."""
    names = [name for name in FUNCTIONS if not name.startswith("mcd")]
    base = [name for name in names if name.startswith(("aclCreate", "aclDestroy", "aclSet", "aclnnInit", "aclnnFin"))]
    operator = [name for name in names if name.startswith("aclnnMatmul")]
    lib64 = tmp_path / "cann" / "lib64"
    build(lib64 / runtime, [name for name in names if name not in {*base, *operator}])
    build(lib64 / "libnnopbase.so", base)
    serialised = model({"y": problem})
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    message = refusal(serialised)
    assert "CANN was not found: searched for libopapi_nn.so or libopapi_math.so or libopapi.so" in message
    build(lib64 / operators, operator)
    message = refusal(serialised)
    assert "the weight was written with the open codec, which no device reads" in message
    assert "mcd ascend export --compressor" in message
    check(open_session(serialised, "ascend:0,cpu"), problem)


def test_the_devices_own_weights_do_not_reach_the_stand_in(device: Acl, problem: Problem) -> None:
    serialised = model({"y": problem}, x2=np.zeros(8320, np.int8))
    assert "was not written with the open codec" in refusal(serialised)
    message = refusal(serialised, "ascend:0,cpu")  # the CPU cannot either, and both reasons are told
    assert "was not written with the open codec" in message
    assert "not an mcd stream" in message


def test_a_library_of_another_kind_is_left_alone(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions on the CPU never look for CANN."""
    monkeypatch.setenv("MCD_ASCEND_LIBRARY", os.devnull)
    check(open_session(model({"y": problem}), "cpu"), problem)


def test_python_in_the_document_runs(device: Acl, problem: Problem, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    (out / "model.onnx").write_bytes(model({"y": problem}))
    monkeypatch.chdir(out)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reference" / "aclnn.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - our own words
    assert device.mcdAclnnLiveObjects() > 0
    check(names["session"], problem)
