"""OpenVINO as a contestant of benchmarks/sessions.py: `pip install openvino`.

Floats stay floats: by default OpenVINO computes with bfloat16 where the processor has AMX, which onnxruntime does not.
"""

import sys

import openvino

from mcd_graph.contestants import Runner, serve


def open_model(model: str, threads: int) -> Runner:
    """Compile a model for the processor."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda feed: list(request.infer(feed).values())


if __name__ == "__main__":
    serve(lambda: open_model(sys.argv[1], int(sys.argv[2])))
