"""Finding every quantised matrix multiplication and look-up of a model, and lowering those that the rules accept.

Planning and rewriting are two steps, so that the weights can be compressed in between, one by one and wherever the
caller likes::

    plan = plan_lowering(model)
    packed = {key: pack_weight(job.array()) for key, job in plan.weights.items()}
    plan.apply(packed)
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION
from mcd_graph.passes.engine.emit import OPTIMISED, OPTIMISED_KEY, Names, build, place_constant, remove_dead
from mcd_graph.passes.engine.facts import (
    all_nodes,
    called_functions,
    constant_array,
    get_input,
    graph_of,
    is_op,
    known_dtype,
)
from mcd_graph.passes.engine.match import Fused, NewConstant
from mcd_graph.passes.engine.operands import check_rank
from mcd_graph.passes.engine.optimized import SITE, IntegerNode, Optimized, emptied_copy, optimize
from mcd_graph.passes.engine.settle import Extent, settle
from mcd_graph.passes.engine.shapes import infer_shapes
from mcd_graph.passes.engine.stand_in import StandIn, make_small, zeros
from mcd_graph.passes.engine.surroundings import sites_to_blame
from mcd_graph.passes.engine.unsigned import make_unsigned
from mcd_graph.passes.engine.validate import check_compatibility, check_opset
from mcd_graph.passes.fusions.dequantized_result import absorb_dequantizer
from mcd_graph.passes.fusions.dynamic_quantizer import absorb_quantiser
from mcd_graph.passes.fusions.elementwise import absorb_elementwise
from mcd_graph.passes.fusions.layout import absorb_layout
from mcd_graph.passes.refusal import ReasonCode, Refusal
from mcd_graph.passes.rules.registry import ALL_RULES, RULES_ON_REQUEST

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from mcd_graph.passes.engine.match import Match, Operand, Rule, Weight

__all__ = [
    "LoweringPlan",
    "Site",
    "WeightJob",
    "plan_lowering",
    "reproduces_optimised",
]

logger = logging.getLogger(__name__)

#: Metadata of a model with lowered QDQ multiplications: the version of onnxruntime that was asked how it computes them.
ONNXRUNTIME_KEY = "mcd.onnxruntime"


#: What :attr:`Site.absorbed` calls a Mul or Add with another tensor.
_ELEMENTWISE = "Mul or Add"

#: Nodes that may stand between a weight and its multiplications; what counts is who reads their results.
_LOOKED_THROUGH = (
    *("Cast", "Clip", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose"),
    "Unsqueeze",
)


class PackedWeight(Protocol):
    """What :meth:`LoweringPlan.apply` needs of a compressed weight.

    ``mcd_graph.codec.weights.CompressedWeight`` is one.
    """

    @property
    def x2(self) -> np.ndarray | ir.TensorProtocol:
        """The stream, int8 (c,)."""

    @property
    def compress_index(self) -> np.ndarray | ir.TensorProtocol:
        """The index, int8 (8 * tiles,)."""

    @property
    def compress_info(self) -> Sequence[int] | np.ndarray:
        """The five integers [tilingK, tilingN, k, n, direction]."""


@dataclasses.dataclass
class Site:
    """One quantised matrix multiplication or look-up that was met.

    Attributes:
        name: of the node; of its first output when the node has no name.
        op_type: of the node.
        pattern: the operators that one node replaces; the rule's operator alone for a kept one.
        status: ``lowered`` or ``kept``; before ``apply``, ``lowered`` means that it can be.
        code: which kind of reason kept it.
        reason: why it was kept, in words.
        k: rows of the weight, if they are known.
        n: columns of the weight, if they are known.
        weight: key into :attr:`LoweringPlan.weights`; ``None`` for a kept one.
        optimised: the lowered node gives the bits of the original as onnxruntime runs it with graph optimisations
            on, not off (QDQ forms).
        absorbed: operators around the pattern that the lowered node takes in.
    """

    name: str
    op_type: str
    pattern: str
    status: str
    code: ReasonCode | None = None
    reason: str | None = None
    k: int | None = None
    n: int | None = None
    weight: str | None = None
    optimised: bool = False
    absorbed: tuple[str, ...] = ()

    def keep(self, refusal: Refusal) -> None:
        """Mark the site as kept, for the reason that ``refusal`` gives, and log that."""
        self.status, self.code, self.reason, self.weight = "kept", refusal.code, refusal.reason, None
        logger.info("%s (%s) is kept: %s [%s]", self.name, self.op_type, refusal.reason, refusal.code)


@dataclasses.dataclass(frozen=True)
class WeightJob:
    """A constant weight to compress: made once, however many multiplications use it.

    Attributes:
        key: its name in :attr:`LoweringPlan.weights`; the initialiser's name where that is unique.
        source: where it was found.
        tiling: the size of tile that suits its readers; ``None``: the codec's own choice.
    """

    key: str
    source: Weight
    tiling: tuple[int, int] | None = None

    @property
    def k(self) -> int:
        """Rows of the multiplication's right-hand side."""
        return self.source.k

    @property
    def n(self) -> int:
        """Columns of the multiplication's right-hand side."""
        return self.source.n

    @property
    def dtype(self) -> np.dtype[Any]:
        """Either int8 or uint8."""
        return self.source.tensor.dtype.numpy()

    @property
    def nbytes(self) -> int:
        """Size of the uncompressed weight in bytes."""
        return self.k * self.n

    def array(self) -> np.ndarray:
        """Return the weight as an (n, k) view, read from the model's memory map only when it is looked at."""
        return self.source.array()

    def release(self) -> None:
        """Let go of the memory map behind the weight, if there is one; ``array`` opens it again."""
        tensor = self.source.value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A site that can be lowered: what matched, which rule found it, the function around it, if any, and its extent."""

    site: Site
    match: Match
    rule: Rule
    function: ir.Function | None
    extent: Extent = Extent.ALL


class LoweringPlan:
    """What :func:`plan_lowering` found in a model, and the means to carry it out.

    Attributes:
        model: the model that was looked at; :meth:`apply` changes it in place.
        sites: every quantised matrix multiplication and look-up, in graph order.
        weights: the weights to compress, by key.
    """

    def __init__(
        self, model: ir.Model, sites: list[Site], candidates: list[_Candidate], weights: dict[str, WeightJob]
    ) -> None:
        self.model = model
        self.sites = sites
        self.weights = weights
        self._open = candidates

    @property
    def optimised(self) -> bool:
        """Whether a site is computed as onnxruntime does when it optimises, and not as it does without (QDQ forms)."""
        return any(candidate.match.optimised for candidate in self._open)

    def keep(self, numbers: Collection[int], refusal: Refusal) -> None:
        """Keep some of :attr:`sites`, by their positions there, and the weights that nobody else uses."""
        kept = {id(self.sites[number]) for number in numbers}
        for candidate in self._open:
            if id(candidate.site) in kept:
                candidate.site.keep(refusal)
        _keep_shared_with_kept(self._open)
        self._open = [candidate for candidate in self._open if candidate.site.status == "lowered"]
        used = {candidate.site.weight for candidate in self._open}
        self.weights = {key: job for key, job in self.weights.items() if key in used}

    def apply(self, packed: Mapping[str, PackedWeight | Refusal]) -> bool:
        """Lower the sites whose weight is in ``packed``; return whether anything was changed.

        A weight that is missing from ``packed``, or that is a :class:`Refusal` there, such as :class:`Kept`, keeps its
        sites as they are, and so does every site that shares bytes with a kept one, since the bytes would stay in the
        model anyway. Weights and nodes that nothing uses any more are removed. Applying a plan again does nothing.
        """
        candidates, self._open = self._open, []
        ready: list[tuple[_Candidate, str, PackedWeight]] = []
        for candidate in candidates:
            site, weight = candidate.site, candidate.match.weight
            key = site.weight or ""
            answer = packed.get(key, Refusal(ReasonCode.NOT_COMPRESSED, "its weight was not compressed"))
            if isinstance(answer, Refusal):
                site.keep(answer)
                continue
            if tuple(int(number) for number in answer.compress_info[2:4]) != (weight.k, weight.n):
                raise ValueError(f"the compressed weight for {key} is not of shape ({weight.n}, {weight.k})")
            ready.append((candidate, key, answer))
        _keep_shared_with_kept(candidates)

        names = Names(self.model)
        placed: dict[str, _Placed] = {}
        replaced: dict[ir.Value, ir.Value] = {}
        dead: dict[ir.Node, None] = {}
        built: list[tuple[ir.Node, _Candidate]] = []
        for candidate, key, answer in ready:
            if candidate.site.status == "kept":
                continue
            match, function = candidate.match, candidate.function
            if key not in placed:
                placed[key] = _Placed(answer, match.weight)
            stream_type = match.fused.stream_type(match.weight)
            values = placed[key].values(match.nodes[-1], names, stream_type, as_node=function is not None)
            made = build(
                match, candidate.rule, values, answer.compress_info,
                names=names, replaced=replaced, in_function=function is not None,
            )  # fmt: skip
            built.append((made, candidate))
            dead.update(dict.fromkeys(match.nodes))
            for owner in (self.model, function):
                if owner is not None:
                    owner.opset_imports[DOMAIN] = DOMAIN_VERSION
        if any(candidate.match.optimised for _, candidate in built):
            self.model.metadata_props[ONNXRUNTIME_KEY] = ort.__version__
        remove_dead(dead)
        for node, candidate in built:
            _absorb(node, candidate, names)
        return bool(dead)


def _absorb(node: ir.Node, candidate: _Candidate, names: Names) -> None:
    """Let a lowered node take in what stands around it, as far as its extent goes."""
    if not candidate.match.fused.absorbs:
        return
    in_function = candidate.function is not None
    site, absorbed = candidate.site, []
    if candidate.match.optimised:
        make_unsigned(node, names, in_function=in_function)
    elif candidate.extent < Extent.MATCHED:
        if (quantiser := absorb_quantiser(node, in_function=in_function)) is not None:
            remove_dead([quantiser])
            absorbed.append("DynamicQuantizeLinear")
        elif not in_function and (dequantizer := absorb_dequantizer(node)) is not None:
            site.pattern += "+DequantizeLinear"
            remove_dead([dequantizer])
            absorbed.append("DequantizeLinear")
    if not in_function and candidate.extent < Extent.MATCHED:
        moved = absorb_layout(node)
        absorbed.extend(each.op_type for each in moved)
        remove_dead(moved)
    if not in_function and candidate.extent < Extent.NO_ELEMENTWISE and absorb_elementwise(node):
        absorbed.append(_ELEMENTWISE)
    site.absorbed = tuple(absorbed)


class _Placed:
    """The two tensors of one compressed weight, placed in each graph that needs them; the tensors are shared."""

    def __init__(self, packed: PackedWeight, weight: Weight) -> None:
        self._base = weight.value.name or "weight"
        self._x2, self._index = _tensor(packed.x2), _tensor(packed.compress_index)
        self._streams = {ir.DataType.INT8: self._x2}
        self._values: dict[tuple[int, ir.TensorProtocol], ir.Value] = {}

    def values(
        self, user: ir.Node, names: Names, stream_type: ir.DataType, *, as_node: bool
    ) -> tuple[ir.Value, ir.Value]:
        """Return the values x2 and compress_index in the graph of ``user``, made there if they are missing."""
        x2 = self._streams.setdefault(stream_type, _retyped(self._x2, stream_type))
        graph = graph_of(user)
        # As nodes they must come before every user; nothing else orders a graph's Constant nodes.
        before = graph[0] if as_node else user

        def value(tensor: ir.TensorProtocol, part: str) -> ir.Value:
            key = (id(graph), tensor)
            if key not in self._values:
                name = names.unique(f"{self._base}.{part}")
                self._values[key] = place_constant(tensor, name, before, as_node=as_node)
            return self._values[key]

        return value(x2, "x2"), value(self._index, "compress_index")


def _tensor(data: np.ndarray | ir.TensorProtocol) -> ir.TensorProtocol:
    return data if isinstance(data, ir.TensorProtocol) else ir.tensor(data)


def _retyped(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Return the same bytes as a tensor of another 8-bit type; bytes in a file stay there."""
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.tensor(tensor.numpy().view(dtype.numpy()))
    return ir.ExternalTensor(
        tensor.location, tensor.offset, tensor.length, dtype,
        shape=tensor.shape, name=tensor.name or "", base_dir=tensor.base_dir,
    )  # fmt: skip


def plan_lowering(
    model: ir.Model,
    *,
    include: str | None = None,
    exclude: str | None = None,
    convolutions: bool = False,
    rules: Sequence[Rule] = ALL_RULES,
) -> LoweringPlan:
    """Look for quantised multiplications and look-ups in a model, its subgraphs and its functions; change nothing.

    Args:
        model: the model.
        include: regular expression; only nodes in whose name it is found are lowered.
        exclude: regular expression; nodes in whose name it is found are kept.
        convolutions: look for convolutions with a 1x1 kernel as well.
        rules: the families to look for.

    Raises:
        re.error: ``include`` or ``exclude`` is not a regular expression.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import plan_lowering
        >>> plan = plan_lowering(load_model("model.onnx"), exclude="second")
        >>> [(site.name, site.status) for site in plan.sites]
        [('/first/MatMul', 'lowered'), ('/second/MatMul', 'kept'), ('/y/MatMul', 'lowered')]
    """
    wanted = re.compile(include) if include is not None else None
    unwanted = re.compile(exclude) if exclude is not None else None
    if _wants_shapes(model):
        infer_shapes(model)
    by_operator = {(rule.domain, rule.op_type): rule for rule in (*rules, *(RULES_ON_REQUEST if convolutions else ()))}
    sites: list[Site] = []
    candidates: list[_Candidate] = []
    results: set[ir.Value] = set()
    called = called_functions(model)
    for node, function in all_nodes(model):
        if function is not None and function.identifier() not in called:
            continue  # nobody sees it
        rule = by_operator.get((node.domain, node.op_type))
        if rule is None or (node.domain, node.op_type, node.overload) in model.functions:
            continue
        if not node.outputs:
            continue
        name = node.name or next((output.name for output in node.outputs if output.name), "")
        site = Site(name, node.op_type, node.op_type, "lowered")
        try:
            match = rule.match(node)
            if match is None:
                continue
            check_opset(model if function is None else function)
            if isinstance(match.fused, Fused):
                check_rank(match.weight, get_input(node, 0))
                _check_inputs(match.fused, match.weight)
            site.pattern, site.k, site.n = match.pattern, match.weight.k, match.weight.n
            site.optimised = match.optimised
            if match.output in results:
                raise Refusal(
                    ReasonCode.RESULT_TAKEN, f"{match.output.name} is another multiplication's result already"
                )
            if wanted is not None and not wanted.search(name):
                raise Refusal(ReasonCode.NOT_INCLUDED, "its name does not match --include")
            if unwanted is not None and unwanted.search(name):
                raise Refusal(ReasonCode.EXCLUDED, "its name matches --exclude")
        except Refusal as refusal:
            site.keep(refusal)
        else:
            candidates.append(_Candidate(site, match, rule, function))
            results.add(match.output)
        sites.append(site)

    _keep_weights_used_elsewhere(candidates)
    candidates = _agree_with_onnxruntime(model, [each for each in candidates if each.site.status == "lowered"])
    _keep_weights_used_elsewhere(candidates)
    candidates = [candidate for candidate in candidates if candidate.site.status == "lowered"]
    return LoweringPlan(model, sites, candidates, _weights_of(candidates))


def _weights_of(candidates: Sequence[_Candidate]) -> dict[str, WeightJob]:
    """Return the different weights of some sites, by key, and tell each site its key."""
    weights: dict[str, WeightJob] = {}
    keys: dict[tuple[ir.Value, tuple[object, ...], bool], str] = {}
    for candidate in candidates:
        match, weight = candidate.match, candidate.match.weight
        tiling = match.fused.tiling(weight)
        identity = (weight.value, weight.recipe, weight.transposed)
        if identity not in keys:
            keys[identity] = _unused_key(weight.value.name or "weight", weights)
            weights[keys[identity]] = WeightJob(keys[identity], weight, tiling)
        elif (job := weights[keys[identity]]).tiling not in (tiling, None):
            weights[job.key] = dataclasses.replace(job, tiling=None)  # who wants no special one multiplies
        candidate.site.weight = keys[identity]
    return weights


def _check_inputs(fused: Fused, weight: Weight) -> None:
    """Refuse if what the new node would read is known not to fit it."""
    if isinstance(fused.x1, ir.Value) and known_dtype(fused.x1) == ir.DataType.FLOAT:
        raise Refusal(ReasonCode.ACTIVATION_NOT_QUANTISED, f"its activation {fused.x1.name} is not quantised")
    check_compatibility(fused.inputs(), k=weight.k, n=weight.n, weight_type=weight.tensor.dtype)


def _wants_shapes(model: ir.Model) -> bool:
    """Tell whether a multiplication behind DequantizeLinear is followed by an Add and does not say its shape."""
    for node in model.graph:
        value = get_input(node, 0) if is_op(node, "MatMul") and node.outputs else None
        producer = None if value is None or value.shape is not None else value.producer()
        dequantised = producer is not None and producer.op_type == "DequantizeLinear"
        if dequantised and any(is_op(user, "Add") for user in node.outputs[0].consumers()):
            return True
    return False


def reproduces_optimised(model: ir.Model) -> bool:
    """Tell whether a lowered (or restored) model gives the bytes of its original with graph optimisations on.

    That is so when QDQ multiplications were lowered: onnxruntime computes those in integers only when it optimises.
    The model itself gives the same bytes either way.

    Args:
        model: a model that was lowered, or restored after that.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass, reproduces_optimised
        >>> reproduces_optimised(CompressPass()(load_model("model.onnx")).model)  # MatMulInteger is in integers anyway
        False
    """
    return any(node.metadata_props.get(OPTIMISED_KEY) == OPTIMISED for node, _ in all_nodes(model))


def _unused_key(base: str, taken: Mapping[str, WeightJob]) -> str:
    key, count = base, 1
    while key in taken:
        count += 1
        key = f"{base}#{count}"
    return key


def _agree_with_onnxruntime(model: ir.Model, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the sites that can be lowered so that the installed onnxruntime, when it optimises, does all as before.

    Those in functions are not asked about: onnxruntime puts functions in place of their calls, under other names.
    """
    asked = [candidate for candidate in candidates if candidate.function is None]
    if not asked:
        return list(candidates)
    with emptied_copy(model, [candidate.match.nodes[0] for candidate in asked]) as copy:
        answer = copy if isinstance(copy, str) else optimize(copy)
        _keep_where_onnxruntime_does_otherwise(asked, answer)
        if not isinstance(answer, str) and not isinstance(copy, str):
            asked = _settle(asked, answer, copy)
    others = [candidate for candidate in candidates if candidate.function is not None]
    return [candidate for candidate in (*asked, *others) if candidate.site.status == "lowered"]


def _keep_where_onnxruntime_does_otherwise(candidates: Sequence[_Candidate], answer: Optimized | str) -> None:
    """Keep the sites of which onnxruntime's optimiser makes something else than the rule expects."""
    unsure = [(number, candidate) for number, candidate in enumerate(candidates) if candidate.match.optimised]
    if isinstance(answer, str):
        for _, candidate in unsure:
            candidate.site.keep(
                Refusal(ReasonCode.CANNOT_ASK, f"onnxruntime cannot be asked how it computes it: {answer}")
            )
        return
    by_result = {name: node for node in answer.integer_nodes for name in node.outputs}
    # An int8 result becomes uint8, and one whose quantisation is moved up is new: both have other names.
    requantised = {node.site: node for node in answer.integer_nodes if node.requantises}
    for number, candidate in unsure:
        match = candidate.match
        node = by_result.get(match.output.name or "")
        if node is None and isinstance(match.fused, Fused) and match.fused.y_zero_point is not None:
            node = requantised.get(number)
        if node is None:
            text = f"onnxruntime {ort.__version__} does not compute this result in integers when it optimises"
            candidate.site.keep(Refusal(ReasonCode.NOT_AN_INTEGER_MULTIPLICATION, text))
        elif not _same_parameters(node, match):
            text = f"onnxruntime {ort.__version__} takes other scales or zero points for it when it optimises"
            candidate.site.keep(Refusal(ReasonCode.FUSES_OTHERWISE, text))


def _same_parameters(node: IntegerNode, match: Match) -> bool:
    """Tell whether a multiplication has the scales and zero points that were expected, as far as they are constant."""
    fused = match.fused
    if not isinstance(fused, Fused):
        return True
    ours = _array(fused.deq_scale) if fused.x1_scale is None else None
    if ours is not None and node.scale is not None:
        theirs, ours = np.broadcast_arrays(node.scale.reshape(-1), ours.reshape(-1))
        if theirs.tobytes() != ours.tobytes():
            return False
    expected = (fused.x1_zero_point, fused.y_zero_point)
    for array, zero_point in zip(node.zero_points, map(_array, expected), strict=True):
        if array is None or zero_point is None:
            continue
        # int8 becomes uint8 on x86, which moves the zero point.
        moved = 128 * ((array.dtype == np.uint8) - int(zero_point.dtype == np.uint8))
        if array.size != 1 or zero_point.size != 1 or array.item() != zero_point.item() + moved:
            return False
    return True


def _array(operand: Operand) -> np.ndarray | None:
    """Return the numbers of an operand that is constant."""
    if isinstance(operand, NewConstant):
        return operand.array
    return constant_array(operand) if isinstance(operand, ir.Value) else None


def _settle(candidates: Sequence[_Candidate], original: Optimized, copy: Path) -> list[_Candidate]:
    """Return the sites with as much taken in as leaves onnxruntime's fusions around them what they are.

    Args:
        candidates: sites in the order of their numbers.
        original: what onnxruntime makes of the original.
        copy: a copy of the model without large tensors, with the numbers in the names of the sites.
    """
    taken_in: dict[int, tuple[str, ...]] = {}

    def narrower(number: int, extent: Extent) -> Extent:
        absorbed, match = taken_in.get(number, ()), candidates[number].match
        if extent < Extent.NO_ELEMENTWISE and _ELEMENTWISE in absorbed:
            return Extent.NO_ELEMENTWISE
        if extent < Extent.MATCHED and absorbed:
            return Extent.MATCHED
        alone = extent < Extent.MULTIPLICATION and candidates[number].rule.alone is not None and len(match.nodes) > 1
        return Extent.MULTIPLICATION if alone else Extent.NONE

    def lower(extents: Sequence[Extent]) -> Path:
        numbered = [dataclasses.replace(each, extent=extent) for each, extent in zip(candidates, extents, strict=True)]
        path, absorbed = _lower_copy(copy, numbered)
        taken_in.update(absorbed)
        return path

    extents = [Extent.ALL if each.site.status == "lowered" else Extent.NONE for each in candidates]
    outputs = [candidate.match.output.name or "" for candidate in candidates]
    parts = [node for each in candidates if not each.match.optimised for node in each.match.nodes]
    within = frozenset(output.name or "" for node in parts for output in node.outputs)

    def blame(lowered: Optimized) -> set[int]:
        return sites_to_blame(original, lowered, outputs, within)

    settled_extents = settle(blame, extents, lower, narrower)
    settled = []
    for candidate, extent in zip(candidates, settled_extents, strict=True):
        changed = dataclasses.replace(candidate, extent=extent)
        if extent == Extent.NONE and candidate.site.status == "lowered":
            text = f"onnxruntime {ort.__version__} would fuse nodes beside it otherwise than in the original"
            candidate.site.keep(Refusal(ReasonCode.FUSES_OTHERWISE, text))
        elif extent == Extent.MULTIPLICATION and (match := _match(candidate.rule, candidate.match.nodes[0], extent)):
            changed = dataclasses.replace(changed, match=match)
            candidate.site.pattern = match.pattern
        settled.append(changed)
    return settled


def _match(rule: Rule, node: ir.Node, extent: Extent) -> Match | None:
    """Return what a rule finds at a node, with no more of its surroundings than the extent says."""
    if extent == Extent.NONE:
        return None
    return rule.alone(node) if extent == Extent.MULTIPLICATION and rule.alone is not None else rule.match(node)


def _lower_copy(path: Path, candidates: Sequence[_Candidate]) -> tuple[Path, dict[int, tuple[str, ...]]]:
    """Lower a copy of the model, with zeros for weights; return it and, by number, what each site takes in."""
    model = ir.load(path)  # noqa: TID251 - written here, of a model that was checked
    if _wants_shapes(model):
        infer_shapes(model)
    numbers = {f"{SITE}{number}": number for number in range(len(candidates))}
    copies: dict[int, _Candidate] = {}
    for node in model.graph.all_nodes():
        number = numbers.get(node.name or "")
        if number is None:
            continue
        rule, extent = candidates[number].rule, candidates[number].extent
        with contextlib.suppress(Refusal):
            match = _match(rule, node, extent)
            if match is not None:
                site = Site(node.name or "", node.op_type, match.pattern, "lowered")
                copies[number] = _Candidate(site, match, rule, None, extent)
    plan = LoweringPlan(model, [], list(copies.values()), _weights_of(list(copies.values())))
    whole = {each.site.weight for each in copies.values() if not isinstance(each.match.fused, Fused)}
    stand_ins = {
        key: (zeros(job.n, job.k, job.dtype) if key in whole else StandIn(job.k, job.n, job.dtype))
        for key, job in plan.weights.items()
    }
    plan.apply(stand_ins)
    small = {f"{SITE}{number}" for number, each in copies.items() if each.site.weight not in whole}
    make_small(node for node in model.graph.all_nodes() if node.name in small)
    lowered = path.with_name("lowered.onnx")
    lowered.write_bytes(ir.to_proto(model).SerializeToString())
    return lowered, {number: candidate.site.absorbed for number, candidate in copies.items()}


def _keep_weights_used_elsewhere(candidates: Sequence[_Candidate]) -> None:
    """Keep the sites whose weight's bytes would stay in the model anyway, for somebody else who needs them."""
    open_ = list(candidates)
    while True:
        going = {node for candidate in open_ for node in candidate.match.nodes}
        users = [(candidate, _other_user(candidate.match.weight, going)) for candidate in open_]
        for candidate, user in users:
            if user is not None:
                name = candidate.match.weight.value.name
                text = f"its weight {name} is also used by {user}, so the bytes would stay"
                candidate.site.keep(Refusal(ReasonCode.WEIGHT_SHARED, text))
        if all(user is None for _, user in users):
            return
        open_ = [candidate for candidate, user in users if user is None]


def _other_user(weight: Weight, going: set[ir.Node]) -> str | None:
    """Return who needs the weight's bytes besides the nodes in ``going``; ``None`` if nobody does."""
    values = [weight.value]
    path = set(weight.path)
    while values:
        value = values.pop()
        if value.is_graph_output():
            return f"the graph's output {value.name}"
        for user in value.consumers():
            if user in going:
                continue
            if user not in path and user.op_type not in _LOOKED_THROUGH:
                return f"{user.op_type} {user.name or next((output.name for output in user.outputs), '')}"
            values.extend(user.outputs)
    return None


def _keep_shared_with_kept(candidates: Sequence[_Candidate]) -> None:
    """Keep the sites whose weight's bytes stay because another site of the same bytes is kept."""
    kept = {candidate.match.weight.value for candidate in candidates if candidate.site.status == "kept"}
    for candidate in candidates:
        value = candidate.match.weight.value
        if candidate.site.status == "lowered" and value in kept:
            text = f"its weight {value.name} is kept for another node"
            candidate.site.keep(Refusal(ReasonCode.WEIGHT_OF_KEPT, text))
