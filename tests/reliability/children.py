"""What tests do in a process of its own: it may be killed, leak or hang without harm to the others.

``python -m reliability.children NAME ARGUMENT…`` prints the function's answer as JSON. A watchdog ends a process that
hangs, with the stacks of all its threads on standard error.
"""

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["child", "start"]

TESTS = Path(__file__).parents[1]

PATIENCE = 300
"""Seconds after which a process hangs; a hundred times what the slowest takes on an idle machine."""


def start(folder: Path, function: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a function of the module ``reliability.work`` in a process of its own, in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "reliability.children", function, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS / "support"))), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def child(folder: Path, function: str, *arguments: object, **environment: str) -> Any:
    """Run a function in a process of its own and return its answer."""
    process = start(folder, function, *arguments, **environment)
    out, err = process.communicate()
    assert process.returncode == 0, f"status {process.returncode}\n{err}"
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """Run one function."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    faulthandler.enable()
    from reliability import work  # noqa: PLC0415

    answer = getattr(work, sys.argv[1])(*sys.argv[2:])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
