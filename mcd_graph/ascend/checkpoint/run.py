"""From a W8A8S folder to a W8A8SC one: plan, compress wherever an executor does it, write, report."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mcd_graph.ascend.checkpoint.descriptions import mindie_description, vllm_description
from mcd_graph.ascend.checkpoint.layout import LAYOUTS, Layout
from mcd_graph.ascend.checkpoint.plan import RankPlan, plan_rank
from mcd_graph.ascend.checkpoint.queue import Queue
from mcd_graph.ascend.checkpoint.rank_file import check_plan, rank_entries
from mcd_graph.ascend.checkpoint.report import CheckpointReport, LayerResult
from mcd_graph.ascend.checkpoint.scratch import Scratch
from mcd_graph.ascend.checkpoint.source import INDEX_SUFFIX, Checkpoint
from mcd_graph.ascend.checkpoint.work import Settings, package_version
from mcd_graph.ascend.checkpoint.writer import write_safetensors
from mcd_graph.ascend.codec import CODEC_KEY, Codec
from mcd_graph.codec.packing import Submits
from mcd_graph.errors import InputError
from mcd_graph.model.files import write_text
from mcd_graph.progress import Progress

__all__ = ["REPORT", "write_checkpoint"]

REPORT = "mcd_checkpoint.json"
"""The report's name in the folder."""

_WEIGHT_FILES = {".safetensors", ".bin", ".pt"}
_DESCRIPTION = "quant_model_description.json"


def write_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    ranks: int = 1,
    layout: str = "vllm",
    compressor: str | os.PathLike[str] | None = None,
    rows: int = 4,
    jobs: int | None = None,
    executor: Submits | None = None,
    progress: Callable[[Progress], None] | None = None,
    force: bool = False,
) -> CheckpointReport:
    """Compress a W8A8S model folder for the operator, fused and split as its loader does.

    A run that was interrupted goes on where it was when it is called again with the same arguments.

    Args:
        source: folder with safetensors, msModelSlim's description and ``config.json``.
        destination: folder, made if it is missing.
        ranks: of the tensor-parallel group that will load it.
        layout: ``vllm``, or ``mindie``.
        compressor: path of an installed ``compress_excutor``, for the device's codec; without it this is a rehearsal.
        rows: rows of random activations that each layer is run with and compared; 0 for none.
        jobs: layers at a time.
        executor: where layers are compressed; its workers must see ``source`` at the same path.
        progress: called after each layer.
        force: replace files that are there.

    Returns:
        What was written.

    Raises:
        FileExistsError: a file is there and ``force`` is not set.
        InputError: the model cannot be used, fused or split, or ``compress_excutor`` failed.
        WorkerError: the executor failed.
        OSError: a file cannot be read or written.

    Examples:
        >>> import json, pathlib
        >>> import numpy, safetensors.numpy
        >>> from mcd_graph.ascend import write_checkpoint
        >>> layer, folder = "model.layers.0.mlp.down_proj", pathlib.Path("w8a8s")
        >>> parts = {"weight": numpy.zeros((128, 1024), numpy.int8), "quant_bias": numpy.zeros(128, numpy.int32)}
        >>> parts["deq_scale"] = numpy.full(128, 0x3F800000)  # 1.0
        >>> folder.mkdir()
        >>> tensors = {f"{layer}.{name}": array for name, array in parts.items()}
        >>> size = safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        >>> description = {"model_quant_type": "W8A8S", **dict.fromkeys(tensors, "W8A8S")}
        >>> size = (folder / "quant_model_description.json").write_text(json.dumps(description))
        >>> size = (folder / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
        >>> report = write_checkpoint(folder, "w8a8sc", ranks=2)
        >>> [(layer.n, layer.k, layer.differing) for layer in report.layers]
        [(128, 512, 0), (128, 512, 0)]
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if ranks < 1 or rows < 0:
        raise InputError("ranks must be at least 1, and rows at least 0")
    checkpoint = Checkpoint.read(Path(source).absolute())
    style, target = LAYOUTS[layout], Path(destination)
    style.check(checkpoint.config)
    plans = [plan_rank(checkpoint, style, rank, ranks) for rank in range(ranks)]
    check_plan(checkpoint, plans[0])
    settings = Settings(None if compressor is None else os.fspath(Path(compressor).absolute()), rows, package_version())
    key = json.dumps([checkpoint.fingerprint(), layout, ranks, settings.__dict__])
    scratch = Scratch(target, hashlib.sha256(key.encode()).hexdigest())
    # What an interrupted run of this kind has written is its own to replace.
    force = force or scratch.begun
    _check_destination(checkpoint, style, target, ranks, force=force)
    scratch.begin()
    workers = jobs or os.cpu_count() or 1
    with ExitStack() as stack:
        pool = executor or stack.enter_context(ThreadPoolExecutor(workers))
        results, resumed = Queue(checkpoint, settings, scratch, pool, workers).run(plans, progress)
    report = _report(layout, ranks, results, resumed)
    for plan in plans:
        path = target / style.file(plan.rank.index, ranks)
        entries = rank_entries(checkpoint, style, plan, scratch, report)
        write_safetensors(path, entries, {CODEC_KEY: report.codec, "format": "pt"}, force=force)
    _write_rest(checkpoint, style, target, plans, report)
    scratch.remove()
    return report


def _check_destination(checkpoint: Checkpoint, layout: Layout, target: Path, ranks: int, *, force: bool) -> None:
    if target.absolute() == checkpoint.folder or checkpoint.folder in target.absolute().parents:
        raise InputError(f"{target} lies in the folder that is read")
    wanted = {layout.file(rank, ranks) for rank in range(ranks)}
    for path in sorted(found for pattern in layout.patterns for found in target.glob(pattern)):
        name = str(path.relative_to(target))
        if name not in wanted:
            raise InputError(f"{path} is of another number of ranks: remove it, or write to another folder")
        if not force:
            raise FileExistsError(17, "already exists; --force replaces it", str(path))


def _report(layout: str, ranks: int, results: list[LayerResult], resumed: int) -> CheckpointReport:
    codecs: set[Codec] = {result.codec for result in results}
    if len(codecs) != 1:
        raise InputError("the weights are of two codecs")
    kept = tuple(dict.fromkeys(result.name for result in results if not result.fits))
    return CheckpointReport(layout, ranks, codecs.pop(), tuple(results), kept, resumed)


def _write_rest(
    checkpoint: Checkpoint, layout: Layout, target: Path, plans: list[RankPlan], report: CheckpointReport
) -> None:
    """Write the descriptions and the report, and copy what lies beside the weights."""
    left_out = {checkpoint.description_path.name, REPORT}
    for path in sorted(checkpoint.folder.iterdir()):
        if path.name in left_out or path.suffix in _WEIGHT_FILES or path.name.startswith("."):
            continue
        if path.name.endswith(INDEX_SUFFIX):  # it names files that are not there
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        else:
            shutil.copy(path, target / path.name)
    if layout.is_mindie:
        _write_json(target / "config.json", {**checkpoint.config, "quantize": "w8a8sc", "torch_dtype": "float16"})
        for plan in plans:
            folder = (target / layout.file(plan.rank.index, plan.rank.count)).parent
            _write_json(folder / _DESCRIPTION, mindie_description(checkpoint, layout, plan, report))
    else:
        _write_json(target / _DESCRIPTION, vllm_description(checkpoint, report))
    _write_json(target / REPORT, report.as_json())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n", force=True)
