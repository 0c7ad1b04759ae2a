"""``mcd ascend cflags``."""

from typing import Annotated

import typer

__all__ = ["cflags"]


def cflags(
    compile_only: Annotated[bool, typer.Option("--compile", help="Only what the compiler needs.")] = False,
    link_only: Annotated[bool, typer.Option("--link", help="Only what the linker needs.")] = False,
) -> None:
    """Print the flags that build a program for the CPU stand-in of Ascend's runtime.

    Example: [bold]g++ client.cpp $(mcd ascend cflags)[/bold]
    """
    from mcd_graph.ascend.stand_in import compiler_flags, linker_flags, shell_words  # noqa: PLC0415

    both = compile_only == link_only
    flags = [*(compiler_flags() if both or compile_only else []), *(linker_flags() if both or link_only else [])]
    typer.echo(shell_words(flags))
