"""Whether a behaviour space is any good: do its axes vary, vary independently, and mean what they say when repeated?

Kaiser-Meyer-Olkin and Bartlett are reported and decide nothing: they reward shared variance, and an archive wants
axes that vary independently of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import chi2, spearmanr

from toolkit.errors import DescriptorError
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.cells import Cells
from toolkit.search.measures import Floats

__all__ = [
    "Bartlett",
    "Check",
    "Report",
    "Sampling",
    "bartlett_sphericity",
    "effective_dimension",
    "kernel_spectrum",
    "kmo",
    "reliability",
    "validate",
]


@dataclass(frozen=True)
class Sampling:
    """Kaiser-Meyer-Olkin's measure of sampling adequacy: of all variables, and (p,) of each."""

    total: float
    per_variable: Floats


@dataclass(frozen=True)
class Bartlett:
    """Bartlett's test that variables are uncorrelated; the logarithm, since p itself underflows on ordinary data."""

    chi2: float
    df: int
    log_p: float


def kmo(x: Floats) -> Sampling:
    """Squared correlations over themselves and squared partial ones, of `x` (n, p). Source: Kaiser 1970.

    Raises:
        DescriptorError: too few rows, a constant column, or columns that follow from each other.
    """
    r = _correlations(x)
    inverse = np.linalg.inv(r)
    scale = np.sqrt(np.diag(inverse))
    partial = np.square(inverse / np.outer(scale, scale))
    squared = np.square(r)
    np.fill_diagonal(squared, 0.0)
    np.fill_diagonal(partial, 0.0)
    total = float(squared.sum() / (squared.sum() + partial.sum()))
    return Sampling(total, squared.sum(0) / (squared.sum(0) + partial.sum(0)))


def bartlett_sphericity(x: Floats) -> Bartlett:
    """Of `x` (n, p): chi2 = -(n - 1 - (2 p + 5) / 6) ln det R. Source: Bartlett 1950.

    Raises:
        DescriptorError: as `kmo`.
    """
    r = _correlations(x)
    n, p = x.shape
    statistic = -(n - 1 - (2 * p + 5) / 6) * float(np.linalg.slogdet(r)[1])
    df = p * (p - 1) // 2
    return Bartlett(statistic, df, float(chi2.logsf(statistic, df)))


def _correlations(x: Floats) -> Floats:
    n, p = x.shape
    if n <= p or p < 2:
        raise DescriptorError(f"{n} rows of {p} variables", hint="give two variables or more, and more rows than those")
    constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
    if len(constant):
        raise DescriptorError(f"column {constant[0]} is constant", hint="leave it out")
    r: Floats = np.asarray(np.corrcoef(x.T))
    if np.linalg.cond(r) > 1e10:
        raise DescriptorError("columns follow from each other", hint="leave out what is written down twice")
    return r


def effective_dimension(x: Floats) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the correlations of `x` (n, p): 1 to p."""
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(x.T))
    return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


def reliability(repeats: Floats) -> Floats:
    """(m,) intraclass correlation ICC(1,1) of `repeats` (items, times, m). Source: Shrout and Fleiss 1979.

    Raises:
        DescriptorError: fewer than two items or times.
    """
    items, times, _ = repeats.shape
    if items < 2 or times < 2:
        raise DescriptorError(f"{items} items measured {times} times", hint="two of each at least")
    means = repeats.mean(1)
    between = times * np.square(means - means.mean(0)).sum(0) / (items - 1)
    within = np.square(repeats - means[:, None]).sum((0, 1)) / (items * (times - 1))
    icc: Floats = (between - within) / (between + (times - 1) * within)
    return icc


def kernel_spectrum(x: Floats, *, most: int = 500) -> Floats:
    """Shares of variance, falling, of kernel PCA with a Gaussian of the median distance. Source: Schölkopf et al. 1998.

    Args:
        most: Of so many rows, evenly taken.
    """
    rows = x[np.linspace(0, len(x) - 1, min(most, len(x))).astype(int)]
    distances = pdist(rows)
    gram = np.exp(-np.square(squareform(distances) / np.median(distances)) / 2)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    eigenvalues = np.clip(np.linalg.eigvalsh(centred)[::-1], 0, None)
    shares: Floats = eigenvalues / eigenvalues.sum()
    return shares


@dataclass(frozen=True)
class Check:
    """One question put to a space: what came out, what was wanted, and whether that is enough."""

    name: str
    value: float
    wanted: str
    passed: bool


@dataclass(frozen=True)
class Report:
    """All that was asked. `sampling`, `sphericity` and `spectrum` are for information."""

    checks: tuple[Check, ...]
    sampling: Sampling | None
    sphericity: Bartlett | None
    spectrum: Floats

    @property
    def passed(self) -> bool:
        """Whether nothing that decides has failed."""
        return all(check.passed for check in self.checks)


def validate(
    space: BehaviorSpace, samples: Floats, cells: Cells, *, quality: Floats | None = None,
    repeats: Floats | None = None, error: float = 0.1, strict: bool = False,
) -> Report:  # fmt: skip
    """Ask everything of `space` with `samples` (n, m), raw measures of a design.

    Args:
        cells: That an archive would have.
        quality: (n,) of the samples; an axis that follows it is no axis.
        repeats: (items, times, m) raw measures of the same items measured again.
        error: Stated relative error of what predicts the measures; an axis that resolves less only resolves that.
        strict: Raise where something fails.

    Raises:
        DescriptorError: `strict`, and a check failed; or fewer than three finite samples.
    """
    unit, flags = space.normalize(samples)
    finite = flags <= 1
    unit = unit[finite]
    if len(unit) < max(3, len(space) + 1):
        raise DescriptorError(f"{len(unit)} finite samples", hint="measure a larger design")
    checks = [*_spreads(space, unit), _dimension(unit), *_occupancy(cells, unit), *_resolution(space, error)]
    if quality is not None:
        checks += _confounds(space, unit, np.asarray(quality)[finite])
    if repeats is not None:
        again = space.normalize(repeats.reshape(-1, len(space)))[0].reshape(repeats.shape)
        checks += [Check(f"reliability of {name}", float(r), "at least 0.75", bool(r >= 0.75))
                   for name, r in zip(space.names, reliability(again), strict=True)]  # fmt: skip
    sampling, sphericity = (kmo(unit), bartlett_sphericity(unit)) if _is_regular(unit) else (None, None)
    report = Report(tuple(checks), sampling, sphericity, kernel_spectrum(unit))
    failed = [f"{check.name} is {check.value:.2f}, wanted {check.wanted}" for check in checks if not check.passed]
    if strict and failed:
        raise DescriptorError("; ".join(failed), hint="drop the axis, or fit the space to these samples")
    return report


def _spreads(space: BehaviorSpace, unit: Floats) -> list[Check]:
    low, high = np.quantile(unit, (0.05, 0.95), axis=0)
    return [Check(f"spread of {name}", float(s), "at least 0.2", bool(s >= 0.2))
            for name, s in zip(space.names, high - low, strict=True)]  # fmt: skip


def _dimension(unit: Floats) -> Check:
    m = unit.shape[1]
    value = (
        effective_dimension(unit)
        if m > 1 and (np.ptp(unit, axis=0) > 0).all()
        else float((np.ptp(unit, axis=0) > 0).sum())
    )
    return Check("effective dimension", value, f"at least {0.6 * m:g}", value >= 0.6 * m)


def _occupancy(cells: Cells, unit: Floats) -> list[Check]:
    """Of 20 samples a cell at most: shares of cells hit, and of an even filling by entropy."""
    counts = np.bincount(cells.of(unit[: 20 * len(cells)]), minlength=len(cells))
    shares = counts[counts > 0] / counts.sum()
    hit = float((counts > 0).mean())
    even = exp(-sum(float(p) * log(float(p)) for p in shares)) / len(cells)
    return [Check("cells hit", hit, "at least 0.5", hit >= 0.5), Check("evenness", even, "at least 0.5", even >= 0.5)]


def _resolution(space: BehaviorSpace, error: float) -> list[Check]:
    """What decorrelated axes resolve before they are stretched, over twice the error of what predicts them."""
    checks = []
    for measure, axis in zip(space.measures, space.axes, strict=bool(space.axes)):
        ends = measure.stretch(np.array([measure.low, measure.high]))
        resolved = axis.spread * float(ends[1] - ends[0])
        blur = 2 * (log(1 + error) if measure.transform == "log" else error * (measure.high - measure.low))
        checks.append(Check(f"resolution of {measure.name}", resolved / blur, "at least 1", resolved >= blur))
    return checks


def _confounds(space: BehaviorSpace, unit: Floats, quality: Floats) -> list[Check]:
    values = [abs(float(spearmanr(unit[:, k], quality).statistic)) for k in range(len(space))]
    return [Check(f"follows quality: {name}", value, "at most 0.9", value <= 0.9)
            for name, value in zip(space.names, values, strict=True)]  # fmt: skip


def _is_regular(unit: Floats) -> bool:
    if unit.shape[1] < 2 or not (np.ptp(unit, axis=0) > 0).all():
        return False
    return bool(np.linalg.cond(np.corrcoef(unit.T)) <= 1e10)
