"""Makes a Triton Inference Server model repository of a quantised ONNX model, compressed.

    python make_repository.py model.onnx repository --name encoder
    tritonserver --model-repository repository

The repository is complete: compressed model, weights, configuration, and the operator's library, which needs nothing on
the server beyond Triton's own onnxruntime backend. Triton passes the library's path to the loader as it is written, so
where the server sees the repository somewhere else, as in a container, say so with ``--seen-at /models``.

With ``--batch 32`` the server puts up to 32 requests together, of the same shape but for the first dimension. Models
that quantise their activations when they run (``DynamicQuantizeLinear``) take one scale for the whole batch, so what
stands beside a request changes its result a little, in the original as in the compressed model.
"""

import argparse
import json
import shutil
from pathlib import Path, PurePosixPath

import onnx

import mcd_graph

_TYPES = {
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "DOUBLE": "TYPE_FP64",
    "BFLOAT16": "TYPE_BF16",
    "STRING": "TYPE_STRING",
    "BOOL": "TYPE_BOOL",
    **{name: f"TYPE_{name}" for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")},
}


def make_repository(source: Path, repository: Path, name: str, seen_at: PurePosixPath, batch: int = 0) -> Path:
    """Write the repository's entry for one model and return its configuration's path.

    Args:
        source: a quantised ONNX model.
        repository: the repository's folder; made if need be. An entry of this name must not be there yet.
        name: the model's name on the server.
        seen_at: the repository's path as the server sees it.
        batch: how many rows of the first dimension the server may put together; 0 for no dynamic batching.
    """
    entry = repository / name
    (entry / "1").mkdir(parents=True)
    model = entry / "1" / "model.onnx"
    mcd_graph.compress_model(source, model)  # its weights go into 1/model.onnx_data
    library = Path(mcd_graph.get_library_path())
    shutil.copy(library, entry / library.name)
    config = entry / "config.pbtxt"
    config.write_text(configuration(model, name, seen_at / name / library.name, batch))
    return config


def configuration(model: Path, name: str, library: PurePosixPath, batch: int = 0) -> str:
    """Return the text of config.pbtxt, with the inputs and outputs that the model declares."""
    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if batch:
        for value in (*inputs, *graph.output):
            if not (dims := _dims(value)) or dims[0] != -1:
                raise SystemExit(f"no dynamic batching: the first dimension of {value.name} is not free: {dims}")
    fields = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {batch}  # the dimensions below are {'those behind the batch' if batch else 'whole shapes'}",
        *(["dynamic_batching { }"] if batch else []),
        *(_tensor("input", value, batch) for value in inputs),
        *(_tensor("output", value, batch) for value in graph.output),
        f"model_operations {{ op_library_filename: {json.dumps(str(library))} }}",
    ]
    return "\n".join(fields) + "\n"


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


def _tensor(kind: str, value: onnx.ValueInfoProto, batch: int) -> str:
    dims = _dims(value)[1 if batch else 0 :]
    type_ = _TYPES[onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)]
    return f"{kind} {{ name: {json.dumps(value.name)} data_type: {type_} dims: {dims} }}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make a Triton model repository of a quantised ONNX model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--name", default="model", help="the model's name on the server")
    parser.add_argument("--seen-at", type=PurePosixPath, help="the repository's path on the server")
    parser.add_argument("--batch", type=int, default=0, help="rows that the server may put together; 0 for none")
    arguments = parser.parse_args()
    seen_at = arguments.seen_at or PurePosixPath(arguments.repository.absolute())
    print(make_repository(arguments.model, arguments.repository, arguments.name, seen_at, arguments.batch))


if __name__ == "__main__":
    main()
