"""Tasks whose answers are known, and the ground around weights: against functions whose shape is known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from targets.errors import InvalidInput, UnknownName
from toolkit.organism.native import SlimeModel
from toolkit.organism.torch_compat import organisms_of
from toolkit.training.batches import Batches
from toolkit.training.organism.landscape import connection, life_line, sharpness, weights_of
from toolkit.training.organism.tasks import TASKS, characters, config_of, parity, sine, task, xor


class Bowl(nn.Module):
    """A loss that is known: curvature times the squared distance from the origin, or two wells."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((4,), at))

    def loss(self, curvature: float = 1.0) -> float:
        return curvature * float(self.w.detach().square().sum())


def test_a_bowl_is_as_sharp_as_its_curvature_says_and_is_left_as_it_was() -> None:
    bowl = Bowl(2.0)
    before = bowl.w.detach().clone()
    found = sharpness(bowl, lambda: bowl.loss(3), radius=0.1, directions=4)
    assert found.rises == pytest.approx([3 * (0.1 * 4.0) ** 2] * 4, rel=1e-4), "norm 4, a tenth of it, squared, times 3"
    assert found.mean == pytest.approx(found.worst, rel=1e-4)
    assert torch.equal(bowl.w, before)
    assert found == sharpness(bowl, lambda: bowl.loss(3), radius=0.1, directions=4)


def test_a_line_through_one_basin_has_no_barrier_and_one_between_two_wells_has() -> None:
    bowl, there = Bowl(1.0), {"w": torch.full((4,), -1.0)}
    assert connection(bowl, bowl.loss, there).barrier == 0
    wells = connection(bowl, lambda: float((bowl.w.detach().square() - 1).square().sum()), there, points=5)
    assert wells.barrier == pytest.approx(4.0)
    assert wells.losses[0] == wells.losses[-1] == 0
    assert torch.equal(bowl.w, torch.full((4,), 1.0))
    with pytest.raises(InvalidInput):
        connection(bowl, lambda: 0.0, {"v": torch.zeros(4)})
    with pytest.raises(InvalidInput):
        sharpness(bowl, lambda: 0.0, radius=0.0)


def test_the_ends_of_a_life_are_the_networks_that_they_were_though_others_came_and_went() -> None:
    learnt = parity(0, bits=3, samples=64)
    before = SlimeModel(config_of(learnt, seed=0, d_model=8, head_dim=4, founders=2, hidden=8, layers=1)).eval()
    after = copy.deepcopy(before)
    pools = [organisms_of(model)["encoder.layers.0.organism"] for model in (before, after)]
    with torch.no_grad():
        pools[0].spawn(step=1).gate.fill_(0.7)  # lived before alone
        pools[1].pool.next_id()
        pools[1].spawn(step=2).gate.fill_(-0.4)  # lives after alone
        for parameter in after.parameters():
            parameter.add_(0.05)
    batch = next(Batches(data=learnt.judged, size=8, seed=0).in_order())

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(learnt.loss(model, batch))

    kept = [weights_of(model) for model in (before, after)]
    line = life_line(before, after, loss, points=5)
    assert line.losses[0] == pytest.approx(loss(before), rel=1e-5)
    assert line.losses[-1] == pytest.approx(loss(after), rel=1e-5)
    for model, weights in zip((before, after), kept, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


# ---- tasks


def test_tasks_ask_for_what_their_names_say_and_keep_apart_what_judges() -> None:
    found = sine(0, samples=64)
    sample = next(iter(found.learnt))
    np.testing.assert_allclose(sample["wanted"], np.sin(sample["x"]), atol=1e-6)
    assert found.learnt.digest != found.judged.digest
    assert found.is_regression
    eight = parity(0, bits=8, samples=32)
    assert len(eight.judged) == 256, "every word judges"
    x = np.concatenate([s["x"] for s in eight.judged])[:, :, 0]
    assert np.asarray(eight.judged.labels).tolist() == ((x > 0).sum(1) % 2).tolist()
    assert len(xor(0).judged) == 4
    text = characters(0)
    assert text.causal
    assert np.asarray(text.learnt.labels).shape[1] == 64


def test_seeds_decide_tasks_and_unknown_ones_are_refused() -> None:
    assert sine(0).learnt.digest == sine(0).learnt.digest != sine(1).learnt.digest
    assert set(TASKS) == {"sine", "xor", "parity", "characters"}
    with pytest.raises(UnknownName):
        task("weather", 0)
    with pytest.raises(InvalidInput):
        parity(0, bits=1)
    found = sine(0, samples=64)
    batch = next(Batches(data=found.judged, size=4, seed=0).in_order())
    with pytest.raises(InvalidInput, match="no right answers"):
        found.right(nn.Identity(), batch)
