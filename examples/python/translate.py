"""Generates text with optimum from a folder of an encoder and a decoder, some of them compressed.

pip install 'optimum[onnxruntime]'
for each in encoder_model decoder_model; do mcd compress int8/$each.onnx folder/$each.onnx; done
cp int8/*.json folder
python translate.py folder "a sentence"
"""

import sys

from optimum.onnxruntime import ORTModelForSeq2SeqLM
from transformers import AutoTokenizer

import mcd_graph

mcd_graph.enable()  # the line that is new
model = ORTModelForSeq2SeqLM.from_pretrained(sys.argv[1], use_cache=False)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokens = model.generate(**tokenizer(sys.argv[2], return_tensors="pt"))
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
