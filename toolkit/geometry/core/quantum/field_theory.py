"""A scalar field on a periodic lattice: action, free propagator, hybrid Monte Carlo, one-loop potential."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, pi, prod

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.neural.flow.hamiltonian import Mechanical, leapfrog

__all__ = ["HybridSamples", "LatticeScalarField"]


@dataclass(frozen=True)
class HybridSamples:
    """What hybrid Monte Carlo drew.

    Args:
        fields: [N, chains, *shape], after each trajectory.
        energy_errors: [N, chains], H after minus H before each; exp(-error) has the mean 1 at equilibrium.
        acceptance: The fraction of trajectories that were accepted.
    """

    fields: Tensor
    energy_errors: Tensor
    acceptance: float


@dataclass(frozen=True)
class LatticeScalarField:
    """Real phi on a periodic lattice of spacing 1 with S = sum phi (k^2 + mass^2) phi / 2 + coupling phi^4 / 24.

    k^2 is the lattice Laplacian, in Fourier space the sum of (2 sin(k / 2))^2 over the axes.

    Args:
        shape: Sites along each axis.
        mass: In units of one over the spacing.
        coupling: lambda >= 0.

    Raises:
        GeometryError: no axis, an axis without sites, or a potential without a bottom.

    Source: Montvay and Muenster 1994, Quantum Fields on a Lattice; HMC: Duane et al. 1987, Phys. Lett. B 195, 216.
    """

    shape: tuple[int, ...]
    mass: float
    coupling: float = 0.0

    def __post_init__(self) -> None:
        if not self.shape or any(n < 1 for n in self.shape):
            raise GeometryError(f"a lattice of shape {self.shape}", hint="give at least one axis, each with sites")
        if not (0 <= self.coupling < inf and isfinite(self.mass)):
            raise GeometryError(
                f"mass {self.mass} and coupling {self.coupling}", hint="both are finite, the coupling >= 0"
            )

    def action(self, phi: Tensor) -> Tensor:
        """S of `phi` [*B, *shape] -> [*B]; differentiable."""
        axes = self._axes(phi)
        kinetic = torch.stack([(phi.roll(-1, axis) - phi).square() for axis in axes]).sum(0) / 2
        density = kinetic + self.mass**2 / 2 * phi.square() + self.coupling / 24 * phi.pow(4)
        return density.sum(axes)

    def force(self, phi: Tensor) -> Tensor:
        """-dS/dphi, of the shape of `phi` [*B, *shape]."""
        axes = self._axes(phi)
        laplacian = torch.stack([phi.roll(1, axis) + phi.roll(-1, axis) - 2 * phi for axis in axes]).sum(0)
        return laplacian - self.mass**2 * phi - self.coupling / 6 * phi.pow(3)

    def squared_momenta(self) -> Tensor:
        """The sum of (2 sin(k / 2))^2 over the axes, [*shape] in the order of the FFT."""
        axes = [(2 * torch.sin(pi * torch.arange(n, dtype=torch.float64) / n)).square() for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)

    def free_propagator(self) -> Tensor:
        """<phi(x) phi(0)> without coupling, [*shape]: the first column of the inverse of the lattice operator.

        Raises:
            GeometryError: the mass is 0, so that the constant field costs nothing and the propagator diverges.
        """
        if self.mass == 0:
            raise GeometryError("the free propagator of mass 0", hint="the constant field diverges: give a mass")
        value: Tensor = torch.fft.ifftn(1 / (self.squared_momenta() + self.mass**2)).real
        return value

    def effective_potential(self, phi: Tensor) -> Tensor:
        """The one-loop potential per site at constant `phi` [*B] -> [*B]; differentiable.

        V + 1/2 mean_k ln(k^2 + V''), with V = mass^2 phi^2 / 2 + coupling phi^4 / 24.

        Raises:
            GeometryError: V'' <= 0 there, where the loop is complex.

        Source: Coleman and Weinberg 1973, Phys. Rev. D 7, 1888.
        """
        curvature = self.mass**2 + self.coupling / 2 * phi.square()
        lowest = float(curvature.detach().min())
        if not lowest > 0:
            raise GeometryError(f"V'' is {lowest:.3g}", hint="the one-loop potential needs V'' > 0: give a mass")
        modes = self.squared_momenta().flatten().to(phi.dtype)
        loop = (modes + curvature.unsqueeze(-1)).log().mean(-1) / 2
        return self.mass**2 / 2 * phi.square() + self.coupling / 24 * phi.pow(4) + loop

    def sample(
        self,
        generator: torch.Generator,
        *,
        count: int,
        chains: int = 1,
        step: float = 0.2,
        steps: int = 10,
        warm_up: int = 50,
    ) -> HybridSamples:
        """Fields distributed as exp(-S), by trajectories of leapfrog steps that are accepted or refused.

        Each trajectory draws its step between half of `step` and all of it: with one length for all, a mode whose
        half period that is would only change its sign, and a free field would never settle (Mackenzie 1989).

        Args:
            generator: Where the momenta come from.
            count: How many trajectories of each chain are kept.
            chains: Independent chains side by side; each starts at phi = 0.
            step: The largest leapfrog step; the energy error of a trajectory is of second order in it.
            steps: Of a trajectory.
            warm_up: Trajectories that are left out at the beginning.

        Raises:
            GeometryError: a number is not positive, or a trajectory diverges.
        """
        if count < 1 or chains < 1 or steps < 1 or not step > 0 or warm_up < 0:
            raise GeometryError(
                f"{chains} chains of {count} trajectories of {steps} steps of {step} after {warm_up}",
                hint="give positive numbers",
            )
        system = _Rolling(lambda phi: self.action(phi.reshape(self.shape)), lattice=self)
        phi = torch.zeros(chains, prod(self.shape), dtype=torch.float64)
        energy = torch.zeros(chains, dtype=torch.float64)
        fields, errors, accepted = [], [], 0
        for trajectory in range(warm_up + count):
            p = torch.randn(phi.shape, generator=generator, dtype=phi.dtype)
            dt = step * (0.5 + 0.5 * float(torch.rand((), generator=generator, dtype=phi.dtype)))
            proposed, moved = leapfrog(system, phi, p, dt=dt, steps=steps, keep_every=steps).states[-1].chunk(2, -1)
            reached = self.action(proposed.unflatten(-1, self.shape))  # type: ignore[no-untyped-call]
            error = reached - energy + (moved.square() - p.square()).sum(-1) / 2
            require_finite(error, "the energy error of a trajectory")
            draw = torch.rand(chains, generator=generator, dtype=phi.dtype)
            accept = draw < torch.exp(-error)
            phi, energy = torch.where(accept.unsqueeze(-1), proposed, phi), torch.where(accept, reached, energy)
            if trajectory >= warm_up:
                fields.append(phi.unflatten(-1, self.shape))  # type: ignore[no-untyped-call]
                errors.append(error)
                accepted += int(accept.sum())
        return HybridSamples(torch.stack(fields), torch.stack(errors), accepted / (count * chains))

    def _axes(self, phi: Tensor) -> tuple[int, ...]:
        if tuple(phi.shape[-len(self.shape) :]) != self.shape:
            raise GeometryError(
                f"a field of shape {tuple(phi.shape)} on a lattice of shape {self.shape}", hint="give [*B, *shape]"
            )
        return tuple(range(-len(self.shape), 0))


@dataclass(frozen=True)
class _Rolling(Mechanical):
    """The field as a point that rolls in its action: with the force in closed form, since every step asks for it."""

    lattice: LatticeScalarField | None = None

    def force(self, q: Tensor) -> Tensor:
        assert self.lattice is not None
        return self.lattice.force(q.unflatten(-1, self.lattice.shape)).reshape(q.shape)  # type: ignore[no-untyped-call]
