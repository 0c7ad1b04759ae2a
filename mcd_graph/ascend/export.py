"""A strict model for a device: for the run-time hand-off, and with what ATC would need besides.

Nothing here was ever run on a device. The result is called device-ready only as far as can be told without one, and
never with weights of the open codec.
"""

import dataclasses
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from mcd_graph._native import FormatError
from mcd_graph.ascend.atc import atc_command, atc_doubts, atc_script
from mcd_graph.ascend.atc import atc_obstacles as find_obstacles
from mcd_graph.ascend.codec import CODEC_KEY, Codec, codec_of
from mcd_graph.ascend.excutor import run_excutor
from mcd_graph.ascend.guide import write_guide
from mcd_graph.codec.weights import pack_weight
from mcd_graph.errors import InputError
from mcd_graph.model.files import write_text
from mcd_graph.model.loading import load_model
from mcd_graph.model.replacement import refuse_existing
from mcd_graph.model.saving import ModelWriter
from mcd_graph.model.source import ModelSource, Source
from mcd_graph.operators.registry import compressed_nodes, operators
from mcd_graph.operators.view import CompressedNode
from mcd_graph.passes import LegalizePass, LegalSite, plan_lowering, plan_restoration
from mcd_graph.passes.rules.registry import ALL_RULES

__all__ = ["DEFAULT_SOC", "AscendExport", "export_model"]

DEFAULT_SOC = "Ascend310P3"

_PLUGIN = ("mcd_onnx_plugin.cpp", "CMakeLists.txt")


@dataclasses.dataclass(frozen=True)
class AscendExport:
    """What an export wrote.

    Attributes:
        folder: where.
        sites: what became of each matrix multiplication.
        codec: of the weights; ``None`` if there are none.
        obstacles: why the result is not ready for a device by any way; empty if no blocker is known.
        atc_obstacles: what stands in ATC's way besides; never empty, for CANN marks the operator as not for graphs.
        doubts: what may or may not turn out to stand in ATC's way.
        atc: the command that is to convert the model.
        grown: weights whose streams are larger than themselves.
    """

    folder: Path
    sites: tuple[LegalSite, ...]
    codec: Codec | None
    obstacles: tuple[str, ...]
    atc_obstacles: tuple[str, ...]
    doubts: tuple[str, ...]
    atc: str
    grown: tuple[str, ...]

    @property
    def device_ready(self) -> bool:
        """No known blocker of the run-time hand-off; untested on hardware."""
        return not self.obstacles


def export_model(
    model_input: ModelSource,
    folder: str | os.PathLike[str],
    *,
    soc: str = DEFAULT_SOC,
    compressor: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    max_rows: int | None = None,
    split_activations: bool = False,
    force: bool = False,
) -> AscendExport:
    """Write a model in the strict form, with all that ATC needs besides.

    Args:
        model_input: a model, compressed or not, or a quantised one that can be.
        folder: made if it is missing. Gets ``model.onnx``, ``model.onnx_data``, ``plugin/``, ``convert.sh`` and
            ``README.md``.
        soc: ATC's name of the chip.
        compressor: path of an installed ``compress_excutor``, which writes the device's codec. Without it the weights
            have the open codec: the model runs on the CPU, and the result is not device-ready.
        input_shapes: sizes of the model's inputs, by name, where it leaves them open.
        max_rows: cut activations into chunks of at most this many rows.
        split_activations: multiply the upper and the lower four bits of the activations by themselves: outputs are
            nearer to the original's, for twice the rows.
        force: replace files that are there.

    Returns:
        What was written, and what stands in the way.

    Raises:
        FileNotFoundError: there is no such model.
        FileExistsError: a file is there and ``force`` is not set.
        InputError: the model cannot be used, holds nothing for the operator, or ``compress_excutor`` failed.
        OSError: a file cannot be written.

    Examples:
        >>> from mcd_graph.ascend import export_model
        >>> export_model("model.onnx", "exported").device_ready  # the open codec is for the CPU
        False
    """
    folder = Path(folder)
    given = Source.read(model_input)
    model = load_model(given)
    if model.functions:
        model = common_passes.InlinePass()(model).model
    _set_input_shapes(model, input_shapes or {})
    foreign = [spec for spec in operators() if spec.ascend is None]
    plan_restoration(model, operators=foreign).apply()
    plan = plan_lowering(model, rules=tuple(rule for rule in ALL_RULES if rule.spec.ascend is not None))
    plan.apply({key: pack_weight(job.array()) for key, job in plan.weights.items()})
    if max_rows is not None:
        model = common_passes.ShapeInferencePass()(model).model
    texts = [folder / "README.md", folder / "convert.sh", *(folder / "plugin" / name for name in _PLUGIN)]
    for path in texts:
        refuse_existing(path, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    with ModelWriter(folder / "model.onnx", force=force, sources=given.files) as writer:
        grown: list[str] = []

        def pack(name: str, weight: np.ndarray) -> tuple[ir.TensorProtocol, np.ndarray, np.ndarray]:
            if compressor is None:
                packed = pack_weight(weight)
                (x2, index), info = packed.arrays, packed.compress_info
            else:
                x2, index, info = run_excutor(compressor, weight, name=name)
            if x2.size > weight.size:
                grown.append(name)
            return writer.add(f"{name}.strict.x2", x2), index, info

        legalize = LegalizePass(max_rows=max_rows, pack=pack, split_activations=split_activations)
        try:
            legalize(model)
        except FormatError as error:
            raise InputError(f"{given.name}: {error}") from None
        compressed = [CompressedNode.of(node) for node, *_ in compressed_nodes(model)]
        if not any(site.status == "strict" for site in legalize.sites):
            raise InputError(f"nothing to export: {_why_nothing(legalize.sites)}")
        codec = _codec_of(compressed)
        obstacles = tuple(_obstacles(legalize.sites, codec))
        atc_obstacles, doubts = tuple(find_obstacles(model)), tuple(atc_doubts(model))
        model.metadata_props[CODEC_KEY] = codec
        _name_nodes(model)
        atc = atc_command(model, soc)
        writer.commit(model)
    result = AscendExport(folder, tuple(legalize.sites), codec, obstacles, atc_obstacles, doubts, atc, tuple(grown))
    _write_texts(result, soc, compressor, force=force)
    return result


def _set_input_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    inputs = {value.name: value for value in model.graph.inputs}
    for name, shape in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(map(str, inputs))}")
        if value.shape is not None:
            fits = len(value.shape) == len(shape) and all(
                not isinstance(dim, int) or dim == size for dim, size in zip(value.shape, shape, strict=True)
            )
            if not fits:
                raise InputError(f"input {name!r} has shape {value.shape}, which is not {shape}")
        value.shape = ir.Shape(shape)


def _codec_of(nodes: list[CompressedNode]) -> Codec:
    codecs = {codec_of(node.x2.numpy()) for node in nodes}
    if len(codecs) != 1:
        raise InputError("the weights are of two codecs")
    return codecs.pop()


def _obstacles(sites: list[LegalSite], codec: Codec) -> list[str]:
    """Return what is known to stand between the model and a device by any way, a sentence each."""
    found = []
    if codec == "open":
        found.append(
            "the weights carry the open codec, which no device reads: export again where CANN is installed, with "
            "--compressor and the path of its compress_excutor"
        )
    return found + [f"node {site.name} is not strict: {site.reason}" for site in sites if site.status == "kept"]


def _why_nothing(sites: list[LegalSite]) -> str:
    if not sites:
        return "the model has no matrix multiplication for the operator"
    return f"all {len(sites)} matrix multiplications are kept, the first because {sites[0].reason}"


def _name_nodes(model: ir.Model) -> None:
    """Give every node a name that no other has: ATC refuses the rest."""
    common_passes.NameFixPass()(model)
    taken: set[str] = set()
    for node in model.graph.all_nodes():
        base = node.name or node.op_type
        name, count = base, 0
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        node.name = name
        taken.add(name)


def _write_texts(result: AscendExport, soc: str, compressor: str | os.PathLike[str] | None, *, force: bool) -> None:
    plugin = result.folder / "plugin"
    plugin.mkdir(exist_ok=True)
    for name in _PLUGIN:
        source = files("mcd_graph.ascend").joinpath("plugin", name).read_text(encoding="utf-8")
        write_text(plugin / name, source, force=force)
    script = atc_script(result.atc, result.obstacles, result.atc_obstacles)
    write_text(result.folder / "convert.sh", script, force=force)
    (result.folder / "convert.sh").chmod(0o755)
    write_text(result.folder / "README.md", write_guide(result, soc, compressor is not None), force=force)
