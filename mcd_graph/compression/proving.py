"""Runs a compressed model beside its original before it is put in place, and finds the nodes that differ."""

import logging
import tempfile
from collections.abc import Callable, Collection, Mapping

from mcd_graph.codec.weights import CompressedWeight
from mcd_graph.compression.packed import Packed
from mcd_graph.compression.request import Request
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.saving import ModelWriter
from mcd_graph.passes import LoweringPlan, ReasonCode, Refusal
from mcd_graph.proof import NOT_ASKED_FOR, Prover, find_culprits
from mcd_graph.report.data import Proof

__all__ = ["DifferenceError", "prove"]

logger = logging.getLogger(__name__)


class DifferenceError(Exception):
    """A lowered model gives other bytes than the original; ``sites`` are to be kept the next time."""

    def __init__(self, sites: Collection[int], prover: Prover, packed: Packed) -> None:
        super().__init__()
        self.sites = frozenset(sites)
        self.prover = prover
        self.packed = packed.without_file()


def prove(
    request: Request,
    plan: LoweringPlan,
    packed: Packed,
    writer: ModelWriter,
    prover: Prover | None,
) -> Proof:
    """Run the lowered model of a plan beside the original.

    Raises:
        DifferenceError: it gives other bytes.
    """
    if prover is None:
        return Proof(proved=False, reason=NOT_ASKED_FOR)
    if prover.reason is None:
        with writer.trial(plan.model) as path:
            difference = prover.difference(path)
        if difference is not None:
            request.watch.check(weights=True)  # or nodes would be kept because of what somebody else did
            logger.info("%s: the compressed model differs: %s", request.source, difference)
            lowered = [number for number, site in enumerate(plan.sites) if site.status == "lowered"]
            culprits = find_culprits(lowered, _differs_alone(request, packed.weights, prover, plan))
            if not culprits:
                raise InputError(
                    f"{request.source}: nothing is written: the compressed model does not do what the original does, "
                    f"and no node alone is the cause: {difference}"
                )
            raise DifferenceError(culprits, prover, packed)
    return prover.proof([site.name for site in plan.sites if site.code == ReasonCode.DIFFERS])


def _differs_alone(
    request: Request, packed: Mapping[str, CompressedWeight | Refusal], prover: Prover, plan: LoweringPlan
) -> Callable[[Collection[int]], bool]:
    """Return a function that tells whether the model differs in which some sites of a plan alone are lowered."""

    def differs(sites: Collection[int]) -> bool:
        others = set(range(len(plan.sites))) - set(sites)
        model = request.load()
        try:
            partial = request.plan(model, others)
        except NothingToCompressError:
            return False
        if not partial.apply(packed):
            return False
        with (
            tempfile.TemporaryDirectory(prefix="mcd-") as folder,
            ModelWriter(f"{folder}/model.onnx") as writer,
            writer.trial(model) as path,
        ):
            return prover.difference(path) is not None

    return differs
