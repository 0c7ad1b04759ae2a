"""A model as the content of one file: its constants in memory or elsewhere, and what a file may hold."""

from collections.abc import Iterator

import onnx_ir as ir
from google.protobuf.message import EncodeError

from mcd_graph.errors import InputError
from mcd_graph.model.at_open import hide_nodes
from mcd_graph.model.fidelity import to_proto

__all__ = [
    "MODEL_BYTES_LIMIT",
    "check_size",
    "constants_of",
    "in_memory",
    "model_bytes",
    "serialized",
    "size_of_tensor",
    "take_in_attributes",
]

MODEL_BYTES_LIMIT = (1 << 31) - 1
"""What a protobuf message may hold, and so a model file."""

_TOO_LARGE = "the model would be larger than 2 GiB, which no ONNX file can be: its weights need a file of their own"


def check_size(nbytes: int) -> None:
    """Raise InputError if a model file cannot hold so many bytes of tensors."""
    if nbytes > MODEL_BYTES_LIMIT:
        raise InputError(_TOO_LARGE)


def model_bytes(model: ir.Model) -> bytes:
    """Return a model as the content of one file, its external data inside; its tensors are in memory then.

    Raises:
        InputError: it is too large for one file.
    """
    inline = 0
    for value, tensor in constants_of(model):
        inline += size_of_tensor(tensor)
        check_size(inline)
        value.const_value = in_memory(tensor)
    take_in_attributes(model)
    return serialized(model)


def serialized(model: ir.Model) -> bytes:
    """Return a model as the bytes of its file.

    Raises:
        InputError: it is too large for one file.
    """
    try:
        proto = to_proto(model)
        hide_nodes(proto)
        data: bytes = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError(_TOO_LARGE) from error
    except ir.serde.SerdeError as error:  # a tensor that is made only now could not be: what it says is what is wrong
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None
    return data


def constants_of(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the initialisers of a model's graphs that have a value, with their tensors."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def take_in_attributes(model: ir.Model) -> None:
    """Read external tensors in attributes into memory: onnxruntime reads external data of initialisers only."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, in_memory(attribute.value))


def in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor that reads from no file."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(
        tensor.numpy(),
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def size_of_tensor(tensor: ir.TensorProtocol) -> int:
    """Return the bytes of a tensor; 0 for strings, whose size is not known before they are written."""
    return 0 if tensor.dtype == ir.DataType.STRING else tensor.nbytes
