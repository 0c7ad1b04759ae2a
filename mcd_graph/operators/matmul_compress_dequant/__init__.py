"""The operator ``mcd::MatmulCompressDequant``, version 1.

``signature.py`` has its inputs and attributes, ``inference.py`` its shape inference, ``reference.py`` the operator in
NumPy. ``passes/restore_matmul.py`` and ``passes/legalize/`` have what becomes of it in standard operators and for
Ascend.
"""

from mcd_graph.operators.matmul_compress_dequant import signature
from mcd_graph.operators.matmul_compress_dequant.inference import infer
from mcd_graph.operators.matmul_compress_dequant.reference import MatmulCompressDequant
from mcd_graph.operators.matmul_compress_dequant.signature import INPUT_NAMES, OP_TYPE
from mcd_graph.operators.spec import DOMAIN as OP_DOMAIN
from mcd_graph.operators.spec import DOMAIN_VERSION as OP_VERSION
from mcd_graph.operators.spec import OperatorSpec, tell_onnx

__all__ = ["INPUT_NAMES", "OP_DOMAIN", "OP_TYPE", "OP_VERSION", "SPEC", "MatmulCompressDequant", "register_schema"]

SPEC = OperatorSpec(
    op_type=OP_TYPE,
    doc=signature.DOC,
    inputs=signature.INPUTS,
    outputs=signature.OUTPUTS,
    types=signature.TYPES,
    attributes=signature.ATTRIBUTES,
    infer=infer,
    reference=MatmulCompressDequant,
    restore="mcd_graph.passes.restore_matmul",  # by name: it undoes fusions, which are known there
    ascend="aclnnMatmulCompressDequant",
    telling_inputs=("bias", "deq_scale", "addend", "y_zero_point", "gate", "residual"),
)


def register_schema() -> None:
    """Register the schema with onnx, as importing this module does; a second call changes nothing."""
    tell_onnx(SPEC)
