"""Float models as they are written node by node, their weights from a seed."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class FloatGraph:
    """Nodes and constants as they are added."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = itertools.count()

    def constant(self, name: str, array: npt.NDArray[np.floating]) -> str:
        """Add a float32 constant."""
        self.constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output, and return that."""
        name = f"{operator.lower()}_{next(self._count)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolve(self, x: str, shape: Sequence[int], operator: str = "Conv", **attributes: object) -> str:
        """Add a convolution with a bias; ``shape`` is that of its weight."""
        name = f"{operator.lower()}_{next(self._count)}"
        channels = shape[1] if operator == "Conv" else shape[0]
        n = shape[0] if operator == "Conv" else shape[1]
        # Columns of unequal width, with tails as those of trained weights.
        width = np.exp(self._rng.normal(0, 0.3, shape[:1])) / np.sqrt(channels * math.prod(shape[2:]))
        width = width.reshape(-1, *(1,) * (len(shape) - 1))
        weight = self.constant(f"{name}.weight", self._rng.standard_t(5, shape) * width)
        return self.add(operator, x, weight, self.constant(f"{name}.bias", self._rng.normal(0, 0.1, n)), **attributes)
