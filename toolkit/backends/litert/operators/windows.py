"""Windows that slide over an image: their steps, and the padding around it as the file can say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.backends.litert.lowering import Refused

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Windows", "image_shape", "windows_of"]


@dataclass(frozen=True)
class Windows:
    """One entry for height and one for width; `before` and `after` are rows and columns that the windows reach beyond
    the image, as far as the result needs them."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: str
    """SAME or VALID where the file's own rule pads like this; empty where it takes an operator of its own."""

    @property
    def pads(self) -> bool:
        return any(self.before) or any(self.after)


def windows_of(
    node: ir.Node, image: Sequence[int], result: Sequence[int], kernel: Sequence[int] | None = None
) -> Windows:
    """The windows of a convolution or pool whose image and result have these heights and widths (or lengths)."""
    attributes, rank = node.attributes, len(image)
    kernel = list(kernel if kernel is not None else attributes.get_ints("kernel_shape", []))
    strides = list(attributes.get_ints("strides", [1] * rank))
    dilations = list(attributes.get_ints("dilations", [1] * rank))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    totals = [(r - 1) * s + e - i for r, s, e, i in zip(result, strides, extents, image, strict=True)]
    automatic = attributes.get_string("auto_pad", "NOTSET")
    if automatic == "SAME_UPPER":
        before = [max(total, 0) // 2 for total in totals]
    elif automatic == "SAME_LOWER":
        before = [max(total, 0) - max(total, 0) // 2 for total in totals]
    else:
        before = list(attributes.get_ints("pads", [0] * 2 * rank))[:rank]
    after = [max(total - b, 0) for total, b in zip(totals, before, strict=True)]
    if rank == 1:
        image, result, kernel, strides, dilations, extents, before, after = (
            [fill, *given] for fill, given in zip((1, 1, 1, 1, 1, 1, 0, 0),
            (image, result, kernel, strides, dilations, extents, before, after), strict=True)
        )  # fmt: skip
    padding = _named(image, result, strides, extents, before, after)
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after), padding)


def _named(
    image: Sequence[int], result: Sequence[int], strides: Sequence[int], extents: Sequence[int], before: Sequence[int],
    after: Sequence[int],
) -> str:  # fmt: skip
    if not any(before) and not any(after):
        return "VALID"
    for i, r, s, e, b, a in zip(image, result, strides, extents, before, after, strict=True):
        total = max((r - 1) * s + e - i, 0)
        if r != -(-i // s) or (b, a) != (total // 2, total - total // 2):
            return ""
    return "SAME"


def image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(n, height, width, channels) of a value (n, channels, height, width) or (n, channels, length).

    Raises:
        Refused: it has more dimensions, or fewer.
    """
    if len(shape) == 3:
        return shape[0], 1, shape[2], shape[1]
    if len(shape) == 4:
        return shape[0], shape[2], shape[3], shape[1]
    raise Refused(f"works on {len(shape) - 2} dimensions beside batch and channels; 1 or 2 can be written")
