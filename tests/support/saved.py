"""Models that were written: what is in them, damage to them, and disks that are too small for them."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcd_graph.model.loading import load_model

__all__ = ["damage", "small_disk", "tensors"]


def tensors(model: Path) -> dict[str, bytes]:
    return {
        name: value.const_value.tobytes()
        for name, value in load_model(model).graph.initializers.items()
        if value.const_value is not None
    }


def damage(model: Path) -> None:
    """Flip a bit in the middle of the stream of w1."""
    tensor = load_model(model).graph.initializers["w1.x2"].const_value
    data = model.with_suffix(".onnx_data")
    content = bytearray(data.read_bytes())
    content[tensor.offset + tensor.length // 2] ^= 16  # type: ignore[union-attr]
    data.write_bytes(content)


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=False, capture_output=True
    )
    if mount.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mount.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)
