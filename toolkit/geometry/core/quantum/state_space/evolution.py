"""Unitary motion: by eigenvectors for many times, by midpoint exponentials where the Hamiltonian moves."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.quantum.state_space.checks import require_hermitian, require_state

__all__ = ["evolution_operator", "evolve_state"]


def evolve_state(
    state: Tensor,
    hamiltonian: Tensor | Callable[[Tensor], Tensor],
    time: Tensor,
    *,
    steps: int = 100,
    density: bool = False,
    hbar: float = 1.0,
) -> Tensor:
    """The state after `time` under `hamiltonian`: U|psi>, or U rho U† with `density`.

    Args:
        state: Ket [*B, d], or density matrix [*B, d, d] with `density`.
        hamiltonian: [*B, d, d] Hermitian; or H(t) -> [d, d], stepped by the midpoint Magnus rule of order 2.
        time: [] or, for a fixed Hamiltonian, [K]: eigenvectors are found once for all of them.
        steps: How many steps a moving Hamiltonian takes.
        density: Whether `state` is a density matrix.
        hbar: The unit of action.

    Returns:
        [*B, d] or [*B, d, d]; for K times [K, *B, d] or [K, *B, d, d].

    Raises:
        GeometryError: H is not Hermitian, the state is none, or several times with a moving Hamiltonian.

    Source: Magnus 1954; Nielsen and Chuang 2010, section 2.2.
    """
    require_state(state, density=density)
    unitary = evolution_operator(hamiltonian, time, steps=steps, hbar=hbar).to(state.dtype)
    if unitary.shape[-1] != state.shape[-1]:
        raise GeometryError(
            f"a Hamiltonian of dimension {unitary.shape[-1]} on a state of dimension {state.shape[-1]}",
            hint="both live in one space",
        )
    missing = state.ndim - (1 if density else 0) + time.ndim + 1 - unitary.ndim
    if missing > 0:  # one Hamiltonian for a batch of states
        unitary = unitary.reshape(*unitary.shape[: time.ndim], *(1,) * missing, *unitary.shape[time.ndim :])
    if density:
        return unitary @ state @ unitary.mH
    return (unitary @ state.unsqueeze(-1)).squeeze(-1)


def evolution_operator(
    hamiltonian: Tensor | Callable[[Tensor], Tensor], time: Tensor, *, steps: int = 100, hbar: float = 1.0
) -> Tensor:
    """U = exp(-i H time / hbar), or its time-ordered form for H(t) from 0 to `time`; arguments as of `evolve_state`.

    Differentiable in H and time: a Hamiltonian that asks for gradients goes through the matrix exponential, whose
    derivative exists at degenerate levels too; otherwise eigenvectors are found once.
    """
    require_finite(time, "time")
    if not 0 < hbar < inf:
        raise GeometryError(f"hbar = {hbar}", hint="the unit of action is finite and > 0")
    if callable(hamiltonian):
        return _magnus(hamiltonian, time, steps, hbar)
    require_hermitian(hamiltonian, "the Hamiltonian")
    wide = hamiltonian if hamiltonian.is_complex() else hamiltonian.to(hamiltonian.dtype.to_complex())
    times = time.reshape(*time.shape, *(1,) * wide.ndim)
    if wide.requires_grad:
        exponential: Tensor = torch.linalg.matrix_exp(-1j / hbar * times * wide)
        return exponential
    energies, vectors = torch.linalg.eigh(wide)
    phases = torch.exp(-1j / hbar * times.squeeze(-1) * energies)
    unitary: Tensor = (vectors * phases.unsqueeze(-2)) @ vectors.mH
    return unitary


def _magnus(hamiltonian: Callable[[Tensor], Tensor], time: Tensor, steps: int, hbar: float) -> Tensor:
    if time.ndim or steps < 1:
        raise GeometryError(
            f"a moving Hamiltonian with times of shape {tuple(time.shape)} and {steps} steps",
            hint="ask for one time [], with at least one step",
        )
    dt = time / steps
    unitary: Tensor | None = None
    for k in range(steps):
        step = evolution_operator(hamiltonian((k + 0.5) * dt), dt, hbar=hbar)
        unitary = step if unitary is None else step @ unitary
    assert unitary is not None
    return unitary
