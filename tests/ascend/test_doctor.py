"""`mcd ascend doctor`: finds what is there, says what is not, loads nothing."""

import json
import sys
from pathlib import Path

import pytest
from ascend import stand_in_excutor

from mcd_graph.ascend import doctor
from mcd_graph.ascend.doctor import Way, examine
from mcd_graph.cli import main

OPERATOR = b"\0aclnnMatmulCompressDequantGetWorkspaceSize\0"


@pytest.fixture(autouse=True)
def no_cann(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the machine has, the tests begin without CANN and without tools."""
    monkeypatch.setattr(doctor, "_ROOTS", ())
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def found(name: str) -> dict[str, str | None]:
    (way,) = (way for way in examine() if way.name == name)
    return {finding.what: finding.where for finding in way.findings}


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(found("run-time hand-off").values()) <= {None, "/dev/davinci0", "/dev/davinci_manager"}
    assert set(found("ATC").values()) - {found("msModelSlim")["compress_excutor"]} <= {None}
    assert main(["ascend", "doctor"]) == 0
    printed = capsys.readouterr().out
    assert "CANN: missing; install CANN's toolkit for this chip and source its set_env.sh" in printed
    assert "C++ compiler: missing; install g++" in printed
    assert "CPU stand-in: 1 missing" in printed


def test_a_whole_cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cann"
    (root / "lib64").mkdir(parents=True)
    (root / "include" / "register").mkdir(parents=True)
    (root / "include" / "register" / "register.h").touch()
    atc = executable(root / "bin" / "atc")
    cmake = executable(tmp_path / "bin" / "cmake")
    for name in ("libascendcl.so", "libnnopbase.so"):
        (root / "lib64" / name).touch()
    # Of two libraries that may hold the operator, the one that does is named.
    (root / "lib64" / "libopapi_nn.so").write_bytes(b"something else")
    (root / "lib64" / "libopapi_math.so").write_bytes(b"\x7fELF" + OPERATOR)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(root))
    atc_way = found("ATC")
    del atc_way["compress_excutor"]
    assert atc_way == {
        "CANN": str(root),
        "atc": str(atc),
        "register/register.h": str(root / "include/register/register.h"),
        "cmake": str(cmake),
    }
    hand_off = found("run-time hand-off")
    assert hand_off["ACL runtime"] == str(root / "lib64/libascendcl.so")
    assert hand_off["libnnopbase.so"] == str(root / "lib64/libnnopbase.so")
    assert hand_off["aclnnMatmulCompressDequant"] == str(root / "lib64/libopapi_math.so")


def test_libraries_on_the_library_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libacl_rt.so").touch()
    (tmp_path / "libopapi_nn.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere::{tmp_path}")
    hand_off = found("run-time hand-off")
    assert hand_off["ACL runtime"] == str(tmp_path / "libacl_rt.so")
    assert hand_off["aclnnMatmulCompressDequant"] is None, "an operator's library without the operator"


def test_the_compressor_of_msmodelslim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the package is imported to find it."""
    package = tmp_path / "site" / "msmodelslim"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "msmodelslim", raising=False)
    assert found("msModelSlim")["compress_excutor"] is None
    program = stand_in_excutor.install(package / "pytorch" / "weight_compression" / "compress_graph" / "build")
    assert found("msModelSlim")["compress_excutor"] == str(program)


def test_vllm_ascend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of torch_npu without the operator are about; nothing of them is imported."""
    package = tmp_path / "site" / "torch_npu"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in ("torch_npu-2.9.0", "vllm_ascend-0.18.0"):
        folder = tmp_path / "site" / f"{name}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.partition('-')[0]}\nVersion: 1.2\n")
    library = package / "lib" / "libtorch_npu.so"
    library.write_bytes(b"\x7fELF" + b"npu_quant_matmul")
    assert set(found("vLLM-Ascend").values()) == {None}
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    ready = found("vLLM-Ascend")
    assert ready["torch_npu"] == ready["vllm-ascend"] == "1.2"
    assert ready["npu_matmul_compress_dequant"] is None
    library.write_bytes(b"\x7fELF" + b"npu_matmul_compress_dequant")
    assert found("vLLM-Ascend")["npu_matmul_compress_dequant"] == str(library)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ascend", "doctor", "--json"]) == 0
    ways = json.loads(capsys.readouterr().out)
    assert [way["name"] for way in ways] == ["CPU stand-in", "msModelSlim", "ATC", "run-time hand-off", "vLLM-Ascend"]
    assert all(finding["remedy"] for way in ways for finding in way["findings"])
    assert ways[3]["complete"] is False


def test_a_way_without_gaps_is_complete() -> None:
    assert Way("way", (doctor.Finding("what", "where", "remedy"),)).complete
