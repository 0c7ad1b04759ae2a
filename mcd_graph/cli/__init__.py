"""The command ``mcd``: a file a command; ``app.py`` puts them together, ``options.py`` and ``output.py`` are shared."""

from mcd_graph.cli.app import app, main

__all__ = ["app", "main"]
