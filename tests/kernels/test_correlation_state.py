"""Correlation of data in pieces: as of the whole, however it was cut, and what cannot be merged."""

from __future__ import annotations

import pytest
import torch

from kernels.correlation import CorrelationState, correlation
from kernels.correlation.columns import reference


def _data(rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
    own = torch.randn(rows, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    return (own + own[:, :1] + 1e4 * (1 + torch.linspace(0, 1, rows, dtype=torch.float64)[:, None])).to(device, dtype)


@pytest.mark.parametrize("sizes", [[1000], [1, 999], [500, 500], [100, 300, 600], [1] * 40 + [960]])
def test_pieces_give_what_the_whole_gives(sizes: list[int], device: torch.device) -> None:
    x = _data(1000, device=device)
    first, *others = x.split(sizes)  # type: ignore[no-untyped-call]
    state = CorrelationState.of(first)
    for piece in others:
        state = state.update(piece)
    assert state.rows == 1000
    truth = reference.correlation(x.double())
    assert (state.value().double() - truth).abs().max() <= 16 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(state.mean, x.double().mean(0))


def test_in_float64_pieces_are_exact_and_their_order_does_not_matter() -> None:
    x = _data(300, torch.float64)
    one, two, three = (CorrelationState.of(piece) for piece in x.split([50, 150, 100]))  # type: ignore[no-untyped-call]
    for merged in (one.merge(two).merge(three), three.merge(one.merge(two))):
        torch.testing.assert_close(merged.value(), reference.correlation(x), atol=1e-9, rtol=0)
        assert torch.equal(merged.value(), merged.value().T)


@pytest.mark.usefixtures("triton_form")
def test_pieces_in_triton(device: torch.device) -> None:
    x = _data(200, device=device)
    state = CorrelationState.of(x[:77]).update(x[77:])
    assert (state.value().double() - reference.correlation(x.double())).abs().max() <= 16 * 2**-23


def test_a_column_is_constant_only_over_all_pieces() -> None:
    x = _data(100)
    x[:, 2], x[:50, 3], x[50:, 3] = 0.1, 0.1, 0.7
    state = CorrelationState.of(x[:50]).update(x[50:])
    found = state.value()
    assert found[2, 2] == 1
    assert found[2].count_nonzero() == 1
    torch.testing.assert_close(found, correlation(x), atol=1e-5, rtol=0)


def test_dtypes_and_devices_are_those_of_the_data() -> None:
    state = CorrelationState.of(_data(100, torch.bfloat16))
    assert state.value().dtype == torch.bfloat16
    assert state.comoments.dtype == torch.float64


def test_nan_stays_in_its_column() -> None:
    x = _data(100)
    x[3, 1] = float("nan")
    found = CorrelationState.of(x[:50]).update(x[50:]).value()
    assert found[1].isnan().all()
    assert not found[2:, 2:].isnan().any()


def test_what_cannot_be_merged_is_refused() -> None:
    state = CorrelationState.of(torch.ones(1, 3))
    with pytest.raises(ValueError, match="at least two rows, there was one"):
        state.value()
    with pytest.raises(ValueError, match="3 columns on cpu and 4 on cpu"):
        state.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"\(T>=1, D\), got \(0, 3\)"):
        state.update(torch.ones(0, 3))
    with pytest.raises(TypeError, match="floating point numbers"):
        state.update(torch.ones(2, 3).long())
