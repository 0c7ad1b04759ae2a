"""The limits of the operator's document, and what loaders ask besides: what a layer fails to meet."""

import numpy as np
import numpy.typing as npt

__all__ = ["layer_faults"]


def layer_faults(
    n: int, k: int, stream_bytes: int, bias: npt.NDArray[np.int32], scale: npt.NDArray[np.int64]
) -> list[str]:
    """Return what is wrong with a layer, a sentence each.

    Args:
        n: rows of its weight.
        k: columns.
        stream_bytes: size of the compressed weight.
        bias: int32 (n,).
        scale: int64 (n,), words of deqScale.
    """
    faults = []
    if k % 64 or k <= 256:
        faults.append(f"k is {k}; the document wants a multiple of 64 above 256")
    if n % 64 or n < 128:
        faults.append(f"n is {n}; the document wants a multiple of 64 from 128 on")
    if n % 16:
        faults.append(
            f"deq_scale has {n} numbers; the implementation answers with zeros unless they are a multiple of 16"
        )
    if stream_bytes > n * k:
        faults.append(f"the stream has {stream_bytes} bytes; loaders have room for n * k = {n * k}")
    if np.any(np.abs(bias.astype(np.int64)) + 128 * 128 * k >= 1 << 31):
        faults.append("the sums may exceed int32: quant_bias and k are too large")
    scales = np.asarray(scale.astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    if not np.isfinite(scales).all():
        faults.append("a deq_scale is infinite or NaN, a known issue by CANN's release notes")
    elif (scales <= 0).any():
        faults.append("a deq_scale is not above zero")
    return faults
