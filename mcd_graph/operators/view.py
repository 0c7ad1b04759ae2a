"""A compressed node as everything but a kernel sees it: here, and nowhere else, a node's compressed weight is read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.mapped import unmap
from mcd_graph.operators.constants import constant_tensor
from mcd_graph.operators.registry import compressed_nodes, name_of, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcd_graph.operators.spec import OperatorSpec

    Matrix = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
    Parts = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]

__all__ = [
    "CompressedNode",
    "CompressedNodeError",
    "WeightNotConstantError",
    "check_memory",
    "info_of",
    "weight_name_of",
]


class CompressedNodeError(InputError):
    """A node of our domain has no compressed weight that could be read.

    Attributes:
        node: name of the node.
        reason: why, without that name.
    """

    def __init__(self, node: ir.Node, reason: str) -> None:
        self.node = name_of(node)
        self.reason = reason
        super().__init__(f"node {self.node}: {reason}")


class WeightNotConstantError(CompressedNodeError):
    """The compressed weight is an input of the model, or is computed."""


def weight_name_of(x2: str | None) -> str:
    """Return the name of the weight whose stream is called ``x2``."""
    return (x2 or "weight").removesuffix(".x2")


def info_of(node: ir.Node) -> tuple[int, ...]:
    """Return the integers of ``compress_info``; none if it is missing, or is no list of integers."""
    attribute = node.attributes.get("compress_info")
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INTS:
        return ()
    return tuple(attribute.as_ints())


@dataclasses.dataclass(frozen=True, eq=False)
class CompressedNode:
    """A node of our domain with its compressed weight.

    Attributes:
        node: the node.
        spec: its operator.
        x2: the stream, int8 (c,).
        compress_index: int8 (8 * tiles,).
        info: the five integers of ``compress_info``: tilingK, tilingN, k, n, direction.
    """

    node: ir.Node
    spec: OperatorSpec
    x2: ir.TensorProtocol
    compress_index: ir.TensorProtocol
    info: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Self:
        """Return the view of a node; the weight is neither read nor checked.

        Raises:
            WeightNotConstantError: the weight is not constant.
            CompressedNodeError: ``compress_info`` is missing, or is no list of five integers.
            InputError: the node's operator is not one of ours, or not known.
        """
        spec = spec_of(node)
        if spec is None:
            raise InputError(f"node {name_of(node)} is {node.domain}::{node.op_type}, which has no compressed weight")
        x2, index = (constant_tensor(spec.input(node, name)) for name in ("x2", "compress_index"))
        if x2 is None or index is None:
            raise WeightNotConstantError(node, "its compressed weight is not constant")
        info = info_of(node)
        if len(info) != 5:
            raise CompressedNodeError(node, f"its compress_info {_wrong_info(node, info)} instead of 5 integers")
        return cls(node, spec, x2, index, info)

    @property
    def name(self) -> str:
        """What messages and reports call the node."""
        return name_of(self.node)

    @property
    def stream_name(self) -> str:
        """The name of ``x2``."""
        value = self.input("x2")
        return (value and value.name) or ""

    @property
    def weight_name(self) -> str:
        """The name of the weight; ``weight`` where it has none."""
        return weight_name_of(self.stream_name)

    @property
    def k(self) -> int:
        """Columns of the matrix that is stored, along which a multiplication adds."""
        return self.info[2]

    @property
    def n(self) -> int:
        """Rows of the matrix that is stored."""
        return self.info[3]

    @property
    def tiling(self) -> tuple[int, int]:
        """Size of a tile: tilingK, tilingN."""
        return self.info[0], self.info[1]

    @property
    def direction(self) -> int:
        """The order of the tiles."""
        return self.info[4]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the constant that was compressed."""
        return self.spec.weight_shape(self)

    @functools.cached_property
    def dtype(self) -> ir.DataType:
        """The type of the constant that was compressed: int8 or uint8; FormatError for a damaged one."""
        return {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}[self.inspect()["dtype"]]

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """Tells weights apart: by their place, for tensors in a file, and by their content for those in the model."""
        return (*_place(self.x2), *_place(self.compress_index), self.info)

    def input(self, name: str) -> ir.Value | None:
        """Return the input called ``name``, if there is one."""
        return self.spec.input(self.node, name)

    def parts(self) -> Parts:
        """Return x2, compress_index and compress_info as arrays, large ones in the file's mapping.

        Raises:
            CompressedNodeError: they cannot be read.
        """
        try:
            return self.x2.numpy(), self.compress_index.numpy(), np.array(self.info, np.int64)
        except (OSError, TypeError, ValueError) as error:
            reason = f"its compressed weight cannot be read: {_first_line(error)}"
            raise CompressedNodeError(self.node, reason) from None

    def memory_needed(self, *, decoded: bool) -> int:
        """Return how many bytes it takes at the most to load the weight, its own tensors apart.

        Args:
            decoded: to decode it as well.
        """
        return _native.memory_needed(self.compress_index.nbytes, list(self.info), decoded)

    def inspect(self) -> _native.StreamInfo:
        """Return what the stream's header says; FormatError, with the node's name, for one that is damaged."""
        with self._named():
            return _native.inspect(*self.parts())

    def decode(self, *, by_columns: bool = False) -> Matrix:
        """Return the matrix (n, k) that is stored, all checksums checked.

        Args:
            by_columns: it is in memory as the matrix (k, n), for who wants its transpose.

        Raises:
            FormatError: the weight is damaged; the message names the node.
        """
        with self._named():
            return _native.decode(*self.parts(), by_columns)

    def weight(self, name: str) -> ir.LazyTensor:
        """Return the constant that was compressed, decoded when it is looked at."""

        def decode() -> ir.TensorProtocol:
            decoded = self.decode(by_columns=self.spec.weight_by_columns)
            self.release()  # or all maps would stay to the end
            return ir.tensor(self.spec.weight_of(self, decoded), name=name)

        return ir.LazyTensor(decode, self.dtype, ir.Shape(self.weight_shape), name=name)

    def release(self) -> None:
        """Let go of the stream's memory map, if there is one; it is mapped again when it is read."""
        unmap(self.x2)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say in a codec's error which node's weight is damaged."""
        try:
            yield
        except (_native.FormatError, TypeError, OverflowError) as error:
            raise _native.FormatError(f"node {self.name}: {error}") from None


def check_memory(model: ir.Model, source: str, limit: int | None, *, decoded: bool, together: bool = False) -> None:
    """Raise InputError if what compressed weights take in memory is more than a limit.

    Nothing of a weight is read for that but the length of its index and its attributes.

    Args:
        model: with its compressed nodes.
        source: what the error calls it.
        limit: in bytes; ``None`` for no limit.
        decoded: the weights are decoded.
        together: all of them are in memory at once, instead of one after the other.
    """
    if limit is None:
        return
    total = 0
    seen = set()
    for node, *_ in compressed_nodes(model):
        try:
            view = CompressedNode.of(node)
        except CompressedNodeError:
            continue  # whoever reads it says why it cannot
        if view.stream_name in seen and together:
            continue
        seen.add(view.stream_name)
        needed = view.memory_needed(decoded=decoded)
        total = total + needed if together else needed
        if total > limit:
            raise InputError(
                f"{source}: node {view.name}: out of memory: weight {view.weight_name!r} needs {needed} bytes"
                + (f", and with those before it {total}" if total > needed else "")
                + f"; the memory limit is {limit}"
            )


def _wrong_info(node: ir.Node, info: tuple[int, ...]) -> str:
    attribute = node.attributes.get("compress_info")
    if attribute is None:
        return "is missing"
    if attribute.is_ref() or attribute.type != ir.AttributeType.INTS:
        return f"is of the type {attribute.type.name}"
    return f"holds {len(info)}"


def _place(tensor: ir.TensorProtocol) -> tuple[Any, ...]:
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.path), tensor.offset or 0
    return (hashlib.blake2b(tensor.tobytes(), digest_size=16).digest(),)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
