"""Why nothing is compressed, for people."""

from collections import Counter

from mcd_graph.model.constants import WORTH_NAMING, eight_bit_constants
from mcd_graph.operators.registry import compressed_nodes
from mcd_graph.passes import LoweringPlan
from mcd_graph.passes.at_open import constants_at_open

__all__ = ["why_not_smaller", "why_nothing"]


def why_nothing(plan: LoweringPlan) -> str:
    """Say why no weight of a plan is compressed."""
    sites = plan.sites
    if not sites:
        if any(compressed_nodes(plan.model)):
            return "it is compressed already"
        held = _int8_constants(plan)
        return held or _small_constants(plan) or "it has no int8 weights; quantise it to int8 first"
    codes = Counter(site.code for site in sites)
    texts = {code: Counter(site.reason for site in sites if site.code == code) for code in codes}
    each = "; ".join(f"{count} because {_one_for_all(texts[code])}" for code, count in codes.most_common())
    code = codes.most_common(1)[0][0]
    hint = "" if code is None else f". What to do ({code}): {code.remedy}"
    if any(constants_at_open(plan.model)):
        hint = f"{hint or '.'} --at-open compresses constants whatever reads them"
    kept = f"all {len(sites)} nodes with quantised weights are" if len(sites) > 1 else "its node with a weight is"
    return f"{kept} kept: {each}{hint}"


def _one_for_all(reasons: Counter[str | None]) -> str:
    """Return the most frequent of the reasons of one kind, which differ in their figures and names."""
    (text, _), *others = reasons.most_common()
    return f"{text}, and the like" if others else str(text)


def _int8_constants(plan: LoweringPlan) -> str | None:
    """Say which operators read the int8 constants of a model without a multiplication that could be compressed."""
    readers: Counter[str] = Counter()
    size = 0
    for constant in eight_bit_constants(plan.model):
        size += constant.tensor.nbytes
        readers.update({user.op_type for user in constant.value.consumers()})
    if not size:
        return None
    if not readers:
        return f"no operator reads its int8 and uint8 constants, {size:,} bytes: remove those that are no outputs"
    names = ", ".join(f"{name} ({count})" for name, count in readers.most_common())
    able = any(constants_at_open(plan.model))
    hint = "; --at-open compresses those of them that are large enough" if able else ""
    return f"its int8 and uint8 constants, {size:,} bytes, are read by operators that are not compressed: {names}{hint}"


def _small_constants(plan: LoweringPlan) -> str | None:
    """Say that the int8 weights of a model are too small, if it has such; vectors of zero points are none."""
    found = [each.tensor for each in eight_bit_constants(plan.model, least=1) if len(each.tensor.shape) > 1]
    if not found:
        return None
    size = max(tensor.nbytes for tensor in found)
    return f"its largest int8 weight has {size:,} bytes, and those below {WORTH_NAMING:,} are left as they are"


def why_not_smaller(source: str, before: int, after: int) -> str:
    """Say why a model whose weights were compressed is not written."""
    return (
        f"{source}: nothing to gain: the files would have {after:,} bytes instead of {before:,}, because tables and "
        "what is said of each weight eat what they save; --force-larger writes them all the same"
    )
