"""What was asked of a compression, and the model that it is of."""

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from mcd_graph.codec.packing import Submits
from mcd_graph.codec.weights import Profile
from mcd_graph.compression.reasons import why_nothing
from mcd_graph.errors import InputError, NothingToCompressError
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import ModelSource, Source
from mcd_graph.model.unchanged import FileIdentity, Watch
from mcd_graph.operators.registry import name_of
from mcd_graph.passes import InlineWeightArgumentsPass, LoweringPlan, ReasonCode, Refusal, plan_lowering
from mcd_graph.passes.at_open import ConstantJob, constants_at_open
from mcd_graph.passes.functions import InlineConstantsPass
from mcd_graph.passes.plan import smallest_of_few
from mcd_graph.passes.plan.selection import Selection
from mcd_graph.progress import Progress
from mcd_graph.report.data import Quantization

__all__ = ["Kept", "Request"]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays as it is because the model did not do the same with it.

    Attributes:
        sites: numbers of nodes in the plan.
        constants: keys of constants that were to be restored at opening.
        difference: what the model did instead: which bytes were others, or why it did not run.
    """

    sites: frozenset[int] = frozenset()
    constants: frozenset[str] = frozenset()
    difference: str = ""

    def __or__(self, other: "Kept") -> "Kept":
        """Return both, with the difference that was found last."""
        return Kept(self.sites | other.sites, self.constants | other.constants, other.difference or self.difference)

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return bool(self.sites or self.constants)

    def refusals(self) -> dict[str, Refusal]:
        """Say of each constant why it is kept."""
        return dict.fromkeys(self.constants, self.refusal("restored at opening"))

    def refusal(self, done: str) -> Refusal:
        """Say what came of it."""
        return Refusal(ReasonCode.DIFFERS, f"{done}, it made the model differ from the original: {self.difference}")


@dataclasses.dataclass(frozen=True)
class Request:
    """Arguments of :func:`mcd_graph.compress_model`, and what is opened for them: the model, or a copy of it."""

    model_input: ModelSource
    opened: ModelSource
    model_output: str | os.PathLike[str]
    profile: Profile
    jobs: int | None
    executor: Submits | None
    include: str | None
    exclude: str | None
    convolutions: bool
    min_saving: float
    progress: Callable[[Progress], None] | None
    inline: bool
    data_name: str | None
    at_open: bool
    force: bool
    force_larger: bool
    verify: bool
    custom_ops: Sequence[str | os.PathLike[str]] = ()
    copied_from: tuple[FileIdentity, ...] = ()
    quantization: Quantization | None = None
    kept: Kept = Kept()
    watch: Watch = dataclasses.field(default_factory=Watch)

    @property
    def source(self) -> str:
        """What messages call the model."""
        given = self.model_input
        return os.fspath(given) if isinstance(given, (str, os.PathLike)) else "the given ModelProto"

    def read(self) -> Source:
        """Return the model, parsed, with the name that it was given by."""
        return dataclasses.replace(Source.read(self.opened), name=self.source, copied_from=self.copied_from)

    def load(self, given: Source | None = None) -> ir.Model:
        """Return the model, functions that are given their weights put in place of their calls."""
        model = load_model(given or self.read())
        InlineWeightArgumentsPass()(model)
        if self.at_open:
            InlineConstantsPass()(model)
        return model

    def wants(self, job: ConstantJob) -> bool:
        """Tell whether a constant is to be compressed, going by the names of itself and of those that read it."""
        readers = (node for constant in job.constants for node, _ in constant.readers)
        names = [*job.names, *map(name_of, readers)]
        try:
            Selection(self.include, self.exclude).check(names)
        except Refusal:
            return False
        return True

    def plan(self, model: ir.Model, differing: Collection[int]) -> LoweringPlan:
        """Return what can be lowered of the model, less the sites that are known to differ."""
        try:
            plan = plan_lowering(
                model,
                include=self.include,
                exclude=self.exclude,
                convolutions=self.convolutions,
                custom_ops=self.custom_ops,
            )
        except re.error as error:
            raise InputError(f"not a regular expression: {error.pattern!r}: {error}") from None
        if self.at_open:  # which asks for a small file
            plan.weights = {key: job.with_larger_tiles() for key, job in plan.weights.items()}
        if self.profile != "fast":
            plan.weights = smallest_of_few(plan.weights)
        plan.keep(differing, self.kept.refusal("lowered"))
        if not plan.weights and not (self.at_open and any(constants_at_open(model))):
            raise NothingToCompressError(f"{self.source}: nothing to compress: {why_nothing(plan)}")
        return plan
