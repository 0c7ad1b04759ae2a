"""All operators of the domain ``mcd``.

A new operator is a module in this folder with a :class:`OperatorSpec`, and its name in :data:`_MODULES`. An operator of
the domain that is not here is an error wherever a model is looked at: its weight would be overlooked.
"""

from collections.abc import Iterator
from importlib import import_module

import onnx
import onnx_ir as ir

from mcd_graph.errors import InputError
from mcd_graph.operators.spec import DOMAIN, DOMAIN_VERSION, OperatorSpec, tell_onnx

__all__ = ["compressed_nodes", "find", "name_of", "operators", "register", "spec_of", "unknown_operator", "unregister"]

#: Modules of this folder, each with its operator as ``SPEC``.
_MODULES = (
    "conv_compress_dequant",
    "decompress_dequant",
    "decompress_weight",
    "gather_compress_dequant",
    "matmul_compress_dequant",
)

_operators: dict[str, OperatorSpec] = {}


def operators() -> tuple[OperatorSpec, ...]:
    """Return all operators."""
    return tuple(_operators.values())


def find(domain: str, op_type: str) -> OperatorSpec | None:
    """Return the operator of that name, or ``None``."""
    return _operators.get(op_type) if domain == DOMAIN else None


def register(spec: OperatorSpec) -> None:
    """Make an operator known here and to onnx; a second call changes nothing.

    Raises:
        ValueError: there is another operator of that name.
    """
    if _operators.setdefault(spec.op_type, spec) is not spec:
        raise ValueError(f"there is another operator {DOMAIN}::{spec.op_type}")
    tell_onnx(spec)


def unregister(spec: OperatorSpec) -> None:
    """Forget an operator, here and in onnx, as tests do with one of theirs."""
    if _operators.pop(spec.op_type, None) is not None:
        onnx.defs.deregister_schema(spec.op_type, DOMAIN_VERSION, DOMAIN)


def name_of(node: ir.Node) -> str:
    """Return what messages and reports call a node: its name, or that of its output."""
    return node.name or (node.outputs[0].name if node.outputs else "") or ""


def unknown_operator(name: str, op_type: str) -> InputError:
    """Return the error for a node whose operator is of our domain and not known here."""
    return InputError(
        f"node {name!r} is {DOMAIN}::{op_type}, which this version of mcd-graph does not know: "
        "use the version that wrote the model, or a newer one"
    )


def spec_of(node: ir.Node) -> OperatorSpec | None:
    """Return what describes a node's operator; ``None`` for a node of another domain.

    Raises:
        InputError: the node is of our domain, and its operator is not known.
    """
    if node.domain != DOMAIN:
        return None
    spec = _operators.get(node.op_type)
    if spec is None:
        raise unknown_operator(name_of(node), node.op_type)
    return spec


def compressed_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, OperatorSpec, ir.Function | None]]:
    """Yield every node of our domain, those in subgraphs and functions included, with the function around it.

    Raises:
        InputError: one is of an operator that is not known.
    """
    for owner in (None, *model.functions.values()):
        for node in (model.graph if owner is None else owner).all_nodes():
            if node.op_identifier() in model.functions:
                continue  # a local function that calls itself one of ours
            if (spec := spec_of(node)) is not None:
                yield node, spec, owner


for _module in _MODULES:
    register(import_module(f"mcd_graph.operators.{_module}").SPEC)
