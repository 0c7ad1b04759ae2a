"""``python -m mcd_graph`` and the script ``mcd``: the command line, quiet about Ctrl-C while it is still loading."""

import signal
import sys

from mcd_graph.postponed import postpone_sympy
from mcd_graph.requirements import explain_missing

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit status."""
    postpone_sympy()
    try:
        from mcd_graph.cli import main as run  # noqa: PLC0415 - takes a good part of a second

        return run()
    except ModuleNotFoundError as error:
        reason = explain_missing(error.name)
        if reason is None:
            raise
        sys.stderr.write(f"mcd: {reason}\n")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
