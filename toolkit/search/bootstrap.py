"""A new component begins where archived ones stood: between the nearest elites, and a little beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DescriptorError
from toolkit.search.archive import CVTArchive
from toolkit.search.elites import Elite
from toolkit.search.genomes import arrays_of
from toolkit.search.measures import Floats

__all__ = ["bootstrap"]


def bootstrap(
    archive: CVTArchive, measures: Floats, rng: np.random.Generator, *, sigma: float, k: int = 1
) -> dict[str, NDArray[Any]]:
    """Arrays for the place `measures` (m,), raw: the mean of its `k` nearest elites by inverse distance.

    Noise has the standard deviation sigma x norm / sqrt(elements) of each array, so that it is in proportion. With
    `sigma` 0 and an elite exactly there, it is that elite.

    Raises:
        DescriptorError: the archive is empty, its genomes are configurations, or their arrays differ in shape.
    """
    near = archive.nearest(measures, k)
    if not near or sigma < 0:
        raise DescriptorError(
            f"nothing to begin from, or sigma = {sigma}", hint="give an archive with elites, sigma >= 0"
        )
    shares = _shares(archive, measures, near)
    parts = [arrays_of(elite.genome) for elite in near]
    shapes = [{name: array.shape for name, array in part.items()} for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise DescriptorError("elites with arrays of different shapes cannot be mixed", hint="begin from one: k=1")
    return {name: _mixed([part[name] for part in parts], shares, sigma, rng) for name in sorted(parts[0])}


def _shares(archive: CVTArchive, measures: Floats, near: list[Elite]) -> Floats:
    unit, _ = archive.space.normalize(np.asarray(measures, np.float64)[None])
    distances = np.array([float(np.sqrt(np.square(elite.unit - unit[0]).sum())) for elite in near])
    if distances[0] == 0:
        whole: Floats = np.eye(len(near))[0]
        return whole
    shares: Floats = (1 / distances) / (1 / distances).sum()
    return shares


def _mixed(arrays: list[NDArray[Any]], shares: Floats, sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    mean = np.zeros(arrays[0].shape)
    for array, share in zip(arrays, shares, strict=True):
        mean += share * array
    scale = sigma * np.linalg.norm(mean) / np.sqrt(max(1, mean.size))
    noisy = mean + scale * rng.standard_normal(mean.shape) if scale else mean
    return noisy.astype(arrays[0].dtype)
