"""What the operators share that decode an int8 or uint8 constant: its type and its shape, declared by attributes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mcd_graph import _native
from mcd_graph.operators.spec import BYTE_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcd_graph.operators.view import CompressedNode

__all__ = ["check_shape", "decode_as", "shape_of", "type_problem"]


def check_shape(info: Sequence[int], shape: Sequence[int]) -> None:
    """Refuse a shape that the weight does not have the elements of.

    Args:
        info: the node's compress_info.
        shape: of the constant.

    Raises:
        ValueError: it has not, or there are not five numbers in ``info``.
    """
    if len(info) != 5:
        raise ValueError("compress_info must hold 5 integers")
    _, _, k, n, _ = info
    if min(shape, default=0) <= 0 or math.prod(shape) != k * n:
        raise ValueError(f"shape is {list(shape)}, and the weight has {k} x {n} elements")


def decode_as(
    x2: np.ndarray, compress_index: np.ndarray, compress_info: Sequence[int] | None, dtype: int | None
) -> np.ndarray:
    """Decode a weight that is of the type that ``dtype``, an ONNX data type, declares.

    Raises:
        ValueError: it is of another type, or not valid.
    """
    weight = _native.decode(x2, compress_index, np.asarray(compress_info, dtype=np.int64))
    if dtype not in BYTE_TYPES or weight.dtype != BYTE_TYPES[dtype]:
        raise ValueError(f"dtype is {dtype}, and the weight is {weight.dtype}")
    return weight


def shape_of(node: CompressedNode) -> tuple[int, ...]:
    """Return the shape that a node declares; an empty one where it declares none."""
    attribute = node.node.attributes.get("shape")
    return () if attribute is None else tuple(attribute.as_ints())


def type_problem(node: CompressedNode) -> str | None:
    """Say so if a node declares another type than its weight has.

    Raises:
        KeyError: it has no attribute dtype.
        TypeError: that is no integer.
    """
    dtype = node.node.attributes["dtype"].as_int()
    return None if dtype == int(node.dtype) else f"dtype is {dtype}, and the weight is {node.dtype.name.lower()}"
