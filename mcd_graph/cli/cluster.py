"""The option ``--dask``: where work is sent."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcd_graph.codec.cluster import DaskExecutor

__all__ = ["dask_executor"]


@contextmanager
def dask_executor(dask: str | None) -> "Iterator[DaskExecutor | None]":
    """Connect to the cluster, if one is given."""
    if dask is None:
        yield None
        return
    from mcd_graph.codec.cluster import DaskExecutor  # noqa: PLC0415

    with DaskExecutor(dask) as executor:
        yield executor
