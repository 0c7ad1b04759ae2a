"""The layers of a model as tables for a terminal of 80 columns."""

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table

from mcd_graph.report.data import NodeReport

__all__ = ["layer_tables"]

_NUMBER: JustifyMethod = "right"


def layer_tables(nodes: Iterable[NodeReport]) -> Iterator[RenderableType]:
    """Yield a heading and a table for every kind of layer; what all layers of a table share is in its heading.

    Args:
        nodes: layers in the graph's order, which they keep within a table.
    """
    groups: dict[tuple[str, str], list[NodeReport]] = {}
    for node in nodes:
        groups.setdefault((node.status, _heading(node)), []).append(node)
    for (status, heading), members in groups.items():
        yield f"[bold]{len(members)} {escape(heading)}[/bold]"
        yield _table(status, members)


def _heading(node: NodeReport) -> str:
    """Return what a node shares with others of its kind."""
    text = f"{node.status}: {node.pattern}"
    if node.status == "lowered":
        text += f", coded as {node.profile} {node.codec}"
    return text if node.reason is None else f"{text}, because {node.reason}"


def _table(status: str, nodes: list[NodeReport]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("k x n", justify=_NUMBER, no_wrap=True)
    if status != "kept":
        table.add_column("bits", justify=_NUMBER, no_wrap=True)
        table.add_column("ratio" if status == "lowered" else "ratio up to", justify=_NUMBER, no_wrap=True)
    for node in nodes:
        table.add_row(escape(node.name), _shape(node), *(() if status == "kept" else (_bits(node), _ratio(node))))
    return table


def _shape(node: NodeReport) -> str:
    return "" if node.k is None or node.n is None else f"{node.k} x {node.n}"


def _bits(node: NodeReport) -> str:
    return "" if node.entropy_bits is None else f"{node.entropy_bits:.2f}"


def _ratio(node: NodeReport) -> str:
    """Return what was reached; where nothing is compressed yet, what the entropy allows."""
    if node.weight_bytes and node.compressed_bytes:
        return f"{node.weight_bytes / node.compressed_bytes:.3f}"
    if node.entropy_bits:
        return f"{8 / node.entropy_bits:.3f}"
    return ""
