"""An Olive pass that compresses a quantised ONNX model, and a workflow that has it as its last step.

    pip install olive-ai
    python mcd_pass.py model.onnx out            # a float model: Olive quantises it, then mcd-graph compresses it

It must be the last step: Olive's own passes and evaluators do not register the operator's library. The output folder
has the library beside the model, for whoever runs it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import olive
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

import mcd_graph


class McdCompression(Pass):
    """Compresses the int8 weights of an ONNX model without loss."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:  # noqa: ARG003 - Olive's signature
        return {
            "profile": PassConfigParam(
                type_=str, default_value="balanced", description="fast, balanced or small: speed against size."
            ),
            "exclude": PassConfigParam(
                type_=str, default_value=None, description="Nodes in whose name this regular expression is found stay."
            ),
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        path = Path(resolve_onnx_path(output_model_path))
        mcd_graph.compress_model(model.model_path, path, profile=config.profile, exclude=config.exclude)
        library = Path(mcd_graph.get_library_path())
        shutil.copy(library, path.parent / library.name)
        # A folder, not a file: then Olive takes everything in it along.
        return ONNXModelHandler(model_path=str(path.parent), onnx_file_name=path.name)


def packages() -> dict[str, Any]:
    """Return Olive's table of passes with this one added."""
    table: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    table["passes"]["McdCompression"] = {
        "module_path": f"{Path(__file__).stem}.McdCompression",
        "supported_providers": ["CPUExecutionProvider"],
        "supported_accelerators": ["cpu"],
        "supported_precisions": ["*"],
    }
    return table


def workflow(model: Path, out: Path) -> dict[str, Any]:
    """Return a workflow: dynamic quantisation by onnxruntime, then compression."""
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "passes": {
            "quantise": {"type": "OnnxDynamicQuantization", "precision": "int8"},
            "compress": {"type": "McdCompression", "profile": "balanced"},
        },
        "output_dir": str(out),
        "cache_dir": str(out / "cache"),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Quantise a float ONNX model with Olive and compress the result.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    olive.run(workflow(arguments.model, arguments.out), package_config=packages())


if __name__ == "__main__":
    main()
