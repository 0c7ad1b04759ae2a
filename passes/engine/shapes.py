"""Shapes and types that the model does not say but that follow from what it says.

Whether onnxruntime fuses what stands behind a QDQ multiplication depends on shapes that it infers itself, and a
checker infers both to refuse what does not fit together. So they are inferred here as well, for models that come
without; beside the values, in metadata that is not saved.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["infer_shapes", "inferred_dtype", "inferred_shape", "shapes_inferred"]

logger = logging.getLogger(__name__)

_SHAPE = "mcd_graph.inferred_shape"
_DTYPE = "mcd_graph.inferred_dtype"


def infer_shapes(model: ir.Model) -> None:
    """Infer what :func:`inferred_shape` and :func:`inferred_dtype` return, in all graphs; the model stays as it is.

    Values of functions are left out: theirs are those of each call.
    """
    try:
        clone = model.clone()
    except RuntimeError as error:  # of nodes in an order that onnxruntime mends and onnx_ir cannot copy
        logger.info("no shapes are inferred: %s", error.__cause__ or error)
        return
    try:
        with _no_traceback():
            ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(clone)
    except ir.serde.SerdeError as error:  # of a type that onnx infers and onnx_ir does not know
        logger.info("no shapes are inferred: %s", error.__cause__ or error)
        return
    count = 0
    for graph, copy in zip(model.graphs(), clone.graphs(), strict=True):
        known = {output.name: output for node in copy for output in node.outputs}
        for node in graph:
            for output in node.outputs:
                inferred = known.get(output.name)
                if inferred is None:
                    continue
                if output.shape is None and inferred.shape is not None:
                    output.meta[_SHAPE] = inferred.shape
                    count += 1
                if output.dtype is None and inferred.dtype is not None:
                    output.meta[_DTYPE] = inferred.dtype
    logger.debug("inferred the shapes of %d values", count)


@contextlib.contextmanager
def shapes_inferred(model: ir.Model) -> Iterator[None]:
    """Infer shapes for a while; what was not inferred before is forgotten again, so nobody else's answer changes."""
    values = [output for graph in model.graphs() for node in graph for output in node.outputs]
    before = [{key: value.meta.get(key) for key in (_SHAPE, _DTYPE)} for value in values]
    infer_shapes(model)
    try:
        yield
    finally:
        for value, known in zip(values, before, strict=True):
            for key in [key for key, meta in known.items() if meta is None and key in value.meta]:
                del value.meta[key]


@contextlib.contextmanager
def _no_traceback() -> Iterator[None]:
    """Log what the pass could not infer in one line: models that nothing can be inferred of are no fault."""

    def is_other(record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        logger.info("no shapes are inferred: %s", record.exc_info[1])
        return False

    theirs = logging.getLogger(ShapeInferencePass.__module__)
    theirs.addFilter(is_other)
    try:
        yield
    finally:
        theirs.removeFilter(is_other)


def inferred_shape(value: ir.Value) -> ir.Shape | None:
    """Return the shape that the model says, else the inferred one, else ``None``."""
    if value.shape is not None:
        return value.shape
    shape = value.meta.get(_SHAPE)
    return shape if isinstance(shape, ir.Shape) else None


def inferred_dtype(value: ir.Value) -> ir.DataType | None:
    """Return the element type that the model says, else the inferred one, else ``None``."""
    if value.dtype is not None:
        return value.dtype
    dtype = value.meta.get(_DTYPE)
    return dtype if isinstance(dtype, ir.DataType) else None
