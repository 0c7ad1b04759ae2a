"""Restores standard operators: a model with its weights uncompressed, for runtimes without the custom operator."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from mcd_graph._native import FormatError
from mcd_graph.errors import InputError
from mcd_graph.model.annotations import annotate, remove_annotations
from mcd_graph.model.content import model_bytes
from mcd_graph.model.loading import load_model, read_proto
from mcd_graph.model.private import private_copy
from mcd_graph.model.saving import ModelWriter
from mcd_graph.model.source import Source, size_of
from mcd_graph.model.unchanged import Watch
from mcd_graph.operators.spec import DOMAIN
from mcd_graph.operators.view import check_memory
from mcd_graph.passes import plan_restoration
from mcd_graph.progress import Progress

__all__ = ["Restoration", "restore_model", "restored_bytes"]


@dataclasses.dataclass(frozen=True)
class Restoration:
    """What a restoration did.

    Attributes:
        restored: compressed nodes turned back into standard operators.
        kept: name and reason of each that was not.
        file_bytes_before: size of the model with its external data before.
        file_bytes_after: and after.
    """

    restored: int
    kept: dict[str, str]
    file_bytes_before: int
    file_bytes_after: int


def restore_model(
    model_input: str | os.PathLike[str],
    model_output: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
    inline: bool = False,
    data_name: str | None = None,
    force: bool = False,
    mmap: bool = True,
    memory_limit: int | None = None,
) -> Restoration:
    """Write a model of standard operators, with weights uncompressed, that computes the same bits.

    Args:
        model_input: path of a compressed model.
        model_output: path of the model to write; its weights go into a data file beside it.
        progress: called after each tensor that is written.
        inline: keep all weights inside of the model file, which stays below 2 GiB then.
        data_name: name of the data file, beside the model; the model's with ``_data`` appended by default.
        force: replace a model that is already there.
        mmap: map the model's files; without, a private copy of them is read, for which there has to be room beside the
            output.
        memory_limit: bytes that a weight may take when it is decoded, or all of them together with ``inline``; for
            untrusted models.

    Raises:
        FileNotFoundError: there is no such model.
        FileExistsError: the output exists and ``force`` is not set.
        InputError: the model holds nothing to restore, or a weight in it is damaged or needs more memory than
            ``memory_limit``, or the result is too large for ``inline``.
        OSError: the output cannot be written.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> mcd_graph.restore_model("model.mcd.onnx", "plain.onnx").restored
        3
    """
    with contextlib.ExitStack() as stack:
        given = Source.read(model_input)
        if not mmap:
            given = stack.enter_context(private_copy(given, model_output))
        return _restore(
            given,
            model_output,
            progress=progress,
            inline=inline,
            data_name=data_name,
            force=force,
            memory_limit=memory_limit,
        )


def _restore(
    given: Source,
    model_output: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None,
    inline: bool,
    data_name: str | None,
    force: bool,
    memory_limit: int | None,
) -> Restoration:
    watch = Watch()
    watch.begin(given.identities)
    model = load_model(given)
    source, files, before = given.name, given.files, given.size
    check_memory(model, source, memory_limit, decoded=True, together=inline)
    with _damage_named(source):
        plan = plan_restoration(model)
        with ModelWriter(model_output, force=force, sources=files, inline=inline, data_name=data_name) as writer:
            stated = remove_annotations(model)
            if not plan.apply():
                raise InputError(f"{source}: nothing to restore: it has no compressed node")
            if stated is not None and any(site.status == "kept" for site in plan.sites):
                annotate(model, stated)
            writer.commit(model, progress=progress, check=watch.check_files)
    kept = {site.name: site.reason for site in plan.sites if site.reason is not None}
    return Restoration(len(plan.sites) - len(kept), kept, before, size_of(model_output))


def restored_bytes(model_input: str | bytes | os.PathLike[str], *, memory_limit: int | None = None) -> bytes | None:
    """Return a compressed model as one of standard operators in memory, external data included.

    Args:
        model_input: path of a model file, or its content.
        memory_limit: bytes that all weights may take when they are decoded, for untrusted models.

    Returns:
        The content of a model file; ``None`` if the model has no compressed weights, or is of another format than ONNX.

    Raises:
        FileNotFoundError: there is no such model.
        InputError: a weight in it is damaged or cannot be restored, or the result is larger than 2 GiB or
            ``memory_limit``.

    Examples:
        >>> import mcd_graph, onnx
        >>> from mcd_graph.restore import restored_bytes
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> onnx.load_from_string(restored_bytes("model.mcd.onnx")).graph.node[4].op_type
        'MatMulInteger'
        >>> restored_bytes("model.onnx") is None
        True
    """
    name = "the given model" if isinstance(model_input, bytes) else os.fspath(model_input)
    try:
        proto = onnx.ModelProto.FromString(model_input) if isinstance(model_input, bytes) else read_proto(model_input)
    except (DecodeError, UnicodeDecodeError, InputError):
        return None  # onnxruntime has more formats than one, and says better what is wrong
    if all(opset.domain != DOMAIN for opset in proto.opset_import):
        return None
    model = load_model(proto if isinstance(model_input, bytes) else model_input)
    check_memory(model, name, memory_limit, decoded=True, together=True)
    with _damage_named(name):
        plan = plan_restoration(model)
        if not plan.sites:
            return None
        remove_annotations(model)
        plan.apply()
        for site in plan.sites:
            if site.reason is not None:
                raise InputError(f"{name}: node {site.name} cannot be restored: {site.reason}")
        return model_bytes(model)


@contextlib.contextmanager
def _damage_named(model: str) -> Iterator[None]:
    """Turn the codec's error into one that names the model; onnx_ir wraps it where small weights are written."""
    try:
        yield
    except (FormatError, ir.serde.SerdeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, FormatError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise InputError(f"{model}: {cause}") from None
