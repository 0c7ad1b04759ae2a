"""Gather of rows of an int8 table, as quantised embeddings have it, and what widens the rows.

::

    rows = Gather(table, indices)                         GatherCompressDequant(
    y = DequantizeLinear(rows, scale, zero_point)    ->       table', indices, scale, zero_point
                                                          )

=========================================  ===================================================================
what is found                              what the new node computes
=========================================  ===================================================================
Gather of the table                        the rows, of the table's type
Gather, and DequantizeLinear behind it     the floats; scale and zero point are one value or one for each column
Gather, and Cast · [Sub] · Mul behind it   the same
DequantizeLinear in front of the Gather    the same; scale and zero point may be one for each row as well
Cast · [Sub] · Mul in front of it          the same
both, with a QuantizeLinear behind         the rows, of the table's type, where it undoes the DequantizeLinear
=========================================  ===================================================================

A value is widened alike whether it is looked up first or later, so the floats are those of the original with
optimisations and without: onnxruntime computes ``(q - zero_point) * scale`` in float32 in all of these forms.

Only Gather along the rows of a matrix is looked at (axis 0); constants of other Gathers are compressed as constants.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir

from mcd_graph.model.constants import WORTH_NAMING
from mcd_graph.operators import gather_compress_dequant
from mcd_graph.passes.engine.constants import fold
from mcd_graph.passes.engine.facts import (
    MS_DOMAIN,
    constant_array,
    dimensions,
    get_input,
    int_attribute,
    is_op,
    known_dtype,
    known_rank,
    known_shape,
    only_consumer,
)
from mcd_graph.passes.engine.match import Family, Match, NewCompressed, NewConstant, NewNode, NewOutput, Operand, Rule
from mcd_graph.passes.engine.operands import WEIGHT_TYPES, find_weight
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.operators.spec import OperatorSpec
    from mcd_graph.passes.engine.match import Weight

__all__ = ["FAMILY"]

#: Along which axis scale and zero point go.
_ROWS, _COLUMNS = 0, 1

#: Rows and columns of a fractal, and the most fractals that a tile may be wide.
_FRACTAL_K, _MOST_FRACTALS = 32, 127


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(NewCompressed):
    """A GatherCompressDequant to be."""

    spec: ClassVar[OperatorSpec] = gather_compress_dequant.SPEC

    indices: Operand
    scale: Operand = None
    zero_point: Operand = None
    axis: int = _COLUMNS
    dtype: ir.DataType = ir.DataType.INT8
    output_type: ir.DataType | None = None
    dequantized: str | None = None

    def metadata(self) -> dict[str, str]:
        """Say where a DequantizeLinear made floats of the rows: what else onnxruntime fuses with their readers."""
        return {} if self.dequantized is None else {gather_compress_dequant.DEQUANTIZED_KEY: self.dequantized}

    def attributes(self) -> dict[str, Any]:
        """Return its attributes."""
        return {"dtype": int(self.dtype), **({} if self.axis == _COLUMNS else {"axis": self.axis})}

    def tiling(self, weight: Weight) -> tuple[int, int]:
        """Return the tile that is one panel high and as wide as the table: what is decoded for a row."""
        return min(_MOST_FRACTALS, math.ceil(weight.k / _FRACTAL_K)), 1

    def stream_type(self, weight: Weight) -> ir.DataType:
        """Return uint8 for rows of uint8: by that, onnxruntime before 1.24 knows the type of the result."""
        return weight.tensor.dtype if self.scale is None else ir.DataType.INT8


@dataclasses.dataclass(frozen=True, eq=False)
class _Widening:
    """A DequantizeLinear, or Cast, Sub and Mul, which make floats of bytes.

    Attributes:
        source: the bytes.
        nodes: the nodes, the one that reads ``source`` first.
        scale: what is multiplied with.
        zero_point: what is subtracted first, of the type of the bytes or float32.
        axis: along which a DequantizeLinear has its scales; ``None``: they are broadcast as Mul does it.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    scale: ir.Value
    zero_point: ir.Value | None = None
    axis: int | None = None

    @property
    def label(self) -> str:
        return "+".join(node.op_type for node in self.nodes)


def _match_alone(node: ir.Node) -> Match | None:
    return _match(node, alone=True)


def _match(node: ir.Node, *, alone: bool = False) -> Match | None:
    table, indices = get_input(node, 0), get_input(node, 1)
    if table is None or indices is None or int_attribute(node, "axis", 0) not in (0, -2):
        return None
    if _is_table(table):
        return _of_bytes(node, find_weight(table, transposed=True), indices, alone=alone)
    widening = _widening(table)
    if widening is None or not _is_table(widening.source):
        return None
    return _of_floats(node, find_weight(widening.source, transposed=True, path=widening.nodes), indices, widening)


def _is_table(value: ir.Value) -> bool:
    """Tell whether a value is a constant matrix of bytes that is large enough to be a table of weights."""
    constant = fold(value)
    if constant is None or constant.tensor.dtype not in WEIGHT_TYPES:
        return False
    return len(dimensions(constant.tensor)) == 2 and constant.tensor.nbytes >= WORTH_NAMING


def _of_bytes(node: ir.Node, weight: Weight, indices: ir.Value, *, alone: bool) -> Match:
    """Return the match of a Gather in the table, with what widens the rows, if nobody else reads them."""
    rows = Rows(indices, dtype=weight.tensor.dtype, output_type=weight.tensor.dtype)
    plain = Match("Gather", weight, rows, node.outputs[0], (node,))
    widening = None if alone else _widening_behind(node.outputs[0], node.graph)
    if widening is None:
        return plain
    rank = known_rank(indices)
    shape = None if rank is None else (*(None,) * rank, weight.k)
    if _axis(widening, shape, weight.k) != _COLUMNS:
        return plain
    where = None if widening.axis is None else gather_compress_dequant.BEHIND
    widened = _widened(rows, widening, _COLUMNS, where)
    pattern = f"Gather+{widening.label}"
    return Match(pattern, weight, widened, widening.nodes[-1].outputs[0], (node, *widening.nodes))


def _of_floats(node: ir.Node, weight: Weight, indices: ir.Value, widening: _Widening) -> Match:
    """Return the match of a Gather in the widened table."""
    axis = _axis(widening, (weight.n, weight.k), weight.k)
    if axis is None:
        raise Refusal(
            ReasonCode.PARAMETER_SHAPE,
            f"{widening.scale.name} is neither one value nor one for each row or column of the table",
        )
    rows = Rows(indices, dtype=weight.tensor.dtype, output_type=weight.tensor.dtype)
    pattern = f"{widening.label}+Gather"
    quantizer = only_consumer(node.outputs[0], node.graph)
    if quantizer is not None and _undoes(quantizer, widening):
        output = quantizer.outputs[0]
        return Match(f"{pattern}+QuantizeLinear", weight, rows, output, (node, quantizer))
    where = gather_compress_dequant.CAST_IN_FRONT if widening.axis is None else gather_compress_dequant.IN_FRONT
    return Match(pattern, weight, _widened(rows, widening, axis, where), node.outputs[0], (node,))


def _widened(rows: Rows, widening: _Widening, axis: int, where: str | None) -> Rows:
    scale, zero_point = _vector(widening.scale), _float_vector(widening.zero_point)
    return dataclasses.replace(
        rows, scale=scale, zero_point=zero_point, axis=axis, output_type=ir.DataType.FLOAT, dequantized=where,
    )  # fmt: skip


def _widening_behind(rows: ir.Value, graph: ir.Graph | ir.Function | None) -> _Widening | None:
    """Return what widens the rows, if that alone reads them."""
    value = rows
    for _ in range(3):
        node = only_consumer(value, graph)
        if node is None or not node.outputs:
            return None
        value = node.outputs[0]
        widening = _widening(value)
        if widening is not None:
            return widening if widening.source is rows and get_input(node, 1) is not rows else None
        if not (is_op(node, "Cast") or is_op(node, "Sub")):
            return None
    return None


def _widening(value: ir.Value) -> _Widening | None:
    """Return what computes a float value from bytes."""
    node = value.producer()
    if node is None or value.index():
        return None
    if is_op(node, "DequantizeLinear") or is_op(node, "DequantizeLinear", MS_DOMAIN):
        return _dequantize_linear(node)
    return _cast_and_mul(node) if is_op(node, "Mul") else None


def _dequantize_linear(node: ir.Node) -> _Widening | None:
    source, scale = get_input(node, 0), get_input(node, 1)
    if source is None or scale is None or known_dtype(scale) != ir.DataType.FLOAT:
        return None
    if int_attribute(node, "block_size", 0) or int_attribute(node, "output_dtype", 0) not in (0, ir.DataType.FLOAT):
        return None
    return _Widening(source, (node,), scale, get_input(node, 2), int_attribute(node, "axis", 1))


def _cast_and_mul(mul: ir.Node) -> _Widening | None:
    for bytes_, scale in (mul.inputs, mul.inputs[::-1]):
        producer = None if bytes_ is None else bytes_.producer()
        if producer is None or scale is None or not _is_float_constant(scale):
            continue
        nodes: tuple[ir.Node, ...] = (mul,)
        zero_point: ir.Value | None = None
        if is_op(producer, "Sub") and _is_float_constant(zero_point := get_input(producer, 1)):
            nodes, inner = (producer, mul), get_input(producer, 0)
            producer = None if inner is None else inner.producer()
        if producer is None or not is_op(producer, "Cast") or int_attribute(producer, "to", 0) != ir.DataType.FLOAT:
            continue
        source = get_input(producer, 0)
        if source is not None and all(_read_once(node) for node in (producer, *nodes[:-1])):
            return _Widening(source, (producer, *nodes), scale, zero_point if len(nodes) > 1 else None)
    return None


def _read_once(node: ir.Node) -> bool:
    return len(node.outputs[0].uses()) == 1 and not node.outputs[0].is_graph_output()


def _is_float_constant(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and array.dtype == np.float32


def _axis(widening: _Widening, shape: tuple[int | None, ...] | None, k: int) -> int | None:
    """Return along which axis of the table scale and zero point go; ``None`` if they do neither, or it is not known.

    Args:
        widening: what they belong to.
        shape: what is widened, ``None`` for sizes that do not matter; ``None`` as a whole: of a rank not known.
        k: columns of the table, the last dimension of that.
    """
    axes = {_along(widening, shape, k, known_shape(value)) for value in (widening.scale, widening.zero_point) if value}
    axes.discard(-1)
    if not axes:
        return _COLUMNS
    return axes.pop() if len(axes) == 1 else None


def _along(
    widening: _Widening, shape: tuple[int | None, ...] | None, k: int, sizes: tuple[int | None, ...] | None
) -> int | None:
    """Return along which axis of the table one parameter of these sizes goes; -1 for one value."""
    if sizes is None or None in sizes:
        return None
    rank = 1 if shape is None else len(shape)
    if len(sizes) > rank:
        return None
    if math.prod(size or 0 for size in sizes) == 1:
        return -1
    if widening.axis is not None:
        axis = widening.axis + rank if widening.axis < 0 else widening.axis
        known = shape is not None or widening.axis == -1
        if not known or len(sizes) != 1 or not 0 <= axis < rank:
            return None
        if axis == rank - 1:
            return _COLUMNS if sizes == (k,) else None
        return _ROWS if shape is not None and rank == 2 and sizes == (shape[0],) else None
    if sizes[-1] == k and all(size == 1 for size in sizes[:-1]):
        return _COLUMNS
    return _ROWS if shape is not None and rank == 2 and sizes == (shape[0], 1) else None


def _undoes(quantizer: ir.Node, widening: _Widening) -> bool:
    """Tell whether a QuantizeLinear gives back the bytes that a DequantizeLinear with one scale widened."""
    if not is_op(quantizer, "QuantizeLinear") or widening.axis is None or int_attribute(quantizer, "block_size", 0):
        return False
    scales = [constant_array(value) for value in (widening.scale, get_input(quantizer, 1))]
    zero_points = [constant_array(value) for value in (widening.zero_point, get_input(quantizer, 2))]
    if any(array is None or array.size != 1 for array in (*scales, *zero_points)):
        return False
    (ours, theirs), (zero, other) = scales, zero_points
    # So far from the ends of float32's range that no product is rounded to another multiple of the scale.
    normal = 2.0**-100 < abs(float(ours.item())) < 2.0**100  # type: ignore[union-attr]
    same = ours.tobytes() == theirs.tobytes() and zero.tobytes() == other.tobytes()  # type: ignore[union-attr]
    return normal and same and zero.dtype == other.dtype  # type: ignore[union-attr]


def _vector(value: ir.Value) -> Operand:
    """Return a parameter as it is, or a constant of several dimensions as a vector."""
    if len(known_shape(value) or ()) <= 1:
        return value
    array = constant_array(value)
    if array is None:
        raise Refusal(ReasonCode.PARAMETER_COMPUTED, f"{value.name} is computed at run time, with several dimensions")
    return NewConstant(np.ascontiguousarray(array.reshape(-1)), f"{value.name}.vector")


def _float_vector(value: ir.Value | None) -> Operand:
    """Return a zero point as float32, the form that the operator takes; one that is 0 is left out."""
    if value is None:
        return None
    if known_dtype(value) == ir.DataType.FLOAT:
        return _vector(value)
    constant = fold(value)
    if constant is None:
        return NewOutput(NewNode("Cast", (value,), {"to": int(ir.DataType.FLOAT)}))
    array = constant.tensor.numpy()
    return NewConstant(array.astype(np.float32).reshape(-1), f"{value.name}.float") if array.any() else None


gather_rule = Rule("gather_rule", "", "Gather", _match, alone=_match_alone, spec=gather_compress_dequant.SPEC)

FAMILY = Family(
    "Gather",
    "Gather from an int8 table, with the dequantisation behind it",
    "`Gather` of rows of an int8 table, with `DequantizeLinear` or `Cast` [`Sub`] `Mul` in front of it or behind it",
    "a `GatherCompressDequant` that decodes the rows that are asked for, and widens them",
    (gather_rule,),
)
