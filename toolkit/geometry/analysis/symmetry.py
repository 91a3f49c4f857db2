"""Does a layer treat every place alike? Its answer to a moved input beside its moved answer."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["equivariance_defect", "rolled"]

_FLOOR = 1e-3  # of the layer's deviation: a channel that varies less is measured against this


def rolled(image: Tensor, shift: tuple[int, int]) -> Tensor:
    """[..., H, W] moved down and right by `shift`; what leaves on one side comes back on the other."""
    return image.roll(shift, dims=(-2, -1))


def equivariance_defect(still: Tensor, moved: Tensor, shift: tuple[int, int], margin: tuple[int, int]) -> Tensor:
    """For each channel, how far `moved` is from `still` moved by `shift`: 0 where the layer commutes with the move.

    Args:
        still: [N, C, H, W], what the layer answers.
        moved: [N, C, H, W], what it answers where its input was moved.
        shift: What the move of the input is in places of the answer.
        margin: Places at each border, along H and W, that borders or the seam of the move reach: left out.

    Returns:
        [C] float64: the root mean square of the difference over the deviation of the channel.

    Raises:
        GeometryError: shapes that differ, a margin that leaves nothing, or a value that is not finite.

    Source: Zhang 2019, "Making convolutional networks shift-invariant again".
    """
    if still.shape != moved.shape or still.ndim != 4:
        raise GeometryError(
            f"answers of shapes {tuple(still.shape)} and {tuple(moved.shape)}", hint="two equal [N, C, H, W]"
        )
    height, width = (size - 2 * edge for size, edge in zip(still.shape[2:], margin, strict=True))
    if height < 1 or width < 1 or min(margin) < 0:
        raise GeometryError(f"a margin of {margin} on {tuple(still.shape[2:])}", hint="leave at least one place")
    down, right = margin
    inner = (..., slice(down, down + height), slice(right, right + width))
    expected = rolled(require_finite(still, "the answer").double(), shift)[inner]
    difference = require_finite(moved, "the moved answer").double()[inner] - expected
    deviation = expected.std(dim=(0, 2, 3), correction=0)
    whole = float(still.double().std(correction=0))
    floor = max(_FLOOR * whole, torch.finfo(torch.float32).eps * float(still.abs().max()))
    if floor == 0:
        return difference.square().mean((0, 2, 3)).sqrt()
    defect: Tensor = difference.square().mean((0, 2, 3)).sqrt() / deviation.clamp(min=floor)
    return defect
