"""ctypes face of libmcd_aclnn.so for tests: as thin as it can be, so that every status and message is seen."""

import ctypes
import dataclasses
import itertools
import shutil
from ctypes import c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint16, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from mcd_graph.ascend.stand_in import get_aclnn_library_path
from mcd_graph.codec.weights import pack_weight

TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3
FLOAT16, INT8, INT32, UINT64 = 1, 2, 3, 10
ND = 2
TYPES = {np.dtype(np.float16): 1, np.dtype(np.int8): 2, np.dtype(np.int32): 3, np.dtype(np.uint64): 10}

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "aclInit": (c_int, [c_char_p]),
    "aclFinalize": (c_int, []),
    "aclrtSetDevice": (c_int, [c_int32]),
    "aclrtResetDevice": (c_int, [c_int32]),
    "aclrtCreateStream": (c_int, [c_void_p]),
    "aclrtDestroyStream": (c_int, [c_void_p]),
    "aclrtSynchronizeStream": (c_int, [c_void_p]),
    "aclrtSynchronizeDevice": (c_int, []),
    "aclrtGetDevice": (c_int, [c_void_p]),
    "aclrtGetDeviceCount": (c_int, [c_void_p]),
    "aclrtCreateContext": (c_int, [c_void_p, c_int32]),
    "aclrtDestroyContext": (c_int, [c_void_p]),
    "aclrtSetCurrentContext": (c_int, [c_void_p]),
    "aclrtGetCurrentContext": (c_int, [c_void_p]),
    "aclrtMemset": (c_int, [c_void_p, c_size_t, c_int32, c_size_t]),
    "aclrtMemsetAsync": (c_int, [c_void_p, c_size_t, c_int32, c_size_t, c_void_p]),
    "aclrtMalloc": (c_int, [c_void_p, c_size_t, c_int]),
    "aclrtMallocHost": (c_int, [c_void_p, c_size_t]),
    "aclrtFree": (c_int, [c_void_p]),
    "aclrtFreeHost": (c_int, [c_void_p]),
    "aclrtMemcpy": (c_int, [c_void_p, c_size_t, c_void_p, c_size_t, c_int]),
    "aclrtMemcpyAsync": (c_int, [c_void_p, c_size_t, c_void_p, c_size_t, c_int, c_void_p]),
    "aclGetRecentErrMsg": (c_char_p, []),
    "aclCreateTensor": (
        c_void_p,
        [c_void_p, c_uint64, c_int, c_void_p, c_int64, c_int, c_void_p, c_uint64, c_void_p],
    ),
    "aclDestroyTensor": (c_int32, [c_void_p]),
    "aclCreateIntArray": (c_void_p, [c_void_p, c_uint64]),
    "aclDestroyIntArray": (c_int32, [c_void_p]),
    "aclnnInit": (c_int32, [c_char_p]),
    "aclnnFinalize": (c_int32, []),
    "aclSetAclOpExecutorRepeatable": (c_int32, [c_void_p]),
    "aclDestroyAclOpExecutor": (c_int32, [c_void_p]),
    "aclFloat16ToFloat": (c_float, [c_uint16]),
    "aclFloatToFloat16": (c_uint16, [c_float]),
    "aclnnMatmulCompressDequantGetWorkspaceSize": (c_int32, [*[c_void_p] * 6, c_int, *[c_void_p] * 4]),
    "aclnnMatmulCompressDequant": (c_int32, [c_void_p, c_uint64, c_void_p, c_void_p]),
    "mcdAclnnFail": (c_int, [c_char_p]),
    "mcdAclnnLiveObjects": (c_uint64, []),
}
FUNCTIONS = tuple(_SIGNATURES)
_COPIES = itertools.count()


class Acl:
    """The library, one function an attribute. A copy of the file is a process of its own as far as state goes."""

    def __init__(self, folder: Path) -> None:
        copy = folder / f"libmcd_aclnn_{next(_COPIES)}.so"
        shutil.copy(get_aclnn_library_path(), copy)
        self.path = str(copy)
        self.lost = 0  # objects that a test has made impossible to destroy
        self._library = ctypes.CDLL(self.path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def message(self) -> str:
        text = self._library.aclGetRecentErrMsg()
        return "" if text is None else text.decode()

    def ok(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        assert status == 0, self.message()

    def refused(self, status: int, name: str, *arguments: Any) -> str:
        """Call a function that is to fail with ``status``; return what it says."""
        found = getattr(self._library, name)(*arguments)
        message = self.message()
        assert found == status, (found, message)
        assert message.startswith(f"{name}: "), message
        assert message.endswith(f"(status {status})"), message
        return message

    def open(self) -> None:
        self.ok("aclInit", None)
        self.ok("aclrtSetDevice", 0)

    def stream(self) -> int:
        place = c_void_p()
        self.ok("aclrtCreateStream", ctypes.byref(place))
        assert place.value
        return place.value

    def malloc(self, size: int, *, host: bool = False) -> int:
        place = c_void_p()
        if host:
            self.ok("aclrtMallocHost", ctypes.byref(place), size)
        else:
            self.ok("aclrtMalloc", ctypes.byref(place), size, 0)
        assert place.value
        return place.value

    def upload(self, array: np.ndarray) -> int:
        address = self.malloc(max(array.nbytes, 1))
        if array.nbytes:
            self.ok("aclrtMemcpy", address, array.nbytes, array.ctypes.data, array.nbytes, TO_DEVICE)
        return address

    def download(self, address: int, like: np.ndarray) -> np.ndarray:
        result = np.empty_like(like)
        if result.nbytes:
            self.ok("aclrtMemcpy", result.ctypes.data, result.nbytes, address, result.nbytes, TO_HOST)
        return result

    def tensor(
        self,
        dims: tuple[int, ...],
        data_type: int,
        data: int | None,
        *,
        strides: tuple[int, ...] | None = None,
        layout: int = ND,
        offset: int = 0,
        storage: tuple[int, ...] | None = None,
    ) -> int | None:
        view = (c_int64 * len(dims))(*dims)
        steps = None if strides is None else (c_int64 * len(strides))(*strides)
        kept = dims if storage is None else storage
        stored = (c_int64 * len(kept))(*kept)
        handle: int | None = self._library.aclCreateTensor(
            view, len(dims), data_type, steps, offset, layout, stored, len(kept), data
        )
        return handle

    def int_array(self, values: list[int]) -> int:
        handle: int = self._library.aclCreateIntArray((c_int64 * len(values))(*values), len(values))
        return handle


@dataclasses.dataclass
class Problem:
    """Arguments of the operator, on the host."""

    x1: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    scale: np.ndarray  # float32

    @classmethod
    def random(cls, m: int, k: int, n: int, seed: int = 0) -> "Problem":
        rng = np.random.default_rng(seed)
        return cls(
            x1=rng.integers(-128, 128, (m, k), dtype=np.int8),
            w=np.clip(np.round(rng.normal(0, 12, (n, k))), -128, 127).astype(np.int8),
            bias=rng.integers(-5000, 5000, n, dtype=np.int32),
            scale=rng.uniform(1e-5, 1e-3, n).astype(np.float32),
        )

    def expected(self) -> np.ndarray:
        """NumPy's answer: exact integers, one fp32 product, one rounding."""
        sums = self.x1.astype(np.float64) @ self.w.T.astype(np.float64)  # below 2**53, so exact
        sums += 0 if self.bias is None else self.bias.astype(np.float64)
        return (sums.astype(np.int32).astype(np.float32) * self.scale).astype(np.float16)

    def words(self) -> np.ndarray:
        """The scales as the operator takes them: (1, n) or (1, 1) uint64."""
        return self.scale.view(np.uint32).astype(np.uint64).reshape(1, -1)


class Call:
    """The operator's arguments on the device, and both phases. Attributes may be changed before ``prepare``."""

    def __init__(self, acl: Acl, problem: Problem) -> None:
        self.acl = acl
        packed = pack_weight(problem.w, tiling=(8, 8))
        (m, k), n = problem.x1.shape, problem.w.shape[0]
        self.out = np.zeros((m, n), np.float16)
        arrays = {
            "x1": problem.x1,
            "x2": np.asarray(packed.x2),
            "compressIndex": packed.compress_index,
            "bias": problem.bias,
            "deqScale": problem.words(),
            "out": self.out,
        }
        self.memory: dict[str, int] = {}
        self.tensors: dict[str, int | None] = {"bias": None, "offsetW": None}
        for name, array in arrays.items():
            if array is not None:
                self.memory[name] = acl.upload(array)
                self.describe(name, array.shape, TYPES[array.dtype])
        self.offset_x = 0
        self.info: int | None = acl.int_array([8, 8, k, n, 1])
        self.workspace_size = c_uint64(0)
        self.workspace: int | None = None
        self.executor = c_void_p()

    def describe(self, name: str, dims: tuple[int, ...], data_type: int, **options: Any) -> None:
        """Describe an argument's memory anew."""
        if self.tensors.get(name):
            self.acl.ok("aclDestroyTensor", self.tensors[name])
        self.tensors[name] = self.acl.tensor(dims, data_type, self.memory[name], **options)
        assert self.tensors[name] is not None, self.acl.message()

    def replace(self, name: str, array: np.ndarray) -> None:
        """Give an argument other data."""
        if self.tensors.get(name):
            self.acl.ok("aclDestroyTensor", self.tensors.pop(name))
            self.acl.ok("aclrtFree", self.memory[name])
        self.memory[name] = self.acl.upload(array)
        self.describe(name, array.shape, TYPES[array.dtype])

    def set_info(self, values: list[int]) -> None:
        self.acl.ok("aclDestroyIntArray", self.info)
        self.info = self.acl.int_array(values)

    def first_phase(self) -> tuple[Any, ...]:
        names = ("x1", "x2", "compressIndex", "bias", "deqScale", "offsetW")
        return (
            *(self.tensors[name] for name in names),
            self.offset_x,
            self.info,
            self.tensors["out"],
            ctypes.byref(self.workspace_size),
            ctypes.byref(self.executor),
        )

    def prepare(self) -> None:
        self.acl.ok("aclnnMatmulCompressDequantGetWorkspaceSize", *self.first_phase())
        if self.workspace_size.value and self.workspace is None:
            self.workspace = self.acl.malloc(self.workspace_size.value)

    def second_phase(self, stream: int | None) -> tuple[Any, ...]:
        return self.workspace, self.workspace_size.value, self.executor.value, stream

    def launch(self, stream: int | None) -> None:
        self.acl.ok("aclnnMatmulCompressDequant", *self.second_phase(stream))

    def run(self, stream: int | None) -> np.ndarray:
        self.prepare()
        self.launch(stream)
        self.acl.ok("aclrtSynchronizeStream", stream)
        return self.result()

    def result(self) -> np.ndarray:
        return self.acl.download(self.memory["out"], self.out)

    def close(self) -> None:
        for tensor in self.tensors.values():
            if tensor is not None:
                self.acl.ok("aclDestroyTensor", tensor)
        self.acl.ok("aclDestroyIntArray", self.info)
        for address in (*self.memory.values(), self.workspace):
            if address is not None:
                self.acl.ok("aclrtFree", address)
