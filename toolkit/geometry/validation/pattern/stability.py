"""Does a pattern last, does it keep its symmetry, does it look the same at another scale?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import ceil, log2

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.crystal.scale.invariants import Exponent, box_dimension, fit_exponent
from toolkit.geometry.types import CheckReport

__all__ = ["GROUPS", "Operation", "check_pattern_stability", "check_scale_invariance", "verify_symmetries"]

Operation = Callable[[Tensor], Tensor]
"""A symmetry that acts on a pattern [*B, n, n]."""

_P4 = {f"turn {90 * k}": (lambda p, k=k: p.rot90(k, (-2, -1))) for k in (1, 2, 3)}
_MIRRORS = {
    "mirror x": lambda p: p.flip(-1),
    "mirror y": lambda p: p.flip(-2),
    "mirror diagonal": lambda p: p.mT,
    "mirror antidiagonal": lambda p: p.mT.rot90(2, (-2, -1)),
}
GROUPS: Mapping[str, Mapping[str, Operation]] = {
    "p2": {"turn 180": _P4["turn 180"]},
    "pm": {"mirror x": _MIRRORS["mirror x"]},
    "cm": {"mirror diagonal": _MIRRORS["mirror diagonal"]},
    "p2mm": {"turn 180": _P4["turn 180"], **{m: _MIRRORS[m] for m in ("mirror x", "mirror y")}},
    "c2mm": {"turn 180": _P4["turn 180"], **{m: _MIRRORS[m] for m in ("mirror diagonal", "mirror antidiagonal")}},
    "p4": _P4,
    "p4mm": {**_P4, **_MIRRORS},
}
"""Point operations of plane groups about the centre of the samples; International Tables A, chapter 2.2."""

_STRAIGHT = 0.1  # standard error of a box dimension: counts of a blob bend, from its area to its outline
_SCATTER = 0.5  # of ln power: the first half octaves average eight modes, which scatter by 0.35

_NUMBERS = {2: "p2", 3: "pm", 5: "cm", 6: "p2mm", 9: "c2mm", 10: "p4", 11: "p4mm"}


def check_pattern_stability(
    pattern: Tensor,
    perturbation: Tensor,
    time: float,
    dynamics: Callable[[Tensor, float], Tensor],
    *,
    growth: float | None = None,
    samples: int = 8,
    tol: float = 0.0,
) -> CheckReport:
    """A small disturbance must not be larger after `time`, except for what `tol` allows.

    Args:
        pattern: [*S], at rest under `dynamics`.
        perturbation: [*S], small and not 0.
        time: > 0.
        dynamics: (state, time) -> the state that much later.
        growth: The rate that theory expects of the fastest disturbance, which is then compared with the fitted one.
        samples: How many times in between the rate is fitted to.
        tol: The rate that still counts as stable.

    Returns:
        The value is the rate fitted to the second half, in one over time; the limit is `tol`. `detail` holds the ratio
        of the norms at the end, and the difference from `growth`.

    Raises:
        GeometryError: shapes that differ, no perturbation, or numbers that are not finite.
    """
    size = float(require_finite(perturbation, "the perturbation").norm())
    if pattern.shape != perturbation.shape or size == 0 or not time > 0 or samples < 4:
        raise GeometryError(
            f"a disturbance {tuple(perturbation.shape)} of norm {size:.3g} for {time}, with {samples} samples",
            hint=f"give {tuple(pattern.shape)}, not 0, a time > 0 and four samples or more",
        )
    step = time / samples
    rest, moved = pattern, pattern + perturbation
    norms = [size]
    for _ in range(samples):
        rest, moved = dynamics(rest, step), dynamics(moved, step)
        norms.append(max(float(require_finite(moved - rest, "the disturbance").norm()), 1e-300))
    logs = torch.tensor(norms, dtype=torch.float64).log()[samples // 2 :]
    times = step * torch.arange(len(logs), dtype=torch.float64)
    centred = times - times.mean()
    rate = float(centred @ logs / (centred @ centred))
    detail: dict[str, float] = {"norm_ratio": norms[-1] / size, "time": time}
    if growth is not None:
        detail |= {"expected_rate": growth, "rate_difference": abs(rate - growth)}
    return CheckReport(rate <= tol, rate, tol, detail)


def verify_symmetries(pattern: Tensor, group: Mapping[str, Operation] | str | int, tol: float = 1e-9) -> CheckReport:
    """|g p - p| / |p| for every operation g of a group; the largest decides.

    Args:
        pattern: [*B, n, n], square for quarter turns.
        group: Operations by name; or the name or number of a plane group that keeps a square and its centre: p2 (2),
            pm (3), cm (5), p2mm (6), c2mm (9), p4 (10), p4mm (11). Others, with glides or three-fold turns, as
            operations.
        tol: The largest mismatch.

    Raises:
        GeometryError: an unknown group, a pattern of zeros, or an operation that changes its shape.
    """
    name = _NUMBERS.get(group) if isinstance(group, int) else group
    operations = GROUPS.get(name) if isinstance(name, str) else name
    if not operations:
        known = ", ".join(f"{text} ({number})" for number, text in _NUMBERS.items())
        raise GeometryError(f"the group {group!r}", hint=f"give operations by name, or one of {known}")
    size = float(require_finite(pattern, "the pattern").norm())
    if size == 0:
        raise GeometryError("a pattern of zeros has every symmetry", hint="give one that shows something")
    mismatches = {}
    for what, operation in operations.items():
        image = operation(pattern)
        if image.shape != pattern.shape:
            raise GeometryError(
                f"{what} turns {tuple(pattern.shape)} into {tuple(image.shape)}", hint="quarter turns need a square"
            )
        mismatches[what] = float((image - pattern).norm()) / size
    worst = max(mismatches.values())
    return CheckReport(worst <= tol, worst, tol, mismatches)


def check_scale_invariance(
    pattern: Tensor, transformation: Callable[[Tensor], Tensor] | int = 2, *, sigmas: float = 4.0
) -> CheckReport:
    """The exponent of a pattern and that of its coarser copy must agree within their errors.

    A bool grid is judged by its box dimension, a real field by the slope of its power spectrum over the lower octaves.
    Both must also be power laws: a dimension other than that of a point or of the grid, with a standard error up to
    0.1; a spectrum whose half octaves lie within half a unit of ln power of the line.

    Args:
        pattern: bool cube [n, ...], or real square [n, n].
        transformation: Coarsening: a function, or a factor for blocks (any of a block for bool, the mean otherwise).
        sigmas: How many standard errors the exponents may differ by; exact fits may differ by 1e-6.

    Raises:
        GeometryError: a pattern that has no exponent.

    Source: Mandelbrot 1982; Falconer 2003.
    """
    coarser = transformation(pattern) if callable(transformation) else _blocks(pattern, transformation)
    fit = _box if pattern.dtype == torch.bool else _spectral
    (fine, straight), (coarse, _) = fit(pattern), fit(coarser)
    error = (fine.error**2 + coarse.error**2) ** 0.5
    limit = sigmas * error + 1e-6
    difference = abs(fine.value - coarse.value)
    detail = {"exponent": fine.value, "coarse_exponent": coarse.value, "standard_error": error, "power_law": straight}
    return CheckReport(difference <= limit and straight, difference, limit, detail)


def _box(grid: Tensor) -> tuple[Exponent, bool]:
    found = box_dimension(grid)
    trivial = min(abs(found.value), abs(found.value - grid.ndim)) < 0.05  # a point or a filled cube
    return found, not trivial and found.error <= _STRAIGHT


def _spectral(field: Tensor) -> tuple[Exponent, bool]:
    """The slope of the power spectrum over half octaves, and whether they lie within _SCATTER of the line."""
    n = field.shape[-1]
    if field.ndim != 2 or field.shape[0] != n or n < 32:
        raise GeometryError(f"a field of shape {tuple(field.shape)}", hint="give a square of 32 samples or more a side")
    power = torch.fft.fft2(require_finite(field, "the field").double() - field.double().mean()).abs().square()
    k = n * torch.fft.fftfreq(n, dtype=torch.float64)
    radius = (k.square().unsqueeze(1) + k.square()).sqrt()
    edges = [2 ** (j / 2) for j in range(2, ceil(2 * log2(n / 4)) + 1)]  # half octaves, to half of Nyquist
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    means = [float(power[ring].mean()) for ring in rings]
    if min(means) <= 1e-20 * max(max(means), 1e-300):
        raise GeometryError(f"a ring of the spectrum has the power {min(means):.3g}", hint="the field has no power law")
    centres = [float(radius[ring].log().mean().exp()) for ring in rings]
    found = fit_exponent(centres, means)
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (centres, means))
    left = y - y.mean() - found.value * (x - x.mean())
    return found, float(left.square().mean().sqrt()) <= _SCATTER


def _blocks(pattern: Tensor, factor: int) -> Tensor:
    if factor < 2 or any(n % factor for n in pattern.shape):
        raise GeometryError(f"blocks of {factor} in {tuple(pattern.shape)}", hint="the factor must divide every side")
    for axis in range(pattern.ndim):
        wide = pattern.unflatten(axis, (-1, factor))  # type: ignore[no-untyped-call]
        pattern = wide.any(axis + 1) if pattern.dtype == torch.bool else wide.mean(axis + 1)
    return pattern
