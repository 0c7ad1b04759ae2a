"""Every family of rules: the files of this folder that have a ``FAMILY``.

Planning, the passes, what ``mcd inspect`` calls a form and the pages of the documentation all ask here, so that a file
is all that a new form takes.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from mcd_graph.passes import rules as folder

if TYPE_CHECKING:
    from mcd_graph.passes.engine.match import Family, Rule

__all__ = ["ALL_RULES", "FAMILIES", "RULES_ON_REQUEST", "label_of"]


def _find() -> tuple[Family, ...]:
    """Return the families, those on request last; no two rules of either kind start from the same operator."""
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    here = __name__.rpartition(".")[2]
    modules = [importlib.import_module(f"{folder.__name__}.{name}") for name in names if name != here]
    found: list[Family] = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    operators = [(rule.domain, rule.op_type, family.on_request) for family in found for rule in family.rules]
    if len(set(operators)) != len(operators):
        raise ValueError(f"two rules start from the same operator: {sorted(operators)}")
    return tuple(sorted(found, key=lambda family: family.on_request))


#: Every family.
FAMILIES = _find()

#: The rules that are looked for unless somebody says which.
ALL_RULES: tuple[Rule, ...] = tuple(rule for family in FAMILIES if not family.on_request for rule in family.rules)

#: Those for which somebody has to ask: convolutions that are multiplications.
RULES_ON_REQUEST: tuple[Rule, ...] = tuple(rule for family in FAMILIES if family.on_request for rule in family.rules)

_LABELS = {rule.name: rule.label for rule in (*ALL_RULES, *RULES_ON_REQUEST)}


def label_of(rule: str) -> str | None:
    """Return what the form that a rule starts from is called, or ``None`` if there is no rule of this name."""
    return _LABELS.get(rule)
