"""Why something stays as it is: one exception, with a code that is stable and a text for people.

Whatever finds out that a node cannot be changed raises :class:`Refusal`, however deep it is; whoever asked about the
node catches it once. Reports carry both, and programs go by the code: texts get better, codes stay. Each code says what
it means and what can be done; the page of the documentation that lists them is held to this file by a test.
"""

from __future__ import annotations

import enum

__all__ = ["Kept", "ReasonCode", "Refusal"]


class ReasonCode(enum.StrEnum):
    """Why a node stays as it is.

    Attributes:
        meaning: what is the case.
        remedy: what a user can do about it.
    """

    meaning: str
    remedy: str

    def __new__(cls, code: str, meaning: str, remedy: str) -> ReasonCode:
        """Make a member of its three texts; the code is its value."""
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        self.remedy = remedy
        return self

    # -----------------------------------------------------------------------------------------------------------------
    # The weight

    WEIGHT_IS_INPUT = (
        "weight-is-input",
        "The weight is an input of the graph or of the function around it, so callers give it.",
        "Store the weight as an initializer of the model. If a function is given it, let the function import operators "
        "in the model's versions, so that its calls can be inlined.",
    )
    WEIGHT_OVERRIDABLE = (
        "weight-overridable",
        "The weight is an initializer that is listed among the graph's inputs: from IR version 4 on, callers may give "
        "another one.",
        "Remove it from the graph's inputs; onnxruntime's tool `remove_initializer_from_input.py` does that.",
    )
    WEIGHT_COMPUTED = (
        "weight-computed",
        "The weight is computed by nodes of the model that are not looked through.",
        "Fold constants before compressing, if it depends on constants alone.",
    )
    WEIGHT_TYPE = (
        "weight-type",
        "The weight is not int8 or uint8.",
        "Quantise it to 8-bit integers.",
    )
    WEIGHT_RANK = (
        "weight-rank",
        "The weight is not one matrix; or it has dimensions of size 1 in front, which give the result more dimensions "
        "than the activation has, or which onnxruntime computes otherwise where there is a scale for each column.",
        "Remove dimensions of size 1 from the weight. `--at-open` compresses the matrices of a batch.",
    )
    DEQUANTIZED_OUTSIDE = (
        "dequantized-outside",
        "The DequantizeLinear of an operand stands in a graph around that of the multiplication (If, Loop, Scan); "
        "onnxruntime multiplies floats then.",
        "Move the DequantizeLinear into the inner graph.",
    )
    WEIGHT_EMPTY = ("weight-empty", "The weight has no elements.", "Nothing: there is nothing to compress.")
    WEIGHT_SHARED = (
        "weight-shared",
        "Something that cannot be lowered reads the weight as well, so its bytes would stay in the file.",
        "See why the other reader is not lowered; or give it a copy of the weight, if it is small.",
    )
    WEIGHT_OF_KEPT = (
        "weight-of-kept",
        "Another node reads the same weight and is not lowered, so its bytes would stay in the file.",
        "See the reason of the other node.",
    )
    WEIGHT_BLOCKED = (
        "weight-blocked",
        "The weight is quantised in blocks; onnxruntime dequantises it and multiplies floats.",
        "Quantise with one scale, or one per column.",
    )
    WEIGHT_RESHAPED = (
        "weight-reshaped",
        "A Reshape stands between the weight's DequantizeLinear and the multiplication; onnxruntime multiplies floats.",
        "Reshape the quantised weight instead.",
    )
    WEIGHT_SCALE_AXIS = (
        "weight-scale-axis",
        "The weight has a scale for each row, not for each column; onnxruntime multiplies floats.",
        "Quantise with one scale, or one per column (axis 1 of a (k, n) weight).",
    )
    WEIGHT_RANGE = (
        "weight-range",
        "The weight less its zero point does not fit into int8, which Ascend's operator takes.",
        "Quantise the weights symmetrically.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # Scales, zero points, biases

    PARAMETER_SHAPE = (
        "parameter-shape",
        "A scale, zero point or bias is neither one value nor, where that is allowed, one per column; or its shape is "
        "not known.",
        "Quantise activations with one scale for the tensor, and weights with one or one per column.",
    )
    PARAMETER_COMPUTED = (
        "parameter-computed",
        "A scale, zero point or bias is computed when the model runs, in a shape that would have to be changed.",
        "Fold constants before compressing; or compute it in the shape (n,).",
    )
    SCALE_TYPE = (
        "scale-type",
        "A scale is not float32 (or, where constants allow it, float16).",
        "Store the scales as float32.",
    )
    SCALE_NOT_POSITIVE = (
        "scale-not-positive",
        "A scale is not finite and above zero, which Ascend's operator requires.",
        "Look for columns of the weight that are all zeros, and give them the scale 1.",
    )
    SCALE_NOT_NORMAL = (
        "scale-not-normal",
        "The scale, divided so that the result fits float16, is no normal float32.",
        "Look for columns whose scale is many powers of two below the others'.",
    )
    BIAS_NOT_INT32 = (
        "bias-not-int32",
        "A Gemm's bias is not int32, and onnxruntime does not bring it there; it multiplies floats.",
        "Quantise the bias to int32 with x_scale * w_scale.",
    )
    BIAS_SCALED = (
        "bias-scaled",
        "A Gemm has a bias, and an alpha or beta that is not 1; onnxruntime multiplies floats.",
        "Fold alpha and beta into the scales before compressing.",
    )
    BIAS_SHAPE = ("bias-shape", "A Gemm's bias is not a vector over the columns.", "Store it in the shape (n,).")
    BIAS_RANGE = (
        "bias-range",
        "A float bias does not fit into int32 in units of x_scale * w_scale.",
        "Quantise the activation or the weight with a larger scale.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # The activation

    ACTIVATION_NOT_QUANTIZED = (
        "activation-not-quantized",
        "The activation is float, so onnxruntime multiplies floats.",
        "Quantise the activations as well, statically or dynamically.",
    )
    ACTIVATION_TYPE = (
        "activation-type",
        "The activation is not of a type that the integer multiplication takes; or its type is not known.",
        "Quantise the activation to 8-bit integers; run shape inference if its type is not known.",
    )
    INT8_SHARED = (
        "int8-shared",
        "An int8 activation or result does not stand between one QuantizeLinear and one DequantizeLinear of its own, "
        "with the same constant zero point; on x86, onnxruntime multiplies floats then.",
        "Quantise activations to uint8.",
    )
    QUANTIZED_TWICE = (
        "quantized-twice",
        "Two QuantizeLinear stand in a row, of which onnxruntime makes one.",
        "Remove one of the two from the model.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # What stands behind the multiplication

    RESULT_READ_ELSEWHERE = (
        "result-read-elsewhere",
        "The result is used beside its QuantizeLinear, as an output of the graph, or in another graph; onnxruntime "
        "multiplies floats then.",
        "Let the other reader use the dequantised result.",
    )
    RESULT_READ_TWICE = (
        "result-read-twice",
        "The same operator reads the result twice, and onnxruntime may make one node of the two.",
        "Merge the two nodes before compressing; onnxruntime's offline optimiser does.",
    )
    RESULT_BLOCKED = (
        "result-blocked",
        "The result is quantised in blocks; onnxruntime multiplies floats.",
        "Quantise activations with one scale for the tensor.",
    )
    RESULT_TYPE = (
        "result-type",
        "Activation and result are quantised to types for which onnxruntime has no integer multiplication.",
        "Quantise both to uint8, or both to int8.",
    )
    RESULT_TAKEN = (
        "result-taken",
        "The result is computed by another lowered node already.",
        "Nothing: this should not happen; please report the model.",
    )
    ACTIVATION_FUNCTION_BEHIND = (
        "activation-function-behind",
        "A Relu or Clip stands in front of the QuantizeLinear, and saturation does not do the same; onnxruntime "
        "multiplies floats.",
        "Choose the zero point so that saturation clips (for a Relu, the lowest value); calibrate with the Relu.",
    )
    FUSED_FIRST = (
        "fused-first",
        "onnxruntime fuses the multiplication with what stands behind it, and multiplies floats.",
        "Quantise the result in front of that node.",
    )
    NOT_AN_INTEGER_MULTIPLICATION = (
        "not-an-integer-multiplication",
        "The installed onnxruntime, asked, does not compute this result in integers when it optimises.",
        "Give each QuantizeLinear and DequantizeLinear a zero point, and each multiplication a DequantizeLinear of its "
        "own; or look at the optimised model that onnxruntime saves.",
    )
    FUSES_OTHERWISE = (
        "fuses-otherwise",
        "With the lowered node in its place, the installed onnxruntime, asked, would fuse nodes beside it that it does "
        "not fuse in the original, or the other way round; that changes the last bits.",
        "Nothing, while its default settings shall give the same bytes; a later version may fuse otherwise.",
    )
    CANNOT_ASK = (
        "cannot-ask",
        "The installed onnxruntime does not load the model, or the model with the lowered node, so that it cannot be "
        "asked how it computes them.",
        "Make the model load in this onnxruntime (the text has its message), for instance by --custom-ops; or install "
        "an operator library of this version.",
    )
    DIFFERS = (
        "differs",
        "With the lowered node, or the constant restored at opening, the model gave other bytes than the original when "
        "both were run, or did not run.",
        "Nothing: it stays as it was; please report the model.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # Convolutions

    KERNEL_SIZE = (
        "kernel-size",
        "The convolution is more than a multiplication over the channels: kernel, strides, dilations, pads or groups.",
        "Nothing: only 1x1 convolutions are multiplications.",
    )

    CONVOLUTION_GROUPS = (
        "convolution-groups",
        "The convolution has groups whose output channels are no multiple of 16, as a depthwise QLinearConv, or a "
        "ConvInteger with more than 16 in each: onnxruntime is faster with them. Or they have fewer, and the kernel "
        "sees tens of thousands of pixels beside the image.",
        "`--at-open`, which restores its kernel when a session is created; such kernels hold few bytes.",
    )
    CONVOLUTION_SMALL = (
        "convolution-small",
        "The kernel is so small, or does so little with each pixel, that onnxruntime's own convolution is faster.",
        "`--at-open`, which restores it when a session is created.",
    )
    CONVOLUTION_TYPES = (
        "convolution-types",
        "A ConvInteger has a uint8 kernel, and an image that is int8 or of a type that is not known: on x86 processors "
        "without VNNI, onnxruntime's products of these saturate, and those of the compressed operator do not.",
        "Quantise the kernel to int8, or the image to uint8; or `--at-open`, which restores the kernel when a session "
        "is created.",
    )
    CONVOLUTION_RANK = (
        "convolution-rank",
        "The convolution has no spatial dimension, or more than three.",
        "`--at-open`, which restores its kernel when a session is created.",
    )
    CONVOLUTION_ATTRIBUTE = (
        "convolution-attribute",
        "Strides, dilations or pads are not as ONNX has them; onnxruntime may read them in a way of its own.",
        "Mend the model: the text names the attribute.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # The model

    INPUT_MISSING = (
        "input-missing",
        "An input that the operator needs is missing.",
        "Mend the model: no runtime takes it.",
    )
    TYPE_MISMATCH = (
        "type-mismatch",
        "A value is of another type than its operator takes.",
        "Mend the model: the text says which value is of which type.",
    )
    SHAPE_MISMATCH = (
        "shape-mismatch",
        "A value is of another shape than its operator takes beside the others.",
        "Mend the model: the text says which value is of which shape.",
    )
    INPUTS_CONTRADICT = (
        "inputs-contradict",
        "Inputs and attributes of a compressed node contradict each other.",
        "Compress the original model again.",
    )
    ATTRIBUTE_UNKNOWN = (
        "attribute-unknown",
        "An attribute is set by those who call the function around the node, or is of another type than the "
        "operator's.",
        "Inline the function before compressing.",
    )
    OPSET = (
        "opset",
        "The model imports a version of ONNX's operators that does not have what the new nodes need.",
        "Convert the model to a later opset with `onnx.version_converter`.",
    )
    IN_FUNCTION = (
        "in-function",
        "The node is in a local function, which ATC does not know.",
        "Inline functions first (`onnx.inliner.inline_local_functions`).",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # What was asked for

    NOT_INCLUDED = ("not-included", "Its name does not match --include.", "Change --include.")
    EXCLUDED = ("excluded", "Its name matches --exclude.", "Change --exclude.")
    SMALL_SAVING = (
        "small-saving",
        "Compressed, the weight would not be smaller by the share that is asked for, or by what its node takes.",
        "Lower --min-saving; for constants of less than 4 KiB that are dequantised, `--at-open`; or quantise with "
        "fewer distinct values (per tensor, or with a wider range).",
    )
    WEIGHT_SMALL = (
        "weight-small",
        "The weight is so small that onnxruntime's own multiplication is faster, and the file would hardly gain.",
        "`--min-saving=-1`, which compresses whatever can be.",
    )
    OPERATOR_NOT_COMPRESSED = (
        "operator-not-compressed",
        "The constant is read by operators that have no compressed form; its bytes stay as they are.",
        "`--at-open`, which restores it when a session is created.",
    )
    DECODING_COSTS = (
        "decoding-costs",
        "Decoded when the model runs, the constant would make the operator that reads it slower by more than 2 %.",
        "`--at-open`, which restores it when a session is created: the model is as fast as ever then.",
    )
    PREPARED_AT_OPENING = (
        "prepared-at-opening",
        "The installed onnxruntime, asked, packs, folds or fuses the constant when a session is created, which it "
        "could not do with one that is decoded when the model runs.",
        "`--at-open`, which restores it when a session is created, before onnxruntime does that.",
    )
    NOT_COMPRESSED = (
        "not-compressed",
        "The weight was planned, and the caller gave no compressed one.",
        "Give `LoweringPlan.apply` a compressed weight under its key.",
    )
    CALLER = (
        "caller",
        "The caller of `LoweringPlan.apply` wants the weight as it is, for a reason of its own.",
        "Ask the program that compressed the model.",
    )

    # -----------------------------------------------------------------------------------------------------------------
    # Compressed nodes that are restored or legalised for Ascend

    STREAM_NOT_CONSTANT = (
        "stream-not-constant",
        "The compressed weight or what describes it is not constant, or is no such description.",
        "Compress the original model again.",
    )
    NOT_RESTORABLE = (
        "not-restorable",
        "Nothing is known that computes what the operator does with standard operators.",
        "Restore it with the version of mcd-graph that wrote the model.",
    )
    NOT_ON_ASCEND = (
        "not-on-ascend",
        "Ascend has no operator that takes such a compressed weight.",
        "Restore it first (`mcd restore`); `mcd ascend export` does that by itself.",
    )
    RUN_TIME_PARAMETER = (
        "run-time-parameter",
        "A scale or zero point that has to be known is computed when the model runs.",
        "Quantise statically; fold constants before compressing.",
    )
    SCALE_WORD = (
        "scale-word",
        "A uint64 deq_scale word has bits above the 32 of a float.",
        "Restore the model with the tool that wrote the words.",
    )
    INT32_RESULT = (
        "int32-result",
        "The node has no scale, so its result is int32; Ascend's operator gives float16.",
        "Compress a model in which Cast and Mul follow the MatMulInteger.",
    )
    ROWS_UNKNOWN = (
        "rows-unknown",
        "The number of rows is not known, so the node cannot be cut into chunks.",
        "Give the inputs fixed shapes (`mcd ascend export --input-shape x:1,256`).",
    )


class Refusal(Exception):  # noqa: N818 - not an error: the node stays as it is
    """Why something stays as it is: one sentence without a full stop.

    Attributes:
        code: which kind of reason it is; stable.
        reason: the text.
    """

    def __init__(self, code: ReasonCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Kept(Refusal):
    """In place of a compressed weight: leave it as it is, for a reason of the caller's.

    Attributes:
        code: always :attr:`ReasonCode.CALLER`.
        reason: the text: one sentence without a full stop.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(ReasonCode.CALLER, reason)
