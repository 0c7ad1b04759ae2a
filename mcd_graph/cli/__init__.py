"""The command ``mcd``: a file a command, what several share in ``options.py`` and ``output.py``, all together in ``app.py``."""

from mcd_graph.cli.app import app, main

__all__ = ["app", "main"]
