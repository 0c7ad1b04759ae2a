"""A float model quantised by onnxruntime, so that it can be compressed, and what that costs: in size, in its outputs.

What is done is onnxruntime's ``quant_pre_process`` and ``quantize_dynamic`` at their defaults (without symbolic shape
inference, which dynamic quantisation does not need); we only spare people the detour.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from mcd_graph import _native
from mcd_graph.errors import InputError
from mcd_graph.model.constants import eight_bit_constants
from mcd_graph.model.loading import load_model
from mcd_graph.model.source import Source
from mcd_graph.model.unchanged import Watch
from mcd_graph.report.data import Quantization, QuantizedForm
from mcd_graph.session import create_session
from mcd_graph.verify import verify_model

__all__ = ["FORMS", "Form", "quantized"]

Form = Literal["dynamic", "dynamic-per-channel"]
"""How a float model is quantised: a scale for each weight, or one for each of its columns."""

FORMS: tuple[Form, ...] = ("dynamic", "dynamic-per-channel")

_IN_ONE_FILE = 1 << 30
"""Float models above this many bytes are quantised with external data: a protobuf message ends at 2 GiB."""


@contextlib.contextmanager
def quantized(source: Source, form: Form) -> Iterator[tuple[Path, Quantization]]:
    """Quantise a float model in every form; yield the file of the one asked for, and how the forms compare.

    The files lie in a temporary folder, which goes away on leaving.

    Args:
        source: a float model.
        form: the form to compress.

    Raises:
        InputError: the model holds int8 weights already, or onnxruntime cannot quantise it.
    """
    if form not in FORMS:
        raise InputError(f"quantize must be one of {', '.join(FORMS)}, not {form!r}")
    watch = Watch()
    watch.begin(source.identities)
    if any(True for _ in eight_bit_constants(load_model(source))):
        raise InputError(f"{source.name} holds int8 weights already: compress it without quantising")
    with tempfile.TemporaryDirectory(prefix="mcd-") as folder:
        given = source.path or Path(folder, "float.onnx")
        if source.path is None:
            given.write_bytes(source.contents.proto.SerializeToString())
        _refuse_unknown(source, given)
        forms = {each: _quantize(source, given, each, Path(folder)) for each in FORMS}
        watch.check_files()
        compared = tuple(_compare(each, given, path) for each, path in forms.items())
        yield forms[form], Quantization(form, source.size, compared)


def _refuse_unknown(source: Source, given: Path) -> None:
    """Refuse a model that onnxruntime does not open: its pre-processing logs that, and goes on."""
    try:
        create_session(given, threads=1, optimize=False)
    except InputError as error:
        raise InputError(str(error).replace(os.fspath(given), source.name)) from error


def _quantize(source: Source, given: Path, form: Form, folder: Path) -> Path:
    """Let onnxruntime quantise a model in one form; return the new file."""
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415 - takes a second to import
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    prepared, path, large = folder / "prepared.onnx", folder / f"{form}.onnx", source.size > _IN_ONE_FILE
    try:
        if not prepared.exists():
            quant_pre_process(
                given, prepared, skip_symbolic_shape=True, save_as_external_data=large, all_tensors_to_one_file=large
            )
        per_channel = form == "dynamic-per-channel"
        with np.errstate(all="ignore"):  # of weights that are not finite; what comes of them is said below
            quantize_dynamic(prepared, path, per_channel=per_channel, use_external_data_format=large)
    except Exception as error:  # whatever a quantiser that reads any model raises
        text = " ".join(str(error).replace(str(folder), "the prepared model").split())
        raise InputError(f"{source.name}: onnxruntime cannot quantise it: {text}") from error
    return path


def _compare(form: Form, given: Path, path: Path) -> QuantizedForm:
    """Measure a quantised model: its size, about what it can be compressed to, its outputs beside the float model's."""
    source, saved = Source.read(path), 0.0
    for constant in eight_bit_constants(load_model(source)):
        symbols = np.ascontiguousarray(constant.tensor.numpy()).reshape(1, -1)
        saved += symbols.nbytes * (1 - _native.entropy_bits(symbols) / 8)
    size = source.size
    try:
        drifts = verify_model(given, path, threads=[1], measure=True).drifts
    except InputError as error:  # no inputs that random values could make, operators of another library, …
        return QuantizedForm(form, size, round(size - saved), not_compared=_without(path.parent, error))
    lost = [drift.output for drift in drifts if math.isnan(drift.cosine)]
    if lost:
        text = f"{', '.join(lost)} of the quantised model holds values that are not numbers, unlike the float model's"
        return QuantizedForm(form, size, round(size - saved), not_compared=text)
    cosine = min((drift.cosine for drift in drifts), default=None)
    worst = max(drifts, key=lambda drift: drift.largest / (drift.scale or 1), default=None)
    largest, scale = (None, None) if worst is None else (worst.largest, worst.scale)
    return QuantizedForm(form, size, round(size - saved), cosine, largest, scale)


def _without(folder: Path, error: InputError) -> str:
    return str(error).replace(f"{os.fspath(folder)}{os.sep}", "")
