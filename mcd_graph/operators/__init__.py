"""The operators of the domain ``mcd``: one module or package each, and what everything else asks of them.

``spec.py`` says what a description has, ``registry.py`` lists all operators, ``view.py`` reads a node's compressed
weight, ``nodes.py`` describes nodes to be. Importing any of these registers the operators' schemas with onnx, so that
its checker and shape inference accept compressed models.
"""

from mcd_graph.operators import registry as registry
