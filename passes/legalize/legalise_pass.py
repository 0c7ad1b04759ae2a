"""To the strict form: MatmulCompressDequant nodes become the ones that Ascend's operator computes.

That operator takes int8 activations (m, k), an int8 weight without zero point, a constant scale for each column and an
int32 bias, and gives float16. What a node has besides moves into the weight, the bias, or nodes around it:

========================================  ====================================================================
what the node has                         what becomes of it
========================================  ====================================================================
strict already, within the limits         nothing
x1_shape, y_shape                         Transpose and Reshape in front, Reshape and Transpose behind
gate, residual                            Mul and Add behind
float x1                                  DynamicQuantizeLinear in front, which gives a uint8 x1
uint8 x1                                  x1 - 128 as int8, which flips the top bit (Cast, Sub, Cast)
more or fewer than 2 dimensions           Reshape to (m, k) and back
uint8 weight                              w - 128 as int8, and its zero point with it
zero point of the weight                  subtracted from the weight
zero point of x1, constant                folded into the bias: bias - zero_point * sum over k of w
zero point of x1, computed at run time    the same at run time (Cast, Sub, Mul, Sub)
no bias                                   zeros
k or n against the limits                 zeros at the end of x1 (Pad) and of the weight; columns cut off (Slice)
one constant scale                        repeated for each column
scale computed at run time                1 in the node; Mul behind it
x1_scale                                  multiplied with the scale; by a Mul when it is computed at run time
float output                              Cast behind the node
addend, y_zero_point, y_scale             Add, QuantizeLinear, DequantizeLinear behind that
more rows than allowed (an option)        a node for each chunk of rows, and Concat
========================================  ====================================================================

float16 ends at 65504. Where the result of the original node does not have that limit and could exceed it, given the
weight, the scale is divided by a power of two, and the result multiplied by it again as float32: no bit is lost
by that. The result differs from the original's in one point only: it went through float16.

These stay as they were, each with its reason: nodes without a scale, whose result is int32; nodes in functions, which
ATC does not know; weights that leave int8 once their zero point is subtracted; constant scales that are not finite
and above zero; weights, weight zero points and uint64 scales that are computed at run time.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES, OP_DOMAIN, OP_TYPE
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.operators.view import CompressedNode, info_of, name_of
from mcd_graph.passes.engine.emit import (
    Names,
    metadata_beside_names,
    place_constant,
    place_operands,
    remove_dead,
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
from mcd_graph.passes.engine.validate import check_node, infer_inputs
from mcd_graph.passes.fusions.dynamic_quantizer import quantiser_of
from mcd_graph.passes.fusions.elementwise import expose_elementwise
from mcd_graph.passes.fusions.layout import expose_layout
from mcd_graph.passes.legalize.limits import FLIP, MIN_OPSET, TILING
from mcd_graph.passes.legalize.parts import (
    Parts,
    absent_flip,
    constant_scale,
    output_type_of,
    run_time_scale_of,
    shrunk_scale,
    stored_weight,
    without_zero_point,
)
from mcd_graph.passes.legalize.strict import as_tensor, pad, rows_of, strict_bias, strict_tail
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mcd_graph.passes.engine.match import Operand

    Packed = tuple[np.ndarray | ir.TensorProtocol, np.ndarray | ir.TensorProtocol, Sequence[int] | np.ndarray]
    Pack = Callable[[str, np.ndarray], Packed]

__all__ = ["LegalSite", "LegalisePass"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class LegalSite:
    """One compressed node.

    Attributes:
        name: of the node; of its output when the node has no name.
        status: ``strict`` or ``kept``.
        code: which kind of reason kept it.
        reason: why it was kept, in words.
        k: rows of the weight before.
        n: columns of the weight before.
    """

    name: str
    status: str = "strict"
    reason: str | None = None
    k: int = 0
    n: int = 0
    code: ReasonCode | None = None


class LegalisePass(ir.passes.InPlacePass):
    """Bring MatmulCompressDequant nodes into the strict form.

    ``modified`` says whether any node was changed. Without ``pack``, a second run changes nothing.

    Args:
        max_rows: cut the activations into chunks of at most this many rows, for which their number must be known
            (:data:`MAX_ROWS` is the limit that CANN's document gives); ``None``: leave them whole.
        pack: compresses a weight, int8 (n, k), given with its name, to (x2, compress_index, compress_info). It is used
            for every weight of every node; without it, weights that have to change get the open codec.

    Attributes:
        sites: what became of each node, after a run, in graph order.

    Raises (when run):
        FormatError: a compressed weight in the model is damaged; the message names the node.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass, LegalisePass
        >>> legalise = LegalisePass()
        >>> result = legalise(CompressPass()(load_model("model.onnx")).model)
        >>> [(site.status, site.k, site.n) for site in legalise.sites]
        [('strict', 256, 128), ('strict', 128, 256), ('strict', 256, 128)]
    """

    def __init__(self, *, max_rows: int | None = None, pack: Pack | None = None) -> None:
        super().__init__()
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}")
        self.max_rows = max_rows
        self.pack = pack
        self.sites: list[LegalSite] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change ``model`` in place."""
        self.sites = []
        infer_inputs(model)
        run = _Run(model, self.max_rows, self.pack)
        dead: list[ir.Node] = []
        for node, spec, function in list(compressed_nodes(model)):
            site = LegalSite(name_of(node))
            self.sites.append(site)
            try:
                if spec.ascend is None:
                    text = f"Ascend has no operator like {spec.op_type}; restore it first"
                    raise Refusal(ReasonCode.NOT_ON_ASCEND, text)
                if function is not None:
                    raise Refusal(ReasonCode.IN_FUNCTION, "it is in a function; inline that first")
                parts = run.look(node)
            except Refusal as refusal:
                site.status, site.code, site.reason = "kept", refusal.code, refusal.reason
                logger.info("%s is kept: %s [%s]", site.name, refusal.reason, refusal.code)
                continue
            site.k, site.n = parts.k, parts.n
            if run.legalise(parts):
                dead.append(node)
        remove_dead(dead)
        return ir.passes.PassResult(model, modified=bool(dead) or run.exposed)


class _Run:
    """One run over one model: what is made once and used by several nodes."""

    def __init__(self, model: ir.Model, max_rows: int | None, pack: Pack | None) -> None:
        self.exposed = False
        self._names = Names(model)
        self._max_rows = max_rows
        self._pack = pack
        self._opset = model.opset_imports.get("", 0)
        self._activations: dict[tuple[int, ir.Value, int], ir.Value] = {}
        self._packed: dict[tuple[Any, ...], tuple[tuple[ir.TensorProtocol, ir.TensorProtocol], tuple[int, ...]]] = {}
        self._weights: dict[tuple[Any, ...], tuple[ir.Value, ir.Value]] = {}

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def look(self, node: ir.Node) -> Parts:
        """Take a node apart, or refuse if it cannot be made strict; only what stood around it is out of it then."""
        if self._opset < MIN_OPSET:
            raise Refusal(
                ReasonCode.OPSET, f"the model's opset is {self._opset}; from {MIN_OPSET} on there is what it takes"
            )
        self.exposed |= expose_elementwise(node, self._names)
        self.exposed |= expose_layout(node, self._names)
        value = {name: get_input(node, index) for index, name in enumerate(INPUT_NAMES)}
        x1, scale_value = value["x1"], value["deq_scale"]
        if scale_value is None:
            raise Refusal(ReasonCode.INT32_RESULT, "its result is int32; the strict form's is float16")
        x1_type = known_dtype(x1) or known_dtype(value["x1_zero_point"])
        quantiser = quantiser_of(node)
        if x1 is None or (quantiser is None and x1_type not in (ir.DataType.INT8, ir.DataType.UINT8)):
            raise Refusal(ReasonCode.ACTIVATION_TYPE, "its x1 is not known to be int8, uint8 or float")
        if value["w_zero_point"] is not None and constant_array(value["w_zero_point"]) is None:
            raise Refusal(
                ReasonCode.RUN_TIME_PARAMETER,
                f"zero point {value['w_zero_point'].name} of its weight is computed at run time",
            )
        stored = stored_weight(node)
        check_node(node, k=stored.shape[1], n=stored.shape[0], weight_type=ir.DataType.from_numpy(stored.dtype))
        weight = without_zero_point(stored, constant_array(value["w_zero_point"]))
        scale = None if quantiser else constant_scale(scale_value, value["x1_scale"], weight.shape[0])
        dims = known_shape(x1)
        unsigned = quantiser is not None or x1_type == ir.DataType.UINT8
        bias, zero_point = constant_array(value["bias"]), constant_array(value["x1_zero_point"])
        parts = Parts(
            node=node,
            x1=x1,
            unsigned=unsigned,
            dims=dims,
            weight=weight,
            changed=weight is not stored,
            scale=scale,
            run_time_scale=run_time_scale_of(scale_value, value["x1_scale"]) if scale is None else None,
            bias=np.zeros(weight.shape[0], np.int32) if bias is None else bias.reshape(-1),
            run_time_bias=value["bias"] if bias is None else None,
            zero_point=(0 if zero_point is None else int(zero_point.reshape(()))) - absent_flip(unsigned, value),
            run_time_zero_point=value["x1_zero_point"] if zero_point is None else None,
            addend=value["addend"],
            y_zero_point=value["y_zero_point"],
            output_type=output_type_of(node, scale_value, value["y_zero_point"]),
            quantiser=quantiser,
        )
        if self._max_rows is not None and parts.rows is None:
            raise Refusal(ReasonCode.ROWS_UNKNOWN, "its number of rows is not known, so it cannot be cut into chunks")
        if shrunk_scale(parts) is None:
            raise Refusal(ReasonCode.SCALE_NOT_NORMAL, "its scale is no normal float32 once its result fits float16")
        return parts

    # -----------------------------------------------------------------------------------------------------------------
    # Rewriting

    def legalise(self, parts: Parts) -> bool:
        """Put the strict form in the place of a node; return ``False`` if it has that form already."""
        rows = parts.rows
        step = self._max_rows if self._max_rows is not None and rows is not None and rows > self._max_rows else None
        if step is None and self._is_strict(parts):
            return False
        node, names = parts.node, self._names
        base = node.name or OP_TYPE
        if parts.quantiser is not None:
            parts = self._quantised(parts, parts.quantiser, base)
        x2, index, info = self._weight(parts)
        activation = self._activation(parts)
        shrunk = shrunk_scale(parts)
        if shrunk is None:
            raise AssertionError("a scale that cannot be shrunk is kept")
        scale, factor = shrunk
        word = pad(scale, parts.padded[0], 1.0).view(np.uint32).astype(np.uint64).reshape(1, -1)
        deq_scale, bias = self._place((NewConstant(word, f"{base}.deq_scale"), strict_bias(parts, base)), parts, base)
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
        (final,) = self._place((strict_tail(parts, results, factor, base, self._opset),), parts, base)
        take_over(node.outputs[0], final)
        return True

    def _quantised(self, parts: Parts, quantiser: NewNode, base: str) -> Parts:
        """Put a quantiser in front of a node, and return the node's parts with what it gives."""
        x1, scale, zero_point = self._place(tuple(NewOutput(quantiser, index) for index in range(3)), parts, base)
        deq_scale = get_input(parts.node, INPUT_NAMES.index("deq_scale"))
        product = NewOutput(NewNode("Mul", (scale, deq_scale)))
        return dataclasses.replace(
            parts, x1=x1, run_time_scale=product, zero_point=0, run_time_zero_point=zero_point, quantiser=None
        )

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
