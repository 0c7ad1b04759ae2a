"""The bridge to Ascend: msModelSlim's weight compression, the way to ATC, and what is needed for them.

``CompressConfig`` and ``Compressor`` are called as msModelSlim's ``weight_compression`` is. docs/guide/ascend.md walks
through the whole workflow and says what of it was never run on a device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcd_graph.ascend.checkpoint import write_checkpoint
    from mcd_graph.ascend.compressor import CompressConfig, Compressor
    from mcd_graph.ascend.deq_scale import deq_scale_from_float, deq_scale_to_float
    from mcd_graph.ascend.export import export_model
    from mcd_graph.ascend.files import read_dat
    from mcd_graph.ascend.pickles import load_weights
    from mcd_graph.ascend.torch_npu import npu_matmul_compress_dequant
    from mcd_graph.ascend.w8a8sc import read_safetensors

__all__ = [
    "CompressConfig",
    "Compressor",
    "deq_scale_from_float",
    "deq_scale_to_float",
    "export_model",
    "load_weights",
    "npu_matmul_compress_dequant",
    "read_dat",
    "read_safetensors",
    "write_checkpoint",
]

# Imported when first asked for, so that `mcd --help` need not wait for onnx.
_HOMES = {
    "CompressConfig": "compressor",
    "Compressor": "compressor",
    "deq_scale_from_float": "deq_scale",
    "deq_scale_to_float": "deq_scale",
    "export_model": "export",
    "load_weights": "pickles",
    "npu_matmul_compress_dequant": "torch_npu",
    "read_dat": "files",
    "read_safetensors": "w8a8sc",
    "write_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mcd_graph.ascend' has no attribute {name!r}")
    return getattr(import_module(f"mcd_graph.ascend.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
