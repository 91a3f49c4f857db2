"""The BK core's hybrid gradient: exact beside autograd and dense inverses, the surrogate beside its own formula."""

import pytest
import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.hybrid_gradient import GRID, BKLayer, alignment, by_autograd

Z = 1 + 0.5j


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", *shape), dtype=torch.float64)


def dense(v: Tensor) -> Tensor:
    """(sites, 2) of one chain by inverting the matrix."""
    n = len(v)
    off = torch.diag(torch.ones(n - 1, dtype=v.dtype), 1)
    h = torch.diag(v + 2) - off - off.T
    green = torch.linalg.inv(h.to(torch.complex128) - Z * torch.eye(n, dtype=torch.complex128))
    return torch.view_as_real(green.diagonal().clone())


def test_the_peer_is_the_inverse_and_so_is_its_gradient() -> None:
    v, weights = drawn(3, 17), drawn(3, 17, 2)
    leaf, other = v.clone().requires_grad_(), v.clone().requires_grad_()
    ours, truth = by_autograd(leaf, z=Z), torch.stack([dense(row) for row in other])
    torch.testing.assert_close(ours, truth)
    (ours * weights).sum().backward()
    (truth * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_the_exact_layer_learns_by_the_gradient_of_autograd() -> None:
    layer = BKLayer(6, 2, 9, z=Z).double()
    x, weights = drawn(4, 6), drawn(4, 36)
    (layer(x) * weights).sum().backward()
    found = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    peer = by_autograd(layer.potential(x).reshape(-1, 9), z=Z).reshape(4, -1)
    torch.testing.assert_close(peer, layer(x))
    (peer * weights).sum().backward()
    for p, gradient in zip(layer.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, p.grad)


@pytest.mark.parametrize("alpha", GRID)
def test_the_surrogate_is_the_published_formula(alpha: float) -> None:
    v, weights = drawn(2, 8), drawn(2, 8, 2)
    green = torch.view_as_complex(torch.stack([dense(row) for row in v]))
    slope = -(1 - alpha) * green**2 - alpha / green**2
    published = (slope.real * weights[..., 0] + slope.imag * weights[..., 1]).flatten()
    leaf = v.clone().requires_grad_()
    (by_autograd(leaf, z=Z) * weights).sum().backward()
    assert leaf.grad is not None
    truth = leaf.grad.flatten()
    (found,) = alignment(v, weights, z=Z, alphas=[alpha])
    assert found.alpha == alpha
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(published, truth, 0)))
    assert found.length == pytest.approx(float(published.norm() / truth.norm()))


def test_a_chain_of_one_site_has_its_own_derivative_at_blend_nought() -> None:
    """Nothing is neglected there: dG/dv = −G²; and −1/G² is something else."""
    right, wrong = alignment(drawn(32, 1), drawn(32, 1, 2), z=Z, alphas=[0.0, 1.0])
    assert (right.cosine, right.length) == pytest.approx((1, 1))
    assert wrong.cosine < 0.9


def test_the_more_is_blended_in_the_worse_it_points() -> None:
    cosines = [found.cosine for found in alignment(drawn(64, 64), drawn(64, 64, 2), z=Z)]
    assert cosines == sorted(cosines, reverse=True)
    assert 0.5 < cosines[0] < 0.95, "even without it the other sites' derivatives are missing"
    assert cosines[-1] < 0.3


@pytest.mark.slow
def test_it_exports() -> None:
    layer, x = BKLayer(5, 2, 9).eval(), drawn(3, 5).float()
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_layers_of_equal_seeds_are_equal_and_alpha_changes_no_output() -> None:
    before = torch.random.get_rng_state()
    x = drawn(3, 5).float()
    exact, blended, other = BKLayer(5, 2, 4), BKLayer(5, 2, 4, alpha=0.5), BKLayer(5, 2, 4, seed=1)
    assert torch.equal(exact(x), blended(x))
    assert not torch.equal(exact(x), other(x))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_a_network_learns_through_it() -> None:
    """A loss falls by the exact gradient: which site of 8 holds a well."""
    x = torch.eye(8).repeat(4, 1) + 0.1 * drawn(32, 8).float()
    y = torch.arange(8).repeat(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(BKLayer(8, 1, 8), nn.Linear(16, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sites": 0}, "3 chains of 0 sites"),
        ({"z": 1.0}, "z = 1.0"),
        ({"z": 1 - 1j}, "no chain"),
        ({"alpha": 1.5}, "blend 1.5 lies outside 0 to 1"),
        ({"alpha": float("nan")}, "blend nan"),
    ],
)
def test_layers_that_cannot_be_are_refused(settings: dict[str, complex], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        BKLayer(**{"inputs": 2, "chains": 3, "sites": 4, **settings})  # type: ignore[arg-type]


def test_samples_that_do_not_fit_are_refused() -> None:
    layer = BKLayer(4, 1, 3)
    for x in (torch.zeros(0, 4), torch.zeros(2, 3), torch.zeros(4)):
        with pytest.raises(InvalidInput, match=r"the layer takes \(samples, 4\)"):
            layer(x)
    with pytest.raises(InvalidInput, match="do not fit"):
        alignment(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        alignment(torch.full((1, 3), float("nan")), torch.zeros(1, 3, 2))
