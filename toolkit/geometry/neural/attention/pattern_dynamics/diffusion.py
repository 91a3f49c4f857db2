"""Reaction and diffusion on a periodic grid, by differences or by Fourier modes."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Literal, get_args

import torch
from torch import Tensor

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.checking import require_finite
from toolkit.geometry.neural.attention.pattern_dynamics.reactions import Reaction
from toolkit.geometry.types import Trajectory

__all__ = ["Scheme", "diffuse", "largest_diffusivity", "reaction_diffusion"]

Scheme = Literal["explicit", "semi_implicit", "etdrk2"]


def reaction_diffusion(
    state: Tensor,
    diffusivity: Tensor,
    reaction: Reaction,
    dt: float,
    steps: int,
    scheme: Scheme = "etdrk2",
    *,
    spacing: float = 1.0,
    every: int | None = None,
) -> Trajectory:
    """d u / dt = div(D grad u) + R(u) on a torus; differentiable in the state.

    explicit        Euler with second differences; refuses a step beyond its limit of stability
    semi_implicit   diffusion by backward Euler in Fourier space, reaction by Euler; first order in dt
    etdrk2          diffusion exactly in Fourier space, reaction to second order in dt

    Args:
        state: [*B, C, H, W], real.
        diffusivity: D, positive semidefinite: [C]; [C, C] for cross diffusion; or [C, 2, 2] for a direction in space.
            [2, 2] with two species is cross diffusion.
        reaction: [*B, C, H, W] -> the same.
        dt: Step > 0.
        steps: How many, >= 1.
        scheme: One of the above.
        spacing: Between samples, the same along both axes.
        every: Keep each such state; only the first and the last if not given.

    Returns:
        Trajectory of [*B, C, H, W].

    Raises:
        GeometryError: shapes that do not fit, a D that concentrates, a step beyond the explicit limit
            dt <= h^2 / (4 D_max), or a state that stops being finite.
        UnknownName: there is no such scheme.

    Source: Cross and Hohenberg 1993; exponential time differencing: Cox and Matthews 2002, J. Comput. Phys. 176, 430.
    """
    if scheme not in get_args(Scheme):
        raise UnknownName("scheme", scheme, get_args(Scheme))
    if state.ndim < 3 or state.is_complex() or not dt > 0 or steps < 1 or not spacing > 0 or (every or 1) < 1:
        raise GeometryError(
            f"{steps} steps of {dt} from a state of {state.dtype} {tuple(state.shape)} with spacing {spacing}",
            hint="give a real [*B, C, H, W], with positive steps, dt, spacing and every",
        )
    require_finite(state, "the state")
    step = _stepper(state, diffusivity, reaction, dt, scheme, spacing)
    kept, at, now = [state], [0], state
    for k in range(1, steps + 1):
        now = step(now)
        if k == steps or (every is not None and k % every == 0):
            kept.append(require_finite(now, f"the state after step {k}"))
            at.append(k)
    times = dt * torch.tensor(at, dtype=state.dtype)
    return Trajectory(torch.stack(kept), times, {"scheme": scheme, "dt": dt, "spacing": spacing})


def largest_diffusivity(diffusivity: Tensor, species: int) -> float:
    """The largest eigenvalue of D; for complex pairs |D|^2 / Re D, which bounds explicit steps in the same way.

    Raises:
        GeometryError: D has another shape, or an eigenvalue with a negative real part.
    """
    wide = _as_matrices(diffusivity, species).detach()
    if _anisotropic(diffusivity, species):
        wide = (wide + wide.mT) / 2  # k.D.k is all that the equation sees of a direction in space
    values = torch.linalg.eigvals(wide)
    lowest = float(values.real.min())
    if lowest < -1e-12 * float(values.abs().max()):
        raise GeometryError(
            f"the diffusivity has the eigenvalue {lowest:.3g}", hint="negative diffusion concentrates without limit"
        )
    return float(torch.where(values == 0, 0.0, values.abs().square() / values.real.abs()).max())


def diffuse(state: Tensor, diffusivity: Tensor, spacing: float) -> Tensor:
    """div(D grad u) by central differences of second order, [*B, C, H, W]: k^2 becomes 4 sin^2(k h / 2) / h^2."""
    species = state.shape[-3]

    def second(axis: int) -> Tensor:
        return (state.roll(1, axis) + state.roll(-1, axis) - 2 * state) / spacing**2

    if _anisotropic(diffusivity, species):
        slope = (state.roll(-1, -2) - state.roll(1, -2)) / (2 * spacing)
        mixed = (slope.roll(-1, -1) - slope.roll(1, -1)) / (2 * spacing)
        d = diffusivity[..., None, None]
        return d[:, 0, 0] * second(-2) + d[:, 1, 1] * second(-1) + (d[:, 0, 1] + d[:, 1, 0]) * mixed
    laplacian = second(-1) + second(-2)
    if diffusivity.ndim == 1:
        return diffusivity[:, None, None] * laplacian
    return torch.einsum("ij,...jhw->...ihw", diffusivity, laplacian)


def _stepper(
    state: Tensor, diffusivity: Tensor, reaction: Reaction, dt: float, scheme: Scheme, spacing: float
) -> Callable[[Tensor], Tensor]:
    species, (height, width) = state.shape[-3], state.shape[-2:]
    largest = largest_diffusivity(diffusivity, species)
    if scheme == "explicit":
        if dt * 4 * largest > spacing**2 * (1 + 1e-12):
            raise GeometryError(
                f"a step of {dt:.6g} with D_max = {largest:.6g} and spacing {spacing:.6g} is unstable",
                hint=f"take dt <= {spacing**2 / (4 * largest):.6g}, or another scheme",
            )
        return lambda u: u + dt * (diffuse(u, diffusivity, spacing) + reaction(u))
    generator = dt * _decay(diffusivity.to(state.dtype), species, height, width, spacing)  # [H, W', C, C]

    def forward(u: Tensor) -> Tensor:
        value: Tensor = torch.fft.rfft2(u)
        return value

    def back(modes: Tensor) -> Tensor:
        values: Tensor = torch.fft.irfft2(modes, s=(height, width))
        return values

    def apply(matrix: Tensor, modes: Tensor) -> Tensor:
        return torch.einsum("hwij,...jhw->...ihw", matrix.to(modes.dtype), modes)

    identity = torch.eye(species, dtype=state.dtype)
    if scheme == "semi_implicit":
        inverse = torch.linalg.inv(identity - generator)
        return lambda u: back(apply(inverse, forward(u + dt * reaction(u))))
    exponential, phi1, phi2 = _phi(generator)

    def etdrk2(u: Tensor) -> Tensor:
        rate = forward(reaction(u))
        predicted = apply(exponential, forward(u)) + dt * apply(phi1, rate)
        return back(predicted + dt * apply(phi2, forward(reaction(back(predicted))) - rate))

    return etdrk2


def _phi(generator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(L), (exp(L) - 1) / L and (exp(L) - 1 - L) / L^2 of [*B, C, C], as blocks of one exponential: no division."""
    c = generator.shape[-1]
    wide = generator.new_zeros(*generator.shape[:-2], 3 * c, 3 * c)
    wide[..., :c, :c] = generator
    for block in range(2):
        wide[..., block * c : (block + 1) * c, (block + 1) * c : (block + 2) * c] = torch.eye(c, dtype=generator.dtype)
    whole = torch.linalg.matrix_exp(wide)
    return whole[..., :c, :c], whole[..., :c, c : 2 * c], whole[..., :c, 2 * c :]


def _decay(diffusivity: Tensor, species: int, height: int, width: int, spacing: float) -> Tensor:
    """-k.D.k for every Fourier mode of a real grid, [H, W // 2 + 1, C, C]."""
    ky = 2 * pi * torch.fft.fftfreq(height, spacing, dtype=diffusivity.dtype)
    kx = 2 * pi * torch.fft.rfftfreq(width, spacing, dtype=diffusivity.dtype)
    k = torch.stack(torch.meshgrid(ky, kx, indexing="ij"), dim=-1)
    if not _anisotropic(diffusivity, species):
        return -k.square().sum(-1)[..., None, None] * _as_matrices(diffusivity, species)
    squares = torch.einsum("hwa,ca,hwa->hwc", k, diffusivity.diagonal(dim1=1, dim2=2), k)
    mixed = k[..., :1] * k[..., 1:] * (diffusivity[:, 0, 1] + diffusivity[:, 1, 0])
    if height % 2 == 0:
        mixed[height // 2] = 0  # a Nyquist mode has no sign of k, so the mixed derivative of a real field misses it
    if width % 2 == 0:
        mixed[:, -1] = 0
    return torch.diag_embed(-(squares + mixed))


def _anisotropic(diffusivity: Tensor, species: int) -> bool:
    return diffusivity.ndim == 3 and tuple(diffusivity.shape) == (species, 2, 2)


def _as_matrices(diffusivity: Tensor, species: int) -> Tensor:
    """[C, C], or [C, 2, 2] as it is."""
    require_finite(diffusivity, "the diffusivity")
    if tuple(diffusivity.shape) == (species,):
        return torch.diag(diffusivity)
    if tuple(diffusivity.shape) != (species, species) and not _anisotropic(diffusivity, species):
        raise GeometryError(
            f"a diffusivity of shape {tuple(diffusivity.shape)} for {species} species",
            hint=f"give [{species}], [{species}, {species}] or [{species}, 2, 2]",
        )
    return diffusivity
