"""Gradients used again: when, for how long, how audits measure the bias, and what is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.training.gradient_reuse import GradientReuse, Origin, batch_key


def slope(p: nn.Parameter, gradient: list[float]) -> Callable[[], Tensor]:
    """A loss with this gradient."""
    return lambda: (p * torch.tensor(gradient)).sum()


def must_not_run() -> Tensor:
    raise AssertionError("the loss was computed")


@pytest.fixture
def p() -> nn.Parameter:
    return nn.Parameter(torch.zeros(2))


def test_a_batch_like_the_last_takes_its_gradient(p: nn.Parameter) -> None:
    reuse = GradientReuse([p])
    assert reuse.backward(torch.tensor([1.0, 0.0]), slope(p, [3.0, 4.0])) is Origin.COMPUTED
    p.grad = None
    assert reuse.backward(torch.tensor([2.0, 0.1]), must_not_run) is Origin.REUSED
    assert p.grad is not None
    assert p.grad.tolist() == [3.0, 4.0]
    p.grad.zero_()  # what a clipping loop may do must not reach what is held
    reuse.backward(torch.tensor([1.0, 0.0]), must_not_run)
    assert p.grad.tolist() == [3.0, 4.0]


def test_other_batches_and_old_gradients_are_computed(p: nn.Parameter) -> None:
    reuse = GradientReuse([p], longest=2)
    keys = [torch.tensor(k) for k in ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0])]
    origins = []
    for key in keys:
        foretold = reuse.origin_of(key)
        origins.append(reuse.backward(key, slope(p, [1.0, 1.0])))
        assert origins[-1] is foretold
    assert origins == [Origin.COMPUTED, Origin.COMPUTED, Origin.REUSED, Origin.COMPUTED]
    assert reuse.counts == {Origin.COMPUTED: 3, Origin.REUSED: 1, Origin.AUDITED: 0}


def test_of_two_the_more_alike_is_taken(p: nn.Parameter) -> None:
    reuse = GradientReuse([p], threshold=0.5)
    reuse.backward(torch.tensor([1.0, 0.0]), slope(p, [1.0, 0.0]))
    reuse.backward(torch.tensor([0.0, 1.0]), slope(p, [0.0, 1.0]))
    reuse.backward(torch.tensor([0.6, 0.8]), must_not_run)
    assert p.grad is not None
    assert p.grad.tolist() == [0.0, 1.0]


def test_without_reuse_it_is_autograd() -> None:
    """On a network, over steps: `longest` 0 gives the gradient of each batch, to the bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 16, 4)
    y = torch.arange(16) % 3
    reuse = GradientReuse(model.parameters(), longest=0, threshold=-0.99)
    for batch in x:
        origin = reuse.backward(batch.flatten(), lambda b=batch: nn.functional.cross_entropy(model(b), y))  # type: ignore[misc]
        assert origin is Origin.COMPUTED
        truth = torch.autograd.grad(nn.functional.cross_entropy(model(batch), y), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), truth, strict=True):
            assert torch.equal(parameter.grad, gradient)


def test_audits_tell_bias_from_noise(p: nn.Parameter) -> None:
    """Held is (1, 0) each time; the truth is (1, ±1), which averages out, or (2, 0), which does not."""
    key = torch.tensor([1.0])
    noisy, biased = (GradientReuse([p], audit_every=1, longest=1, capacity=1) for _ in range(2))
    truths = {id(noisy): [[1.0, 1.0], [1.0, -1.0]], id(biased): [[2.0, 0.0], [2.0, 0.0]]}
    for reuse in (noisy, biased):
        for truth in truths[id(reuse)]:
            reuse._held.clear()
            reuse.backward(key, slope(p, [1.0, 0.0]))
            assert reuse.backward(key, slope(p, truth)) is Origin.AUDITED
            assert p.grad is not None
            assert p.grad.tolist() == truth, "what an audit paid for is used"
    assert noisy.bias.audits == biased.bias.audits == 2
    assert noisy.bias.bias == pytest.approx(0)
    assert noisy.bias.error == pytest.approx(1 / 2**0.5)
    assert noisy.bias.cosine == pytest.approx(1 / 2**0.5)
    assert biased.bias.bias == pytest.approx(0.5)
    assert biased.bias.cosine == pytest.approx(1)


def test_a_key_tells_means_and_classes_apart() -> None:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    zeros, ones = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64)
    key = batch_key(x, zeros, 3)
    assert key.shape == (19,)
    torch.testing.assert_close(key, batch_key(x.flip(0), zeros, 3), msg="the order in a batch does not matter")
    assert float(key @ batch_key(x, ones, 3)) == pytest.approx(1.0), "half of it is the mean, half the classes"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (torch.zeros(2), "it has no direction"),
        (torch.tensor([1.0, float("nan")]), "NaN or infinite"),
        (torch.ones(2, 2), "a key is a vector"),
        (torch.ones(0), "a key is a vector"),
        (torch.ones(3), "a key of 3 numbers follows keys of 2"),
    ],
)
def test_keys_without_direction_are_refused(p: nn.Parameter, key: Tensor, said: str) -> None:
    reuse = GradientReuse([p])
    reuse.backward(torch.ones(2), slope(p, [1.0, 1.0]))
    with pytest.raises(InvalidInput, match=said):
        reuse.backward(key, must_not_run)


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"longest": -1}, {"capacity": 0}, {"audit_every": 0}])
def test_settings_out_of_range_are_refused(p: nn.Parameter, wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="gradients cannot be reused by"):
        GradientReuse([p], **wrong)  # type: ignore[arg-type]


def test_nothing_to_train_and_no_samples_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no parameter"):
        GradientReuse([])
    with pytest.raises(InvalidInput, match="0 samples with 0 labels have no key"):
        batch_key(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2)
