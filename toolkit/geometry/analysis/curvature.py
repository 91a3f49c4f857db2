"""How far a network bends a straight line: the curvature of representations along a path of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["total_turning"]


def total_turning(points: Tensor) -> Tensor:
    """The sum of the angles by which a path of points [*B, K, n] turns, in radians; 0 for a straight line.

    It is the total curvature of the polygon, which converges from below to that of a smooth curve: 2 pi for a closed
    convex one. Steps of no length are left out.

    Raises:
        GeometryError: fewer than three points, or a value that is not finite.

    Source: Milnor 1950, "On the total curvature of knots"; for networks: Henaff et al. 2019, "Perceptual straightening
    of natural videos".
    """
    if points.ndim < 2 or points.shape[-2] < 3:
        raise GeometryError(f"a path of shape {tuple(points.shape)}", hint="give three points or more, [*B, K >= 3, n]")
    path = require_finite(points, "the path").double()
    return torch.stack([_turning(one) for one in path.reshape(-1, *path.shape[-2:])]).reshape(path.shape[:-2])


def _turning(path: Tensor) -> Tensor:
    steps = path.diff(dim=0)
    length = steps.norm(dim=1)
    rounding = torch.finfo(path.dtype).eps * float(path.abs().max()) * path.shape[1] ** 0.5
    ways = steps[length > rounding] / length[length > rounding, None]
    if len(ways) < 2:
        return path.new_zeros(())
    # the half angle of two unit vectors: exact for small ones, where an arc cosine loses half of its digits
    halves = torch.atan2((ways[1:] - ways[:-1]).norm(dim=1), (ways[1:] + ways[:-1]).norm(dim=1))
    return 2 * halves.sum()
