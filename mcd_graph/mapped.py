"""Tensors that are read from mapped files."""

import contextlib

import onnx_ir as ir

__all__ = ["unmap"]


def unmap(tensor: object) -> None:
    """Let go of the memory map behind a tensor, if there is one; the tensor maps its file again when it is read.

    Where somebody still holds an array of it, the map goes with that array.
    """
    if isinstance(tensor, ir.ExternalTensor):
        with contextlib.suppress(BufferError):
            tensor.release()
