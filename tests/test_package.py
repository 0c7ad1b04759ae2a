"""The package as it is installed: public names, the op library, and the README's words."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT

import mcd_graph
from mcd_graph.requirements import TOOLS


def test_public_names() -> None:
    """A name becomes public on purpose only."""
    assert sorted(mcd_graph.__all__) == [
        "CompressedWeight",
        "InferenceSession",
        "InputError",
        "NothingToCompressError",
        "Progress",
        "Report",
        "Verification",
        "WorkerError",
        "compress_model",
        "disable",
        "enable",
        "get_library_path",
        "pack_weight",
        "restore_model",
        "session_options",
        "unpack_weight",
        "verify_model",
    ]
    for name in mcd_graph.__all__:
        assert getattr(mcd_graph, name).__doc__, name
    assert mcd_graph.passes.plan_lowering
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mcd_graph.nothing


def test_the_version_is_that_of_the_workspace() -> None:
    cargo = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text())
    assert version("mcd-graph") == cargo["workspace"]["package"]["version"]


HEAVY = ("google", "jinja2", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "typer")


def loaded(statement: str, directory: Path) -> set[str]:
    """Return those of HEAVY that are loaded after a statement."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], cwd=directory, check=True, capture_output=True, text=True)
    return set(result.stdout.split()) & set(HEAVY)


def test_importing_is_light(tmp_path: Path) -> None:
    """A program that only wants the library's path waits for nothing else."""
    assert loaded("import mcd_graph; mcd_graph.get_library_path()", tmp_path) == set()
    assert loaded("import mcd_graph; mcd_graph.compress_model", tmp_path) >= {"numpy", "onnx", "onnx_ir"}


def test_a_session_takes_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    """Each is megabytes of resident memory, libcrypto above all."""
    script = "import sys, onnxruntime; before = set(sys.modules)\nimport mcd_graph; mcd_graph.InferenceSession"
    result = subprocess.run(
        [sys.executable, "-c", f"{script}\nprint(*set(sys.modules) - before)"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = set(result.stdout.split())
    assert "mcd_graph.runtime.sessions" in found
    assert not found & {"_hashlib", "_ssl", "_bz2", "_lzma", "_ctypes"}


def test_help_does_not_wait_for_onnx(tmp_path: Path) -> None:
    assert loaded("import mcd_graph.cli", tmp_path) <= {"rich", "typer"}


def test_the_op_library_loads_without_python(tmp_path: Path) -> None:
    source = tmp_path / "load.c"
    source.write_text(
        """
        #include <dlfcn.h>
        #include <stdio.h>
        int main(int count, char **arguments) {
            void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
            if (!library) { puts(dlerror()); return 1; }
            return dlsym(library, "RegisterCustomOps") ? 0 : 2;
        }
        """
    )
    program = tmp_path / "load"
    subprocess.run(["cc", "-o", str(program), str(source), "-ldl"], check=True)
    result = subprocess.run([str(program), mcd_graph.get_library_path()], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_python_in_the_readme_runs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    # Those for other libraries run in tests/examples/, where the libraries are installed.
    (ours,) = [block for block in blocks if "from " not in block]
    scope: dict[str, Any] = {}
    exec(ours, scope)  # noqa: S102 - our own words
    assert scope["report"].totals.lowered == 3
    assert [value.name for value in scope["session"].get_inputs()] == ["ids", "mask"]


def test_nothing_sends_people_to_an_index() -> None:
    """Nothing is published: neither a page nor a message says `pip install mcd-graph`."""
    files = [*(ROOT / "mcd_graph").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.*")]
    texts = [path for path in files if path.suffix != ".pyc"]  # examples that tests ran leave such
    for path in (*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        assert not re.search(r"pip install\W+mcd.graph", path.read_text()), path


def test_ci_runs_the_readme_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "    pip install '.[demo]' && mcd demo\n" in readme
    assert "    pip install '.[test]' && pytest\n" in readme
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet --disable-pip-version-check '.[test]'\n" in script
    assert script.rstrip().endswith("\npytest")


def without(modules: tuple[str, ...], statement: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a statement where some modules are not installed."""
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
{statement}
"""
    return subprocess.run([sys.executable, "-c", script], cwd=directory, check=False, capture_output=True, text=True)


def test_numpy_is_all_that_the_package_alone_needs(tmp_path: Path) -> None:
    """And an onnxruntime, of whichever package, to open sessions."""
    tools = tuple(sorted({*TOOLS, "jinja2", "matplotlib", "distributed"}))
    statement = "import mcd_graph; mcd_graph.get_library_path(); mcd_graph.pack_weight; mcd_graph.enable()"
    result = without(tools, statement, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split("[>=<]", each)[0] for each in project["dependencies"]] == ["numpy"]
    assert not any("onnxruntime" in each for each in project["optional-dependencies"]["tools"])


@pytest.mark.parametrize(
    ("missing", "statement", "line"),
    [
        ("onnxruntime", "mcd_graph.InferenceSession", "pip install onnxruntime"),
        ("onnxruntime", "mcd_graph.verify_model", "pip install onnxruntime"),
        ("onnx", "mcd_graph.compress_model", "'mcd-graph[tools]'"),
        ("onnx_ir", "mcd_graph.passes", "'mcd-graph[tools]'"),
    ],
)
def test_what_is_missing_is_said_in_a_line(missing: str, statement: str, line: str, tmp_path: Path) -> None:
    result = without((missing,), f"import mcd_graph; {statement}", tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {statement}: {missing} is not installed: ")
    assert line in last


def test_plain_residency_says_what_it_needs(model: Path, tmp_path: Path) -> None:
    statement = f"import mcd_graph; mcd_graph.InferenceSession({str(model)!r}, residency='plain')"
    last = without(("onnx",), statement, tmp_path).stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: residency 'plain': onnx is not installed: ")


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("typer", []), ("rich", []), ("onnx", ["inspect", "m.onnx"]), ("onnxruntime", ["verify", "m.onnx", "m.onnx"])],
)
def test_the_command_line_says_it_as_well(missing: str, arguments: list[str], tmp_path: Path) -> None:
    statement = f"from mcd_graph.__main__ import main; sys.argv[1:] = {arguments!r}; sys.exit(main())"
    result = without((missing,), statement, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"mcd: {missing} is not installed: ")
    assert result.stderr.count("\n") == 1


def test_the_command_line_does_not_load_sympy(model: Path, tmp_path: Path) -> None:
    """It would take as long as all the rest; onnx_ir imports it for dimensions that are expressions."""
    source, output = str(model), str(tmp_path / "m.onnx")
    commands = [["compress", source, output, "--force-larger"], ["inspect", output], ["verify", source, output]]
    lines = [
        "import sys",
        "from mcd_graph.__main__ import main",
        f"for sys.argv[1:] in {commands!r}:",
        "    assert main() == 0",
        "    assert 'sympy.core' not in sys.modules",
        "import onnx_ir",
        "assert str(onnx_ir.SymbolicDim('max(n, 3)') + 1) == 'Max(3, n) + 1'",
    ]
    subprocess.run([sys.executable, "-P", "-c", "\n".join(lines)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("platform", "name"), [("linux", "libmcd_ort.so"), ("darwin", "libmcd_ort.dylib"), ("win32", "mcd_ort.dll")]
)
def test_the_librarys_name_on_each_platform(platform: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "linux":
        assert Path(mcd_graph.get_library_path()).name == name
    else:
        with pytest.raises(FileNotFoundError, match=re.escape(name)):
            mcd_graph.get_library_path()
