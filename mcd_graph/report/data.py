"""The report of a compression, as an object and as JSON.

``schema_version`` changes when a name goes or changes its meaning, not when one is added.
"""

import dataclasses
import json
from collections import Counter
from typing import Any

__all__ = [
    "SCHEMA_VERSION",
    "WITHOUT_WEIGHT",
    "ConstantReport",
    "NodeReport",
    "Proof",
    "Quantization",
    "QuantizedForm",
    "Reader",
    "Report",
    "Totals",
]

SCHEMA_VERSION = 1

WITHOUT_WEIGHT = "weight-computed"
"""The code of a multiplication of two activations, a value of :class:`mcd_graph.passes.ReasonCode`."""


@dataclasses.dataclass(frozen=True)
class NodeReport:
    """One quantised matrix multiplication or look-up that was met.

    Attributes:
        name: name of the node.
        op_type: its operator.
        pattern: the operators that one node replaced, or could have.
        status: ``lowered`` or ``kept``; ``lowerable`` when a model was only looked at.
        code: which kind of reason kept it, a value of :class:`mcd_graph.passes.ReasonCode`; stable, for programs.
        reason: why it was kept, for people; ``None`` when it was lowered.
        weight: name of the weight, shared by all nodes that use the same; ``None`` when it has no constant one.
        k: rows of the weight, where known.
        n: columns of the weight, where known.
        weight_bytes: size of the weight before, where known.
        compressed_bytes: size of stream and index after; ``None`` when kept.
        payload_bytes: size of the coded weights alone; ``None`` when kept.
        entropy_bits: order-0 entropy in bits per weight, where the weight was looked at.
        codec: how the weight is coded; ``None`` when kept.
        profile: the profile that it was coded with, where its stream was looked at.
    """

    name: str
    op_type: str
    pattern: str
    status: str
    reason: str | None = None
    weight: str | None = None
    k: int | None = None
    n: int | None = None
    weight_bytes: int | None = None
    compressed_bytes: int | None = None
    payload_bytes: int | None = None
    entropy_bits: float | None = None
    codec: str | None = None
    profile: str | None = None
    code: str | None = None


@dataclasses.dataclass(frozen=True)
class Reader:
    """A node that computes with a constant.

    Attributes:
        op_type: the operators between the constant and the node, and the node's, as in ``DequantizeLinear+Conv``.
        name: of the node.
    """

    op_type: str
    name: str


@dataclasses.dataclass(frozen=True)
class ConstantReport:
    """One int8 or uint8 constant of 1 KiB or more, whatever reads it.

    Attributes:
        name: of the initializer, or of the Constant node's output.
        dtype: ``int8`` or ``uint8``; ``None`` for a weight that was met compressed, with ``shape`` (k, n) then.
        shape: of the constant.
        readers: the nodes that compute with it.
        status: ``lowered`` or ``kept``; ``lowerable`` when a model was only looked at.
        bytes_before: its size.
        entropy_bits: order-0 entropy in bits per element.
        bytes_after: size of stream and index, about so many in a model that was only looked at; ``None`` when it is
            kept.
        code: which kind of reason kept it, a value of :class:`mcd_graph.passes.ReasonCode`; stable, for programs.
        reason: why it was kept, for people.
        way: how it comes back, if it is not kept: ``run``, in the nodes that compute with it, or ``open``, restored in
            memory when a session is created.
        per_channel: whether it is quantised with a scale for each channel, so that its values fill the whole range.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...]
    readers: tuple[Reader, ...]
    status: str
    bytes_before: int
    entropy_bits: float
    bytes_after: int | None = None
    code: str | None = None
    reason: str | None = None
    way: str | None = None
    per_channel: bool = False

    @property
    def read_by(self) -> str:
        """The operators that read it, in alphabetical order."""
        return " and ".join(sorted({reader.op_type for reader in self.readers})) or "nothing"


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over the nodes. A weight that several nodes share counts once.

    Attributes:
        nodes: quantised matrix multiplications and look-ups met.
        lowered: of these, lowered.
        kept: of these, kept.
        lowerable: of these, those that a compression would lower.
        weights: different weights compressed.
        weight_bytes: their size before.
        compressed_bytes: their size after.
        entropy_bytes: their order-0 entropy, the least that a code for single weights can reach.
        payload_bytes: their coded weights alone.
        ratio: weight_bytes over compressed_bytes; ``None`` when nothing was compressed.
        file_bytes_before: size of the model with its external data before.
        file_bytes_after: and after; ``None`` when nothing was written.
        constants: int8 and uint8 constants of 1 KiB or more in the model that was read, compressed weights among them.
        constant_bytes: their size before.
        constant_bytes_lowered: of these bytes, lowered, or lowerable when a model was only looked at.
        constant_entropy_bytes: order-0 entropy of all of them.
        constant_bytes_left: bytes that are kept, by the operators that read them, the most first.
        activation_products: multiplications whose second operand is computed at run time, as those of attention are;
            they have no weight, and are not among ``nodes`` and ``kept``.
    """

    nodes: int
    lowered: int
    kept: int
    lowerable: int
    weights: int
    weight_bytes: int
    compressed_bytes: int
    entropy_bytes: int
    payload_bytes: int
    ratio: float | None
    file_bytes_before: int
    file_bytes_after: int | None
    constants: int = 0
    constant_bytes: int = 0
    constant_bytes_lowered: int = 0
    constant_entropy_bytes: int = 0
    constant_bytes_left: dict[str, int] = dataclasses.field(default_factory=dict)
    activation_products: int = 0


@dataclasses.dataclass(frozen=True)
class Proof:
    """What is known of a compressed model's exactness from running it.

    Attributes:
        proved: all that was run gave the bytes of the original.
        reason: why nothing is proved; ``None`` when it is.
        onnxruntime: version that ran both models, or tried.
        settings: ``default`` and ``no optimisations``, as far as both models were run at them.
        runs: inputs that were run at each setting.
        values: output values compared.
        seconds: time that it took.
        not_deterministic: outputs of which nothing is proved, since the original computes them otherwise each time.
        exact_products: both were run with exact products of 8-bit integers, for onnxruntime's saturate on this
            processor.
        differing: names of nodes that gave other bytes, and so were not lowered; of constants that were not restored.
    """

    proved: bool
    reason: str | None = None
    onnxruntime: str | None = None
    settings: tuple[str, ...] = ()
    runs: int = 0
    values: int = 0
    seconds: float = 0.0
    not_deterministic: tuple[str, ...] = ()
    exact_products: bool = False
    differing: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class QuantizedForm:
    """A float model quantised in one way.

    Attributes:
        form: ``dynamic`` (a scale for each weight) or ``dynamic-per-channel`` (one for each of its columns).
        int8_bytes: size of the quantised model with its external data.
        entropy_bytes: the same with every int8 constant at its order-0 entropy: compression comes near this.
        cosine: between its outputs and the float model's on random inputs, of the output where it is least; ``None``
            where nothing was compared.
        largest: largest difference of two values, of the output where it is largest beside the output's values.
        scale: the largest value of that output, to compare that with.
        not_compared: why the outputs were not compared.
    """

    form: str
    int8_bytes: int
    entropy_bytes: int
    cosine: float | None = None
    largest: float | None = None
    scale: float | None = None
    not_compared: str | None = None


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What quantising a float model by onnxruntime costs, in each form.

    Attributes:
        form: the one that was compressed.
        float_bytes: size of the float model with its external data.
        forms: all of them, measured.
    """

    form: str
    float_bytes: int
    forms: tuple[QuantizedForm, ...]

    @property
    def int8_bytes(self) -> int:
        """Size of the model that was compressed."""
        return next(each.int8_bytes for each in self.forms if each.form == self.form)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was done to each node with quantised weights, and to each int8 constant, of a model.

    Attributes:
        input: the model that was read.
        output: the model that was written; ``None`` when a model was only looked at.
        profile: the profile asked for; ``None`` when a model was only looked at.
        nodes: one entry per multiplication or look-up, in the graph's order.
        totals: sums over them.
        proof: whether the model that was written was run and gave the same bytes; ``None`` when a model was only
            looked at.
        constants: one entry for each int8 and uint8 constant of 1 KiB or more, whatever reads it.
        quantization: what quantising it first cost, if a float model was given to be quantised.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx", exclude="second")
        >>> [(node.name, node.k, node.n, node.reason) for node in report.nodes if node.status == "kept"]
        [('/second/MatMul', 128, 256, 'its name matches --exclude')]
        >>> report.to_dict()["totals"]["lowered"]
        2
    """

    input: str
    output: str | None
    profile: str | None
    nodes: tuple[NodeReport, ...]
    totals: Totals
    proof: Proof | None = None
    constants: tuple[ConstantReport, ...] = ()
    quantization: Quantization | None = None

    @classmethod
    def of(
        cls,
        nodes: tuple[NodeReport, ...],
        *,
        source: str,
        output: str | None,
        profile: str | None,
        file_bytes_before: int,
        file_bytes_after: int | None,
        proof: Proof | None = None,
        constants: tuple[ConstantReport, ...] = (),
        quantization: Quantization | None = None,
    ) -> "Report":
        """Make a report and add up its totals."""
        lowered = [node for node in nodes if node.status == "lowered"]
        with_weight = [node for node in nodes if node.code != WITHOUT_WEIGHT]
        weights = list({node.weight: node for node in lowered}.values())
        weight_bytes = sum(node.weight_bytes or 0 for node in weights)
        compressed_bytes = sum(node.compressed_bytes or 0 for node in weights)
        totals = Totals(
            nodes=len(with_weight),
            lowered=len(lowered),
            kept=sum(node.status == "kept" for node in with_weight),
            lowerable=sum(node.status == "lowerable" for node in nodes),
            weights=len(weights),
            weight_bytes=weight_bytes,
            compressed_bytes=compressed_bytes,
            entropy_bytes=round(sum((node.entropy_bits or 0) * (node.weight_bytes or 0) / 8 for node in weights)),
            payload_bytes=sum(node.payload_bytes or 0 for node in weights),
            ratio=weight_bytes / compressed_bytes if compressed_bytes else None,
            file_bytes_before=file_bytes_before,
            file_bytes_after=file_bytes_after,
            constants=len(constants),
            constant_bytes=sum(each.bytes_before for each in constants),
            constant_bytes_lowered=sum(each.bytes_before for each in constants if each.status != "kept"),
            constant_entropy_bytes=round(sum(each.entropy_bits * each.bytes_before / 8 for each in constants)),
            constant_bytes_left=_left(constants),
            activation_products=len(nodes) - len(with_weight),
        )
        return cls(source, output, profile, nodes, totals, proof, constants, quantization)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, with the version of its layout."""
        return {"schema": "mcd-report", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _left(constants: tuple[ConstantReport, ...]) -> dict[str, int]:
    """Add up what is kept by who reads it."""
    left: Counter[str] = Counter()
    for constant in constants:
        if constant.status == "kept":
            left[constant.read_by] += constant.bytes_before
    return dict(left.most_common())
