"""What rounding the quantised products of a model to fewer bits does to its outputs.

    python benchmarks/rounding.py MODEL [BITS ...]

A strict export for Ascend rounds each product to float16's 11 bits. This puts such a rounding, of 9 to 21 bits, behind
each product of the model and compares the outputs, on the inputs of ``mcd verify --strict``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mcd_graph import verify_model
from mcd_graph.model.files import write_bytes

BITS = (9, 11, 13, 15, 18, 21)
_FLOAT32 = 24


def rounded(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Return the model with each quantised product rounded to ``bits`` bits."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.op_type == "DequantizeLinear" and constants.issuperset(node.input)):
            constants.update(node.output)
    integers = {node.output[0] for node in model.graph.node if node.op_type == "MatMulInteger"}
    nodes = []
    for node in result.graph.node:
        nodes.append(node)
        floats = node.op_type in ("MatMul", "Gemm") and node.input[1] in constants
        if not floats and not (node.op_type == "Cast" and node.input[0] in integers):
            continue
        # Dekker's splitting: x * (2**t + 1) - (x * (2**t + 1) - x) has t bits less, rounded to the nearest.
        y = node.output[0]
        node.output[0] = f"{y}.exact"
        nodes += [
            helper.make_node("Mul", [f"{y}.exact", "splitter"], [f"{y}.wide"]),
            helper.make_node("Sub", [f"{y}.wide", f"{y}.exact"], [f"{y}.rest"]),
            helper.make_node("Sub", [f"{y}.wide", f"{y}.rest"], [y]),
        ]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    splitter = np.array(2.0 ** (_FLOAT32 - bits) + 1, np.float32)
    result.graph.initializer.append(numpy_helper.from_array(splitter, "splitter"))
    return result


def main(path: Path, widths: tuple[int, ...]) -> None:
    """Print the cosine of each output that is not equal, for each width."""
    model = onnx.load(path)
    with tempfile.TemporaryDirectory() as folder:
        for bits in widths:
            variant = Path(folder, f"{bits}.onnx")
            write_bytes(variant, rounded(model, bits).SerializeToString())
            for drift in verify_model(path, variant, measure=True).drifts:
                print(f"{bits} bits: {drift.output}: cosine {drift.cosine:.6f}, largest difference {drift.largest:.4g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or BITS)
