"""How far a long task has come."""

import dataclasses

__all__ = ["Progress"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a compression or a restoration has come.

    Attributes:
        weight: name of the weight that was just finished; empty at the start.
        weights_done: weights finished.
        weights_total: weights in all.
        bytes_done: their size before compression.
        bytes_total: of all weights.

    Examples:
        >>> import mcd_graph
        >>> def show(progress: mcd_graph.Progress) -> None:
        ...     print(f"{progress.weight}: {progress.bytes_done} of {progress.bytes_total} bytes")
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx", progress=show)
        w1: 32768 of 65536 bytes
        w2: 65536 of 65536 bytes
    """

    weight: str
    weights_done: int
    weights_total: int
    bytes_done: int
    bytes_total: int
