"""How the kernel of a convolution goes over an image."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from mcd_graph.operators.conv_compress_dequant.signature import WINDOW_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Window"]


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel goes over an image: the attributes of a node, checked.

    Attributes:
        kernel: its size, without channels.
        strides: steps, by dimension.
        dilations: distance of its taps.
        pads: pixels in front of each dimension, then those behind it.
        same: 0: ``pads`` count; 1, 2: ``SAME_UPPER``, ``SAME_LOWER``.
        group: groups of channels.
        channels_last: images and results have their channels last, not second.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    same: int
    group: int
    channels_last: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Window:
        """Return the window of attributes, by their names; those that are absent or ``None`` are as by default.

        Raises:
            ValueError: an attribute is wrong; the text names it.
        """
        kernel = tuple(given.get("kernel_shape") or ())
        strides, dilations, pads, same, group, channels_last = (given.get(name) for name in WINDOW_NAMES[1:])
        rank = len(kernel)
        if not 1 <= rank <= 3:
            raise ValueError(f"kernel_shape is {list(kernel)} instead of one to 3 numbers")
        if same not in (None, 0, 1, 2):
            raise ValueError(f"same is {same} instead of 0, 1 or 2")
        if channels_last not in (None, 0, 1):
            raise ValueError(f"channels_last is {channels_last} instead of 0 or 1")
        if same and pads is not None:
            raise ValueError("pads must be absent where same is not 0")
        window = cls(
            kernel,
            tuple(strides or (1,) * rank),
            tuple(dilations or (1,) * rank),
            tuple(pads or (0,) * 2 * rank),
            same or 0,
            1 if group is None else group,
            bool(channels_last),
        )
        lists = (window.kernel, window.strides, window.dilations, window.pads, (window.group,))
        counts = (rank, rank, rank, 2 * rank, 1)
        for name, numbers, count in zip((*WINDOW_NAMES[:4], "group"), lists, counts, strict=True):
            if len(numbers) != count:
                raise ValueError(f"{name} is {list(numbers)} instead of {count} numbers")
            if min(numbers) < (least := 0 if name == "pads" else 1):
                raise ValueError(f"{name} is {list(numbers)} instead of numbers that are {least} or more")
        return window

    @property
    def taps(self) -> int:
        """Pixels under the kernel."""
        return math.prod(self.kernel)

    @property
    def channels(self) -> int:
        """Which dimension of images and results has the channels."""
        return len(self.kernel) + 1 if self.channels_last else 1

    @property
    def to_last(self) -> list[int]:
        """The order of dimensions that brings second channels last, as Transpose takes it."""
        return [0, *range(2, len(self.kernel) + 2), 1]

    @property
    def to_second(self) -> list[int]:
        """The way back."""
        rank = len(self.kernel)
        return [0, rank + 1, *range(1, rank + 1)]

    def placed(self, image: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
        """Return the padding of each dimension of an image, and the output's dimensions.

        Raises:
            ValueError: the kernel does not fit.
        """
        padding, output = [], []
        for i, size in enumerate(image):
            reach = self.dilations[i] * (self.kernel[i] - 1) + 1
            before, behind = self.pads[i], self.pads[i + len(self.kernel)]
            if self.same:
                all_ = max((math.ceil(size / self.strides[i]) - 1) * self.strides[i] + reach - size, 0)
                before = all_ // 2 if self.same == 1 else all_ - all_ // 2
                behind = all_ - before
            free = size + before + behind - reach
            if free < 0:
                raise ValueError(
                    f"an image of {size} with {before} and {behind} beside it in dimension {i}, where the kernel "
                    f"reaches over {reach}"
                )
            padding.append((before, behind))
            output.append(free // self.strides[i] + 1)
        return padding, output

    def check_sizes(self, info: Sequence[int]) -> None:
        """Refuse a kernel whose matrix does not have the rows and columns that it needs.

        Args:
            info: tilingK, tilingN, k, n and direction.

        Raises:
            ValueError: that is so; the text names the attribute.
        """
        _, _, k, n, _ = info
        if k % self.taps:
            raise ValueError(f"kernel_shape is {list(self.kernel)}, and the weight has {k} values for each output")
        if n % self.group:
            raise ValueError(f"group is {self.group}, and there are {n} outputs")
