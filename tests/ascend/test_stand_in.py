"""libmcd_aclnn.so through its C interface: results, statuses, the two modes, lifetimes, order."""

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from ctypes import c_void_p
from itertools import chain
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from acl_runtime import FLOAT16, INT8, INT32, TO_DEVICE, TO_HOST, UINT64, Acl, Call, Problem

from mcd_graph.ascend.codec import to_nz
from mcd_graph.codec.weights import pack_weight

GET = "aclnnMatmulCompressDequantGetWorkspaceSize"
RUN = "aclnnMatmulCompressDequant"
NULL, INVALID, RUNTIME, NO_EXECUTOR = 161001, 161002, 361001, 561101
ACL_INVALID, UNINITIALIZED, REPEATED, BAD_ALLOC, FAILURE = 100000, 100001, 100002, 200000, 500001
M, K, N = 5, 320, 128


@pytest.fixture
def problem() -> Problem:
    return Problem.random(M, K, N)


@pytest.fixture
def call(acl: Acl, problem: Problem) -> Call:
    return Call(acl, problem)


@pytest.fixture
def strict(strict_acl: Acl, problem: Problem) -> Call:
    return Call(strict_acl, problem)


# ---------------------------------------------------------------------------------------------------------------------
# Results


@pytest.mark.parametrize(("m", "k", "n"), [(1, 320, 128), (16, 320, 192), (257, 512, 128), (3, 1024, 1024)])
def test_the_result_is_numpys(acl: Acl, m: int, k: int, n: int) -> None:
    problem = Problem.random(m, k, n, seed=k)
    call = Call(acl, problem)
    stream = acl.stream()
    assert call.run(stream).tobytes() == problem.expected().tobytes()
    call.close()
    acl.ok("aclrtDestroyStream", stream)
    assert acl.mcdAclnnLiveObjects() == 0


def test_strict_mode_computes_the_same(strict: Call, problem: Problem) -> None:
    assert strict.run(strict.acl.stream()).tobytes() == problem.expected().tobytes()


def test_the_devices_own_stream_is_null(call: Call, problem: Problem) -> None:
    assert call.run(None).tobytes() == problem.expected().tobytes()


def padded(call: Call, size: int) -> np.ndarray:
    """The call's x2 in front of what nobody has written, as vLLM-Ascend's loader leaves its parameter."""
    stream = np.asarray(pack_weight(Problem.random(M, K, N).w, tiling=(8, 8)).x2)
    assert stream.size < size
    return np.concatenate([stream, np.random.default_rng(1).integers(-128, 128, size - stream.size, np.int8)])


@pytest.mark.parametrize("library", ["acl", "strict_acl"])
def test_the_stream_ends_where_its_header_says(library: str, problem: Problem, request: pytest.FixtureRequest) -> None:
    call = Call(request.getfixturevalue(library), problem)
    call.replace("x2", padded(call, N * K))
    assert call.run(None).tobytes() == problem.expected().tobytes()


def test_a_stream_that_is_cut_off(call: Call) -> None:
    whole = padded(call, N * K)
    call.replace("x2", whole[:4096])
    assert "x2" in (message := fails_on_the_stream(call))
    assert "4096" in message
    call.replace("x2", whole[:40])
    assert "40" in fails_on_the_stream(call)


def test_large_products_become_infinite(call: Call, problem: Problem, capfd: pytest.CaptureFixture[str]) -> None:
    scale = np.full(N, 1e30, np.float32)
    call.replace("deqScale", scale.view(np.uint32).astype(np.uint64))
    sums = (problem.x1.astype(np.int64) @ problem.w.T.astype(np.int64) + problem.bias).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = (sums * scale).astype(np.float16)
    assert np.isinf(expected).all()
    assert call.run(None).tobytes() == expected.tobytes()
    assert "every number of the result is infinite or no number" in capfd.readouterr().err


def test_a_repeatable_executor_runs_until_it_is_destroyed(call: Call, problem: Problem) -> None:
    acl = call.acl
    call.prepare()
    acl.ok("aclSetAclOpExecutorRepeatable", call.executor)
    for seed in (1, 2):
        other = Problem.random(M, K, N, seed=seed)
        acl.ok("aclrtMemcpy", call.memory["x1"], M * K, other.x1.ctypes.data, M * K, TO_DEVICE)
        call.launch(None)
        acl.ok("aclrtSynchronizeStream", None)
        expected = Problem(other.x1, problem.w, problem.bias, problem.scale).expected()
        assert call.result().tobytes() == expected.tobytes()
    acl.ok("aclDestroyAclOpExecutor", call.executor)
    assert "destroyed already" in acl.refused(NO_EXECUTOR, "aclDestroyAclOpExecutor", call.executor)


# ---------------------------------------------------------------------------------------------------------------------
# First phase: what is refused, and what it says

NULLS = ["x1", "x2", "compressIndex", "deqScale", "out"]


@pytest.mark.parametrize("name", NULLS)
def test_a_null_tensor(call: Call, name: str) -> None:
    call.tensors[name] = None
    assert f"{name} is null" in call.acl.refused(NULL, GET, *call.first_phase())


def test_a_null_list_or_place(call: Call) -> None:
    arguments = list(call.first_phase())
    for at, name in ((7, "compressInfo"), (9, "workspaceSize"), (10, "executor")):
        changed = [*arguments[:at], None, *arguments[at + 1 :]]
        assert f"{name} is null" in call.acl.refused(NULL, GET, *changed)


def test_a_tensor_without_memory(call: Call) -> None:
    call.memory["x1"] = 0
    call.describe("x1", (M, K), INT8)
    assert "x1 has no memory" in call.acl.refused(NULL, GET, *call.first_phase())


def float_bias(call: Call) -> None:
    call.describe("bias", (N,), 0)


#: Name -> what is changed, and what is said about it.
INVALIDS: dict[str, tuple[Callable[[Call], object], str]] = {
    "x1 type": (lambda c: c.describe("x1", (M, K), 4), "x1 is ACL_UINT8 instead of ACL_INT8"),
    "x2 type": (lambda c: c.describe("x2", (100,), 4), "x2 is ACL_UINT8 instead of ACL_INT8"),
    "index type": (lambda c: c.describe("compressIndex", (16,), 4), "compressIndex is ACL_UINT8 instead of ACL_INT8"),
    "bias type": (float_bias, "bias is ACL_FLOAT instead of ACL_INT32"),
    "scale type": (lambda c: c.describe("deqScale", (N,), 9), "deqScale is ACL_INT64 instead of ACL_UINT64"),
    "out type": (lambda c: c.describe("out", (M, N), 27), "out is ACL_BF16 instead of ACL_FLOAT16"),
    "unknown type": (lambda c: c.describe("x1", (M, K), 99), "x1 is aclDataType 99 instead"),
    "x1 rank": (lambda c: c.describe("x1", (1, M, K), INT8), r"x1 has shape [1, 5, 320] instead of (m, k)"),
    "x2 rank": (lambda c: c.describe("x2", (1, 100), INT8), "x2 has shape [1, 100] instead of one dimension"),
    "k": (lambda c: c.set_info([8, 8, 384, N, 1]), "compressInfo[2], which is k, is 384"),
    "info too short": (lambda c: c.set_info([8, 8, K]), "compressInfo is [8, 8, 320] instead of"),
    "info too long": (lambda c: c.set_info([8, 8, K, N, 1, 0, 0, 0, 0]), "instead of [tilingK, tilingN, k, n, dir"),
    "tiling": (lambda c: c.set_info([8, 4, K, N, 1]), "tilingK and tilingN must be 8"),
    "direction": (lambda c: c.set_info([8, 8, K, N, 0]), "direction must be 1"),
    "n negative": (lambda c: c.set_info([8, 8, K, -N, 1]), "out of range"),
    "k odd": (lambda c: (c.describe("x1", (M, 288), INT8), c.set_info([8, 8, 288, N, 1])), "k is 288"),
    "k small": (lambda c: (c.describe("x1", (M, 256), INT8), c.set_info([8, 8, 256, N, 1])), "k is 256"),
    "n odd": (lambda c: c.set_info([8, 8, K, 160, 1]), "n is 160, and must be a multiple of 64"),
    "n small": (lambda c: c.set_info([8, 8, K, 64, 1]), "n is 64, and must be"),
    "out shape": (lambda c: c.describe("out", (N, M), FLOAT16), "out has shape [128, 5] instead of [5, 128]"),
    "bias shape": (lambda c: c.describe("bias", (N, 1), INT32), "bias has shape [128, 1] instead of [128] or [1, 128]"),
    "index shape": (lambda c: c.describe("compressIndex", (8,), INT8), "compressIndex has shape [8] instead of [16]"),
    "scale shape": (lambda c: c.describe("deqScale", (64,), UINT64), "deqScale has shape [64] instead of [128]"),
    "format": (lambda c: c.describe("x1", (M, K), INT8, layout=29), "x1 has format 29 instead of ACL_FORMAT_ND"),
    "strides": (lambda c: c.describe("out", (M, N), FLOAT16, strides=(1, M)), "only contiguous tensors"),
    "alignment": (
        lambda c: (c.memory.update(out=c.memory["out"] + 1), c.describe("out", (M, N), FLOAT16)),
        "which is not aligned",
    ),
    "overlap": (
        lambda c: (c.memory.update(out=c.memory["x1"]), c.describe("out", (M, N), FLOAT16)),
        "out and x1 share",
    ),
    "empty x2": (lambda c: c.describe("x2", (0,), INT8), "x2 is empty, and the weight is (128, 320)"),
    "offsetX": (lambda c: setattr(c, "offset_x", 1), "offsetX is 1 instead of 0"),
    "offsetW": (lambda c: c.tensors.update(offsetW=c.tensors["x1"]), "offsetW is not null"),
}


@pytest.mark.parametrize("case", INVALIDS)
def test_an_invalid_argument(call: Call, case: str) -> None:
    change, text = INVALIDS[case]
    change(call)
    assert text in call.acl.refused(INVALID, GET, *call.first_phase())


def test_handles_of_something_else(call: Call) -> None:
    acl = call.acl
    x1 = call.tensors["x1"]
    call.tensors["x1"] = call.info
    assert "it is an aclIntArray, not an aclTensor" in acl.refused(INVALID, GET, *call.first_phase())
    call.tensors["x1"] = 0x1000
    assert "it is no aclTensor of this library" in acl.refused(INVALID, GET, *call.first_phase())
    acl.ok("aclDestroyTensor", x1)
    call.tensors["x1"] = x1
    assert "x1 (0x" in (message := acl.refused(INVALID, GET, *call.first_phase()))
    assert "this aclTensor was destroyed already" in message


def test_impossible_descriptions(acl: Acl) -> None:
    for options, text in [
        ({"dims": (2, -1)}, "viewDims [2, -1] are impossible"),
        ({"dims": (1 << 40, 1 << 40)}, "are impossible"),
        ({"dims": (4,), "storage": (3,)}, "reach beyond storageDims [3]"),
        ({"dims": (4,), "offset": 1}, "reach beyond"),
        ({"dims": (4,), "offset": -1}, "offset -1 is negative"),
        ({"dims": (2, 2), "strides": (-1, 1)}, "stride -1 is negative"),
        ({"dims": (1,) * 9}, "viewDims has 9 elements, and the limit is 8"),
    ]:
        arguments = {"data_type": INT8, "data": 0, **options}
        assert acl.tensor(**arguments) is None  # type: ignore[arg-type]
        assert text in acl.message()
    assert acl.aclCreateTensor(None, 2, INT8, None, 0, 2, None, 2, None) is None
    assert "viewDims is null" in acl.message()
    assert acl.aclCreateIntArray(None, 5) is None
    assert "value is null" in acl.message()


# ---------------------------------------------------------------------------------------------------------------------
# Where document and implementation differ


def test_a_null_bias_is_zeros_by_the_document(acl: Acl, problem: Problem) -> None:
    problem.bias = None
    assert Call(acl, problem).run(None).tobytes() == problem.expected().tobytes()


def test_a_null_bias_is_an_error_strictly(strict_acl: Acl, problem: Problem) -> None:
    problem.bias = None
    assert "bias is null" in strict_acl.refused(NULL, GET, *Call(strict_acl, problem).first_phase())


def test_one_scale_is_for_all_by_the_document(acl: Acl, problem: Problem) -> None:
    problem.scale = problem.scale[:1]
    call = Call(acl, problem)
    assert call.run(None).tobytes() == problem.expected().tobytes()
    call.describe("deqScale", (1,), UINT64)
    assert call.run(None).tobytes() == problem.expected().tobytes()


@pytest.mark.parametrize("count", [1, 130])
def test_an_odd_number_of_scales_gives_zeros_strictly(
    strict: Call, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    strict.replace("deqScale", np.full((1, count), 0x3F800000, np.uint64))
    assert not strict.run(None).any()
    assert f"{count} is no multiple of 16" in capfd.readouterr().err


def test_the_number_of_scales_strictly(strict: Call, problem: Problem) -> None:
    many = np.concatenate([problem.words()[0], np.zeros(16, np.uint64)]).reshape(2, -1)
    strict.replace("deqScale", many)
    assert strict.run(None).tobytes() == problem.expected().tobytes()
    strict.replace("deqScale", many[0, :64])
    assert "would read beyond its end" in fails_on_the_stream(strict)


def test_offsets_are_ignored_strictly(strict: Call, problem: Problem) -> None:
    strict.offset_x = 1
    strict.tensors["offsetW"] = strict.tensors["x1"]
    assert strict.run(None).tobytes() == problem.expected().tobytes()


def test_info_is_read_up_to_n_strictly(strict: Call, problem: Problem) -> None:
    strict.set_info([8, 8, K, N])
    assert strict.run(None).tobytes() == problem.expected().tobytes()
    strict.set_info([8, 8, K])
    assert "compressInfo is [8, 8, 320]" in strict.acl.refused(INVALID, GET, *strict.first_phase())


def empty_x1(call: Call) -> None:
    call.describe("x1", (M, 0), INT8)
    call.describe("x2", (0,), INT8)
    call.describe("compressIndex", (0,), INT8)
    call.set_info([8, 8, 0, N, 1])


def test_empty_inputs_give_the_bias_by_the_document(call: Call, problem: Problem) -> None:
    empty_x1(call)
    expected = np.tile((problem.bias.astype(np.float32) * problem.scale).astype(np.float16), (M, 1))
    assert call.run(None).tobytes() == expected.tobytes()
    assert call.workspace_size.value == 0


def test_empty_inputs_give_zeros_strictly(strict: Call) -> None:
    empty_x1(strict)
    assert not strict.run(None).any()
    strict.close()


def test_an_empty_weight_gives_zeros_strictly(strict: Call) -> None:
    strict.describe("x2", (0,), INT8)
    assert not strict.run(None).any()


def test_no_rows(call: Call) -> None:
    call.describe("x1", (0, K), INT8)
    call.describe("out", (0, N), FLOAT16)
    call.prepare()
    call.launch(None)
    call.acl.ok("aclrtSynchronizeStream", None)


def test_signs_of_scales(acl: Acl, strict_acl: Acl, problem: Problem) -> None:
    """The document's recipe extends the sign of int32 bits; the public example fills up with zeros."""
    problem.scale *= -1
    extended = problem.scale.view(np.int32).astype(np.int64).view(np.uint64)
    call = Call(acl, problem)
    assert call.run(None).tobytes() == problem.expected().tobytes()
    call.replace("deqScale", extended)
    assert call.run(None).tobytes() == problem.expected().tobytes()
    call = Call(strict_acl, problem)
    call.replace("deqScale", extended)
    assert call.run(None).tobytes() == problem.expected().tobytes()


@pytest.mark.parametrize("high", [1 << 46, 0xFFFFFFFF << 32], ids=["torch_npu", "extended"])
def test_the_upper_half_of_scales_is_not_read_strictly(strict: Call, problem: Problem, high: int) -> None:
    strict.replace("deqScale", problem.words() | np.uint64(high))
    assert strict.run(None).tobytes() == problem.expected().tobytes()


def test_scales_that_are_not_finite_are_taken_strictly(strict: Call, problem: Problem) -> None:
    problem.scale[:2] = np.inf, np.nan
    strict.replace("deqScale", problem.words())
    out = strict.run(None)
    assert np.isinf(out[:, 0]).all()
    assert np.isnan(out[:, 1]).all()
    assert out[:, 2:].tobytes() == problem.expected()[:, 2:].tobytes()


def test_strides_are_followed_strictly(strict: Call, problem: Problem) -> None:
    """Every second row of x1, every third number of bias, and out by columns."""
    rows = np.zeros((M, 2, K), np.int8)
    rows[:, 0] = problem.x1
    strict.replace("x1", rows)
    strict.describe("x1", (M, K), INT8, strides=(2 * K, 1), storage=rows.shape)
    bias = np.zeros((N, 3), np.int32)
    bias[:, 1] = problem.bias
    strict.replace("bias", bias)
    strict.describe("bias", (1, N), INT32, strides=(3 * N, 3), offset=1, storage=bias.shape)
    strict.describe("out", (M, N), FLOAT16, strides=(1, M))
    found = strict.run(None).reshape(N, M).T
    assert found.tobytes() == problem.expected().tobytes()
    strict.close()


def test_activations_in_fractals_are_taken_strictly(strict: Call, problem: Problem) -> None:
    fractals = to_nz(problem.x1)
    strict.replace("x1", fractals)
    strict.describe("x1", (M, K), INT8, layout=29, storage=fractals.shape)
    assert strict.run(None).tobytes() == problem.expected().tobytes()
    strict.describe("x1", (M, K), INT8, layout=29, storage=(M, K))
    assert "its storage does not hold those of [5, 320]" in fails_on_the_stream(strict)


def test_sizes_beyond_the_documents_limits_are_taken_strictly(strict_acl: Acl) -> None:
    """Among them k = 256, as torch_npu's own test has it."""
    for m, k, n in [(3, 256, 128), (2, 96, 48), (300, 320, 16)]:
        problem = Problem.random(m, k, n)
        call = Call(strict_acl, problem)
        assert call.run(None).tobytes() == problem.expected().tobytes()
        call.close()


#: What the implementation does not check, and of which nobody can say what a device makes: the work fails.
UNKNOWN: dict[str, tuple[Callable[[Call], object], str]] = {
    "tiling": (lambda c: c.set_info([8, 4, K, N, 1]), "only tiles of 8 x 8 are known to work"),
    "n": (lambda c: c.set_info([8, 8, K, -N, 1]), "k and n are out of range"),
    "out shape": (lambda c: c.describe("out", (N, M), FLOAT16), "out has shape [128, 5]"),
    "out overlaps itself": (lambda c: c.describe("out", (M, N), FLOAT16, strides=(1, 1)), "and strides [1, 1]"),
    "out format": (lambda c: c.describe("out", (M, N), FLOAT16, layout=0), "out has format 0"),
    "x1 format": (lambda c: c.describe("x1", (M, K), INT8, layout=0), "x1 has format 0"),
    "bias shape": (lambda c: c.describe("bias", (N, 1), INT32), "bias has shape [128, 1] for 128 columns"),
    "index": (
        lambda c: c.describe("compressIndex", (8,), INT8),
        "compressIndex has 8 bytes, and the weight's tiles need",
    ),
    "x2 strides": (lambda c: c.describe("x2", (100,), INT8, strides=(2,), storage=(300,)), "x2 has strides [2]"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_nobody_knows_fails_on_the_stream_strictly(strict: Call, case: str) -> None:
    change, text = UNKNOWN[case]
    change(strict)
    message = fails_on_the_stream(strict)
    assert text in message
    assert "what a device does with it is not known" in message


def test_halves_to_floats_and_back(acl: Acl, strict_acl: Acl) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16).astype(np.float32)
    finite = np.isfinite(values)
    for library in (acl, strict_acl):
        for pattern, value in zip(bits[finite].tolist(), values[finite].tolist(), strict=True):
            assert library.aclFloat16ToFloat(pattern) == value
            assert library.aclFloatToFloat16(value) == pattern
    assert acl.aclFloat16ToFloat(0x7C00) == np.inf
    assert acl.aclFloatToFloat16(1e9) == 0x7C00
    assert np.isnan(acl.aclFloat16ToFloat(0x7E00))
    assert strict_acl.aclFloat16ToFloat(0x7C00) == 65536
    assert strict_acl.aclFloat16ToFloat(0xFC00) == -65536
    assert strict_acl.aclFloat16ToFloat(0x7E00) == 98304
    assert strict_acl.aclFloatToFloat16(1e9) == 0x7BFF
    assert strict_acl.aclFloatToFloat16(-np.inf) == 0xFBFF
    assert strict_acl.aclFloatToFloat16(np.nan) == 0x7BFF


# ---------------------------------------------------------------------------------------------------------------------
# Second phase, and what only the data tells


def test_an_executor_is_used_up(call: Call) -> None:
    call.prepare()
    call.launch(None)
    assert "this aclOpExecutor was destroyed already" in call.acl.refused(NO_EXECUTOR, RUN, *call.second_phase(None))
    assert "executor is null" in call.acl.refused(NULL, RUN, None, 0, None, None)


def test_workspace(call: Call) -> None:
    acl = call.acl
    for change, status, text in [
        (lambda: (None, call.workspace_size.value), NULL, "workspace is null, and"),
        (lambda: (call.workspace, call.workspace_size.value - 1), INVALID, "workspaceSize is"),
        (lambda: (call.memory["x1"], call.workspace_size.value), INVALID, "workspace and x1 share memory"),
        (lambda: (call.workspace + 64, call.workspace_size.value), RUNTIME, "workspace has"),
    ]:
        call.prepare()
        assert call.workspace_size.value > 0
        workspace, size = change()
        assert text in acl.refused(status, RUN, workspace, size, call.executor, None)
    on_host = acl.malloc(call.workspace_size.value, host=True)
    call.prepare()
    assert "not device memory" in acl.refused(RUNTIME, RUN, on_host, call.workspace_size.value, call.executor, None)


def test_tensors_in_memory_of_the_host(call: Call, problem: Problem) -> None:
    call.memory["x1"] = problem.x1.ctypes.data
    call.describe("x1", (M, K), INT8)
    call.prepare()
    message = call.acl.refused(RUNTIME, RUN, *call.second_phase(None))
    assert "x1: " in message
    assert "was never allocated here, so it is not device memory" in message


def test_a_tensor_larger_than_its_memory(call: Call) -> None:
    size = 1 << 20  # large enough to have no neighbours, which it might seem to share memory with
    call.memory["x2"] = call.acl.malloc(size)
    call.describe("x2", (size + 65,), INT8)
    call.prepare()
    assert f"x2 has {size + 65} bytes" in call.acl.refused(RUNTIME, RUN, *call.second_phase(None))


def test_tensors_live_until_the_second_phase(call: Call) -> None:
    call.prepare()
    call.acl.ok("aclDestroyTensor", call.tensors["bias"])
    assert "bias was destroyed before the second phase" in call.acl.refused(RUNTIME, RUN, *call.second_phase(None))


def fails_on_the_stream(call: Call) -> str:
    call.prepare()
    call.launch(None)
    return call.acl.refused(FAILURE, "aclrtSynchronizeStream", None)


def test_the_devices_weight_stream(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    """What the operator's public example embeds: 8320 zeros in the codec of the device."""
    call.replace("x2", np.zeros(8320, np.int8))
    call.replace("compressIndex", np.zeros(16, np.int8))
    message = fails_on_the_stream(call)
    assert "not a stream of the open codec" in message
    assert "CANN's own compressor" in message
    assert "`mcd ascend compress`" in message
    assert "not a stream of the open codec" in capfd.readouterr().err
    call.acl.ok("aclrtSynchronizeStream", None)  # told once


def test_a_damaged_weight(call: Call, problem: Problem) -> None:
    stream = call.acl.download(call.memory["x2"], np.empty(4096, np.int8))
    stream[-1] ^= 1
    call.acl.ok("aclrtMemcpy", call.memory["x2"], 4096, stream.ctypes.data, 4096, TO_DEVICE)
    assert "checksum" in fails_on_the_stream(call)


def test_a_weight_of_another_shape(call: Call) -> None:
    other = Call(call.acl, Problem.random(M, 384, N))
    call.tensors["x2"], call.tensors["compressIndex"] = other.tensors["x2"], other.tensors["compressIndex"]
    assert "compress_info is [8, 8, 320, 128, 1], but x2 holds [8, 8, 384, 128, 1]" in fails_on_the_stream(call)


def test_unsigned_weights(acl: Acl, problem: Problem) -> None:
    problem.w = problem.w.view(np.uint8)
    assert "x2 holds uint8 weights" in fails_on_the_stream(Call(acl, problem))


@pytest.mark.parametrize("word", [0x7F800000, 0x7FC00000, 0x1_0000_0000, 0x4000_3F80_0000, 0xFFFF_FFFF_3F80_0000])
def test_scales_that_are_none(call: Call, problem: Problem, word: int) -> None:
    words = problem.words()
    words[0, 3] = word
    call.replace("deqScale", words)
    assert f"deqScale[3] is {word:#018x}: " in fails_on_the_stream(call)


# ---------------------------------------------------------------------------------------------------------------------
# The runtime


def test_before_and_after(unopened: Acl) -> None:
    acl = unopened
    place = ctypes.byref(c_void_p())
    assert acl.message() == ""
    assert "before aclInit" in acl.refused(UNINITIALIZED, "aclrtSetDevice", 0)
    assert "before aclInit" in acl.refused(UNINITIALIZED, "aclFinalize")
    assert "not a file" in acl.refused(ACL_INVALID, "aclInit", b"/nowhere/acl.json")
    acl.ok("aclInit", b"")
    assert "called twice" in acl.refused(REPEATED, "aclInit", None)
    for name, arguments in [
        ("aclrtMalloc", (place, 1, 0)),
        ("aclrtMallocHost", (place, 1)),
        ("aclrtCreateStream", (place,)),
        ("aclrtFree", (8,)),
        ("aclrtSynchronizeStream", (None,)),
        ("aclrtMemcpy", (8, 1, 8, 1, 0)),
        ("aclrtMemcpyAsync", (8, 1, 8, 1, 0, None)),
    ]:
        assert "no device is set" in acl.refused(UNINITIALIZED, name, *arguments)
    assert "there is no device 1" in acl.refused(ACL_INVALID, "aclrtSetDevice", 1)
    assert "the device is not set" in acl.refused(ACL_INVALID, "aclrtResetDevice", 0)
    acl.ok("aclrtSetDevice", 0)
    acl.ok("aclrtResetDevice", 0)
    acl.ok("aclnnInit", None)
    acl.ok("aclnnFinalize")
    acl.ok("aclFinalize")
    assert "after aclFinalize" in acl.refused(UNINITIALIZED, "aclrtSetDevice", 0)
    acl.ok("aclInit", None)


def test_a_process_initializes_once_strictly(strict_acl: Acl) -> None:
    strict_acl.ok("aclFinalize")
    assert "again after aclFinalize" in strict_acl.refused(REPEATED, "aclInit", None)


def test_each_thread_sets_the_device_strictly(acl: Acl, strict_acl: Acl) -> None:
    statuses = []

    def allocate() -> None:
        place = ctypes.byref(c_void_p())
        statuses.extend(library.aclrtMalloc(place, 32, 0) for library in (acl, strict_acl))
        statuses.append(strict_acl.aclrtSetDevice(0))
        statuses.append(strict_acl.aclrtMalloc(place, 32, 0))

    thread = Thread(target=allocate)
    thread.start()
    thread.join()
    assert statuses == [0, UNINITIALIZED, 0, 0]


def test_null_pointers(acl: Acl) -> None:
    for name, arguments, text in [
        ("aclrtMalloc", (None, 1, 0), "the place for the address is null"),
        ("aclrtMallocHost", (None, 1), "the place for the address is null"),
        ("aclrtFree", (None,), "the address is null"),
        ("aclrtFreeHost", (None,), "the address is null"),
        ("aclrtCreateStream", (None,), "stream is null"),
        ("aclrtDestroyStream", (None,), "stream is null"),
        ("aclrtMemcpy", (None, 1, 8, 1, 0), "dst is null"),
        ("aclrtMemcpy", (8, 1, None, 1, 0), "src is null"),
    ]:
        assert text in acl.refused(ACL_INVALID, name, *arguments)
    for name in ("aclDestroyTensor", "aclDestroyIntArray", "aclSetAclOpExecutorRepeatable", "aclDestroyAclOpExecutor"):
        assert "is null" in acl.refused(NULL, name, None)


def test_allocation(acl: Acl) -> None:
    place = ctypes.byref(c_void_p())
    assert "policy 3" in acl.refused(ACL_INVALID, "aclrtMalloc", place, 32, 3)
    assert "size is 0" in acl.refused(ACL_INVALID, "aclrtMalloc", place, 0, 0)
    for size in ((1 << 64) - 1, 1 << 62):
        assert f"no {size} bytes of device memory" in acl.refused(BAD_ALLOC, "aclrtMalloc", place, size, 0)
    assert acl.malloc(1) % 32 == 0


def test_copies(acl: Acl) -> None:
    data = np.arange(64, dtype=np.int8)
    host, device, pinned = data.ctypes.data, acl.malloc(64), acl.malloc(64, host=True)
    acl.ok("aclrtMemcpy", pinned, 64, host, 64, 0)
    acl.ok("aclrtMemcpy", device, 64, pinned, 64, 1)
    other = acl.malloc(64)
    acl.ok("aclrtMemcpy", other, 64, device, 64, 3)
    back = np.zeros_like(data)
    acl.ok("aclrtMemcpy", back.ctypes.data, 64, other, 64, 4)
    assert back.tobytes() == data.tobytes()
    for arguments, text in [
        ((device, 63, host, 64, 1), "count is 64, and destMax is 63"),
        ((device, 65, host, 65, 1), "dst has 65 bytes"),
        ((device + 1, 64, host, 64, 1), "has 63 left"),
        ((host, 65, device, 65, 2), "src has 65 bytes"),
        ((device, 64, host, 0, 1), "count is 0"),
        ((device, 64, host, 64, 5), "kind 5"),
        ((host, 64, device, 64, 1), "src (0x"),
        ((device, 64, host, 64, 2), "src: 0x"),
        ((device, 64, host, 64, 0), "dst (0x"),
        ((pinned, 65, host, 65, 0), "dst has 65 bytes"),
        ((device, 64, pinned, 64, 3), "is host memory of aclrtMallocHost, not device memory"),
    ]:
        assert text in acl.refused(ACL_INVALID, "aclrtMemcpy", *arguments)


def test_filling(acl: Acl) -> None:
    device, pinned, stream = acl.malloc(64), acl.malloc(64, host=True), acl.stream()
    acl.ok("aclrtMemset", device, 64, 0x17F, 60)
    acl.ok("aclrtMemset", pinned, 64, 5, 64)
    acl.ok("aclrtMemsetAsync", device, 64, 7, 32, stream)
    text = "memory that work queued on a stream writes; synchronise it first"
    assert text in acl.refused(ACL_INVALID, "aclrtMemset", device, 64, 1, 1)
    acl.ok("aclrtSynchronizeDevice")
    found = acl.download(device, np.empty(64, np.uint8))
    assert found.tolist() == [7] * 32 + [0x7F] * 28 + [0] * 4
    other = np.zeros(64, np.uint8)
    for arguments, text in [
        ((None, 64, 0, 1), "devPtr is null"),
        ((device, 64, 0, 0), "count is 0"),
        ((device, 63, 0, 64), "count is 64, and maxCount is 63"),
        ((device + 32, 64, 0, 64), "where the allocation has 32 left"),
        ((other.ctypes.data, 64, 0, 64), "was never allocated here"),
    ]:
        assert text in acl.refused(ACL_INVALID, "aclrtMemset", *arguments)
    assert "no aclrtStream of this library" in acl.refused(ACL_INVALID, "aclrtMemsetAsync", device, 64, 7, 32, 99)


def test_host_memory_that_is_overrun(acl: Acl, capfd: pytest.CaptureFixture[str]) -> None:
    """The document's program reads 8 bytes a column into a buffer for 4."""
    device, pinned = acl.malloc(400), acl.malloc(400, host=True)
    acl.ok("aclrtMemcpy", device, 400, pinned, 400, TO_DEVICE)
    ctypes.memset(pinned, 1, 800)
    text = "the program has written 400 bytes past the end of the 400 that aclrtMallocHost gave it"
    assert text in acl.refused(ACL_INVALID, "aclrtMemcpy", device, 400, pinned, 400, TO_DEVICE)
    assert text in acl.refused(ACL_INVALID, "aclrtMemcpy", pinned, 400, device, 400, TO_HOST)
    assert text in acl.refused(ACL_INVALID, "aclrtMemset", pinned, 400, 0, 400)
    acl.ok("aclrtFree", device)
    capfd.readouterr()
    acl.ok("aclrtResetDevice", 0)
    assert text in capfd.readouterr().err
    acl.ok("aclrtSetDevice", 0)
    assert text in acl.refused(ACL_INVALID, "aclrtFreeHost", pinned)
    assert acl.mcdAclnnLiveObjects() == 0


def test_refusals_are_printed_unless_they_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for value, expected in [("0", "libmcd_aclnn: aclrtSetDevice: called before aclInit (status 100001)\n"), ("1", "")]:
        monkeypatch.setenv("MCD_ACLNN_QUIET", value)
        capfd.readouterr()
        Acl(tmp_path).refused(UNINITIALIZED, "aclrtSetDevice", 0)
        assert capfd.readouterr().err == expected


def test_all_streams_are_waited_for(call: Call, problem: Problem) -> None:
    acl, streams = call.acl, [call.acl.stream() for _ in range(2)]
    call.prepare()
    call.launch(streams[0])
    acl.ok("aclrtSynchronizeDevice")
    assert call.result().tobytes() == problem.expected().tobytes()
    acl.ok("mcdAclnnFail", b"execution:1")
    call.prepare()
    call.launch(streams[1])
    assert "failed on request" in acl.refused(FAILURE, "aclrtSynchronizeDevice")
    acl.ok("aclrtSynchronizeStream", streams[1])  # told once


def context_of(acl: Acl, name: str, *arguments: int) -> int:
    place = c_void_p()
    acl.ok(name, ctypes.byref(place), *arguments)
    assert place.value
    return place.value


def test_contexts(unopened: Acl) -> None:
    acl = unopened
    place = ctypes.byref(c_void_p())
    number = ctypes.c_uint32()
    assert "before aclInit" in acl.refused(UNINITIALIZED, "aclrtCreateContext", place, 0)
    acl.ok("aclInit", None)
    assert "there is no device 1" in acl.refused(ACL_INVALID, "aclrtCreateContext", place, 1)
    assert "no context is set on this thread" in acl.refused(UNINITIALIZED, "aclrtGetCurrentContext", place)
    assert "no device is set" in acl.refused(UNINITIALIZED, "aclrtGetDevice", ctypes.byref(number))
    acl.ok("aclrtGetDeviceCount", ctypes.byref(number))
    assert number.value == 1
    first, second = (context_of(acl, "aclrtCreateContext", 0) for _ in range(2))
    assert context_of(acl, "aclrtGetCurrentContext") == second
    acl.ok("aclrtSetCurrentContext", first)
    assert context_of(acl, "aclrtGetCurrentContext") == first
    acl.ok("aclrtGetDevice", ctypes.byref(number))
    assert number.value == 0
    memory = acl.malloc(32)
    acl.ok("aclrtSetDevice", 0)
    default = context_of(acl, "aclrtGetCurrentContext")
    assert default not in (first, second)
    assert "goes with aclrtResetDevice" in acl.refused(ACL_INVALID, "aclrtDestroyContext", default)
    acl.ok("aclrtFree", memory)
    acl.ok("aclrtResetDevice", 0)
    for context in (first, second):
        acl.ok("aclrtDestroyContext", context)
    assert "this aclrtContext was destroyed already" in acl.refused(ACL_INVALID, "aclrtSetCurrentContext", first)
    assert "no device is set" in acl.refused(UNINITIALIZED, "aclrtMalloc", place, 32, 0)
    assert acl.mcdAclnnLiveObjects() == 0


def test_a_thread_may_set_a_context_instead_of_the_device_strictly(strict_acl: Acl) -> None:
    context, statuses = context_of(strict_acl, "aclrtGetCurrentContext"), []

    def allocate() -> None:
        place = ctypes.byref(c_void_p())
        statuses.append(strict_acl.aclrtMalloc(place, 32, 0))
        statuses.append(strict_acl.aclrtSetCurrentContext(context))
        statuses.append(strict_acl.aclrtMalloc(place, 32, 0))

    thread = Thread(target=allocate)
    thread.start()
    thread.join()
    assert statuses == [UNINITIALIZED, 0, 0]


def test_memory_is_freed_once(acl: Acl) -> None:
    device, pinned = acl.malloc(64), acl.malloc(64, host=True)
    assert "which aclrtFree frees" in acl.refused(ACL_INVALID, "aclrtFreeHost", device)
    assert "which aclrtFreeHost frees" in acl.refused(ACL_INVALID, "aclrtFree", pinned)
    assert "lies 32 bytes inside of device memory" in acl.refused(ACL_INVALID, "aclrtFree", device + 32)
    acl.ok("aclrtFree", device)
    acl.ok("aclrtFreeHost", pinned)
    assert "was given to aclrtFree already" in acl.refused(ACL_INVALID, "aclrtFree", device)
    assert "was given to aclrtFreeHost already" in acl.refused(ACL_INVALID, "aclrtFreeHost", pinned)
    byte = np.zeros(1, np.int8)
    message = acl.refused(ACL_INVALID, "aclrtMemcpy", byte.ctypes.data, 1, device, 1, TO_HOST)
    assert "was given to aclrtFree already" in message


def test_objects_are_destroyed_once(call: Call) -> None:
    acl, stream = call.acl, call.acl.stream()
    acl.ok("aclrtDestroyStream", stream)
    for name in ("aclrtDestroyStream", "aclrtSynchronizeStream"):
        assert "this aclrtStream was destroyed already" in acl.refused(ACL_INVALID, name, stream)
    call.prepare()
    assert "this aclrtStream was destroyed already" in acl.refused(INVALID, RUN, *call.second_phase(stream))
    acl.ok("aclDestroyIntArray", call.info)
    assert "this aclIntArray was destroyed already" in acl.refused(INVALID, "aclDestroyIntArray", call.info)
    acl.ok("aclDestroyTensor", call.tensors["x1"])
    assert "this aclTensor was destroyed already" in acl.refused(INVALID, "aclDestroyTensor", call.tensors["x1"])
    assert "it is an aclTensor, not an aclrtStream" in acl.refused(
        ACL_INVALID, "aclrtDestroyStream", call.tensors["x2"]
    )


def test_leaks_are_reported(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    acl = call.acl
    acl.stream()
    call.prepare()
    live = acl.mcdAclnnLiveObjects()
    assert live == 6 + 6 + 1 + 1 + 1 + 1  # tensors, memory, the list, the stream, executor and workspace
    capfd.readouterr()
    acl.ok("aclrtResetDevice", 0)
    acl.ok("aclFinalize")
    text = capfd.readouterr().err
    assert "leaked at aclrtResetDevice: " in text
    assert "leaked at aclFinalize: " in text
    assert "an aclTensor, ACL_INT8 [5, 320]" in text
    assert f"and {live - 10} more" in text


def test_nothing_leaks_where_all_is_destroyed(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call.run(None)
    call.close()
    call.acl.ok("aclrtResetDevice", 0)
    call.acl.ok("aclFinalize")
    assert capfd.readouterr().err == ""


def test_leaks_are_reported_at_exit(tmp_path: Path) -> None:
    script = """
        import ctypes
        from mcd_graph.ascend.stand_in import get_aclnn_library_path
        acl = ctypes.CDLL(get_aclnn_library_path())
        place = ctypes.c_void_p()
        assert not acl.aclInit(None) and not acl.aclrtSetDevice(0)
        assert not acl.aclrtMalloc(ctypes.byref(place), ctypes.c_size_t(100), 0)
    """
    # Not from the checkout, whose package has no libraries.
    result = subprocess.run(
        [sys.executable, "-c", re.sub(r"^ +", "", script, flags=re.M)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "aclFinalize was not called" in result.stderr
    assert "leaked at exit: 100 bytes of device memory" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Streams


def test_work_is_done_in_order(acl: Acl, problem: Problem) -> None:
    """Uploads, multiplications and downloads through the same buffers, waited for once."""
    call, stream = Call(acl, problem), acl.stream()
    inputs = [Problem.random(M, K, N, seed=seed).x1 for seed in range(20)]
    results = [np.zeros((M, N), np.float16) for _ in inputs]
    call.prepare()
    acl.ok("aclSetAclOpExecutorRepeatable", call.executor)
    for x1, result in zip(inputs, results, strict=True):
        acl.ok("aclrtMemcpyAsync", call.memory["x1"], x1.nbytes, x1.ctypes.data, x1.nbytes, TO_DEVICE, stream)
        call.launch(stream)
        size = result.nbytes
        acl.ok("aclrtMemcpyAsync", result.ctypes.data, size, call.memory["out"], size, TO_HOST, stream)
    acl.ok("aclrtSynchronizeStream", stream)
    for x1, result in zip(inputs, results, strict=True):
        assert result.tobytes() == Problem(x1, problem.w, problem.bias, problem.scale).expected().tobytes()


def test_missing_synchronisation(call: Call) -> None:
    acl, stream, other = call.acl, call.acl.stream(), call.acl.stream()
    call.prepare()
    call.launch(stream)
    out, host = call.memory["out"], np.zeros((M, N), np.float16)
    size = host.nbytes
    text = "memory that work queued on a stream writes; synchronise it first"
    assert text in acl.refused(ACL_INVALID, "aclrtMemcpy", host.ctypes.data, size, out, size, TO_HOST)
    assert text in acl.refused(ACL_INVALID, "aclrtMemcpyAsync", host.ctypes.data, size, out, size, TO_HOST, other)
    assert "queued on a stream reads" in acl.refused(
        ACL_INVALID, "aclrtMemcpy", call.memory["x1"], 8, host.ctypes.data, 8, TO_DEVICE
    )
    assert "in use by work queued" in acl.refused(ACL_INVALID, "aclrtFree", out)
    acl.ok("aclrtMemcpy", host.ctypes.data, 8, call.memory["x1"], 8, TO_HOST)  # both only read
    acl.ok("aclrtSynchronizeStream", stream)
    acl.ok("aclrtMemcpy", host.ctypes.data, size, out, size, TO_HOST)
    acl.ok("aclrtFree", out)


def test_destroying_a_stream_finishes_its_work(call: Call, problem: Problem) -> None:
    stream = call.acl.stream()
    call.prepare()
    call.launch(stream)
    call.acl.ok("aclrtDestroyStream", stream)
    assert call.result().tobytes() == problem.expected().tobytes()


def test_work_after_a_failure_is_skipped_until_it_is_told(call: Call, problem: Problem) -> None:
    acl, stream = call.acl, call.acl.stream()
    acl.ok("mcdAclnnFail", b"execution:1")
    for _ in range(2):
        call.prepare()
        call.launch(stream)
    assert "failed on request" in acl.refused(FAILURE, "aclrtSynchronizeStream", stream)
    assert not call.result().any()
    assert call.run(stream).tobytes() == problem.expected().tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Failures on request


@pytest.mark.parametrize("name", ["aclrtMalloc", "aclrtMemcpy", GET, RUN, "aclrtSynchronizeStream"])
def test_a_failure_on_request(call: Call, problem: Problem, name: str) -> None:
    acl = call.acl
    acl.ok("mcdAclnnFail", f"{name}:1".encode())
    with pytest.raises(AssertionError, match=f"{name}: failed on request"):
        call.run(None)
    acl.ok("aclrtSynchronizeStream", None)
    assert call.run(None).tobytes() == problem.expected().tobytes()


def test_objects_that_fail_on_request_are_null(acl: Acl) -> None:
    acl.ok("mcdAclnnFail", b"aclCreateTensor:2,aclCreateIntArray:1")
    assert acl.tensor((1,), INT8, None)
    assert acl.tensor((1,), INT8, None) is None
    assert "failed on request" in acl.message()
    assert acl.aclCreateIntArray(None, 0) is None
    assert "'aclrtFree' is not" in acl.refused(ACL_INVALID, "mcdAclnnFail", b"aclrtFree").replace('"', "'")


def test_failures_can_be_asked_for_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCD_ACLNN_FAIL", "aclInit:1")
    acl = Acl(tmp_path)
    assert "failed on request" in acl.refused(FAILURE, "aclInit", None)
    acl.ok("aclInit", None)
    acl.ok("aclFinalize")


# ---------------------------------------------------------------------------------------------------------------------
# Any order


@pytest.mark.parametrize("seed", range(4))
def test_calls_in_any_order_are_answered(acl: Acl, problem: Problem, seed: int) -> None:
    """Live, stale, mixed-up and made-up handles and addresses: a status each, and at the end nothing is left."""
    rng = np.random.default_rng(seed)
    host = np.zeros(1 << 16, np.int8)
    packed = Call(acl, problem)
    made: dict[str, list[int]] = {name: [] for name in ("tensor", "array", "stream", "executor", "memory")}
    packed.run(None)  # its arguments stay, so that some calls succeed all along
    place, size = c_void_p(), ctypes.c_uint64()
    statuses: dict[str, set[int]] = {}

    def some(kind: str) -> int:
        """One of a kind in most cases, else one of any kind, null or nonsense."""
        pool = made[kind] if rng.random() < 0.95 else [*chain(*made.values()), 0, 1 << 45, 0x6D63 << 48]
        return int(pool[rng.integers(len(pool))]) if pool else 0

    def call(name: str, *arguments: object) -> bool:
        status = getattr(acl, name)(*arguments)
        statuses.setdefault(name, set()).add(status)
        assert (acl.message() == "") == (status == 0), name
        return bool(status == 0)

    def launch() -> None:
        names = ("x1", "x2", "compressIndex", "bias", "deqScale", "offsetW")
        tensors = [packed.tensors[name] if rng.random() < 0.97 else some("tensor") for name in names]
        info = packed.info if rng.random() < 0.97 else some("array")
        places = ctypes.byref(size), ctypes.byref(place)
        if call(GET, *tensors, 0, info, packed.tensors["out"], *places):
            made["executor"].append(place.value or 0)
            if rng.random() < 0.5:
                call("aclSetAclOpExecutorRepeatable", place)
            workspace = packed.workspace if rng.random() < 0.9 else some("memory")
            call(RUN, workspace, size.value, place, some("stream"))

    def create() -> None:
        kind = rng.integers(3)
        if kind == 0 and call("aclrtMalloc", ctypes.byref(place), int(rng.integers(0, 1 << 14)), 0):
            made["memory"].append(place.value or 0)
        elif kind == 1 and call("aclrtCreateStream", ctypes.byref(place)):
            made["stream"].append(place.value or 0)
        elif kind == 2:
            made["tensor"].append(acl.tensor((M, K), INT8, some("memory")) or 0)

    def destroy() -> None:
        if rng.random() < 0.1:
            call("aclrtFree", some("memory") + int(rng.integers(2)) * 32)
        if rng.random() < 0.2:
            call("aclrtDestroyStream", some("stream"))
        call("aclDestroyTensor", some("tensor"))
        call("aclDestroyAclOpExecutor", some("executor"))

    def copy() -> None:
        count, queued = int(rng.integers(0, 5000)), rng.random() < 0.5
        name, stream = ("aclrtMemcpyAsync", [some("stream")]) if queued else ("aclrtMemcpy", [])
        kind = int(rng.integers(1, 4))
        device = [some("memory") + int(rng.integers(0, 64)) for _ in range(2)]
        ends = {1: (device[0], host.ctypes.data), 2: (host.ctypes.data, device[0]), 3: (device[0], device[1])}[kind]
        call(name, ends[0], count, ends[1], count, kind, *stream)

    steps = [launch, create, create, destroy, copy, lambda: call("aclrtSynchronizeStream", some("stream"))]
    for _ in range(1500):
        steps[rng.integers(len(steps))]()
    assert 0 in statuses[RUN]
    assert {0, ACL_INVALID} <= statuses["aclrtMemcpy"] & statuses["aclrtMemcpyAsync"]
    acl.aclrtSynchronizeStream(None)
    for kind, release in [
        ("executor", acl.aclDestroyAclOpExecutor),
        ("stream", acl.aclrtDestroyStream),
        ("tensor", acl.aclDestroyTensor),
        ("array", acl.aclDestroyIntArray),
        ("memory", acl.aclrtFree),
    ]:
        for handle in made[kind]:
            release(handle)
    packed.close()
    assert acl.mcdAclnnLiveObjects() == 0
