"""The operator ``mcd::ConvCompressDequant``, version 1.

It convolves quantised images with a compressed kernel, and requantises or dequantises the result. In NumPy::

    ReferenceEvaluator(model, new_ops=[ConvCompressDequant])

``signature.py`` has its inputs and attributes, ``window.py`` how a kernel goes over an image, ``inference.py`` its
shape inference, ``reference.py`` the operator in NumPy, ``restoration.py`` what becomes of it in standard operators.
"""

from mcd_graph.operators.conv_compress_dequant import restoration, signature
from mcd_graph.operators.conv_compress_dequant.inference import infer
from mcd_graph.operators.conv_compress_dequant.reference import ConvCompressDequant
from mcd_graph.operators.conv_compress_dequant.signature import INPUT_NAMES, OP_TYPE
from mcd_graph.operators.conv_compress_dequant.window import Window
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION
from mcd_graph.operators.spec import OperatorSpec, tell_onnx

__all__ = [
    "INPUT_NAMES",
    "OP_DOMAIN",
    "OP_TYPE",
    "OP_VERSION",
    "SPEC",
    "ConvCompressDequant",
    "Window",
    "register_schema",
]

SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=signature.DOC,
    inputs=signature.INPUTS,
    outputs=signature.OUTPUTS,
    types=signature.TYPES,
    attributes=signature.ATTRIBUTES,
    infer=infer,
    reference=ConvCompressDequant,
    check=restoration.check_node,
    weight_shape=restoration.kernel_shape,
    weight_of=restoration.kernel_of,
    restore="mcd_graph.passes.restore_conv",  # by name: it takes Transposes away, as the passes do
    telling_inputs=("bias", "deq_scale", "addend", "y_zero_point"),
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
