"""What to install when an import fails: the package alone has the operator's library and needs numpy, no more.

onnxruntime is nobody's to install but the user's: it exists in several packages (``onnxruntime-gpu``, ``-openvino``,
``-directml``, own builds) that exclude each other, and to depend on one would replace another.
"""

__all__ = ["TOOLS", "explain_missing", "with_extra"]

TOOLS = {"google", "ml_dtypes", "onnx", "onnx_ir", "rich", "safetensors", "shellingham", "sympy", "typer"}
"""Modules that the extra ``tools`` brings."""

_EXTRAS = {
    **dict.fromkeys(TOOLS, "tools"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("dask", "distributed"), "dask"),
}


def explain_missing(name: str | None) -> str | None:
    """Say how to get a module that is missing.

    Args:
        name: of the module, as ``ModuleNotFoundError`` has it.

    Returns:
        One line; ``None`` if the module is none that this package asks for.

    Examples:
        >>> from mcd_graph.requirements import explain_missing
        >>> explain_missing("typer")
        "typer is not installed: install mcd-graph with its extra, 'mcd-graph[tools]'"
        >>> explain_missing("nothing.of.ours") is None
        True
    """
    package = (name or "").partition(".")[0]
    if package == "onnxruntime":
        return "onnxruntime is not installed: pip install onnxruntime, or the package of it for your device"
    if package not in _EXTRAS:
        return None
    return f"{package} is not installed: {with_extra(_EXTRAS[package])}"


def with_extra(extra: str) -> str:
    """Say how to get an extra; not by a command, because where the package comes from is not known here."""
    return f"install mcd-graph with its extra, 'mcd-graph[{extra}]'"
