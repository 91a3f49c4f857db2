"""Recursive EDMD: the batch however it is cut, eigenvalues, forgetting, no wind-up, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.dmd import edmd
from toolkit.training.recursive_edmd import RecursiveEDMD

EIGENVALUES = [0.95 + 0.2j, 0.95 - 0.2j, 0.8, -0.5]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, "test", *shape), dtype=torch.float64)


def system() -> Tensor:
    """(4, 4) with EIGENVALUES, in a basis of its own."""
    own = torch.diag(torch.tensor([0.95, 0.95, 0.8, -0.5], dtype=torch.float64))
    own[0, 1], own[1, 0] = 0.2, -0.2
    basis = drawn(4, 4)
    return basis @ own @ torch.linalg.inv(basis)


@pytest.mark.parametrize("block", [1, 7, 500])
def test_the_recursive_form_is_the_batch(block: int) -> None:
    x = drawn(500, 4)
    y = x @ system().t() + 0.1 * drawn(500, 4).flip(0)
    stream = RecursiveEDMD(4, ridge=1e-6)
    for before, after in zip(x.split(block), y.split(block), strict=True):
        stream.update(before, after)
    torch.testing.assert_close(stream.operator, edmd(x, y, ridge=1e-6), rtol=1e-9, atol=1e-11)


def test_the_recursive_form_finds_the_eigenvalues_to_a_thousandth() -> None:
    """In float32, of states whose followers are measured with an error of 0.002."""
    x = drawn(4000, 4)
    y = x @ system().t() + 0.002 * drawn(4000, 4).flip(0)
    stream = RecursiveEDMD(4, dtype=torch.float32)
    for before, after in zip(x, y, strict=True):
        stream.update(before, after)
    found = torch.linalg.eigvals(stream.operator)
    for value in EIGENVALUES:
        assert float((found - value).abs().min()) < 1e-3


def test_forgetting_is_a_weight_and_follows_a_system_that_changes() -> None:
    x, y = drawn(40, 3), drawn(40, 2)
    stream = RecursiveEDMD(3, 2, forgetting=0.9, ridge=1e-12)
    for row, following in zip(x, y, strict=True):
        stream.update(row, following)
    weights = (0.9 ** torch.arange(39, -1, -1, dtype=torch.float64)).sqrt()[:, None]
    torch.testing.assert_close(stream.operator, torch.linalg.lstsq(weights * x, weights * y).solution.t())


@pytest.mark.slow
def test_what_nothing_new_is_heard_of_does_not_wind_up() -> None:
    """After 200 rows the stream is stuck in one state, and forgets: the textbook's covariance grows as λ⁻ⁿ, to NaN."""
    x, truth = torch.cat((drawn(200, 3), drawn(1, 3).expand(4000, 3))).float(), drawn(2, 3).float()
    stream = RecursiveEDMD(3, 2, forgetting=0.95, dtype=torch.float32)
    covariance, textbook = torch.eye(3) * 1e6, torch.zeros(2, 3)
    for row in x:
        stream.update(row, truth @ row)
        gain = covariance @ row / (0.95 + row @ covariance @ row)
        textbook = textbook + (truth @ row - textbook @ row).outer(gain)
        covariance = (covariance - gain.outer(row @ covariance)) / 0.95
    assert not bool(torch.isfinite(covariance).all())
    torch.testing.assert_close(stream.operator @ x[-1], truth @ x[-1], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.floats(1e-6, 10.0))
def test_however_a_stream_is_cut_it_is_the_batch(blocks: list[int], ridge: float) -> None:
    x, y = drawn(sum(blocks), 3), drawn(sum(blocks), 2)
    stream = RecursiveEDMD(3, 2, ridge=ridge)
    for rows, following in zip(x.split(blocks), y.split(blocks), strict=True):
        stream.update(rows, following)
    held = torch.linalg.solve(x.t() @ x + ridge * torch.eye(3).double(), x.t() @ y).t()
    torch.testing.assert_close(stream.operator, held, rtol=1e-5, atol=1e-7)


def test_it_refuses_and_stays_as_it_was() -> None:
    stream = RecursiveEDMD(2)
    stream.update(torch.eye(2), torch.eye(2))
    before = stream.operator
    for x in (torch.ones(1, 3), torch.ones(1, 1, 2), torch.ones(0, 2)):
        with pytest.raises(InvalidInput, match="do not fit"):
            stream.update(x, x)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        stream.update(torch.full((1, 2), float("inf")), torch.ones(1, 2))
    with pytest.raises(InvalidInput, match=r"not that of an operator of \(2, 4\) numbers"):
        stream.load_state_dict(RecursiveEDMD(3).state_dict())
    assert torch.equal(stream.operator, before)
    with pytest.raises(InvalidInput, match="forgetting 0"):
        RecursiveEDMD(2, forgetting=0)
    with pytest.raises(InvalidInput, match="ridge 0"):
        RecursiveEDMD(2, ridge=0)
