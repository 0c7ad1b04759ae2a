"""The C++ example, compiled and linked with the onnxruntime library that the Python package brings."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from lowering import make_model
from samples import ROOT, K, N, gaussian_weight, layer, write

import mcd_graph
from mcd_graph.session import create_session

HEADERS = Path(__file__).with_name("include")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a program, linked as its first lines say."""
    directory = tmp_path_factory.mktemp("cpp")
    (library,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # as in a release; the wheel has the full name only
        (directory / name).symlink_to(library)
    built = directory / "run"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", str(ROOT / "examples" / "cpp" / "run.cpp")]
    flags = ["-I", str(HEADERS), "-L", str(directory), "-lonnxruntime", f"-Wl,-rpath,{directory}", "-o", str(built)]
    subprocess.run([*command, *flags], check=True)
    return built


def matrix_model(directory: Path) -> tuple[Path, Path]:
    """Write a model of one multiplication, x (rows, K) to y (rows, N), and its compressed form."""
    constants = {
        "w": gaussian_weight(),
        "w_scale": np.array(0.01, np.float32),
        "w_zero": np.array(0, np.int8),
    }
    model = make_model(layer("x", "w", "y"), {"x": (np.float32, ("m", K))}, {"y": (np.float32, ("m", N))}, constants)
    original = write(model, directory / "model.onnx")
    compressed = directory / "model.mcd.onnx"
    mcd_graph.compress_model(original, compressed)
    return original, compressed


def test_it_computes_the_originals_bytes(program: Path, tmp_path: Path) -> None:
    original, compressed = matrix_model(tmp_path)
    x = np.random.default_rng(0).standard_normal((5, K)).astype(np.float32)
    (tmp_path / "x.bin").write_bytes(x.tobytes())
    command = [program, compressed, mcd_graph.get_library_path(), f"x=x.bin:5,{K}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (y,) = create_session(original).run(None, {"x": x})
    assert result.stdout == y.tobytes()


def test_several_inputs_of_another_type(program: Path, model: Path, tmp_path: Path) -> None:
    """In whatever order they are given."""
    mcd_graph.compress_model(model, tmp_path / "model.mcd.onnx")
    rng = np.random.default_rng(0)
    feed = {"ids": rng.integers(0, 30, (2, 7)), "mask": rng.integers(0, 2, (2, 7))}
    for name, array in feed.items():
        (tmp_path / f"{name}.bin").write_bytes(array.tobytes())
    command = [program, "model.mcd.onnx", mcd_graph.get_library_path(), "mask=mask.bin:2,7", "ids=ids.bin:2,7"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (y,) = create_session(model).run(None, feed)
    assert y.dtype == np.float32
    assert result.stdout == y.tobytes()


def test_it_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    _, compressed = matrix_model(tmp_path)
    (tmp_path / "x.bin").write_bytes(np.zeros((1, K), np.float32).tobytes())
    library = mcd_graph.get_library_path()
    whole = f"x=x.bin:1,{K}"
    for arguments, status, message in (
        ([compressed, library, f"x=x.bin:3,{K}"], 2, f"x has {4 * K} bytes; its shape needs {12 * K}"),
        ([compressed, library, f"y=x.bin:1,{K}"], 2, "no input of one of these names"),
        ([compressed, library, "x=no.bin:1"], 2, "no.bin cannot be read"),
        ([compressed, library, "x.bin"], 2, "is not NAME=FILE:SHAPE"),
        ([compressed, tmp_path / "no.so", whole], 1, "no.so"),
        ([tmp_path / "no.onnx", library, whole], 1, "no.onnx"),
    ):
        result = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, check=False)
        assert result.returncode == status
        assert message in result.stderr.decode()


def test_the_header_places_functions_where_onnxruntime_has_them(tmp_path: Path) -> None:
    """By the declarations that cargo has fetched for the operator."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    metadata = json.loads(
        subprocess.run(command, cwd=ROOT / "native", check=True, capture_output=True, text=True).stdout
    )
    (manifest,) = (package["manifest_path"] for package in metadata["packages"] if package["name"] == "ort-sys")
    declared = (Path(manifest).parent / "src" / "lib.rs").read_text()
    api = declared[declared.index("pub struct OrtApi {") :].partition("\n}")[0]
    # A function may be declared once for each platform.
    places = list(dict.fromkeys(re.findall(r"^\tpub (\w+):", api, re.MULTILINE)))

    used = re.findall(r"\(\*(\w+)\)", (HEADERS / "onnxruntime_c_api.h").read_text().partition("struct OrtApi {")[2])
    used = [name for name in used if name not in ("GetApi", "GetVersionString")]
    assert "RegisterCustomOpsLibrary_V2" in used
    assertions = [
        f"static_assert(offsetof(OrtApi, {name}) == {places.index(name)} * sizeof(void *), {json.dumps(name)});"
        for name in used
    ]
    source = tmp_path / "places.cpp"
    source.write_text("\n".join(["#include <onnxruntime_c_api.h>", *assertions]))
    subprocess.run(["g++", "-std=c++17", "-fsyntax-only", "-I", str(HEADERS), str(source)], check=True)
