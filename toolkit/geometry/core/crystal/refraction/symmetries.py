"""Space groups of crystals (by spglib) and point symmetries of sampled images (by correlation)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from toolkit.errors import GeometryError, MissingDependency
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Crystal

__all__ = ["Symmetries", "compute_symmetries", "image_symmetries", "load_spglib"]

_VACUUM = (
    4.0  # thickness of the slab around a plane crystal, in its longest vector; only that it is not periodic counts
)


@dataclass(frozen=True)
class Symmetries:
    """The symmetry group of a crystal.

    Args:
        number: Of the space group (1 to 230), or of the layer group (1 to 80) of a plane crystal.
        symbol: International short symbol.
        point_group: International symbol.
        rotations: int64 [M, d, d], acting on fractional coordinates as columns.
        translations: [M, d], fractional, belonging to the rotations.
        equivalent_atoms: int64 [N]: for each atom the first one that an operation maps it to.
    """

    number: int
    symbol: str
    point_group: str
    rotations: Tensor
    translations: Tensor
    equivalent_atoms: Tensor


def compute_symmetries(crystal: Crystal, *, tolerance: float = 1e-5) -> Symmetries:
    """The space group of a crystal in space, or the layer group of a plane one.

    A plane crystal is a slab one atom thick: its layer group holds the reflection through the plane, which is left
    out of `rotations` and `translations`, since it does nothing there.

    Args:
        crystal: Of dimension 2 or 3.
        tolerance: How far atoms may be from where an operation puts them, in units of the lattice vectors.

    Raises:
        GeometryError: another dimension, or atoms that coincide.
        MissingDependency: spglib is not installed.

    Source: Togo, Shinohara and Tanaka 2024, Sci. Technol. Adv. Mater. Methods 4, 2384822.
    """
    spglib = load_spglib()
    d = crystal.lattice.dim
    if d not in (2, 3):
        raise GeometryError(f"the symmetry of a crystal of dimension {d}", hint="dimensions 2 and 3 are known")
    vectors, positions = crystal.lattice.vectors.detach().double(), crystal.positions.detach().double()
    if d == 2:
        thickness = _VACUUM * float(vectors.norm(dim=1).max())
        vectors = torch.block_diag(vectors, torch.tensor([[thickness]], dtype=torch.float64))  # type: ignore[no-untyped-call]
        positions = torch.cat([positions, torch.zeros(len(positions), 1, dtype=torch.float64)], dim=1)
    cell = (vectors.numpy(), positions.numpy(), crystal.species.numpy())
    try:
        found = spglib.get_layergroup(cell, 2, tolerance) if d == 2 else spglib.get_symmetry_dataset(cell, tolerance)
    except getattr(spglib, "SpglibError", ()) as error:  # older versions answer None
        raise GeometryError(f"spglib finds no symmetry: {error}", hint=_NO_GROUP) from error
    if found is None:
        raise GeometryError(f"spglib finds no group for {len(positions)} atoms", hint=_NO_GROUP)
    rotations = torch.as_tensor(found.rotations, dtype=torch.int64)
    kept = rotations[:, d:, d:].flatten(1).eq(1).all(1) if d == 2 else torch.ones(len(rotations), dtype=torch.bool)
    return Symmetries(
        int(found.number),
        str(found.international),
        str(found.pointgroup).strip(),
        rotations[kept][:, :d, :d],
        torch.as_tensor(found.translations, dtype=torch.float64)[kept][:, :d],
        torch.as_tensor(found.equivalent_atoms, dtype=torch.int64),
    )


_NO_GROUP = "see that no two atoms coincide, and that the tolerance is below the shortest distance"


def image_symmetries(image: Tensor, *, threshold: float = 0.9) -> dict[str, float]:
    """Which rotations and reflections a square image keeps, up to a translation: name -> correlation in [-1, 1].

    The middle of its copies turned by 180 degrees ("2"), 120 ("3"), 90 ("4") and 60 ("6"), and reflected ("m" left to
    right, "m'" across the diagonal), a disc half as wide as the image, is looked for in the image: the score is the
    largest correlation over all shifts. Copies turned by 120 and 60 degrees are interpolated, so a smooth image is
    asked for; the others are exact.

    Args:
        image: [n, n], real, not constant: a piece of a pattern with two periods or more along each axis.
        threshold: Copies that correlate less are left out.

    Raises:
        GeometryError: the image is not square, not finite, or constant.
    """
    if image.ndim != 2 or image.shape[0] != image.shape[1] or image.is_complex():
        raise GeometryError(f"an image of {image.dtype} {tuple(image.shape)}", hint="give a real square [n, n]")
    require_finite(image, "the image")
    if float(image.std()) <= 1e-12 * float(image.abs().max()):
        raise GeometryError("a constant image", hint="it has every symmetry: nothing can be told from it")
    copies = {
        "2": image.rot90(2),
        "3": _turned(image, 120),
        "4": image.rot90(1),
        "6": _turned(image, 60),
        "m": image.flip(1),
        "m'": image.T,
    }
    scores = {name: _correlation(copy, image) for name, copy in copies.items()}
    return {name: score for name, score in scores.items() if score >= threshold}


def load_spglib() -> Any:
    """The module, imported when it is needed.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return import_module("spglib")
    except ImportError as error:
        raise MissingDependency(
            "space groups need spglib, which is not installed", hint="pip install 'edge-toolkit[geometry]'"
        ) from error


def _turned(image: Tensor, degrees: float) -> Tensor:
    n = image.shape[0]
    angle = torch.deg2rad(torch.tensor(degrees, dtype=image.dtype))
    c, s = float(angle.cos()), float(angle.sin())
    turn = torch.tensor([[[c, -s, 0], [s, c, 0]]], dtype=image.dtype)
    grid = torch.nn.functional.affine_grid(turn, [1, 1, n, n], align_corners=False)
    return torch.nn.functional.grid_sample(image[None, None], grid, mode="bicubic", align_corners=False)[0, 0]


def _correlation(copy: Tensor, image: Tensor) -> float:
    """The largest normalised correlation of a disc in the middle of `copy` with the shifted `image`."""
    n = image.shape[0]
    axis = torch.arange(n, dtype=image.dtype) - (n - 1) / 2
    disc = (axis.square().unsqueeze(1) + axis.square() < (n / 4) ** 2).to(image.dtype)
    count = disc.sum()

    def against(kernel: Tensor, values: Tensor) -> Tensor:
        sums: Tensor = torch.fft.ifft2(torch.fft.fft2(values) * torch.fft.fft2(kernel).conj()).real
        return sums

    inside = (copy - (copy * disc).sum() / count) * disc  # of mean 0, so the mean of the image drops out
    spread = against(disc, image.square()) - against(disc, image).square() / count
    floor = 1e-9 * float(image.square().sum())
    return float((against(inside, image) / (spread.clamp(min=floor).sqrt() * inside.norm().clamp(min=floor))).max())
