"""Sparse constants as onnxruntime takes them: it makes dense ones of them when it opens a model."""

import math

import numpy as np
import onnx
from onnx import numpy_helper

from mcd_graph.errors import InputError
from mcd_graph.model.walk import Contents

__all__ = ["with_dense_constants"]

_BYTES_LIMIT = 256 << 20
"""A few numbers may claim a shape of any size."""


def with_dense_constants(contents: Contents) -> Contents:
    """Return a model with dense constants in place of sparse ones; the same object if it has none.

    Raises:
        InputError: a sparse tensor contradicts itself, or would be too large.
    """
    initializers = any(graph.sparse_initializer for graph, _ in contents.graphs)
    if not initializers and not any(_has_sparse(node) for node in contents.nodes):
        return contents
    changed = onnx.ModelProto()
    changed.CopyFrom(contents.proto)
    dense = Contents.of(changed)
    for graph, _ in dense.graphs:
        graph.initializer.extend(_dense(sparse, sparse.values.name) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in dense.nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                tensor = _dense(attribute.sparse_tensor, next(iter(node.output), ""))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
    return Contents.of(changed)


def _has_sparse(node: onnx.NodeProto) -> bool:
    return any(attribute.type == onnx.AttributeProto.SPARSE_TENSOR for attribute in node.attribute)


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    dims = tuple(sparse.dims)
    if any(part.data_location == onnx.TensorProto.EXTERNAL for part in (sparse.values, sparse.indices)):
        raise InputError(f"sparse tensor {name!r} has its numbers in another file, which is not supported")
    try:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        if not dims or min(dims) <= 0 or math.prod(dims) * values.itemsize > _BYTES_LIMIT:
            raise InputError(f"sparse tensor {name!r} has the shape {dims}, which is not supported")
        places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)
        if places.shape != values.shape or (places.size and not 0 <= places.min() <= places.max() < math.prod(dims)):
            raise InputError(f"sparse tensor {name!r} has indices outside of its shape {dims}")
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"sparse tensor {name!r} cannot be read: {error}") from None
    dense = np.zeros(math.prod(dims), values.dtype)
    dense[places] = values
    return numpy_helper.from_array(dense.reshape(dims), name)
