"""Steering a pattern: linear quadratic regulation, and adjoint gradients under constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_positive_definite, require_square

__all__ = ["Control", "ControlConstraints", "pattern_control", "riccati_gain"]


@dataclass(frozen=True)
class ControlConstraints:
    """What a control may do.

    Args:
        box: Lowest and highest value, with 0 between them.
        budget: The largest 2-norm over all steps.
        mask: bool, of the shape of the state: where the control acts.
    """

    box: tuple[float, float] | None = None
    budget: float | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.box is not None and not self.box[0] <= 0 <= self.box[1]:
            raise GeometryError(f"a control between {self.box[0]} and {self.box[1]}", hint="it must be allowed to rest")
        if self.budget is not None and not self.budget >= 0:
            raise GeometryError(f"a control budget of {self.budget}", hint="budgets are >= 0")

    def project(self, control: Tensor) -> Tensor:
        """A control [T, *S] that keeps all of them: masked, cut to the box, then shortened, which stays in the box."""
        if self.mask is not None:
            control = torch.where(self.mask, control, 0.0)
        if self.box is not None:
            control = control.clamp(*self.box)
        if self.budget is not None and float(control.norm()) > self.budget:
            control = control * (self.budget / control.norm())
        return control


@dataclass(frozen=True)
class Control:
    """A control and what it reaches.

    Args:
        control: [T, *S].
        reached: [*S], the state after T steps.
        costs: [I + 1], the cost at the start and after each iteration; never rises.
    """

    control: Tensor
    reached: Tensor
    costs: Tensor


def pattern_control(
    current: Tensor,
    target: Tensor,
    dynamics: Callable[[Tensor, Tensor], Tensor],
    constraints: ControlConstraints | None = None,
    *,
    steps: int = 10,
    iterations: int = 50,
    effort: float = 1e-3,
) -> Control:
    """Push `current` towards `target` in `steps` steps, by projected gradients with a line search.

    The cost is |reached - target|^2 + effort |control|^2; its gradient goes backwards through the steps, which is the
    adjoint method. Only steps that lower the cost are taken.

    Args:
        current: [*S].
        target: [*S].
        dynamics: (state, control) -> next state, all [*S]; differentiable.
        constraints: None for none.
        steps: T >= 1.
        iterations: At most.
        effort: >= 0, what a unit of control costs.

    Raises:
        GeometryError: shapes that differ, numbers out of range, or a state that stops being finite.

    Source: Bertsekas 1976 (projected gradients); Troeltzsch 2010, Optimal Control of Partial Differential Equations.
    """
    if current.shape != target.shape or steps < 1 or iterations < 1 or not effort >= 0:
        raise GeometryError(
            f"from {tuple(current.shape)} to {tuple(target.shape)} in {steps} steps, {iterations} iterations, "
            f"effort {effort}",
            hint="states of one shape, at least one step and iteration, effort >= 0",
        )
    allowed = constraints or ControlConstraints()

    def cost(control: Tensor) -> tuple[Tensor, Tensor]:
        state = current
        for push in control:
            state = dynamics(state, push)
        value = (state - target).square().sum() + effort * control.square().sum()
        return require_finite(value, "the cost of the control"), state

    control, rate = allowed.project(current.new_zeros(steps, *current.shape)), 1.0
    value, reached = cost(control)
    costs = [value.detach()]
    for _ in range(iterations):
        leaf = control.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cost(leaf)[0], leaf)
        for _ in range(40):
            proposed = allowed.project(control - rate * gradient)
            lower, state = cost(proposed)
            moved = (proposed - control).square().sum()
            if float(lower) <= float(costs[-1]) - 1e-4 * float(moved) / rate:
                break
            rate /= 2
        else:  # forty halvings found nothing lower: rounding is reached
            break
        if float(moved) == 0:
            break
        control, reached, rate = proposed.detach(), state.detach(), 2 * rate
        costs.append(lower.detach())
    return Control(control, reached.detach(), torch.stack(costs))


def riccati_gain(a: Tensor, b: Tensor, q: Tensor, r: Tensor, *, horizon: float | None = None) -> tuple[Tensor, Tensor]:
    """The best linear feedback u = -K x for dx/dt = a x + b u and the cost of x^T q x + u^T r u over time.

    Args:
        a: [n, n].
        b: [n, m].
        q: [n, n], positive semidefinite.
        r: [m, m], positive definite.
        horizon: How long the cost is counted, without a cost at its end; for ever if not given.

    Returns:
        (P [n, n], K [m, n]): the cost from x is x^T P x, and K is the gain at the beginning.

    Raises:
        GeometryError: matrices that are not what they should be, or no stabilising feedback.

    Source: Kalman 1960; Anderson and Moore 1990, Optimal Control.
    """
    for matrix, name in ((a, "a"), (q, "q")):
        require_square(matrix, name)
    require_finite(b, "b")
    require_positive_definite(r, "the cost r of control")
    n = len(a)
    if tuple(q.shape) != (n, n) or tuple(b.shape) != (n, len(r)) or float((q - q.T).abs().max()) > 1e-12:
        raise GeometryError(
            f"a {tuple(a.shape)}, b {tuple(b.shape)}, q {tuple(q.shape)}, r {tuple(r.shape)}",
            hint="a [n, n], b [n, m], symmetric q [n, n] and r [m, m]",
        )
    p = _for_ever(a, b, q, r) if horizon is None else _until(a, b, q, r, horizon)
    return p, torch.linalg.solve(r, b.T @ p)


def _for_ever(a: Tensor, b: Tensor, q: Tensor, r: Tensor) -> Tensor:
    import numpy as np
    from scipy.linalg import solve_continuous_are

    try:
        return torch.from_numpy(np.asarray(solve_continuous_are(a.numpy(), b.numpy(), q.numpy(), r.numpy())))
    except np.linalg.LinAlgError as error:
        raise GeometryError(f"no stabilising feedback: {error}", hint="is every growing mode reached by b?") from error


def _until(a: Tensor, b: Tensor, q: Tensor, r: Tensor, horizon: float) -> Tensor:
    """P by pieces of exp of the Hamiltonian matrix, each short enough not to overflow."""
    if not horizon > 0:
        raise GeometryError(f"a horizon of {horizon}", hint="horizons are > 0")
    hamiltonian = torch.cat([torch.cat([a, -b @ torch.linalg.solve(r, b.T)], 1), torch.cat([-q, -a.T], 1)])
    pieces = max(1, int(horizon * float(torch.linalg.matrix_norm(hamiltonian, 2))) + 1)
    step = torch.linalg.matrix_exp(-hamiltonian * (horizon / pieces))
    n = len(a)
    p = torch.zeros_like(a)
    for _ in range(pieces):
        x, y = (step @ torch.cat([torch.eye(n, dtype=a.dtype), p])).split(n)
        p = torch.linalg.solve(x.T, y.T).T
        p = (p + p.T) / 2
    return require_finite(p, "the solution of Riccati's equation")
