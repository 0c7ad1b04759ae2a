"""The README.md that ``mcd ascend export`` leaves beside the model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcd_graph.ascend.export import AscendExport

__all__ = ["write_guide"]

_READY = """\
No known blocker of the run-time hand-off. **It is untested on hardware**; see below.
"""

_NOT_READY = """\
**This export is not device-ready:**

{obstacles}
"""

_OPEN = """\
The weights carry mcd-graph's open codec, which onnxruntime with mcd-graph's library runs on a CPU, and no device does.
For a device they must be compressed by CANN itself. Where CANN is installed:

1. Build `compress_excutor` in msModelSlim's `weight_compression/compress_graph`: `bash build.sh "$ASCEND_HOME_PATH"`.
2. Run the export again with `--compressor PATH`, the path of that program.
"""

_CANN = """\
The weights carry CANN's own codec, written by the `compress_excutor` that was given. This model runs on a device only:
mcd-graph's CPU library refuses it.
"""

_GUIDE = """\
# A model for {soc}, by mcd-graph

{readiness}
## Weights

{weights}
## What is in this folder

| File | What it is |
|---|---|
| `model.onnx`, `model.onnx_data` | {strict} of {nodes} `mcd::MatmulCompressDequant` nodes have the strict form |
| `plugin/` | source and CMake file of the parser plugin that maps these nodes to CANN's `MatMulV2CompressDequant` |
| `convert.sh` | ATC's steps in one; it refuses to run if the export is not device-ready, and without `MCD_TRY_ATC=1` |

## The run-time hand-off (recommended)

CANN's own example calls the aclnn function, and so does mcd-graph's library. In onnxruntime, where CANN is installed:

    options.add_session_config_entry("mcd.device", "ascend:0")           # before the library is registered
    options.register_custom_ops_library(mcd_graph.get_library_path())

Operators other than this one stay on the CPU, whatever their opset, types and shapes.

## ATC (unproven)

What is known to stand in the way:

{atc_obstacles}
{doubts}
To try all the same (`MCD_TRY_ATC=1 ./convert.sh` does these steps):

    source /usr/local/Ascend/cann/set_env.sh        # or ascend-toolkit/set_env.sh, for older releases
    cmake -S plugin -B plugin/build && cmake --build plugin/build
    export ASCEND_CUSTOM_OPP_PATH=$PWD/plugin       # ATC looks for framework/onnx/*.so below it
    {atc}

`--soc_version` is "Ascend" and the Name that `npu-smi info` shows. The operators' package of that chip must be
installed, and the CANN release that runs the model must not be older than the one that converts it. The list above has
the operators of quantised models that were looked up; ATC must know every other operator of the model as well.

## What to expect

- The plugin was compiled against stand-ins for CANN's headers only, the model was run on a CPU only.
- Results are float16 where the original's were float32; rounding and overflow on the device are not documented.
- The device's codec is made for sparse weights (msModelSlim's W8A8S); dense ones gain little or nothing.
"""


def write_guide(result: "AscendExport", soc: str, with_compressor: bool) -> str:
    """Return the text for one export.

    Args:
        result: what was exported.
        soc: the chip.
        with_compressor: a ``compress_excutor`` was given; if the codec is the open one all the same, it was a stand-in.
    """
    obstacles = "\n".join(f"- {obstacle}" for obstacle in result.obstacles)
    weights = _CANN if result.codec == "cann" else _OPEN
    if result.codec == "open" and with_compressor:
        weights = "The program given with `--compressor` was not CANN's: it wrote the open codec.\n\n" + weights
    if result.grown:
        weights += f"\nThese do not compress, and are larger than they were: {', '.join(result.grown)}.\n"
    return _GUIDE.format(
        soc=soc,
        readiness=_READY if result.device_ready else _NOT_READY.format(obstacles=obstacles),
        weights=weights,
        strict=sum(site.status == "strict" for site in result.sites),
        nodes=len(result.sites),
        atc=result.atc,
        atc_obstacles="\n".join(f"- {obstacle}" for obstacle in result.atc_obstacles),
        doubts="".join(f"- doubtful: {doubt}\n" for doubt in result.doubts),
    )
