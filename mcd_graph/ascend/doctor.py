"""What of CANN, msModelSlim, vLLM-Ascend and the build tools is installed, and what each way to Ascend still misses.

Libraries are only looked for and looked into, never loaded: CANN's symbols must not meet those of the stand-in in one
process.
"""

import dataclasses
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mcd_graph.ascend.stand_in import get_aclnn_library_path, get_include_path
from mcd_graph.library import get_library_path

__all__ = ["Finding", "Way", "examine"]

_ROOTS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest")
_OPERATOR = b"aclnnMatmulCompressDequantGetWorkspaceSize"
_TORCH_OPERATOR = b"npu_matmul_compress_dequant"
# Newest first: the operator moved from the one to the other between releases.
_OPERATOR_LIBRARIES = ("libopapi_nn.so", "libopapi_math.so", "libopapi.so")
_RUNTIME_LIBRARIES = ("libacl_rt.so", "libascendcl.so")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a way needs.

    Attributes:
        what: it is.
        where: it was found; ``None`` if it is missing.
        remedy: what to do when it is missing.
    """

    what: str
    where: str | None
    remedy: str


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to use compressed weights, and all that it needs."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return all(finding.where is not None for finding in self.findings)


def examine() -> tuple[Way, ...]:
    """Look for everything that the ways to Ascend need."""
    cann = "install CANN's toolkit for this chip and source its set_env.sh"
    operators = "install CANN's operator package of this chip (Ascend-cann-<soc>-ops)"
    root = _cann_root()
    return (
        Way(
            "CPU stand-in",
            (
                Finding("libmcd_ort.so", _path_of(get_library_path), "install mcd-graph again"),
                Finding("libmcd_aclnn.so", _path_of(get_aclnn_library_path), "install mcd-graph again"),
                Finding("headers of the stand-in", _path_of(get_include_path), "install mcd-graph again"),
                Finding("C++ compiler", shutil.which("g++") or shutil.which("clang++"), "install g++"),
            ),
        ),
        Way(
            "msModelSlim",
            (
                Finding("msmodelslim", _package("msmodelslim"), "pip install msmodelslim"),
                Finding("torch", _package("torch"), "pip install torch"),
                Finding(
                    "compress_excutor", _excutor(), "build it: bash build.sh in msModelSlim's compress_graph folder"
                ),
            ),
        ),
        Way(
            "ATC",
            (
                Finding("CANN", root, cann),
                Finding("atc", shutil.which("atc") or _first(root, ("bin/atc",)), cann),
                Finding("register/register.h", _first(root, ("include/register/register.h",)), cann),
                Finding("cmake", shutil.which("cmake"), "install cmake"),
                Finding(
                    "compress_excutor", _excutor(), "build it: bash build.sh in msModelSlim's compress_graph folder"
                ),
            ),
        ),
        Way(
            "run-time hand-off",
            (
                Finding(
                    "NPU", _first("/dev", ("davinci0", "davinci_manager")), "run where the device is; see npu-smi info"
                ),
                Finding("ACL runtime", _library(root, _RUNTIME_LIBRARIES), cann),
                Finding("libnnopbase.so", _library(root, ("libnnopbase.so",)), cann),
                Finding("aclnnMatmulCompressDequant", _library(root, _OPERATOR_LIBRARIES, _OPERATOR), operators),
            ),
        ),
        _vllm_ascend(),
    )


def _vllm_ascend() -> Way:
    return Way(
        "vLLM-Ascend",
        (
            Finding("torch_npu", _package("torch_npu"), "pip install torch-npu, of the release that CANN wants"),
            Finding(
                "npu_matmul_compress_dequant",
                _mentioned("torch_npu", _TORCH_OPERATOR),
                "install a newer torch-npu: older ones lack the operator",
            ),
            Finding("vllm-ascend", _package("vllm_ascend"), "pip install vllm-ascend; 0.18.0 or later for W8A8SC"),
            Finding("compress_excutor", _excutor(), "build it: bash build.sh in msModelSlim's compress_graph folder"),
        ),
    )


def _mentioned(package: str, symbol: bytes) -> str | None:
    """Return the library of an installed package that mentions ``symbol``; nothing is imported or loaded for that."""
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    libraries = (path for folder in folders for path in sorted(Path(folder).rglob("*.so")))
    return next((str(path) for path in libraries if _mentions(path, symbol)), None)


def _cann_root() -> str | None:
    roots = [os.environ.get("ASCEND_HOME_PATH"), os.environ.get("ASCEND_TOOLKIT_HOME"), *_ROOTS]
    return next((root for root in roots if root and Path(root).is_dir()), None)


def _path_of(find: Callable[[], str]) -> str | None:
    try:
        return find()
    except FileNotFoundError:
        return None


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _excutor() -> str | None:
    """Return the path of a ``compress_excutor`` that msModelSlim would run; nothing is imported for that."""
    spec = find_spec("msmodelslim")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    parts = ("pytorch", "weight_compression", "compress_graph", "build", "compress_excutor")
    paths = [Path(folder, *parts) for folder in folders]
    return next((str(path) for path in paths if os.access(path, os.X_OK) and path.is_file()), None)


def _first(root: str | None, names: Iterable[str]) -> str | None:
    if root is None:
        return None
    return next((str(path) for path in (Path(root, name) for name in names) if path.exists()), None)


def _folders(root: str | None) -> Iterator[Path]:
    if root is not None:
        yield Path(root, "lib64")
    yield from (Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)


def _library(root: str | None, names: Iterable[str], symbol: bytes | None = None) -> str | None:
    """Return the first library of one of ``names`` that mentions ``symbol``."""
    for folder in _folders(root):
        for name in names:
            path = folder / name
            if path.is_file() and (symbol is None or _mentions(path, symbol)):
                return str(path)
    return None


def _mentions(path: Path, symbol: bytes) -> bool:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(symbol) >= 0
