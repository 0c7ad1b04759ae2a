"""What the operators' type and shape inference has in common."""

from collections.abc import Sequence
from typing import Any

__all__ = ["type_of_input"]


def type_of_input(context: Any, names: Sequence[str], name: str) -> Any:
    """Return the TypeProto of an input, or ``None`` if that is absent or not known.

    Args:
        context: what onnx gives to an inference function.
        names: the operator's inputs, by position.
        name: of the input.
    """
    position = names.index(name)
    return context.get_input_type(position) if position < context.get_num_inputs() else None
