"""An executor on a Dask cluster.

``client.get_executor()`` would do as well; this one leaves the results where they were made until it is their turn, so
that the memory they take on this machine does not grow with the cluster.
"""

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from mcd_graph.codec.packing import Pending
from mcd_graph.errors import InputError
from mcd_graph.requirements import with_extra

__all__ = ["DaskExecutor"]

_T = TypeVar("_T")

_SECONDS_TO_CONNECT = 20


class DaskExecutor:
    """Sends work to the workers of a Dask cluster; for :func:`mcd_graph.compress_model`.

    Work of a worker that dies is done again by another. Every worker needs this package in the same version. A cluster
    is trusted: what it answers is unpickled.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.1:8786``, or the path of its scheduler file (``.json``).

    Raises:
        InputError: ``distributed`` is not installed, or the cluster has no workers.
        OSError: nobody answers at the address.

    Attributes:
        threads: of all workers together, at the start.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client  # noqa: PLC0415 - heavy, and an extra
        except ImportError:
            raise InputError(f"dask.distributed is not installed: {with_extra('dask')}") from None
        place: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            self._client = Client(**place, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"no Dask scheduler answers at {address}: {error}") from error
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
        except OSError:
            self._client.close()
            raise InputError(f"the Dask cluster at {address} has no workers") from None
        self.threads = sum(self._client.nthreads().values())

    def submit(self, fn: Callable[..., _T], /, *args: Any) -> Pending[_T]:
        """Have ``fn(*args)`` called by a worker."""
        with warnings.catch_warnings():
            # Weights that workers cannot read themselves travel with the call: the scheduler keeps them then, and
            # can give them to another worker.
            warnings.filterwarnings("ignore", message="Sending large graph")
            return cast("Pending[_T]", self._client.submit(fn, *args, pure=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
