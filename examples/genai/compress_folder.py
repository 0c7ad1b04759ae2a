"""Compresses the decoder in a model folder of onnxruntime-genai, and tells genai where the operator's library is.

    python compress_folder.py model-int8 model-mcd

The decoder must be quantised to int8. The library goes into the new folder, because genai (0.18) refuses one that lies
elsewhere; the entry is ``custom_ops_library`` among the decoder's session options.
"""

import argparse
import json
import shutil
from pathlib import Path

import onnx

import mcd_graph


def compress_folder(source: Path, destination: Path) -> mcd_graph.Report:
    """Write a folder like ``source`` with the decoder compressed, and return what was done to it.

    Args:
        source: a folder with ``genai_config.json``.
        destination: the folder to make; it must not be there yet.
    """
    config = json.loads((source / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    left = {source / name for name in (decoder["filename"], *_data_files(source / decoder["filename"]))}
    shutil.copytree(
        source, destination, ignore=lambda folder, names: {name for name in names if Path(folder, name) in left}
    )
    report = mcd_graph.compress_model(source / decoder["filename"], destination / decoder["filename"])
    library = Path(mcd_graph.get_library_path())
    shutil.copy(library, destination / library.name)
    decoder.setdefault("session_options", {})["custom_ops_library"] = library.name
    (destination / "genai_config.json").write_text(json.dumps(config, indent=4) + "\n")
    return report


def _data_files(model: Path) -> set[str]:
    graph = onnx.load(model, load_external_data=False).graph
    return {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compress the decoder of an onnxruntime-genai model folder.")
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    totals = compress_folder(arguments.source, arguments.destination).totals
    print(f"{totals.lowered} of {totals.nodes} multiplications compressed, to 1/{totals.ratio:.2f} of their size")


if __name__ == "__main__":
    main()
