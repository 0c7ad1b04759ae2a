"""What a report says of a node whose weight was compressed."""

import dataclasses

from mcd_graph.accounting import report_of
from mcd_graph.codec.weights import WeightStats
from mcd_graph.operators.decompress_weight import OP_TYPE
from mcd_graph.passes import Site
from mcd_graph.report.data import NodeReport

__all__ = ["node_report", "restored_report"]


def node_report(site: Site, stats: WeightStats | None) -> NodeReport:
    """Describe a node of the plan; ``stats`` are of its weight, where that was looked at."""
    report = report_of(site, None if stats is None else stats.entropy_bits)
    if stats is None or site.status != "lowered":
        return report
    return dataclasses.replace(
        report, compressed_bytes=stats.stored_bytes, payload_bytes=stats.payload_bytes, codec=stats.codec
    )


def restored_report(name: str, stats: WeightStats) -> NodeReport:
    """Describe the node that restores a constant at opening."""
    site = Site(f"{name}.{OP_TYPE}", OP_TYPE, OP_TYPE, "lowered", k=stats.k, n=stats.n, weight=name)
    return node_report(site, stats)
