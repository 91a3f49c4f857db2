"""Störmer–Verlet with momentum as an optimizer of torch: the loss is a potential in which the weights roll."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, isfinite
from typing import Any

import torch
from torch import Tensor

from targets.errors import InvalidInput

__all__ = ["Symplectic"]


class Symplectic(torch.optim.Optimizer):
    """Weights q with momenta p under H(q, p) = |p|² / (2 mass) + loss(q), and friction; one gradient a step.

    With h = `lr`, g = ∇loss and γ = `friction` a step goes from (q, p) at the time of the gradient to the next:

        p ← exp(−γ h / 2) p − (h / 2) g(q),   q ← q + h p / mass,   p ← exp(−γ h / 2) (p − (h / 2) g(q))

    where the last of these waits for the gradient of the next call. Without friction it is the leapfrog: symplectic,
    reversible, and of order 2, so the energy of an oscillator of frequency ω stays within a band as wide as h², for as
    long as h ω < 2; nothing converges then. With friction it is heavy ball with the momentum μ = exp(−γ h) and
    the rate h² (1 + μ) / (2 mass), up to the first step.

    Off in every recipe: undecided. At equal accuracy on digits AdamW's cost over its own is 0.98 (95 % interval 0.78
    to 1.3, 10 seeds, `toolkit.bench.training_cost` symplectic), over heavy ball's 1.1 (0.95 to 1.35); it is here for
    its bounded energy.

    Args:
        params: As every optimizer of torch takes them.
        lr: The step h > 0.
        friction: γ >= 0, in units of one over the time of which `lr` is a piece.
        mass: > 0.

    Raises:
        InvalidInput: `lr`, `friction` or `mass` is out of range, or a gradient is NaN, infinite or sparse.

    Source: Verlet 1967, Phys. Rev. 159, 98; Hairer, Lubich and Wanner 2003, Acta Numerica 12, 399-450; with friction
    (conformally symplectic) França, Sulam, Robinson and Vidal 2020, arXiv:1903.04100.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, friction: float = 0.0, mass: float = 1.0) -> None:
        _refuse(lr, friction, mass)
        super().__init__(params, {"lr": lr, "friction": friction, "mass": mass})
        for group in self.param_groups:
            _refuse(group["lr"], group["friction"], group["mass"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every weight that has a gradient; what `closure` returns, where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(group, q, q.grad) for group in self.param_groups for q in group["params"] if q.grad is not None]
        for _, _, gradient in moved:
            _refuse_gradient(gradient)
        for group, q, gradient in moved:
            self._move(group, q, gradient)
        return loss

    def _move(self, group: dict[str, Any], q: Tensor, gradient: Tensor) -> None:
        h, mass = group["lr"], group["mass"]
        state = self.state[q]
        if not state:
            state["momentum"] = torch.zeros_like(q)  # at the time of the gradient
            state["half"] = torch.zeros_like(q)  # half a step later
        else:
            begun = state["step"]  # ends as long as it began, whatever a schedule has made of the rate since
            decay = exp(-group["friction"] * begun / 2)
            state["momentum"].copy_(state["half"]).sub_(gradient, alpha=begun / 2).mul_(decay)
        state["step"] = h
        state["half"].copy_(state["momentum"]).mul_(exp(-group["friction"] * h / 2)).sub_(gradient, alpha=h / 2)
        q.add_(state["half"], alpha=h / mass)

    def kinetic_energy(self) -> float:
        """Σ |p|² / (2 mass) where the last gradient was taken: beside the loss of then, it is the energy of then."""
        total = 0.0
        for group in self.param_groups:
            moving = [self.state[q]["momentum"] for q in group["params"] if q in self.state]
            total += sum(float(p.double().square().sum()) for p in moving) / (2 * group["mass"])
        return total


def _refuse(lr: float, friction: float, mass: float) -> None:
    if not (isfinite(lr) and lr > 0):
        raise InvalidInput(f"a step of {lr} leads nowhere", hint="give lr a number above 0")
    if not (isfinite(friction) and friction >= 0):
        raise InvalidInput(f"friction {friction} would push", hint="give friction a number from 0")
    if not (isfinite(mass) and mass > 0):
        raise InvalidInput(f"nothing has the mass {mass}", hint="give mass a number above 0")


def _refuse_gradient(gradient: Tensor) -> None:
    if gradient.is_sparse:
        raise InvalidInput("a gradient is sparse", hint="make it dense: a momentum moves every weight")
    if not bool(torch.isfinite(gradient).all()):
        raise InvalidInput("a gradient is not finite", hint="lower lr; check that the data hold no NaN")
