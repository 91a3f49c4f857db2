"""Equilibrium propagation: gradients from two states of rest of an energy-based network, by a local rule.

Layouts: B sample, I and O units of two layers that are next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt

import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.rng import torch_generator

__all__ = ["EnergyNetwork", "EquilibriumPropagation", "States"]

States = tuple[Tensor, ...]
"""Of every layer behind the input: (B, units) in [0, 1]; the last are the outputs."""


class EnergyNetwork(nn.Module):
    """A layered continuous Hopfield network; its answer is the state in which its energy is least.

        E(s) = Σ_l |s_l|² / 2 − Σ_l s_(l−1)ᵀ W_l s_l − Σ_l b_lᵀ s_l,    s_0 = x,  0 <= s_l <= 1

    The published energy has ρ(s) for s in the products, ρ the clamp to [0, 1]: the same, as states stay in there.

    Args:
        sizes: Units of the input, of each hidden layer and of the output; two at least.
        seed: Of the weights, uniform in ±sqrt(6 / (fan in + fan out)) / 2; biases are 0.
        iterations: Of the free phase at most.
        rate: ε of a step s ← clamp(s − ε ∂F/∂s), in (0, 1].
        tolerance: States have come to rest where none moves by more in a step; with 0 all iterations are taken, and the
            network can be exported.

    Raises:
        InvalidInput: a size, `iterations`, `rate` or `tolerance` is out of range.

    Source: Scellier and Bengio 2017, Front. Comput. Neurosci. 11, 24; Hopfield 1984, PNAS 81, 3088.
    """

    def __init__(
        self, sizes: Sequence[int], *, seed: int = 0, iterations: int = 60, rate: float = 0.5, tolerance: float = 1e-4
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InvalidInput(f"sizes {list(sizes)} make no network", hint="give an input and an output, 1 unit each")
        if iterations < 1 or not 0 < rate <= 1 or not tolerance >= 0:
            raise InvalidInput(
                f"states cannot settle in {iterations} iterations with rate {rate} and tolerance {tolerance}",
                hint="iterations from 1, rate above 0 up to 1, tolerance from 0",
            )
        self.sizes, self.iterations, self.rate, self.tolerance = tuple(sizes), iterations, rate, tolerance
        rng = torch_generator(seed, "equilibrium propagation", "weights")
        self.weights = nn.ParameterList(
            nn.Parameter((torch.rand(i, o, generator=rng) - 0.5) * sqrt(6 / (i + o))) for i, o in pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(o)) for o in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """The outputs at rest, (B, outputs) in [0, 1], of inputs (B, inputs). Autograd goes through all iterations."""
        return self.settle(x)[-1]

    def energy(self, x: Tensor, states: States) -> Tensor:
        """(B,): E of each sample."""
        total = x.new_zeros(len(x))
        for before, s, w, b in zip((x, *states), states, self.weights, self.biases, strict=False):
            total = total + s.square().sum(1) / 2 - ((before @ w) * s).sum(1) - s @ b
        return total

    def settle(
        self,
        x: Tensor,
        states: States | None = None,
        *,
        target: Tensor | None = None,
        beta: float = 0.0,
        iterations: int | None = None,
    ) -> States:
        """Let states roll down F = E + β |s_L − target|² / 2 until they rest or `iterations` have passed.

        Args:
            x: (B, inputs).
            states: Where they begin; in the middle of nothing, at 0, where they are not given.
            target: (B, outputs); needed where `beta` is not 0.
            beta: How hard outputs are pulled towards the target; negative pushes them away.
            iterations: The network's own number where it is not given.

        Raises:
            InvalidInput: x or target is empty, NaN, or of another shape.
        """
        self._refuse(x, target)
        if beta and target is None:
            raise InvalidInput("outputs are nudged towards nothing", hint="give the target")
        s = list(states) if states is not None else [x.new_zeros(len(x), units) for units in self.sizes[1:]]
        driven = x @ self.weights[0] + self.biases[0]  # the input does not move
        for _ in range(self.iterations if iterations is None else iterations):
            new = self._step(s, driven, target, beta)
            rests = bool(self.tolerance) and self._rests(s, new)
            s = new
            if rests:
                break
        return tuple(s)

    def _rests(self, s: list[Tensor], new: list[Tensor]) -> bool:
        return all(bool(((a - b).abs() <= self.tolerance).all()) for a, b in zip(s, new, strict=True))

    def _step(self, s: list[Tensor], driven: Tensor, target: Tensor | None, beta: float) -> list[Tensor]:
        """All layers at once: −∂F/∂s is what flows in from both neighbours, less s."""
        new = []
        for layer, state in enumerate(s):
            force = driven if layer == 0 else s[layer - 1] @ self.weights[layer] + self.biases[layer]
            if layer + 1 < len(s):
                force = force + s[layer + 1] @ self.weights[layer + 1].t()
            elif target is not None and beta:
                force = force + beta * (target - state)
            new.append((state + self.rate * (force - state)).clamp(0, 1))
        return new

    def _refuse(self, x: Tensor, target: Tensor | None) -> None:
        for what, values, units in (("inputs", x, self.sizes[0]), ("targets", target, self.sizes[-1])):
            if values is None:
                continue
            if values.ndim != 2 or values.shape[1] != units:
                raise InvalidInput(
                    f"{what} are {tuple(values.shape)}, the network has {units} units there",
                    hint=f"give (samples, {units})",
                )
            if not len(values):
                raise InvalidInput(f"there are no {what}", hint="give one sample at least")
            if not torch.compiler.is_compiling() and not bool(torch.isfinite(values).all()):
                raise InvalidInput(f"{what} hold NaN or infinity", hint="clean the data")
        if target is not None and len(target) != len(x):
            raise InvalidInput(f"{len(x)} inputs have {len(target)} targets", hint="give each input a target")


@dataclass(frozen=True, kw_only=True)
class EquilibriumPropagation:
    """Gradients of the mean of |s_L − target|² / 2 over a batch, without backpropagation.

    A free phase comes to rest in s⁰; from there a nudged phase (β > 0 or < 0) comes to rest in s^β. Then

        dC/dW_l ≈ −(s_(l−1)^β ⊗ s_l^β − s_(l−1)⁰ ⊗ s_l⁰) / β,    dC/db_l ≈ −(s_l^β − s_l⁰) / β

    which tends to the gradient as β → 0, off by O(β); the symmetric form takes s^(−β) for s⁰ and 2 β for β and is off
    by O(β²). Every weight learns from the two units that it joins.

    Off in every recipe: it hurts. At equal accuracy on digits it takes 20 times the processor time of backpropagation
    (95 % interval 17 to 30, 10 seeds, `toolkit.bench.training_cost` equilibrium_propagation) for as many samples; it is
    for hardware that settles by itself.

    Args:
        beta: Of the nudged phase; not 0.
        iterations: Of the nudged phase at most.
        symmetric: Take a phase with −β as well.

    Raises:
        InvalidInput: β is 0 or not a number, or there is no iteration.

    Source: Scellier and Bengio 2017, Front. Comput. Neurosci. 11, 24; the symmetric form Laborieux et al. 2021,
    Front. Neurosci. 15, 633674.
    """

    beta: float = 0.5
    iterations: int = 20
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not isfinite(self.beta) or self.beta == 0:
            raise InvalidInput(
                f"beta {self.beta} nudges nothing", hint="give a small number that is not 0, such as 0.5"
            )
        if self.iterations < 1:
            raise InvalidInput(f"{self.iterations} iterations move nothing", hint="give 1 at least")

    @torch.no_grad()
    def gradients(self, network: EnergyNetwork, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Write `.grad` of every weight and bias of `network`.

        Args:
            x: (B, inputs).
            target: (B, outputs) in [0, 1].

        Returns:
            (the outputs of the free phase (B, outputs), the cost of each sample (B,)).

        Raises:
            InvalidInput: as `EnergyNetwork.settle`.
        """
        free = network.settle(x, target=target)
        pulled = self._nudged(network, x, free, target, self.beta)
        other, between = (free, self.beta)
        if self.symmetric:
            other, between = self._nudged(network, x, free, target, -self.beta), 2 * self.beta
        scale = 1 / (between * len(x))
        for layer, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
            w.grad = scale * (_products(x, other, layer) - _products(x, pulled, layer))
            b.grad = scale * (other[layer] - pulled[layer]).sum(0)
        return free[-1], (free[-1] - target).square().sum(1) / 2

    def _nudged(self, network: EnergyNetwork, x: Tensor, free: States, target: Tensor, beta: float) -> States:
        return network.settle(x, free, target=target, beta=beta, iterations=self.iterations)


def _products(x: Tensor, states: States, layer: int) -> Tensor:
    """(I, O): Σ_B s_(l−1) ⊗ s_l."""
    before = x if layer == 0 else states[layer - 1]
    return before.t() @ states[layer]
