"""Carries a plan out: each site that can be lowered becomes one node, with its compressed weight beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir
import onnxruntime as ort

from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION
from mcd_graph.passes.engine.emit import (
    OPTIMIZED,
    OPTIMIZED_KEY,
    Names,
    as_tensor,
    build,
    place_constant,
    remove_dead,
    sort_constants,
)
from mcd_graph.passes.engine.facts import all_nodes, graph_of, home_of
from mcd_graph.passes.engine.unsigned import make_unsigned
from mcd_graph.passes.fusions.registry import fuse_surroundings
from mcd_graph.passes.plan.shapes import declare_outputs_of_scans
from mcd_graph.passes.plan.shared_scales import share_scales
from mcd_graph.passes.plan.weights import keep_sharers_of_kept
from mcd_graph.passes.refusal import ReasonCode, Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np

    from mcd_graph.passes.engine.match import Match, Weight
    from mcd_graph.passes.plan.site import Candidate, Site, WeightJob

__all__ = ["ONNXRUNTIME_KEY", "LoweringPlan", "PackedWeight", "reproduces_optimized"]

#: Metadata of a model with lowered QDQ multiplications: the version of onnxruntime that was asked how it computes them.
ONNXRUNTIME_KEY = "mcd.onnxruntime"


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


class LoweringPlan:
    """What :func:`plan_lowering` found in a model, and the means to carry it out.

    Attributes:
        model: the model that was looked at; :meth:`apply` changes it in place.
        sites: every quantised matrix multiplication and look-up, in graph order.
        weights: the weights to compress, by key.
        refused: why constants of bytes stay: those that nothing decodes when the model runs, and those of sites that
            were kept since.
    """

    def __init__(
        self,
        model: ir.Model,
        sites: list[Site],
        candidates: list[Candidate],
        weights: dict[str, WeightJob],
        refused: Mapping[ir.Value, Refusal] | None = None,
    ) -> None:
        self.model = model
        self.refused = dict(refused or {})
        self.sites = sites
        self.weights = weights
        self._open = candidates

    @property
    def optimized(self) -> bool:
        """Whether a site is computed as onnxruntime does when it optimises, and not as it does without (QDQ forms)."""
        return any(candidate.match.optimized for candidate in self._open)

    def keep(self, numbers: Collection[int], refusal: Refusal) -> None:
        """Keep some of :attr:`sites`, by their positions there, and the weights that nobody else uses."""
        kept = {id(self.sites[number]) for number in numbers}
        for candidate in self._open:
            if id(candidate.site) in kept:
                self._keep(candidate, refusal)
        keep_sharers_of_kept(self._open)
        self._open = [candidate for candidate in self._open if candidate.site.status == "lowered"]
        used = {candidate.site.weight for candidate in self._open}
        self.weights = {key: job for key, job in self.weights.items() if key in used}

    def _keep(self, candidate: Candidate, refusal: Refusal) -> None:
        """Keep the site of a candidate, and tell its constant why: what reads it may stand behind the node."""
        candidate.site.keep(refusal)
        self.refused[candidate.match.weight.value] = refusal

    def apply(self, packed: Mapping[str, PackedWeight | Refusal]) -> bool:
        """Lower the sites whose weight is in ``packed``; return whether anything was changed.

        A weight that is missing from ``packed``, or that is a :class:`Refusal` there, such as :class:`Kept`, keeps its
        sites as they are, and so does every site that shares bytes with a kept one, since the bytes would stay in the
        model anyway. Weights and nodes that nothing uses any more are removed. Applying a plan again does nothing.
        """
        candidates, self._open = self._open, []
        ready: list[tuple[Candidate, str, PackedWeight]] = []
        for candidate in candidates:
            site, weight = candidate.site, candidate.match.weight
            key = site.weight or ""
            answer = packed.get(key, Refusal(ReasonCode.NOT_COMPRESSED, "its weight was not compressed"))
            if isinstance(answer, Refusal):
                self._keep(candidate, answer)
                continue
            if tuple(int(number) for number in answer.compress_info[2:4]) != (weight.k, weight.n):
                raise ValueError(f"the compressed weight for {key} is not of shape ({weight.n}, {weight.k})")
            ready.append((candidate, key, answer))
        keep_sharers_of_kept(candidates)
        ready = [(candidate, key, answer) for candidate, key, answer in ready if candidate.site.status == "lowered"]

        if ready:
            declare_outputs_of_scans(self.model)
        names = Names(self.model)
        placed = {key: _Placed(answer, candidate.match.weight) for candidate, key, answer in ready}
        for candidate, key, _ in ready:
            placed[key].users.add(graph_of(candidate.match.nodes[-1]))
        replaced: dict[ir.Value, ir.Value] = {}
        dead: dict[ir.Node, None] = {}
        built: list[tuple[ir.Node, Candidate]] = []
        matches = _with_shared_scales([candidate for candidate, _, _ in ready])
        for (candidate, key, answer), match in zip(ready, matches, strict=True):
            function = candidate.function
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
        if any(candidate.match.optimized for _, candidate in built):
            self.model.metadata_props[ONNXRUNTIME_KEY] = ort.__version__
        remove_dead(dead)
        for graph in {graph_of(node): None for node, _ in built}:
            sort_constants(graph)
        for node, candidate in built:
            _absorb(node, candidate, names)
        return bool(dead)


def _with_shared_scales(candidates: Sequence[Candidate]) -> list[Match]:
    """Return the matches, those outside of functions with scales that they share."""
    outside = share_scales([each.match for each in candidates if each.function is None])
    shared = iter(outside)
    return [each.match if each.function is not None else next(shared) for each in candidates]


def _absorb(node: ir.Node, candidate: Candidate, names: Names) -> None:
    """Let a lowered node take in what stands around it, as far as its extent goes."""
    in_function, qdq = candidate.function is not None, candidate.match.optimized
    if qdq:
        make_unsigned(node, names, in_function=in_function)
    if not candidate.match.fused.absorbs:
        return
    taken = fuse_surroundings(node, candidate.extent, in_function=in_function, qdq=qdq)
    candidate.site.pattern += "".join(f"+{fusion.name}" for fusion in taken if fusion.in_pattern)
    candidate.site.absorbed = tuple(fusion.name for fusion in taken)


class _Placed:
    """The two tensors of one compressed weight, placed once: where the weight is, if several graphs need them.

    Attributes:
        users: the graphs that need them.
    """

    def __init__(self, packed: PackedWeight, weight: Weight) -> None:
        self.users: set[ir.Graph] = set()
        self._home = home_of(weight.value)
        self._base = weight.value.name or "weight"
        self._x2, self._index = as_tensor(packed.x2), as_tensor(packed.compress_index)
        self._streams: dict[ir.DataType, ir.Value] = {}
        self._index_value: ir.Value | None = None

    def values(
        self, user: ir.Node, names: Names, stream_type: ir.DataType, *, as_node: bool
    ) -> tuple[ir.Value, ir.Value]:
        """Return the values x2, which says that it is of ``stream_type``, and compress_index.

        They are made for the first ``user`` that asks.
        """
        # In the user's own graph if possible: what is not, onnxruntime before 1.29 verifies when it first runs.
        graph = self._home if len(self.users) > 1 else graph_of(user)

        def place(tensor: ir.TensorProtocol, part: str) -> ir.Value:
            # As nodes they must come before every user; nothing else orders a graph's Constant nodes.
            return place_constant(tensor, names.unique(f"{self._base}.{part}"), graph[0], as_node=as_node)

        if stream_type not in self._streams:
            self._streams[stream_type] = place(_retyped(self._x2, stream_type), "x2")
        if self._index_value is None:
            self._index_value = place(self._index, "compress_index")
        return self._streams[stream_type], self._index_value


def _retyped(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Return the same bytes as a tensor of another 8-bit type; bytes in a file stay there."""
    if tensor.dtype == dtype:
        return tensor
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.tensor(tensor.numpy().view(dtype.numpy()))
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir=tensor.base_dir,
    )


def reproduces_optimized(model: ir.Model) -> bool:
    """Tell whether a lowered (or restored) model gives the bytes of its original with graph optimisations on.

    That is so when QDQ multiplications were lowered: onnxruntime computes those in integers only when it optimises.
    The model itself gives the same bytes either way.

    Args:
        model: a model that was lowered, or restored after that.

    Examples:
        >>> from mcd_graph.model.loading import load_model
        >>> from mcd_graph.passes import CompressPass, reproduces_optimized
        >>> reproduces_optimized(CompressPass()(load_model("model.onnx")).model)  # MatMulInteger is in integers anyway
        False
    """
    return any(node.metadata_props.get(OPTIMIZED_KEY) == OPTIMIZED for node, _ in all_nodes(model))
