"""Embeds sentences with sentence-transformers from a folder whose model is compressed.

pip install 'sentence-transformers[onnx]'
mcd compress folder/onnx/model_qint8_avx512.onnx folder/onnx/model.mcd.onnx
python embed.py folder onnx/model.mcd.onnx "a sentence" "another one"
"""

import sys

from sentence_transformers import SentenceTransformer

import mcd_graph

mcd_graph.enable()  # the line that is new
model = SentenceTransformer(sys.argv[1], backend="onnx", model_kwargs={"file_name": sys.argv[2]})
print(model.encode(sys.argv[3:]).tolist())
