"""Single nodes with the result that the operator's definition gives them, for any machine that has onnxruntime.

``python nodes.py write FOLDER`` needs mcd_graph; ``python nodes.py run FOLDER LIBRARY`` and ``python nodes.py compare
ORIGINAL COMPRESSED LIBRARY`` need NumPy and onnxruntime alone, so that another processor, or an emulator of one, can be
held to the same bytes.
"""

import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

FORMS = {
    "raw": np.int32,
    "float": np.float32,
    "strict": np.float16,
    "requant_i8": np.int8,
    "requant_u8": np.uint8,
}
#: (n, k, m) around the sizes of panels, fractals, tiles and blocks of rows.
SHAPES = [(1, 1, 1), (15, 31, 2), (16, 32, 12), (17, 33, 13), (128, 256, 1), (129, 257, 5), (64, 520, 65)]
RESIDENCIES = ("compressed", "decoded")


def formula(w: np.ndarray, inputs: dict[str, np.ndarray], form: str) -> np.ndarray:
    """Return the operator's result for a weight (n, k), each step one NumPy operation."""
    x = inputs["x1"].astype(np.int64) - inputs["x1_zero_point"].astype(np.int64)
    acc = (x @ (w.astype(np.int64) - inputs["w_zero_point"].astype(np.int64)[:, None]).T).astype(np.int32)
    if form == "raw":
        return acc
    scale = inputs["deq_scale"]
    y = acc.astype(np.float32) * (scale.astype(np.uint32).view(np.float32) if form == "strict" else scale)
    if form.startswith("requant"):
        limits = np.iinfo(FORMS[form])
        wide = np.rint(y).astype(np.float64) + float(inputs["y_zero_point"])
        return np.clip(wide, limits.min, limits.max).astype(FORMS[form])
    return (y + inputs["addend"]).astype(FORMS[form])


def write(folder: Path) -> int:
    """Write models and their expected results, and return how many."""
    import onnx  # noqa: PLC0415
    from onnx import helper, numpy_helper  # noqa: PLC0415

    from mcd_graph import pack_weight  # noqa: PLC0415
    from mcd_graph.operators.matmul_compress_dequant import INPUT_NAMES  # noqa: PLC0415

    cases = [(form, shape) for form in FORMS for shape in SHAPES]
    for number, (form, (n, k, m)) in enumerate(cases):
        rng = np.random.default_rng(number)
        x_type, w_type = [np.uint8, np.int8][number % 2], [np.uint8, np.int8][number // 2 % 2]
        low = np.iinfo(w_type).min
        w = np.clip(rng.normal(low + 128, 12, (n, k)).round(), low, low + 255).astype(w_type)
        x_low = np.iinfo(x_type).min
        inputs = {
            "x1": rng.integers(x_low, x_low + 256, (m, k)).astype(x_type),
            "x1_zero_point": np.array(x_low + 121, x_type),
            "w_zero_point": rng.integers(low, low + 256, n).astype(w_type),
        }
        if form != "raw":
            scale = rng.uniform(1e-5, 1e-3, n).astype(np.float32)
            inputs["deq_scale"] = scale.view(np.uint32).astype(np.uint64) if form == "strict" else scale
        if form in {"float", "strict"}:
            inputs["addend"] = rng.normal(0, 100, n).astype(np.float32)
        if form.startswith("requant"):
            inputs["y_zero_point"] = np.array(3, FORMS[form])
        packed = pack_weight(w, profile=("fast", "balanced", "small")[number % 3])
        tensors = {"x2": packed.x2, "compress_index": packed.compress_index, **inputs}
        node = helper.make_node(
            "MatmulCompressDequant",
            [name if name in tensors else "" for name in INPUT_NAMES],
            ["y"],
            domain="mcd",
            compress_info=packed.compress_info.tolist(),
        )
        while not node.input[-1]:
            del node.input[-1]
        types = [helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in (x_type, FORMS[form])]
        graph = helper.make_graph(
            [node],
            form,
            [helper.make_tensor_value_info("x1", types[0], ["m", k])],
            [helper.make_tensor_value_info("y", types[1], ["m", n])],
            [numpy_helper.from_array(array, name) for name, array in tensors.items() if name != "x1"],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mcd", 1)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        (folder / f"{number:02}-{form}-{n}-{k}-{m}.onnx").write_bytes(model.SerializeToString())
        np.savez(folder / f"{number:02}-{form}-{n}-{k}-{m}.npz", x1=inputs["x1"], y=formula(w, inputs, form))
    return len(cases)


def run(folder: Path, library: str, threads: Sequence[int] = (1, 2)) -> Iterator[tuple[str, bool]]:
    """Run every model and yield what was run, and whether the bytes are the expected ones."""
    for path in sorted(folder.glob("*.onnx")):
        with np.load(path.with_suffix(".npz")) as arrays:
            x1, expected = arrays["x1"], arrays["y"]
        for count in threads:
            for residency in RESIDENCIES:
                session = open_session(path, library, count, residency)
                (y,) = session.run(None, {"x1": x1})
                same = y.dtype == expected.dtype and y.tobytes() == expected.tobytes()
                yield f"{path.stem}, {count} threads, {residency}", same


def compare(original: Path, compressed: Path, library: str) -> Iterator[tuple[str, bool]]:
    """Run two models of token ids and masks on the same inputs; yield what was run, and whether the bytes are equal."""
    sessions = [open_session(path, library) for path in (original, compressed)]
    for length in (1, 7, 16):
        ids = np.arange(1, length + 1).reshape(1, length)
        feed = {each.name: np.ones_like(ids) if "mask" in each.name else ids for each in sessions[0].get_inputs()}
        ours, theirs = ([y.tobytes() for y in session.run(None, feed)] for session in sessions)
        yield f"length {length}", ours == theirs


def open_session(path: Path, library: str, threads: int = 1, residency: str = "compressed") -> ort.InferenceSession:
    """Open a model as it is, without graph optimisations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("mcd.residency", residency)
    options.register_custom_ops_library(library)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> int:
    """Run the command line; exit status 1 if any byte differs."""
    if sys.argv[1] == "write":
        sys.stdout.write(f"{write(Path(sys.argv[2]))} nodes\n")
        return 0
    if sys.argv[1] == "run":
        results = list(run(Path(sys.argv[2]), sys.argv[3]))
    else:
        results = list(compare(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
    different = [what for what, same in results if not same]
    where = f"{platform.machine()}, onnxruntime {ort.__version__}"
    sys.stdout.write("".join(f"different: {what}\n" for what in different))
    sys.stdout.write(f"{where}: {len(results) - len(different)} of {len(results)} runs give the expected bytes\n")
    return 1 if different or not results else 0


if __name__ == "__main__":
    sys.exit(main())
