"""DMD and EDMD: known eigenvalues, numpy's least squares, a stream of large states beside the batch, refusals."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.dmd import StreamingDMD, dmd, edmd

EIGENVALUES = [0.95 + 0.2j, 0.95 - 0.2j, 0.8, -0.5]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, "test", *shape), dtype=torch.float64)


def system() -> Tensor:
    """(4, 4) with EIGENVALUES, in a basis of its own."""
    own = torch.diag(torch.tensor([0.95, 0.95, 0.8, -0.5], dtype=torch.float64))
    own[0, 1], own[1, 0] = 0.2, -0.2
    basis = drawn(4, 4)
    return basis @ own @ torch.linalg.inv(basis)


def trajectory(length: int, noise: float = 0.0) -> Tensor:
    """(length, 4), pushed at each step by what keeps all modes alive where there is noise."""
    states, a = [drawn(4)], system()
    pushes = noise * drawn(length, 4)
    for push in pushes[1:]:
        states.append(a @ states[-1] + push)
    return torch.stack(states)


def is_spectrum(found: Tensor, within: float) -> bool:
    away = [float((found.to(torch.complex128) - value).abs().min()) for value in EIGENVALUES]
    return len(found) == len(EIGENVALUES) and max(away) < within


def test_dmd_finds_the_eigenvalues_of_a_linear_system() -> None:
    x = trajectory(30)
    found = dmd(x[:-1], x[1:])
    assert is_spectrum(found.eigenvalues, 1e-8)
    moved = system().to(torch.complex128) @ found.modes
    torch.testing.assert_close(moved, found.modes * found.eigenvalues)


def test_of_many_sensors_it_keeps_the_strongest_directions() -> None:
    x = trajectory(40) @ drawn(4, 200)
    found = dmd(x[:-1], x[1:], rank=4)
    assert is_spectrum(found.eigenvalues, 1e-6)
    assert found.modes.shape == (200, 4)
    with pytest.raises(InvalidInput, match="rank 5 of snapshots that have rank 4"):
        dmd(x[:-1], x[1:], rank=5)


def test_edmd_is_numpys_least_squares_and_ridge_shrinks_it() -> None:
    x, y = drawn(50, 4), drawn(50, 4)
    peer = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(edmd(x, y).numpy(), peer, rtol=1e-10, atol=1e-12)
    held = np.linalg.solve(x.numpy().T @ x.numpy() + 3 * np.eye(4), x.numpy().T @ y.numpy()).T
    np.testing.assert_allclose(edmd(x, y, ridge=3.0).numpy(), held, rtol=1e-10, atol=1e-12)


def test_edmd_finds_a_koopman_operator_of_finite_dimension() -> None:
    """x' = 0.9 x, y' = 0.5 y + 0.3 x² is linear in (x, y, x²), with eigenvalues 0.9, 0.5 and 0.81 (Tu et al. 2014)."""
    x = drawn(100, 2)
    after = torch.stack((0.9 * x[:, 0], 0.5 * x[:, 1] + 0.3 * x[:, 0] ** 2), 1)
    k = edmd(x, after, lambda s: torch.cat((s, s[:, :1] ** 2), 1))
    found = sorted(torch.linalg.eigvals(k).real.tolist())
    assert found == pytest.approx([0.5, 0.81, 0.9], abs=1e-9)


def test_the_stream_of_large_states_is_the_batch() -> None:
    onto = drawn(4, 100)
    x = trajectory(60, noise=0.1) @ onto
    stream = StreamingDMD(rank=4)
    for before, after in pairwise(x):
        stream.update(before, after)
    batch, found = dmd(x[:-1], x[1:], rank=4), stream.modes
    assert found.modes.shape == (100, 4)
    for value in batch.eigenvalues:
        assert float((found.eigenvalues - value).abs().min()) < 1e-8


def test_noise_in_every_direction_fits_into_the_rank() -> None:
    x = trajectory(300, noise=0.5) @ torch.linalg.qr(drawn(50, 4)).Q.t()
    seen = x + 1e-4 * drawn(300, 50)
    stream = StreamingDMD(rank=4)
    for before, after in pairwise(seen):
        stream.update(before, after)
    assert stream._x is not None
    assert stream._x.shape == (50, 4)
    batch = dmd(x[:-1], x[1:], rank=4)
    for value in batch.eigenvalues:
        assert float((stream.modes.eigenvalues - value).abs().min()) < 1e-2


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3), "are not followed by"),
        (torch.zeros(2, 3), torch.zeros(3, 3), "are not followed by"),
        (torch.full((2, 3), float("nan")), torch.zeros(2, 3), "NaN or infinity"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "all snapshots are 0"),
    ],
)
def test_snapshots_that_say_nothing_are_refused(x: Tensor, y: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        dmd(x, y)


def test_a_stream_refuses_and_stays_as_it_was() -> None:
    stream = StreamingDMD(2)
    with pytest.raises(InvalidInput, match="no modes yet"):
        _ = stream.modes
    stream.update(torch.ones(3), torch.ones(3))
    before = stream.modes.eigenvalues
    with pytest.raises(InvalidInput, match="a vector of one length"):
        stream.update(torch.ones(4), torch.ones(4))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        stream.update(torch.full((3,), float("nan")), torch.ones(3))
    assert torch.equal(stream.modes.eigenvalues, before)
    with pytest.raises(InvalidInput, match="rank 0"):
        StreamingDMD(0)
    with pytest.raises(InvalidInput, match="ridge -1"):
        edmd(torch.ones(2, 2), torch.ones(2, 2), ridge=-1)
