"""Estimated effective ranks: within the error that they state, exact where they promise it, repeated by their seed."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.effective_rank import KINDS, Kind, estimate_effective_rank, estimated, reference

pytestmark = pytest.mark.slow


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SPECTRA = {
    "random": _randn(150, 120),
    "wide": _randn(100, 160),
    "falling": _randn(120, 120) / torch.arange(1, 121),
    "rank 5 and noise": _randn(120, 5) @ _randn(5, 120) + 1e-3 * _randn(120, 120, seed=1),
    "rank 60": _randn(120, 60) @ _randn(60, 120),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_truth_lies_within_the_error(spectrum: str, kind: Kind) -> None:
    w = SPECTRA[spectrum].expand(20, -1, -1)  # twenty estimates, each from its own probes
    truth = reference.effective_rank(SPECTRA[spectrum].double(), kind)
    found = estimate_effective_rank(w, kind=kind, steps=20, generator=torch.Generator().manual_seed(0))
    rounding = 1e-5 * truth
    assert ((found.value - truth).abs() <= found.error + rounding).sum() >= 19
    assert (found.error <= 0.1 * truth).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (20, 30), (100, 80)])
def test_few_singular_values_are_found_exactly(shape: tuple[int, int], kind: Kind) -> None:
    w = _randn(shape[0], min(shape[0], 10)) @ _randn(min(shape[0], 10), shape[1])
    found = estimate_effective_rank(w, kind=kind, generator=torch.Generator().manual_seed(0))
    truth = reference.effective_rank(w.double(), kind).item()
    assert found.value.item() == pytest.approx(truth, rel=1e-4)
    assert found.error.item() <= 1e-3 * truth


@pytest.mark.parametrize("kind", KINDS)
def test_equal_singular_values_leave_nothing_to_iterate(kind: Kind) -> None:
    found = estimate_effective_rank(torch.eye(300), kind=kind)
    assert found.value.item() == pytest.approx(300, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_nan_and_batches(kind: Kind) -> None:
    w = torch.zeros(2, 2, 30, 20)
    w[1] = _randn(2, 30, 20)
    w[1, 1, 3, 4] = math.nan
    value, error = estimate_effective_rank(w, kind=kind)
    assert value.shape == error.shape == (2, 2)
    assert (value[0] == 0).all()
    assert value[1, 0].item() == pytest.approx(reference.effective_rank(w[1, 0].double(), kind).item(), rel=1e-4)
    assert value[1, 1].isnan()
    assert estimate_effective_rank(torch.ones(3, 0, 2), kind=kind).value.tolist() == [0, 0, 0]


def test_a_seed_repeats_and_more_probes_are_closer() -> None:
    w = _randn(400, 300)
    once, again = (estimate_effective_rank(w, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert once == again
    more = estimate_effective_rank(w, probes=128, generator=torch.Generator().manual_seed(3))
    assert more.error < once.error


def test_what_the_subspace_and_the_rest_share_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration leaves much of it. The mean of many estimates shows what the scatter of one would hide."""
    monkeypatch.setattr(estimated, "_ITERATIONS", 1)
    w = _randn(60, 50)
    found = estimate_effective_rank(
        w.expand(600, -1, -1), kind="participation", probes=8, steps=20, generator=torch.Generator().manual_seed(0)
    ).value
    truth = reference.effective_rank(w.double(), "participation")
    assert abs(found.mean() - truth) <= 5 * found.std() / 600**0.5  # it is 1.7; half the share would be 17


def test_few_probes_or_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 probes and 2 steps, got 1 and 40"):
        estimate_effective_rank(torch.ones(3, 3), probes=1)
