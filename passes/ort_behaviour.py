"""What is known of onnxruntime's graph optimizer, as far as our code relies on it.

Each fact names the transformer that causes it and the versions it was seen in. tests/passes/test_ort_behaviour.py asks
the installed onnxruntime for each, with the transformer and without, and so notices when one changes. No fact decides
alone whether a multiplication is lowered: ``engine/optimized.py`` asks onnxruntime about each model. The facts say what
to propose, and why something is refused.
"""

from __future__ import annotations

import dataclasses

__all__ = ["Fact"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something that onnxruntime does when it optimises.

    Attributes:
        text: what.
        transformers: the names, as ``disabled_optimizers`` takes them, of those that do it; any of them.
        seen: versions of onnxruntime that were seen to do it.
        operators: the operators that it is about, where code asks for them.
        switchable: it does not happen without the transformers; not so where onnxruntime runs them all the same.
    """

    text: str
    transformers: tuple[str, ...]
    seen: tuple[str, ...]
    operators: tuple[str, ...] = ()
    switchable: bool = True


_HELD_TO = ("1.20", "1.26", "1.32")

# ---------------------------------------------------------------------------------------------------------------------
# Before it fuses

REMOVES_NO_OPS = Fact(
    "It removes Identity, Dropout, Cast to the same type, and products and sums with 1 and 0 that change nothing.",
    ("EliminateIdentity", "EliminateDropout", "CastElimination", "NoopElimination"),
    ("1.32",),
    ("Identity", "Dropout", "Cast", "Mul", "Div", "Add", "Sub"),
)
CANCELS_TRANSPOSES = Fact(
    "It removes two Transposes of which the second undoes the first.",
    ("TransposeOptimizer",),
    ("1.32",),
    ("Transpose",),
    switchable=False,
)
FOLDS_CONSTANTS = Fact(
    "It computes what depends on constants alone, but leaves a DequantizeLinear of a weight to be fused.",
    ("ConstantFolding",),
    ("1.32",),
    ("Cast", "Clip", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)
MERGES_EQUAL_NODES = Fact(
    "It makes one node of two that do the same with the same inputs, so that a value has fewer readers.",
    ("CommonSubexpressionElimination",),
    _HELD_TO,
)

# ---------------------------------------------------------------------------------------------------------------------
# Multiplications between DequantizeLinear and QuantizeLinear

FUSES_QDQ = Fact(
    "It makes QLinearMatMul, QGemm or MatMulIntegerToFloat of a MatMul or Gemm behind DequantizeLinear, if all stand "
    "in one graph and nobody else reads the product in front of its QuantizeLinear.",
    ("QDQSelectorActionTransformer",),
    _HELD_TO,
)
MAKES_INT8_PAIRS_UINT8 = Fact(
    "On x86 it turns an int8 QuantizeLinear and the DequantizeLinear that alone reads it into uint8, and fuses no int8 "
    "activations or results.",
    ("QDQS8ToU8Transformer",),
    _HELD_TO,
)
DROPS_RELU_THAT_SATURATION_DOES = Fact(
    "It drops a Relu in front of a QuantizeLinear whose zero point is the lowest value of its type, and keeps the "
    "multiplication in float in front of any other.",
    ("QDQSelectorActionTransformer",),
    _HELD_TO,
)
MOVES_QUANTIZE_UP = Fact(
    "It moves a QuantizeLinear up past operators that only move values, so that it stands behind the multiplication.",
    ("QDQPropagationTransformer",),
    _HELD_TO,
    ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"),
)
MERGES_DOUBLE_QUANTIZERS = Fact(
    "It removes one of two pairs of QuantizeLinear and DequantizeLinear in a row.",
    ("DoubleQDQPairsRemover",),
    _HELD_TO,
)
QUANTIZES_FLOAT_BIAS = Fact(
    "It quantises a Gemm's float bias to int32 with the product of the scales, if the result is quantised.",
    ("WeightBiasQuantization",),
    ("1.21", "1.26", "1.32"),
)
FUSES_ADD_INTO_GEMM = Fact(
    "It makes a Gemm of MatMul and the Add of a bias; a Gemm with a float bias and without QuantizeLinear stays float.",
    ("MatMulAddFusion",),
    _HELD_TO,
)
FUSES_BEHIND_GEMM = Fact(
    "It fuses a Transpose or Sum behind a Gemm into it, which then is no Gemm that it computes in integers.",
    ("GemmTransposeFusion", "GemmSumFusion"),
    _HELD_TO,
    ("Transpose", "Sum"),
)

# ---------------------------------------------------------------------------------------------------------------------
# Around nodes that are lowered

FUSES_DYNAMIC_QUANTIZERS = Fact(
    "It makes one DynamicQuantizeMatMul of a DynamicQuantizeLinear, its only MatMulInteger, and Cast and Mul behind.",
    ("DynamicQuantizeMatMulFusion", "MatMulIntegerToFloatFusion"),
    _HELD_TO,
)
JOINS_DEQUANTIZE = Fact(
    "It makes an integer operator of a DequantizeLinear, an operator and a QuantizeLinear, or moves the "
    "DequantizeLinear behind operators that only move values.",
    ("QDQSelectorActionTransformer", "QDQPropagationTransformer"),
    ("1.32",),
    (
        *("ArgMax", "Conv", "Gemm", "MatMul", "QuantizeLinear"),
        *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "ReduceMax", "ReduceMin"),
        *("Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze"),
    ),
)
COPIES_SHARED_DEQUANTIZE = Fact(
    "It gives each reader of a DequantizeLinear one of its own, so that nothing behind sees that they read one value.",
    ("EnsureUniqueDQForNodeUnit",),
    ("1.32",),
    switchable=False,
)
FUSES_NORMALIZATION = Fact(
    "It makes SkipLayerNormalization of an Add and the LayerNormalization that alone reads the sum.",
    ("SkipLayerNormFusion",),
    ("1.32",),
    ("LayerNormalization", "ReduceMean", "Sub"),
)
FUSES_BIAS_AND_GELU = Fact(
    "It makes BiasGelu of an Add of a vector and the GELU behind it, which it knows by its steps as well.",
    ("BiasGeluFusion",),
    ("1.32",),
    ("Div", "FastGelu", "Gelu", "Mul", "Pow"),
)
FUSES_RECIPROCAL = Fact(
    "It makes a Div of 1 / x and the Mul behind it.",
    ("DivMulFusion",),
    ("1.32",),
    ("Div",),
)
