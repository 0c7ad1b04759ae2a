"""Nodes to be, as plain data: what an operator's restoration and the passes say that they want to have made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["NewConstant", "NewNode", "NewOutput", "Operand", "Result"]


@dataclasses.dataclass(frozen=True, eq=False)
class NewConstant:
    """A small constant that a rewrite adds; ``hint`` becomes its name."""

    array: np.ndarray
    hint: str


@dataclasses.dataclass(frozen=True, eq=False)
class NewNode:
    """A node that a rewrite adds."""

    op_type: str
    inputs: tuple[Operand, ...]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    domain: str = ""
    num_outputs: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class NewOutput:
    """Output ``index`` of a :class:`NewNode`."""

    node: NewNode
    index: int = 0


class Result:
    """Stands, among the inputs of a :class:`NewNode`, for what the new compressed node computes."""


Operand: TypeAlias = ir.Value | NewConstant | NewOutput | Result | None
