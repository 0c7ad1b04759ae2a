"""What a rule answers: a :class:`Match`, plain data that says what to replace.

A rule (one file a family) looks at a quantised matrix multiplication, or a look-up in a quantised table. A match says
which constant is the weight, which values feed the new node, which value the new node computes. Nothing is changed
while matching, because the weight has to be compressed first, maybe in another process; ``plan/lowering.py`` carries
the matches out afterwards. (That pause between matching and rewriting is why the rules are not onnxscript rewrite
rules, which match and rewrite in one go.)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from mcd_graph.operators import matmul_compress_dequant
from mcd_graph.operators.nodes import NewConstant, NewNode, NewOutput, Operand, Result
from mcd_graph.passes.engine.facts import dimensions

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from mcd_graph.operators.spec import OperatorSpec

__all__ = [
    "Family",
    "Fused",
    "Match",
    "NewCompressed",
    "NewConstant",
    "NewNode",
    "NewOutput",
    "Operand",
    "Result",
    "Rule",
    "Weight",
]


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant weight matrix as a rule found it.

    Attributes:
        value: the initialiser, or the output of the Constant node, that holds the bytes.
        tensor: its tensor, int8 or uint8, of shape (k, n), or (n, k) when ``transposed``; more dimensions, all 1, may
            follow (convolution kernels).
        transposed: the constant is stored as (n, k).
        path: constant nodes between ``value`` and the multiplication, the one nearest to ``value`` first.
        recipe: what the nodes of the path do to the bytes: two weights of one value and recipe are the same.
        leading: so many dimensions of size 1 stood in front of the matrix.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    transposed: bool = False
    path: tuple[ir.Node, ...] = ()
    recipe: tuple[object, ...] = ()
    leading: int = 0

    @property
    def k(self) -> int:
        """Number of rows of the multiplication's right-hand side."""
        return dimensions(self.tensor)[1 if self.transposed else 0]

    @property
    def n(self) -> int:
        """Number of columns of the multiplication's right-hand side."""
        return dimensions(self.tensor)[0 if self.transposed else 1]

    def array(self) -> np.ndarray:
        """Return the weight as an (n, k) view of its own memory."""
        stored = self.tensor.numpy().reshape(dimensions(self.tensor)[:2])
        return stored if self.transposed else stored.T


class NewCompressed:
    """A compressed node to be: its inputs and attributes, but for the three that hold the weight.

    A subclass is a dataclass whose fields, but for ``output_type``, are the operator's inputs of the same names.
    """

    #: Its operator.
    spec: ClassVar[OperatorSpec]

    #: Fusions may let it take in what stands around it.
    absorbs: ClassVar[bool] = False

    #: The type of its result, where that is known.
    output_type: ir.DataType | None = None

    def inputs(self) -> dict[str, Operand]:
        """Return its inputs by name, those that are absent as ``None``."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type] # every subclass is a dataclass
        return {each.name: getattr(self, each.name) for each in fields if each.name in self.spec.input_names}

    def attributes(self) -> dict[str, Any]:
        """Return its attributes."""
        return {}

    def tiling(self, weight: Weight) -> tuple[int, int] | None:  # noqa: ARG002
        """Return the size of tile that it reads best, or ``None``: it takes what the codec chooses."""
        return None

    def metadata(self) -> dict[str, str]:
        """Return what its metadata says beside the rule, for restoring."""
        return {}

    def result_shape(self, weight: Weight) -> ir.Shape | None:  # noqa: ARG002
        """Return what its weight alone tells of its result's shape."""
        return None

    def stream_type(self, weight: Weight) -> ir.DataType:  # noqa: ARG002
        """Return the type that its x2 has to say it is."""
        return ir.DataType.INT8


@dataclasses.dataclass(frozen=True, eq=False)
class Fused(NewCompressed):
    """A MatmulCompressDequant to be."""

    spec: ClassVar[OperatorSpec] = matmul_compress_dequant.SPEC
    absorbs: ClassVar[bool] = True

    x1: Operand
    deq_scale: Operand = None
    bias: Operand = None
    x1_zero_point: Operand = None
    w_zero_point: Operand = None
    addend: Operand = None
    y_zero_point: Operand = None
    x1_scale: Operand = None
    y_scale: Operand = None
    output_type: ir.DataType | None = None

    def attributes(self) -> dict[str, Any]:
        """Return its attributes."""
        return {} if self.output_type is None else {"output_type": int(self.output_type)}


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A multiplication or look-up that can be lowered.

    Attributes:
        pattern: what was found, for the report, e.g. ``MatMulInteger+Cast+Mul``.
        weight: the constant right-hand side, or the table.
        fused: the new node.
        output: the value that is computed instead.
        nodes: the nodes that go away, the one that the rule starts from first, the one that produces ``output`` last.
        result: what takes the place of ``output``, when that is not the new node's result itself.
        optimized: the original is reproduced as onnxruntime runs it with graph optimisations on (QDQ forms), not
            as it runs without.
    """

    pattern: str
    weight: Weight
    fused: NewCompressed
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    result: NewOutput | Result = dataclasses.field(default_factory=Result)
    optimized: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """One pattern: the operator it starts from and the function that looks at such a node.

    The function answers ``None`` for a node that has nothing to do with quantised weights at all, and raises
    :class:`~mcd_graph.passes.refusal.Refusal` for one that has to stay as it is. ``form`` is what to call the pattern
    where it is more than its operator. ``spec`` is the operator that it makes. ``alone`` is as ``match`` for no more
    than the operator that the rule starts from, where ``match`` takes nodes behind it that can be left.
    """

    name: str
    domain: str
    op_type: str
    match: Callable[[ir.Node], Match | None]
    form: str = ""
    alone: Callable[[ir.Node], Match | None] | None = None
    spec: OperatorSpec = matmul_compress_dequant.SPEC

    @property
    def label(self) -> str:
        """What the pattern is called where nodes are listed: ``form``, if it is more than the operator."""
        return self.form or self.op_type


@dataclasses.dataclass(frozen=True)
class Family:
    """Rules that belong together: a file of ``rules/``, which has it as ``FAMILY``. All that lists forms reads it.

    Attributes:
        name: what its pass is called between ``Compress`` and ``Pass``.
        operators: what it starts from, for a sentence: "the weights of …".
        found: the form, in Markdown, for the table of docs/design/passes.md.
        becomes: what of it becomes one node, for the same table.
        rules: its rules.
        on_request: looked for only if somebody asks.
    """

    name: str
    operators: str
    found: str
    becomes: str
    rules: tuple[Rule, ...]
    on_request: bool = False
