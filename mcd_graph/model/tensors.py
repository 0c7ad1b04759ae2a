"""Whether tensors hold what they claim: as many bytes as type and shape need, in files where they may lie.

External data may only lie in regular files below the model's own directory. Paths that are absolute, contain ``..``,
or lead elsewhere through links are refused, and so are offsets and lengths that the file or the tensor's own shape
contradict.
"""

import math
import os
import stat
from pathlib import Path, PurePath

import onnx
import onnx_ir as ir

from mcd_graph.errors import InputError

__all__ = ["Folders", "check_tensor", "external_entries"]


class Folders:
    """Where a model's external data may lie, which is where onnxruntime looks for it.

    Data is named from the model's folder, and with all links followed lies below that folder, or below the folder of
    the model file itself if that is a link: so a hub's cache opens, whose files are links into a folder of blobs.

    Attributes:
        base: the model's folder, from which locations count.
    """

    def __init__(self, base: Path, model: Path) -> None:
        self.base = base
        self._allowed = (base.resolve(), model.resolve().parent)

    def hold(self, path: Path) -> bool:
        """Tell whether a file lies in the folders with all links followed; OSError if there is none."""
        real = path.resolve(strict=True)
        return any(real.is_relative_to(folder) for folder in self._allowed)


def check_tensor(tensor: onnx.TensorProto, folders: Folders | None) -> None:
    """Raise InputError unless the tensor has as many bytes as its type and shape need."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if folders is None:
            raise InputError(f"tensor {tensor.name!r} is in another file; give the model's path instead of a proto")
        _check_external(tensor, folders)
    elif not tensor.HasField("raw_data"):
        _check_entries(tensor)
    elif len(tensor.raw_data) != _byte_size(tensor):
        raise InputError(
            f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, which do not fit its type and shape"
        )
    else:
        _check_padding(tensor, tensor.raw_data[-1:])


def _check_entries(tensor: onnx.TensorProto) -> None:
    """Raise InputError unless the tensor's typed field has as many entries as its type and shape need."""
    try:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    except KeyError:  # no type, or one that is not known: nothing looks into it
        return
    entries = getattr(tensor, field)
    count = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        count *= 2
    six_bits = tensor.data_type != onnx.TensorProto.STRING and _bits(tensor) == 6
    if field == "int32_data" and _bits(tensor) < 8 and not six_bits:
        count = -(-count * _bits(tensor) // 8)  # an entry for each byte
    if len(entries) != count or any(dim < 0 for dim in tensor.dims):
        raise InputError(f"tensor {tensor.name!r} has {len(entries)} entries, which do not fit its type and shape")
    if six_bits and any(not 0 <= entry < 64 for entry in entries):
        raise InputError(f"tensor {tensor.name!r} has entries beyond the 6 bits of its type")


def _check_padding(tensor: onnx.TensorProto, last: bytes) -> None:
    """Raise InputError if the last byte of a 6-bit type has bits beyond the last element: onnx_ir does not read it."""
    if not last or _bits(tensor) != 6:
        return
    used = math.prod(tensor.dims) * 6 % 8
    if used and last[0] >> used:
        raise InputError(f"tensor {tensor.name!r} has padding bits that are not zero")


def external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """Return what a tensor says of where its data is."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_external(tensor: onnx.TensorProto, folders: Folders) -> None:
    """Raise InputError unless the tensor's bytes lie within a regular file where external data may lie."""
    entries = external_entries(tensor)
    location = entries.get("location", "")

    def refuse(reason: str) -> InputError:
        return InputError(f"tensor {tensor.name!r}: external data {location!r} {reason}")

    if not location or "\0" in location:
        raise refuse("is not a file name")
    if PurePath(location).is_absolute():
        raise refuse("is an absolute path, which is refused")
    if Path(os.path.normpath(location)).is_relative_to(".."):
        raise refuse("leads out of the model's directory, which is refused")
    path = folders.base / location
    try:
        if not folders.hold(path):
            raise refuse("is a link out of the model's directory, which is refused")
        status = path.stat()
    except (OSError, RuntimeError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise refuse("is not a regular file")
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key) or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise refuse(f"has {key} {text!r}, which is not a size")
        numbers[key] = int(text)
    needed = _byte_size(tensor)
    if needed is None:
        raise refuse("is of a type or shape that cannot be external")
    if entries.get("length") and numbers["length"] != needed:
        raise refuse(f"has length {numbers['length']}, but its type and shape need {needed} bytes")
    if numbers["offset"] + needed > status.st_size:
        raise refuse(f"ends at byte {numbers['offset'] + needed}, but the file has only {status.st_size}")
    if needed and _bits(tensor) == 6:
        with path.open("rb") as file:
            file.seek(numbers["offset"] + needed - 1)
            _check_padding(tensor, file.read(1))


def _bits(tensor: onnx.TensorProto) -> int:
    """Return the bits of an element; TypeError or ValueError if its type has no fixed number of them."""
    return ir.DataType(tensor.data_type).bitwidth


def _byte_size(tensor: onnx.TensorProto) -> int | None:
    try:
        bits = _bits(tensor)
    except (TypeError, ValueError):
        return None
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            return None
        count *= dim
    return (count * bits + 7) // 8
