"""The CPU stand-in for Ascend's runtime: its library and headers, the flags that a compiler needs, a first program."""

from importlib.resources import files
from pathlib import Path

from mcd_graph.errors import InputError
from mcd_graph.model.files import write_text
from mcd_graph.model.replacement import refuse_existing

__all__ = ["compiler_flags", "get_aclnn_library_path", "get_include_path", "linker_flags", "write_listing"]

_LISTING = ("matmul_compress_dequant.cpp", "gen_data.py")

_PACKAGE = Path(__file__).parent.parent


def get_aclnn_library_path() -> str:
    """Return the path of ``libmcd_aclnn.so``, which has the C interface of ACL and aclnnMatmulCompressDequant.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    return str(_installed("libmcd_aclnn.so"))


def get_include_path() -> str:
    """Return the folder that holds ``acl/acl.h`` and ``aclnnop/aclnn_matmul_compress_dequant.h``.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    return str(_installed("include"))


def compiler_flags() -> list[str]:
    """Return what a C or C++ compiler needs to find the headers.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    include = get_include_path()
    # The second one is for programs that include an operator's header by its bare name.
    return [f"-I{include}", f"-I{include}/aclnnop"]


def linker_flags() -> list[str]:
    """Return what links a program with the library, and makes the program find it when it runs.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    folder = Path(get_aclnn_library_path()).parent
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lmcd_aclnn"]


def write_listing(folder: Path, *, force: bool = False) -> list[Path]:
    """Write the program of the operator's document, put right, and the script that makes its data.

    Args:
        folder: made if it is missing.
        force: replace files that are there.

    Returns:
        The files.

    Raises:
        FileExistsError: one is there and ``force`` is not set.
        OSError: one cannot be written.
    """
    paths = [folder / name for name in _LISTING]
    for path in paths:
        refuse_existing(path, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        source = files("mcd_graph.ascend").joinpath("listing", path.name).read_text(encoding="utf-8")
        write_text(path, source, force=force)
    return paths


def shell_words(flags: list[str]) -> str:
    """Join flags for ``$(…)``, of which a shell makes words at every blank, whatever quotes are in it.

    Raises:
        InputError: a flag has a blank in it, or a character that the shell would expand.
    """
    for flag in flags:
        if any(character.isspace() or character in "*?[" for character in flag):
            raise InputError(
                f"{flag!r} cannot pass through $(…) in a shell: install mcd-graph in a folder without blanks"
            )
    return " ".join(flags)


def _installed(name: str) -> Path:
    path = _PACKAGE / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: install mcd-graph again")
    return path
