"""deqScale: a float32 scale as the 64-bit word that the operator takes, and back.

The low 32 bits are the float's, the high ones zero. CANN's documents and msModelSlim make the word from an int32 view
and so extend the sign, which is the same for the scales allowed here: finite and above zero.
"""

import numpy as np
import numpy.typing as npt

from mcd_graph.errors import InputError

__all__ = ["deq_scale_from_float", "deq_scale_to_float"]


def deq_scale_from_float(scale: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return scales as deqScale words.

    Args:
        scale: float32 (other floats are rounded to it), any shape.

    Returns:
        uint64 of the same shape.

    Raises:
        InputError: a scale is not finite or not above zero; the device's answer to such scales is not defined.

    Examples:
        >>> from mcd_graph.ascend import deq_scale_from_float
        >>> hex(deq_scale_from_float([1.0])[0])
        '0x3f800000'
    """
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused below
        scales = np.asarray(np.asarray(scale).astype(np.float32))
    bad = ~(np.isfinite(scales) & (scales > 0))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise InputError(f"scale {index} is {scales.reshape(-1)[index]}; deqScale must be finite and above zero")
    return np.asarray(scales.view(np.uint32), np.uint64)


def deq_scale_to_float(deq_scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the scales behind deqScale words.

    Args:
        deq_scale: uint64, or int64 as msModelSlim stores them, any shape. (msModelSlim stores plain float32
            for bfloat16 models: those are refused rather than taken for words.)

    Returns:
        float32 of the same shape.

    Raises:
        InputError: the array is of another type, or a word is not a finite float32 above zero without other bits.

    Examples:
        >>> import numpy
        >>> from mcd_graph.ascend import deq_scale_to_float
        >>> deq_scale_to_float(numpy.array([0x3F800000], numpy.uint64)).tolist()
        [1.0]
    """
    words = np.asarray(deq_scale)
    if words.dtype not in (np.uint64, np.int64):
        raise InputError(f"deqScale words are uint64 or int64, not {words.dtype}")
    words = np.asarray(words.astype(np.uint64))
    scales = np.asarray(words.astype(np.uint32)).view(np.float32)
    bad = (words >> np.uint64(32) != 0) | ~(np.isfinite(scales) & (scales > 0))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise InputError(f"deqScale word {index}, {int(words.reshape(-1)[index]):#x}, is not a finite scale above zero")
    return scales
