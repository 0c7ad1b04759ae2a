"""Runs a compressed model beside its original before it is put in place, and finds the nodes that differ."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Collection

from mcd_graph.compression.packed import Packed
from mcd_graph.compression.request import Kept, Request
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.files import is_text
from mcd_graph.model.saving import ModelWriter
from mcd_graph.passes import LoweringPlan, ReasonCode
from mcd_graph.passes.at_open import constants_at_open, restore_at_open
from mcd_graph.proof import NOT_ASKED_FOR, Prover, find_culprits
from mcd_graph.report.data import Proof

__all__ = ["DifferenceError", "prove"]

logger = logging.getLogger(__name__)


class DifferenceError(Exception):
    """A lowered model gives other bytes than the original; ``kept`` is to stay as it is the next time."""

    def __init__(self, kept: Kept, prover: Prover, packed: Packed) -> None:
        super().__init__()
        self.kept = kept
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
        difference = None
        with writer.trial(plan.model) as path:
            if is_text(str(path)):
                difference = prover.difference(path)
            else:
                prover.reason = f"{path.parent}: onnxruntime opens no file in a folder whose name is not UTF-8"
        if difference is not None:
            request.watch.check(weights=True)  # or nodes would be kept because of what somebody else did
            logger.info("%s: the compressed model differs: %s", request.source, difference)
            culprits = _culprits(request, plan, packed, prover)
            if not culprits:
                raise InputError(
                    f"{request.source}: nothing is written: the compressed model does not do what the original does, "
                    f"and neither node nor constant alone is the cause: {difference}"
                )
            raise DifferenceError(dataclasses.replace(culprits, difference=difference), prover, packed)
    differing = [site.name for site in plan.sites if site.code == ReasonCode.DIFFERS]
    if request.kept.constants:
        kept = [job for job in constants_at_open(plan.model) if job.key in request.kept.constants]
        differing += [name for job in kept for name in job.names]
    return prover.proof(differing)


def _culprits(request: Request, plan: LoweringPlan, packed: Packed, prover: Prover) -> Kept:
    """Find what makes the model of a plan differ: constants that are restored, if it does not without; else nodes."""
    lowered = [number for number, site in enumerate(plan.sites) if site.status == "lowered"]
    restored = sorted(packed.at_open.compressed) if packed.at_open is not None else []
    differs = _differs_with(request, plan, packed, prover)
    if restored and not differs(lowered, ()):
        return Kept(constants=frozenset(find_culprits(restored, lambda keys: differs(lowered, keys))))
    return Kept(sites=frozenset(find_culprits(lowered, lambda sites: differs(sites, ()))))


def _differs_with(
    request: Request, plan: LoweringPlan, packed: Packed, prover: Prover
) -> Callable[[Collection[int], Collection[str]], bool]:
    """Return a function that tells whether the model differs with some sites and constants of a plan alone."""

    def differs(sites: Collection[int], constants: Collection[str]) -> bool:
        model = request.load()
        others = set(range(len(plan.sites))) - set(sites)
        try:
            partial = request.plan(model, others)
        except NothingToCompressError:
            return False
        if not partial.apply(packed.weights) and not constants:
            return False
        with (
            tempfile.TemporaryDirectory(prefix="mcd-") as folder,
            ModelWriter(f"{folder}/model.onnx") as writer,
        ):
            if packed.at_open is not None:
                restored = packed.at_open.written(constants, writer)
                restore_at_open(model, constants_at_open(model), restored)
            with writer.trial(model) as path:
                return prover.difference(path) is not None

    return differs
