"""Build steps that pyproject.toml cannot say: where the version comes from and what the op library is called."""

import sys
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools_rust import Binding, RustExtension
from setuptools_rust.build import build_rust


def library_file_name(name: str) -> str:
    """Return what the linker calls a library: ``libx`` is ``libx.so``, ``libx.dylib`` or ``x.dll``."""
    if sys.platform == "win32":
        return name.removeprefix("lib") + ".dll"
    return name + (".dylib" if sys.platform == "darwin" else ".so")


class BuildRust(build_rust):
    """Names a library without Python bindings as the linker does, since other languages load it by that name."""

    def get_dylib_ext_path(self, ext: RustExtension, target_fname: str) -> str:
        path = Path(super().get_dylib_ext_path(ext, target_fname))
        if ext.binding is Binding.NoBinding:
            path = path.with_name(library_file_name(target_fname.rpartition(".")[2]))
        return str(path)


cargo = tomllib.loads(Path("native/Cargo.toml").read_text())

setup(
    version=cargo["workspace"]["package"]["version"],
    cmdclass={"build_rust": BuildRust},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
