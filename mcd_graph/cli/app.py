"""The command ``mcd``: arguments in, text out. Everything it does is in the Python API as well.

Results go to standard output; progress and errors, one line each, to standard error. Exit status: 0 done, 1 a check
found a difference, 2 bad usage or input. Heavy imports wait until a command needs them, so that ``--help`` is quick.
"""

import errno
import logging
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcd_graph.cli.ascend import app as ascend
from mcd_graph.cli.bench import bench
from mcd_graph.cli.compress import compress
from mcd_graph.cli.demo import demo
from mcd_graph.cli.inspect import inspect
from mcd_graph.cli.interruption import came_of_interruption, no_interruption_lost
from mcd_graph.cli.last_word import with_last_word
from mcd_graph.cli.output import err, out, say
from mcd_graph.cli.restore import restore
from mcd_graph.cli.verify import verify
from mcd_graph.errors import InputError, WorkerError
from mcd_graph.model.temporaries import MARK, remove_temporaries

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

app = typer.Typer(
    name="mcd",
    help="Make quantised ONNX models smaller without changing one bit of what they compute.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_SIGPIPE = getattr(signal, "SIGPIPE", 13)  # which Windows does not have

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # the base that typer does not export


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of  # noqa: PLC0415

        out.print(f"mcd-graph {version_of('mcd-graph')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help(), markup=False)
        raise typer.Exit(2)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the command line and return its exit status; nothing but the last line of defence raises."""
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are not ours to print
    try:
        with no_interruption_lost():
            status = app(args=None if arguments is None else list(arguments), prog_name="mcd", standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        command = "mcd" if context is None else context.command_path
        return _complain(f"{error.format_message()} ({command} --help)")  # type: ignore[attr-defined]
    except (InputError, ValueError, WorkerError) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(_describe(error))
    except MemoryError as error:
        return _complain(str(error) or "out of memory")
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit:  # how typer and rich end when the reader of the output went away, as `head` does
        return 128 + _SIGPIPE
    except Exception as error:
        if came_of_interruption(error):
            return _interrupted()
        raise
    if status == 128 + signal.SIGINT:  # what typer makes of KeyboardInterrupt
        return _interrupted()
    return status if isinstance(status, int) else 0


def _interrupted() -> int:
    remove_temporaries()
    _complain("interrupted; no file was left half-written")
    return 128 + signal.SIGINT


def _complain(message: str) -> int:
    # A name that is not UTF-8 has characters that cannot be printed.
    text = " ".join(message.split()).encode(errors="surrogateescape").decode(errors="backslashreplace")
    say(f"mcd: {text}", "red", console=err)
    return 2


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        reason = "no space left; no file was left half-written"
    if error.filename is None:
        return reason
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
    if path is None:  # an open descriptor, whose number says nothing
        return reason
    # What was written under a temporary name is to have this one.
    temporary = re.fullmatch(rf"\.(.+){re.escape(MARK)}[0-9a-f-]+(\.\w+)?", path.name)
    return f"{path if temporary is None else path.with_name(temporary[1])}: {reason}"


for _command in (compress, inspect, verify, restore, bench, demo):
    app.command()(with_last_word(_command))
app.add_typer(ascend)
