"""Accounts for every int8 constant of a model: what was compressed, what was not, and why."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from mcd_graph import _native
from mcd_graph.codec.weights import CompressedWeight
from mcd_graph.mapped import unmap
from mcd_graph.model.constants import EightBitConstant, is_per_channel
from mcd_graph.operators.registry import name_of
from mcd_graph.passes import LoweringPlan, ReasonCode, Refusal, Site
from mcd_graph.report.data import ConstantReport, NodeReport, Reader

__all__ = ["account_for", "report_of"]


def report_of(site: Site, entropy_bits: float | None) -> NodeReport:
    """Say what the plan knows of a multiplication, and the entropy of its weight where that was measured."""
    return NodeReport(
        name=site.name,
        op_type=site.op_type,
        pattern=site.pattern,
        status=site.status,
        code=site.code,
        reason=site.reason,
        weight=site.weight,
        k=site.k,
        n=site.n,
        weight_bytes=None if site.k is None or site.n is None else site.k * site.n,
        entropy_bits=entropy_bits,
    )


def account_for(
    constants: Iterable[EightBitConstant],
    plan: LoweringPlan,
    measured: Mapping[str, tuple[int | None, float]],
    *,
    status: str,
    at_open: Mapping[ir.Value, CompressedWeight | Refusal] | None = None,
) -> tuple[ConstantReport, ...]:
    """Say of every constant what became of it.

    Args:
        constants: those of the model as it was before the plan was applied.
        plan: what was found; its sites say what was done to them.
        measured: by a weight's key in the plan, its size after, if it is known, and its entropy.
        status: of the constants of sites that are not kept: ``lowered`` or ``lowerable``.
        at_open: what became of those that were to be restored when a session is created.
    """
    sites = {site.name: site for site in plan.sites}
    keys: dict[ir.Value, list[str]] = {}
    for key in dict.fromkeys(site.weight for site in plan.sites if site.weight is not None):
        keys.setdefault(plan.weights[key].source.value, []).append(key)
    tried = at_open or {}

    def report(constant: EightBitConstant) -> ConstantReport:
        value = constant.value
        found = _account(constant, sites, keys.get(value, []), measured, status)
        return _with_way(_with_refusal(found, plan.refused.get(value)), tried.get(value))

    return tuple(map(report, constants))


def _with_refusal(report: ConstantReport, refusal: Refusal | None) -> ConstantReport:
    """Say why a constant is not decoded when the model runs, where there is more to say than who reads it."""
    if refusal is None or report.code != ReasonCode.OPERATOR_NOT_COMPRESSED or report.status != "kept":
        return report
    if refusal.code is ReasonCode.OPERATOR_NOT_COMPRESSED:
        return report
    return dataclasses.replace(report, code=refusal.code, reason=refusal.reason)


def _with_way(report: ConstantReport, tried: CompressedWeight | Refusal | None) -> ConstantReport:
    """Say what became of a constant that was to be restored when a session is created."""
    if report.status != "kept":
        return dataclasses.replace(report, way="run")
    if isinstance(tried, CompressedWeight):
        after = tried.stats.stored_bytes
        return dataclasses.replace(report, status="lowered", bytes_after=after, code=None, reason=None, way="open")
    return report if tried is None else dataclasses.replace(report, code=tried.code, reason=tried.reason)


def _account(
    constant: EightBitConstant,
    sites: dict[str, Site],
    keys: list[str],
    measured: Mapping[str, tuple[int | None, float]],
    status: str,
) -> ConstantReport:
    readers = tuple(Reader(label, name_of(node)) for node, label in constant.readers)
    value = constant.value
    report = ConstantReport(
        name=value.name or "",
        dtype=constant.tensor.dtype.name.lower(),
        shape=tuple(constant.tensor.shape.numpy()),
        readers=readers,
        status=status if keys else "kept",
        bytes_before=constant.tensor.nbytes,
        entropy_bits=measured[keys[0]][1] if keys else _entropy(constant.tensor),
        per_channel=is_per_channel(value),
    )
    if keys:
        after = [measured[key][0] for key in keys]
        known = [size for size in after if size is not None]
        return dataclasses.replace(report, bytes_after=sum(known) if len(known) == len(after) else None)
    for reader in readers:
        site = sites.get(reader.name)
        if site is not None and site.code is not None:
            return dataclasses.replace(report, code=site.code, reason=site.reason)
    names = " and ".join(sorted({reader.op_type for reader in readers}))
    reason = f"{names} is not compressed" if names else "no node reads it"
    return dataclasses.replace(report, code=ReasonCode.OPERATOR_NOT_COMPRESSED, reason=reason)


def _entropy(tensor: ir.TensorProtocol) -> float:
    entropy = _native.entropy_bits(np.ascontiguousarray(tensor.numpy()).reshape(1, -1))
    unmap(tensor)  # what was looked at need not stay mapped
    return entropy
