"""Shapes that the model does not say but that follow from what it says.

Whether onnxruntime fuses what stands behind a QDQ multiplication depends on shapes that it infers itself, and a
checker infers them to refuse what does not fit together. So they are inferred here as well, for models that come
without; beside the values, in metadata that is not saved.
"""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

__all__ = ["infer_shapes", "inferred_shape"]

logger = logging.getLogger(__name__)

_KEY = "mcd_graph.inferred_shape"


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes of all graphs' values, for :func:`inferred_shape`; the model itself stays as it is.

    Values of functions are left out: their shapes are those of each call.
    """
    try:
        clone = model.clone()
    except RuntimeError as error:  # of nodes in an order that onnxruntime mends and onnx_ir cannot copy
        logger.info("no shapes are inferred: %s", error.__cause__ or error)
        return
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(clone)
    count = 0
    for graph, copy in zip(model.graphs(), clone.graphs(), strict=True):
        known = {output.name: output.shape for node in copy for output in node.outputs if output.shape is not None}
        for node in graph:
            for output in node.outputs:
                if output.shape is None and output.name in known:
                    output.meta[_KEY] = known[output.name]
        count += len(known)
    logger.debug("inferred the shapes of %d values", count)


def inferred_shape(value: ir.Value) -> ir.Shape | None:
    """Return the shape that the model says, else the inferred one, else ``None``."""
    if value.shape is not None:
        return value.shape
    shape = value.meta.get(_KEY)
    return shape if isinstance(shape, ir.Shape) else None
