"""One particle in a potential: its action, its propagator and its thermal averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.quantum.path_integral import quadratic, transfer
from toolkit.geometry.core.quantum.path_integral.effective import one_loop_correction
from toolkit.geometry.core.quantum.path_integral.split_operator import split_operator
from toolkit.geometry.core.quantum.path_integral.transfer import Box, Insertion
from toolkit.geometry.types import Field, GridField, Path

__all__ = ["PathIntegral"]

_BOX = Box(-8.0, 8.0, 512)


@dataclass(frozen=True)
class PathIntegral:
    """A particle of `mass` in `potential`.

    Closed forms are used whenever the potential is quadratic, for which they are exact; whether it is, its second
    derivatives at eight fixed points say. Other potentials go through a grid in one dimension. Nothing samples an
    oscillating integrand.

    Args:
        mass: > 0.
        potential: [n] -> [], differentiable and mapped by torch.vmap.
        dimension: n, the number of coordinates.
        hbar: The unit of action, > 0.
        box: Where the grid of a potential that is not quadratic lies; one dimension only.

    Raises:
        GeometryError: mass or hbar is not positive, or there is no coordinate.

    Source: Feynman and Hibbs 1965; Kleinert 2009, Path Integrals, chapter 2; Schulman 1981.
    """

    mass: float
    potential: Field
    dimension: int = 1
    hbar: float = 1.0
    box: Box = _BOX

    def __post_init__(self) -> None:
        if not (self.mass > 0 and self.hbar > 0 and self.dimension >= 1):
            raise GeometryError(
                f"a particle with mass {self.mass}, hbar {self.hbar}, dimension {self.dimension}",
                hint="mass and hbar are > 0, the dimension is >= 1",
            )

    @cached_property
    def modes(self) -> quadratic.Modes | None:
        """The normal modes of a quadratic potential; None for any other."""
        return quadratic.modes(self.potential, self.dimension, self.mass, self.hbar)

    def action_functional(self, path: Path, *, euclidean: bool = False) -> Tensor:
        """The action of `path` [*B, K, n] -> [*B], by the trapezoid rule; differentiable in the points.

        The sum over steps of m |dx|^2 / (2 dt) - dt (V_i + V_i+1) / 2, with + in imaginary time. The error is of
        second order in dt.

        Raises:
            GeometryError: fewer than two points, another dimension, or values that are not finite.
        """
        points = require_finite(path.points, "the path")
        if points.shape[-2] < 2 or points.shape[-1] != self.dimension:
            raise GeometryError(
                f"a path of shape {tuple(points.shape)} in dimension {self.dimension}",
                hint=f"give at least two points, [*B, K, {self.dimension}]",
            )
        dt = path.times.diff()
        kinetic = self.mass / 2 * (points.diff(dim=-2).square().sum(-1) / dt).sum(-1)
        heights = self._heights(points)
        potential = (dt * (heights[..., 1:] + heights[..., :-1]) / 2).sum(-1)
        return require_finite(kinetic + potential if euclidean else kinetic - potential, "the action")

    def propagator(
        self, a: Tensor, b: Tensor, time: float, *, euclidean: bool = False, slices: int | None = None
    ) -> Tensor:
        """<b| exp(-i H T / hbar) |a> with its Maslov phase, or <b| exp(-H T / hbar) |a> in imaginary time.

        Args:
            a: [*B, n], where the particle starts.
            b: [*B, n], where it ends.
            time: T > 0.
            euclidean: Imaginary time.
            slices: Steps of a potential that is not quadratic; the error falls with their square. 64 if not given.

        Returns:
            Complex [*B]; real in imaginary time.

        Raises:
            GeometryError: T <= 0, a caustic (omega T = n pi: the kernel is no function there), or real time in a
                potential that is not quadratic, for which `evolve` moves wave functions.

        Source: Mehler 1866; van Vleck 1928; Maslov phase: Horvathy 1979.
        """
        if not 0 < time < inf:
            raise GeometryError(f"a propagator over the time {time}", hint="times are finite and > 0")
        if self.modes is not None and slices is None:
            return (quadratic.euclidean_kernel if euclidean else quadratic.kernel)(self.modes, a, b, time)
        if not euclidean:
            raise GeometryError(
                "no closed form of the real-time propagator in this potential",
                hint="move a wave function with `evolve`, or ask for euclidean=True",
            )
        self._one_dimensional()
        return transfer.kernel(self._heights, self.mass, self.hbar, self.box, a, b, time, slices or 64)

    def evolve(self, wave: GridField, time: float, steps: int) -> GridField:
        """A wave function after `time`, by the split-operator method of second order on its periodic grid.

        Args:
            wave: Complex [*S] with `dimension` axes, all periodic; coordinates run from minus half the length.
            time: Any sign.
            steps: >= 1; the error falls with their square, and the norm is kept to rounding.

        Raises:
            GeometryError: the grid is not periodic, not complex, or of another dimension.

        Source: Feit, Fleck and Steiger 1982, J. Comput. Phys. 47, 412.
        """
        return split_operator(wave, self._heights, self.mass, self.hbar, time, steps, self.dimension)

    def partition_function(self, temperature: float, *, slices: int | None = None) -> Tensor:
        """Z = tr exp(-H / T), [] : the closed form of a quadratic potential, else the trace of a transfer matrix.

        Args:
            temperature: T > 0 in units of energy (k_B = 1).
            slices: Take this many steps of the transfer matrix, for a quadratic potential too; the error falls with
                their square. 64 for a potential that is not quadratic.

        Raises:
            GeometryError: T <= 0, or the particle is not bound, so that Z diverges.
        """
        beta = _inverse(temperature)
        if self.modes is not None and slices is None:
            return quadratic.partition_function(self.modes, beta)
        return self._transfer(beta, slices).partition_function()

    def correlation_function(self, insertions: Sequence[Insertion], temperature: float, *, slices: int = 64) -> Tensor:
        """The thermal average of the time-ordered product of functions of x at imaginary times, [].

        Args:
            insertions: Pairs (operator, tau): operator maps coordinates [N] to values [N], tau lies in [0, hbar / T].
            temperature: T > 0 in units of energy.
            slices: Steps over the whole period; the error falls with their square.

        Raises:
            GeometryError: T <= 0, a tau outside the period, or a particle that is not bound in the box.
        """
        return self._transfer(_inverse(temperature), slices).average(insertions)

    def effective_action(self, path: Path, *, loops: int = 1) -> Tensor:
        """The Euclidean action of one path [K, n] with fixed ends, and the fluctuations around it, [].

        One loop adds hbar / 2 times the logarithm of det S'' over that of a free particle, S'' being the second
        derivative of the discretised action in the inner points: as the steps shrink this is the Gelfand-Yaglom
        ratio. It is the effective action where the path is a minimum of the action.

        Raises:
            GeometryError: loops is neither 0 nor 1, or the path is no minimum: S'' is not positive.
        """
        if path.points.ndim != 2 or loops not in (0, 1):
            raise GeometryError(
                f"{loops} loops around a path of shape {tuple(path.points.shape)}",
                hint="give one path [K, n] and loops 0 or 1; functions of one point have two loops",
            )
        tree = self.action_functional(path, euclidean=True)
        if loops == 0 or len(path.points) < 3:
            return tree
        inner = path.points[1:-1]

        def action(points: Tensor, potential: Field) -> Tensor:
            whole = torch.cat([path.points[:1], points.reshape(inner.shape), path.points[-1:]])
            kinetic = self.mass / 2 * (whole.diff(dim=0).square().sum(-1) / path.times.diff()).sum()
            heights = torch.vmap(potential)(whole)
            return kinetic + (path.times.diff() * (heights[1:] + heights[:-1]) / 2).sum()

        free = one_loop_correction(lambda p: action(p, lambda x: 0 * x.sum()), inner.flatten(), self.hbar)
        return tree + one_loop_correction(lambda p: action(p, self.potential), inner.flatten(), self.hbar) - free

    def _heights(self, points: Tensor) -> Tensor:
        flat = torch.vmap(self.potential)(points.reshape(-1, points.shape[-1]))
        return require_finite(flat.reshape(points.shape[:-1]), "the potential")

    def _transfer(self, beta: float, slices: int | None) -> transfer.TransferMatrix:
        self._one_dimensional()
        return transfer.TransferMatrix.build(self._heights, self.mass, self.hbar, self.box, beta, slices or 64)

    def _one_dimensional(self) -> None:
        if self.dimension != 1:
            raise GeometryError(
                f"a grid in dimension {self.dimension}", hint="potentials that are not quadratic take one dimension"
            )


def _inverse(temperature: float) -> float:
    if not temperature > 0:
        raise GeometryError(f"the temperature {temperature}", hint="temperatures are > 0, in units of energy")
    return 1 / temperature
