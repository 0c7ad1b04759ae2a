"""DequantizeLinear of a constant whose floats onnxruntime computes at every run, whatever reads them.

::

    floats = DequantizeLinear(w, scale, zero_point)   ->   floats = DecompressDequant(w', scale, zero_point)

The weights of convolutions and multiplications that onnxruntime computes in float (because the activation is float, or
int8 in a way that it has no integer kernel for, or the DequantizeLinear stands in a graph around the reader's), and of
whatever else reads floats. It is looked for when all other rules have been asked, and only where the installed
onnxruntime keeps the DequantizeLinear: what it fuses or folds is no node any more when the model runs.

The floats are those of DequantizeLinear: ``(q - zero_point) * scale`` in float32.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from mcd_graph.model.constants import WORTH_NAMING
from mcd_graph.operators import decompress_dequant
from mcd_graph.passes.engine.facts import (
    constant_tensor,
    dimensions,
    get_input,
    int_attribute,
    known_dtype,
    known_shape,
)
from mcd_graph.passes.engine.match import Match, NewCompressed, Operand, Rule
from mcd_graph.passes.engine.operands import WEIGHT_TYPES
from mcd_graph.passes.engine.whole import FRACTAL_K, MOST_FRACTALS, WholeTensor, wide_matrix_of
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from mcd_graph.operators.spec import OperatorSpec
    from mcd_graph.passes.engine.match import Weight

__all__ = ["Floats", "dequantize_rule", "tiling_of"]

#: Columns from which on tiles are one panel high.
_WIDE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Floats(NewCompressed):
    """A DecompressDequant to be."""

    spec: ClassVar[OperatorSpec] = decompress_dequant.SPEC

    scale: Operand
    zero_point: Operand = None
    shape: tuple[int, ...] = ()
    dtype: ir.DataType = ir.DataType.INT8
    axis: int | None = None
    output_type: ir.DataType | None = ir.DataType.FLOAT
    said: int | None = None

    def metadata(self) -> dict[str, str]:
        """Say which axis was named beside one scale: of that, onnxruntime decides what it makes of the product."""
        said = self.axis is None and str(self.said) in decompress_dequant.AXES
        return {decompress_dequant.AXIS_KEY: str(self.said)} if said else {}

    def attributes(self) -> dict[str, Any]:
        """Return its attributes."""
        axis = {} if self.axis is None else {"axis": self.axis}
        return {"shape": list(self.shape), "dtype": int(self.dtype), **axis}

    def tiling(self, weight: Weight) -> tuple[int, int] | None:
        """Return a tile that is one panel high and wide: floats are written in few and long rows then."""
        return tiling_of(weight.k)


def tiling_of(k: int) -> tuple[int, int] | None:
    """Return the size of tiles for a matrix of ``k`` columns; ``None``: the codec's own choice."""
    return (min(MOST_FRACTALS, math.ceil(k / FRACTAL_K)), 1) if k >= _WIDE else None


def _match(node: ir.Node) -> Match | None:
    value, scale, zero_point = (get_input(node, index) for index in range(3))
    tensor = constant_tensor(value)
    if value is None or scale is None or tensor is None or not node.outputs:
        return None
    if tensor.dtype not in WEIGHT_TYPES or tensor.nbytes < WORTH_NAMING or value.is_graph_input():
        return None
    if int_attribute(node, "block_size", 0):
        raise Refusal(ReasonCode.WEIGHT_BLOCKED, f"{value.name} is quantised in blocks")
    output_type = int_attribute(node, "output_dtype", 0) or int(known_dtype(scale) or 0)
    if output_type != ir.DataType.FLOAT or known_dtype(scale) != ir.DataType.FLOAT:
        raise Refusal(ReasonCode.SCALE_TYPE, f"its scale {scale.name} is not float32")
    if zero_point is not None and known_dtype(zero_point) != tensor.dtype:
        raise Refusal(ReasonCode.TYPE_MISMATCH, f"its zero point {zero_point.name} is of another type than the weight")
    shape = dimensions(tensor)
    weight = WholeTensor(value, tensor, recipe=("whole",), matrix=wide_matrix_of(tensor.nbytes))
    axis = _axis(node, shape, scale, zero_point)
    said = int_attribute(node, "axis", 1) if "axis" in node.attributes else None
    floats = Floats(scale, zero_point, shape=shape, dtype=tensor.dtype, axis=axis, said=said)
    return Match("DequantizeLinear", weight, floats, node.outputs[0], (node,))


def _axis(node: ir.Node, shape: tuple[int, ...], scale: ir.Value, zero_point: ir.Value | None) -> int | None:
    """Return the axis that several scales go along; ``None`` where there is one."""
    sizes = {known_shape(value) for value in (scale, zero_point) if value is not None}
    if all(each is not None and None not in each and math.prod(each) == 1 for each in sizes):  # type: ignore[arg-type]
        return None
    axis = int_attribute(node, "axis", 1)
    if not -len(shape) <= axis < len(shape) or sizes != {(shape[axis],)}:
        raise Refusal(ReasonCode.PARAMETER_SHAPE, f"{scale.name} is neither one value nor one for each along an axis")
    return axis


dequantize_rule = Rule("dequantize_rule", "", "DequantizeLinear", _match, spec=decompress_dequant.SPEC)
