"""Which names the values of a local function have where onnxruntime puts the function in place of a call.

It puts a prefix, which it makes up, in front of what the function names itself. What the function returns has the name
that the caller gives it. So the nodes that compute what functions return are marked, and looked for among its nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx
    import onnx_ir as ir

__all__ = ["RETURNED", "Names", "returning"]

#: Prefix of the names that nodes have whose results a function returns, before their number.
RETURNED = "mcd.returned."


def returning(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that compute what local functions return, in the order of their numbers."""
    outputs = (value for function in model.functions.values() for value in function.outputs)
    return list(dict.fromkeys(node for value in outputs if (node := value.producer()) is not None))


class Names:
    """The names of a model's values when onnxruntime has put functions in place of their calls."""

    def __init__(self, marks: Mapping[ir.Node, str], nodes: Iterable[onnx.NodeProto] = ()) -> None:
        """Learn the names.

        Args:
            marks: the names of nodes by which they are found.
            nodes: the nodes of the model with its functions in place of their calls, not optimised.
        """
        self._marks = marks
        self._outputs = {node.name: list(node.output) for node in nodes}

    def name_of(self, value: ir.Value, prefix: str = "") -> str:
        """Return the name of a value of the graph, or of a function where that is in place of a call.

        Args:
            value: the value.
            prefix: what stands in front of names of the function there; empty for a value of the graph.
        """
        node, index = value.producer(), value.index()
        mark = self._marks.get(node) if node is not None and prefix else None
        found = self._outputs.get(f"{prefix}{mark}", [])
        return found[index] if index is not None and index < len(found) else f"{prefix}{value.name or ''}"
