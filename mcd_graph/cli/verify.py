"""``mcd verify``."""

import dataclasses
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcd_graph.cli.options import AsJson, CustomOps
from mcd_graph.cli.output import counted, out, print_json, say
from mcd_graph.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mcd_graph.verify import Verification

__all__ = ["print_verification", "verify"]


def verify(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", show_default=False)],
    compressed: Annotated[Path, typer.Argument(metavar="COMPRESSED", show_default=False)],
    runs: Annotated[int, typer.Option(min=1, help="Runs, each of another batch size and length.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs.")] = 0,
    inputs: Annotated[
        Path | None, typer.Option(metavar="F.npz", help="Inputs by name, instead of random ones; one run then.")
    ] = None,
    precise: Annotated[
        bool,
        typer.Option(
            "--precise", help="Exact products of 8-bit integers without VNNI, where onnxruntime's saturate otherwise."
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="COMPRESSED is a strict export for Ascend: measure cosine and largest difference of each output.",
        ),
    ] = False,
    min_cosine: Annotated[
        float, typer.Option(min=-1, max=1, help="With --strict: the cosine that every output must reach.")
    ] = 0.99,
    custom_ops: CustomOps = None,
    as_json: AsJson = False,
) -> None:
    """Run both models on the same inputs and compare every byte of their outputs.

    A strict export rounds each product to float16, so that its bytes differ: with --strict, how far is measured, and
    exit status 1 means that an output's cosine is below --min-cosine.

    Example: [bold]mcd verify model.onnx model.mcd.onnx[/bold]
    """
    from mcd_graph.verify import verify_model  # noqa: PLC0415

    arrays = None if inputs is None else _load_inputs(inputs)
    result = verify_model(
        original,
        compressed,
        runs=runs,
        seed=seed,
        inputs=arrays,
        precise=precise,
        custom_ops=custom_ops or (),
        measure=strict,
    )
    if as_json:
        schema = {"schema": "mcd-verification", "schema_version": 1}
        print_json({**schema, "identical": result.identical, **dataclasses.asdict(result)})
    elif strict and not result.identical:
        _print_drifts(result, min_cosine)
    else:
        print_verification(result)
    far = not all(drift.cosine >= min_cosine for drift in result.drifts)  # not-a-number is far, too
    if far if strict else not result.identical:
        raise typer.Exit(1)


def _load_inputs(path: Path) -> "dict[str, npt.NDArray[np.generic]]":
    import numpy as np  # noqa: PLC0415

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (AttributeError, TypeError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{path} is not an .npz file of plain arrays") from None


def _print_drifts(result: "Verification", min_cosine: float) -> None:
    """Print how far each output is from the original's."""
    out.print(f"{len(result.shapes)} runs; bytes differ, as those of a strict export do:")
    for drift in result.drifts:
        out.print(
            f"{drift.output}: cosine {drift.cosine:.6f}, largest difference {drift.largest:.4g} where the largest "
            f"value is {drift.scale:.4g} ({drift.values:,} values)",
            style="green" if drift.cosine >= min_cosine else "red",
            markup=False,
            soft_wrap=True,
        )
    if not all(drift.cosine >= min_cosine for drift in result.drifts):
        say(
            f"a cosine is below {min_cosine:g}: mcd ascend export --split-activations rounds less; --inputs compares "
            "on inputs of yours, which random ones may be unlike"
        )


def print_verification(result: "Verification") -> None:
    """Print what a comparison found."""
    settings = " and ".join("at default settings" if each else "without optimisations" for each in result.optimized)
    if result.identical:
        say(
            f"identical: {result.values:,} output values in {counted(len(result.shapes), 'run')} "
            f"on {_threads(*result.threads)}, {settings}",
            "green",
        )
    for difference in result.differences:
        setting = "default settings" if difference.optimized else "no optimisations"
        where = f"run {difference.run}, {_threads(difference.threads)}, {setting}, {difference.output}"
        say(f"different: {where}: {difference.what}", "red")
    for name in result.not_deterministic:
        seedless = f"; without a seed: {', '.join(result.random_nodes)}" if result.random_nodes else ""
        computes = f"the original computes {name} otherwise each time, so nothing is proved for it"
        say(f"not deterministic: {computes}{seedless}", "red")
    if result.compared_before:
        say(f"compared in front of that: {', '.join(result.compared_before)}")
    for name in result.only_nan:
        say(f"nothing but NaN: {name}, which proves little", "yellow")
    if result.saturates and result.differences:
        say(
            "This processor has no VNNI: onnxruntime's products of 8-bit integers, those of the original too, saturate "
            "at 16 bits here; compressed ones do not. "
            + (
                "That is the only difference: with exact products (--precise) every byte is the same. To have the "
                "original multiply exactly in an application, set session.x64quantprecision to 1."
                if result.only_saturation
                else "But with exact products (--precise) the bytes differ as well."
            ),
            "yellow",
        )


def _threads(*counts: int) -> str:
    """Return numbers of threads as people read them."""
    return f"{' and '.join(map(str, counts))} thread{'' if counts == (1,) else 's'}"
