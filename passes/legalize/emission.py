"""Puts the strict form in the place of nodes that were taken apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.operators.view import CompressedNode, info_of
from mcd_graph.passes.engine.emit import (
    Names,
    metadata_beside_names,
    place_constant,
    place_operands,
    take_over,
)
from mcd_graph.passes.engine.facts import (
    constant_array,
    get_input,
    graph_of,
    known_dtype,
    known_shape,
)
from mcd_graph.passes.engine.match import NewConstant, NewNode, NewOutput
from mcd_graph.passes.legalize.halves import halves_factor, halves_of, halves_tail
from mcd_graph.passes.legalize.limits import FLIP, TILING
from mcd_graph.passes.legalize.parts import Parts, shrunk_scale
from mcd_graph.passes.legalize.strict import as_tensor, pad, rows_of, strict_bias, strict_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mcd_graph.passes.engine.match import Operand

    Packed = tuple[np.ndarray | ir.TensorProtocol, np.ndarray | ir.TensorProtocol, Sequence[int] | np.ndarray]
    Pack = Callable[[str, np.ndarray], Packed]

__all__ = ["Emission", "Pack"]


class Emission:
    """One run over one model: what is made once and used by several nodes."""

    def __init__(
        self, model: ir.Model, names: Names, max_rows: int | None, pack: Pack | None, *, split_activations: bool
    ) -> None:
        self._names = names
        self._max_rows = max_rows
        self._pack = pack
        self._split = split_activations
        self._opset = model.opset_imports.get("", 0)
        self._activations: dict[tuple[int, ir.Value, int], ir.Value] = {}
        self._halves: dict[tuple[int, ir.Value, int, ir.Value | None], ir.Value] = {}
        self._packed: dict[tuple[Any, ...], tuple[tuple[ir.TensorProtocol, ir.TensorProtocol], tuple[int, ...]]] = {}
        self._weights: dict[tuple[Any, ...], tuple[ir.Value, ir.Value]] = {}

    def legalize(self, parts: Parts) -> bool:
        """Put the strict form in the place of a node; return ``False`` if it has that form already."""
        split = self._split and not parts.plain_float16  # of such a node nothing but its own rounding is lost
        rows = None if parts.rows is None else parts.rows * (2 if split else 1)
        step = self._max_rows if self._max_rows is not None and rows is not None and rows > self._max_rows else None
        if step is None and self._is_strict(parts):
            return False
        node, names = parts.node, self._names
        base = node.name or OP_TYPE
        x2, index, info = self._weight(parts)
        activation = self._both_halves(parts) if split else self._activation(parts)
        (scale, factor), new_bias = self._scale_and_bias(parts, base, split=split)
        word = pad(scale, parts.padded[0], 1.0).view(np.uint32).astype(np.uint64).reshape(1, -1)
        deq_scale, bias = self._place((NewConstant(word, f"{base}.deq_scale"), new_bias), parts, base)
        if rows is None or step is None:
            chunks: list[Operand] = [activation]
        else:
            chunks = [rows_of(activation, start, min(start + step, rows), base) for start in range(0, rows, step)]
        placed = self._place(tuple(chunks), parts, base)
        results = []
        for start, chunk in zip(range(0, max(rows or 0, 1), step or max(rows or 0, 1)), placed, strict=True):
            if chunk is not activation and step is not None and rows is not None:
                chunk.dtype, chunk.shape = ir.DataType.INT8, ir.Shape((min(step, rows - start), parts.padded[1]))
            strict = NewNode(
                OP_TYPE, (chunk, x2, index, deq_scale, bias), {"compress_info": list(info)}, domain=OP_DOMAIN
            )
            (result,) = self._place((NewOutput(strict),), parts, base)
            result.dtype = ir.DataType.FLOAT16
            results.append(result)
            producer = result.producer()
            if producer is not None:
                producer.name = names.unique(f"{base}.rows_{start}") if step is not None else node.name
                producer.doc_string = node.doc_string
                producer.metadata_props.update(node.metadata_props)
        tail = halves_tail if split else strict_tail
        (final,) = self._place((tail(parts, results, factor, base, self._opset),), parts, base)
        take_over(node.outputs[0], final)
        return True

    @staticmethod
    def _scale_and_bias(parts: Parts, base: str, *, split: bool) -> tuple[tuple[np.ndarray, float], Operand]:
        """Return the strict node's scale, the power of two that stands behind it, and its bias."""
        if split:
            factor = halves_factor(parts)
            zeros = NewConstant(np.zeros(parts.padded[0], np.int32), f"{base}.bias")
            return (np.full(parts.n, 1 / factor, np.float32), factor), zeros
        shrunk = shrunk_scale(parts)
        if shrunk is None:
            raise AssertionError("a scale that cannot be shrunk is kept")
        return shrunk, strict_bias(parts, base)

    def _place(self, operands: tuple[Operand, ...], parts: Parts, base: str) -> list[ir.Value]:
        node = parts.node
        metadata = metadata_beside_names(node)
        values = place_operands(operands, node, self._names, in_function=False, base=base, metadata=metadata)
        return [value for value in values if value is not None]

    def _is_strict(self, parts: Parts) -> bool:
        node = parts.node
        deq_scale = get_input(node, INPUT_NAMES.index("deq_scale"))
        return (
            self._pack is None
            and not parts.changed
            and not parts.unsigned
            and parts.dims is not None
            and len(parts.dims) == 2
            and parts.padded == (parts.n, parts.k)
            and parts.plain_float16
            and known_dtype(deq_scale) == ir.DataType.UINT64
            and math.prod(known_shape(deq_scale) or ()) == parts.n  # type: ignore[arg-type]  # a constant's
            and all(get_input(node, position) is None for position in range(5, len(INPUT_NAMES)))
            and get_input(node, INPUT_NAMES.index("bias")) is not None
            and info_of(node)[:2] == TILING
        )

    def _weight(self, parts: Parts) -> tuple[ir.Value, ir.Value, tuple[int, ...]]:
        """Return the values x2 and compress_index and the five integers of the strict node's weight."""
        node = parts.node
        view = CompressedNode.of(node)
        x2, index = view.input("x2"), view.input("compress_index")
        zero_point = constant_array(view.input("w_zero_point"))
        if x2 is None or index is None:
            raise AssertionError("a weight that is not constant is kept")
        fits = not parts.changed and parts.padded == (parts.n, parts.k) and view.tiling == TILING
        if self._pack is None and fits:
            return x2, index, view.info
        key = (id(view.x2), id(view.compress_index), b"" if zero_point is None else zero_point.tobytes())
        name = view.weight_name
        if key not in self._packed:
            n, k = parts.padded
            padded = np.zeros((n, k), np.int8)
            padded[: parts.n, : parts.k] = parts.weight
            pack = self._pack or (lambda _name, weight: _native.encode(weight))
            *arrays, numbers = pack(name, padded)
            new = [
                as_tensor(array, f"{name}.strict.{part}")
                for array, part in zip(arrays, ("x2", "compress_index"), strict=True)
            ]
            self._packed[key] = ((new[0], new[1]), tuple(int(number) for number in numbers))
        new_tensors, info = self._packed[key]
        place = (id(graph_of(node)), *key)
        if place not in self._weights:
            names = (self._names.unique(f"{name}.strict.{part}") for part in ("x2", "compress_index"))
            first, second = (
                place_constant(tensor, new_name, node, as_node=False)
                for tensor, new_name in zip(new_tensors, names, strict=True)
            )
            self._weights[place] = (first, second)
        return (*self._weights[place], info)

    def _activation(self, parts: Parts) -> ir.Value:
        """Return x1 as int8 (m, k) with k within the limits; several nodes may share it."""
        k = parts.padded[1]
        key = (id(graph_of(parts.node)), parts.x1, k)
        if key in self._activations:
            return self._activations[key]
        base = parts.x1.name or "x1"
        x: Operand = parts.x1
        if parts.dims is None or len(parts.dims) != 2:
            x = NewOutput(NewNode("Reshape", (x, NewConstant(np.array([-1, parts.k]), f"{base}.matrix"))))
        if parts.unsigned:
            x = NewOutput(NewNode("Cast", (x,), {"to": int(ir.DataType.INT32)}))
            x = NewOutput(NewNode("Sub", (x, NewConstant(np.array(FLIP, np.int32), f"{base}.flip"))))
            x = NewOutput(NewNode("Cast", (x,), {"to": int(ir.DataType.INT8)}))
        if k > parts.k:
            pads = NewConstant(np.array([0, 0, 0, k - parts.k]), f"{base}.pads")
            x = NewOutput(NewNode("Pad", (x, pads)))
        (value,) = self._place((x,), parts, base)
        if value is not parts.x1:
            value.dtype, value.shape = ir.DataType.INT8, ir.Shape((parts.rows, k))
        self._activations[key] = value
        return value

    def _both_halves(self, parts: Parts) -> ir.Value:
        """Return the halves of x1, int8 (2 m, k); several nodes may share them."""
        whole = self._activation(parts)
        key = (id(graph_of(parts.node)), whole, parts.zero_point, parts.run_time_zero_point)
        if key not in self._halves:
            base = parts.x1.name or "x1"
            (value,) = self._place((halves_of(parts, whole, base),), parts, base)
            rows = None if parts.rows is None else 2 * parts.rows
            value.dtype, value.shape = ir.DataType.INT8, ir.Shape((rows, parts.padded[1]))
            self._halves[key] = value
        return self._halves[key]
