"""Compares what onnxruntime makes of a model and of its lowered form, outside of the lowered nodes.

A lowered node takes the place of several nodes, and onnxruntime's optimiser sees others beside its neighbours then. It
may fuse what it did not fuse in the original (the steps of a GELU behind a product that is no Mul any more), or no
longer fuse what it did (an Add, which is gone, with the normalisation behind it). Either changes the last bits.

So every node of the optimised lowered model has to be in the optimised original as well, reading the same values.
Which values are the same is found out from the inputs on (value numbering): those that the same operator computes of
the same values, whatever their names, for onnxruntime merges equal nodes and makes up names; constants of the same
content; and the results of lowered nodes, by their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from mcd_graph.model.walk import graphs_of
from mcd_graph.operators.registry import find
from mcd_graph.passes.engine.optimized import instance_of
from mcd_graph.passes.engine.view import DEPTH, EXACT, MOVES, View, describe, quantizers_of, site_of, unmoved, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from mcd_graph.passes.engine.optimized import Instance, Optimized

__all__ = ["sites_to_blame"]

#: Inputs of lowered nodes that are tensors of activations; what computes nothing but others belongs to the node.
_ACTIVATIONS = ("x1", "addend", "gate", "residual", "indices")

#: Operators that multiply integers, scale the sum and add a bias; and the steps of that, which round as they do.
_DEQUANTIZING = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_STEPS = ("Cast", "Mul", "Add")

#: Operators whose first input is multiplied, and no parameter of an integer multiplication.
_MULTIPLYING = frozenset((*_DEQUANTIZING, "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm"))

#: Operators that multiply floats, and those that onnxruntime makes of them, which give other bytes.
_FLOAT_PRODUCTS = frozenset(("Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"))
_MADE_OF_THEM = _MULTIPLYING | {"MatMulNBits"}

#: Directions to look in: ahead, or not.
_AHEAD, _BACK = (True,), (False,)


class _Numbering:
    """Says which values of two models are the same, and which nodes of the second are in the first as well."""

    def __init__(self, original: View) -> None:
        self._view = original
        self._known: dict[str, list[str]] = {}
        self._original = dict(original.constants)
        self._second: dict[str, str] = {}
        for node in original.nodes:
            description = describe(node, self._original)
            values = self._known.setdefault(description, [f"value {name}" for name in node.output])
            self._original.update(zip(node.output, values, strict=False))

    def others(self, model: View, results: Mapping[str, str]) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """Return nodes of a model that the first one does not have, and those that compute other outputs than there.

        Args:
            model: the second model.
            results: for results of its lowered nodes that have another name in the first one, that name.
        """
        self._second = values = dict(model.constants)
        found = []
        for node in model.nodes:
            same = self._known.get(describe(node, values)) if site_of(node) is None else None
            if same is None:
                found.append(node)
                names = [results.get(name, name) for name in node.output]
                if site_of(node) is not None and not _requantizes(node):
                    names = [f"unrounded {name}" if _is_rounded(name, self._view) else name for name in names]
                if node.op_type in MOVES and self.rounds_first(node.output[0], unmoved(node.output[0], model)):
                    names = [f"unrounded {name}" for name in names]
                rounded = _rounds(node, model, values)
                same = [self._original.get(name, f"new {name}") for name in names]
                same = [f"rounded {name}" if each == rounded else each for each, name in zip(same, names, strict=True)]
            values.update(zip(node.output, same, strict=False))
        other = {name for name in model.outputs if value_of(name, values) != value_of(name, self._original)}
        named = [node for node in model.nodes if other.intersection(node.output)]
        return [node for node in found if site_of(node) is None], named

    def rounds_first(self, theirs: str, ours: str) -> bool:
        """Tell whether a value of the first model is one of the second, moved, and rounded to others on the way.

        What a DequantizeLinear with a zero point gives is rounded to itself by a QuantizeLinear with its parameters;
        without a zero point, int8 becomes uint8 where onnxruntime writes such a pair.
        """
        unrounded, rounded = value_of(ours, self._second), list[onnx.NodeProto]()
        for _ in range(DEPTH):
            node = self._view.producers.get(theirs)
            if node is None or node.op_type not in (*MOVES, "QuantizeLinear", "DequantizeLinear"):
                return False
            if node.op_type == "QuantizeLinear":
                rounded.append(node)
            theirs = node.input[0]
            if rounded and value_of(theirs, self._original) == unrounded:
                source = self._view.producers.get(unmoved(theirs, self._view))
                same = source is not None and source.op_type == "DequantizeLinear"
                return not same or any(not _rounds_as(each, source, self._view) for each in rounded)
        return False


def _is_rounded(name: str, view: View) -> bool:
    """Tell whether a value of floats is one that a QuantizeLinear rounded, with only moves behind that."""
    node = view.producers.get(unmoved(name, view))
    return node is not None and node.op_type == "DequantizeLinear" and bool(quantizers_of(name, view))


def _requantizes(node: onnx.NodeProto) -> bool:
    """Tell whether a lowered node rounds its result as a QuantizeLinear and DequantizeLinear behind it did."""
    spec = find(node.domain, node.op_type)
    given = {} if spec is None else dict(zip(spec.input_names, node.input, strict=False))
    return bool(given.get("y_scale"))


def _rounds(node: onnx.NodeProto, view: View, values: Mapping[str, str]) -> str | None:
    """Return which value a DequantizeLinear gives as a QuantizeLinear rounds it, and so never that value itself.

    onnxruntime moves a QuantizeLinear up past a Transpose, and leaves the name of the value there to what is rounded.
    """
    quantize = view.producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return value_of(quantize.input[0], values)


def sites_to_blame(
    original: Optimized,
    lowered: Optimized,
    outputs: Mapping[Instance, str],
    within: AbstractSet[str] = frozenset(),
    quantized: AbstractSet[int] = frozenset(),
) -> set[int] | None:
    """Return the numbers of the lowered nodes beside which onnxruntime computes otherwise than in the original.

    ``None`` says that it does so somewhere, but beside no lowered node.

    Args:
        original: the optimised original.
        lowered: the optimised lowered model, in which the names of the lowered nodes hold their numbers.
        outputs: for each lowered node, the name of the value that is computed in another way.
        within: names of values that are computed within integer multiplications of any form, and so the same in all.
        quantized: numbers of the lowered nodes that multiply what the original multiplies, quantised already.
    """
    theirs, ours = View(original.graph), View(lowered.graph)
    numbering = _Numbering(theirs)
    others, differing = numbering.others(ours, _renamed(original, theirs, ours, outputs))
    followed = {id(node) for node in others} | {id(node) for node in ours.nodes if node.op_type in EXACT}
    within = within | _taken_apart(others, theirs, ours)
    rounded = _rounded_otherwise(original, theirs, ours) | _scaled_otherwise(original, lowered, ours)
    blamed = {number for number in rounded if number in quantized}
    computed = (node for node in others if node.op_type not in EXACT and not _is_part(node, ours, within))
    rounded_first = _rounded_first(original, theirs, ours, numbering)
    wrong = (
        *_left_in_floats(others, theirs, ours),
        *_merged_otherwise(theirs, ours),
        *computed,
        *differing,
        *rounded_first,
    )
    blamed = blamed.union(*(_nearest(node, ours, followed) for node in wrong))
    return None if wrong and not blamed else blamed


def _rounded_otherwise(original: Optimized, theirs: View, ours: View) -> set[int]:
    """Return the numbers of lowered nodes whose activation went through other quantisers than in the original.

    onnxruntime merges two pairs of QuantizeLinear and DequantizeLinear in a row. Where a lowered node took one of the
    DequantizeLinear it no longer does; the rules see to that, as far as they see the pairs.
    """
    read = {node.instance: node.activation for node in original.integer_nodes}
    lowered = ((node, instance_of(node)) for node in ours.nodes if site_of(node) is not None)
    return {
        instance.site
        for node, instance in lowered
        if instance is not None
        and instance in read
        and quantizers_of(node.input[0], ours) != quantizers_of(read[instance], theirs)
    }


def _rounded_first(original: Optimized, theirs: View, ours: View, numbering: _Numbering) -> list[onnx.NodeProto]:
    """Return what quantises floats by their range, and floats that the original rounds in front of that."""
    read = {node.instance: node.activation for node in original.integer_nodes}
    found = []
    for node in ours.nodes:
        if node.op_type == "DynamicQuantizeLinear":
            activation = node.output[0]
        elif site_of(node) is not None:
            activation = read.get(instance_of(node), "")
        else:
            continue
        quantizer = theirs.producers.get(activation)
        if quantizer is not None and quantizer.op_type == "DynamicQuantizeLinear":
            activation = quantizer.input[0]
        if numbering.rounds_first(activation, node.input[0]):
            found.append(node)
    return found


def _scaled_otherwise(original: Optimized, lowered: Optimized, ours: View) -> set[int]:
    """Return the numbers of lowered nodes that multiply their sums with another scale than the original.

    In a function, scales are known only where it is called; and a quantiser behind the call is merged with its own.
    """
    scales = {node.instance: node.scale for node in original.integer_nodes if node.scale is not None}
    tensors = {tensor.name: tensor for graph in graphs_of(lowered.graph) for tensor in graph.initializer}
    found = set()
    for node in ours.nodes:
        spec, instance = find(node.domain, node.op_type), instance_of(node)
        theirs = scales.get(instance)
        if spec is None or instance is None or theirs is None:
            continue
        given = dict(zip(spec.input_names, node.input, strict=False))
        tensor = tensors.get(given.get("deq_scale", ""))
        if tensor is None or tensor.external_data or given.get("x1_scale"):
            continue
        mine = onnx.numpy_helper.to_array(tensor).reshape(-1)
        if mine.dtype != np.float32 or (1 not in (mine.size, theirs.size) and mine.size != theirs.size):
            continue  # a stand-in of another size
        a, b = np.broadcast_arrays(theirs.reshape(-1), mine)
        if a.tobytes() != b.tobytes():
            found.add(instance.site)
    return found


def _left_in_floats(others: Sequence[onnx.NodeProto], theirs: View, ours: View) -> list[onnx.NodeProto]:
    """Return the nodes that multiply floats where the original has an operator for quantised weights, or round those.

    One may look like another node of the original, which multiplies the same floats.
    """

    def made(name: str) -> bool:
        producer = theirs.producers.get(name)
        return producer is not None and producer.op_type in _MADE_OF_THEM

    products = (node for node in ours.nodes if node.op_type in _FLOAT_PRODUCTS)
    # One that the original has may have a name there that onnxruntime made up, and gave to another value here.
    rounded = (node for node in others if node.op_type == "QuantizeLinear")
    return [node for node in (*products, *rounded) if any(made(name) for name in node.output)]


def _merged_otherwise(theirs: View, ours: View) -> list[onnx.NodeProto]:
    """Return the DequantizeLinear nodes whose values another quantiser rounded than in the original.

    onnxruntime makes one pair of two pairs of quantisers in a row, with a scale of its own.
    """
    found = []
    for node in ours.nodes:
        if node.op_type == "DequantizeLinear" and node.output[0] in theirs.producers:
            nearest = [quantizers_of(node.output[0], view)[:1] for view in (theirs, ours)]
            scales = [parameters[0][0] for parameters in nearest if parameters]
            if len(scales) == 2 and scales[0] != scales[1]:
                found.append(node)
    return found


def _rounds_as(node: onnx.NodeProto, other: onnx.NodeProto | None, view: View) -> bool:
    """Tell whether two quantisers have a zero point, the same one for the range of their types, and the same scale."""
    if other is None or not len(node.input) == len(other.input) == 3:
        return False
    scales = [view.constants.get(each.input[1], each.input[1]) for each in (node, other)]
    zero_points = [view.zero_points.get(each.input[2]) for each in (node, other)]
    return scales[0] == scales[1] and zero_points[0] is not None and zero_points[0] == zero_points[1]


def _taken_apart(others: Sequence[onnx.NodeProto], theirs: View, ours: View) -> set[str]:
    """Return the values of Cast, Mul and Add behind an int32 product that the original has one integer operator for."""
    found: set[str] = set()
    candidates = {id(node) for node in others if node.op_type in _STEPS}
    for node in others:
        producers = [theirs.producers.get(name) for name in node.output]
        if not all(producer is not None and producer.op_type in _DEQUANTIZING for producer in producers):
            continue
        waiting = [node]
        while waiting:
            step = waiting.pop()
            if id(step) in candidates:
                found.update(step.output)
                waiting.extend(ours.producers[name] for name in step.input if name in ours.producers)
    return found


def _renamed(original: Optimized, theirs: View, ours: View, outputs: Mapping[Instance, str]) -> dict[str, str]:
    """Return the results of lowered nodes that have another name in the original, with that."""
    results = {node.instance: node.outputs[0] for node in original.integer_nodes}
    # In a function, a Cast stands behind what takes the place of a DequantizeLinear.
    results |= {instance_of(node): node.output[0] for node in theirs.nodes if node.op_type == "DequantizeLinear"}
    renamed = {}
    for node in ours.nodes:
        instance = instance_of(node)
        if site_of(node) is None or instance is None or node.output[0] in theirs.producers:
            continue
        output = outputs[instance]
        # A float16 result, which onnxruntime computes in float; an int8 one that became uint8; or one whose name
        # onnxruntime left to what is rounded.
        names = (f"InsertedPrecisionFreeCast_{output}", results.get(instance), output)
        for name in names:
            if name in theirs.producers:
                renamed[node.output[0]] = str(name)
                break
    return renamed


def _is_part(node: onnx.NodeProto, view: View, within: AbstractSet[str], depth: int = 0) -> bool:
    """Tell whether a node is part of an integer multiplication, or computes nothing but scales of such."""
    if within >= set(node.output):
        return True
    readers = [reader for name in node.output for reader in view.readers.get(name, ())]
    if not readers or view.outputs.intersection(node.output) or depth == DEPTH:
        return False
    return all(
        _is_parameter(reader, index) and (site_of(reader) is not None or _is_part(reader, view, within, depth + 1))
        for reader, index in readers
    )


def _is_parameter(node: onnx.NodeProto, index: int) -> bool:
    """Tell whether an input is no tensor of activations, of a lowered node or another integer multiplication."""
    spec = find(node.domain, node.op_type)
    if spec is None:
        return index != 0 or node.op_type not in _MULTIPLYING
    return spec.input_names[index] not in _ACTIVATIONS


def _nearest(node: onnx.NodeProto, view: View, followed: set[int]) -> set[int]:
    """Return the lowered nodes that feed a node, else those that it feeds, else those that read what it reads.

    Where there is none of these, those that are nearest in any direction.

    Others in between are passed only if there are none without: onnxruntime stops after some rounds, so that what it
    removes in one place decides what it still comes to do in another.
    """
    everywhere = {id(each) for each in view.nodes}
    for way, passed in ((_BACK, followed), (_BACK, everywhere), (_AHEAD, followed)):
        if found := _search(node, view, passed, way):
            return found
    beside = (reader for name in node.input for reader, _ in view.readers.get(name, ()))
    return (
        _numbers(beside) or _search(node, view, everywhere, _AHEAD) or _search(node, view, everywhere, _AHEAD + _BACK)
    )


def _search(node: onnx.NodeProto, view: View, followed: set[int], ways: Sequence[bool]) -> set[int]:
    """Return the nearest lowered nodes, in one direction or both, with none but nodes in ``followed`` in between."""
    level, seen = [node], {id(node)}
    for _ in range(DEPTH):
        near = (each for one in level for ahead in ways for each in _neighbours(one, view, ahead=ahead))
        reached = [each for each in near if id(each) not in seen]
        if found := _numbers(reached):
            return found
        level = [each for each in reached if id(each) in followed]
        seen.update(map(id, level))
    return set()


def _neighbours(node: onnx.NodeProto, view: View, *, ahead: bool) -> Iterator[onnx.NodeProto]:
    if ahead:
        for name in node.output:
            yield from (reader for reader, _ in view.readers.get(name, ()))
        return
    for name in node.input:
        if name in view.producers:
            yield view.producers[name]


def _numbers(nodes: Iterable[onnx.NodeProto]) -> set[int]:
    return {number for number in map(site_of, nodes) if number is not None and number >= 0}
