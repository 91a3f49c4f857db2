"""The language model of tiled attention: causal, trained dense and deployed tiled, refused where it makes no sense."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from targets.errors import InvalidInput
from toolkit.errors import GeometryError
from toolkit.models import geometric
from toolkit.models.blueprints.config import parse
from toolkit.models.geometric import Config, Geometric

SMALL = {"vocabulary": 23, "width": 16, "heads": 4, "hidden": 40, "context": 48, "tile": 8, "refine": 2,
         "state_width": 6}  # fmt: skip


def network(**fields: object) -> Geometric:
    model = geometric.build(parse(Config, {**SMALL, **fields}))
    assert isinstance(model, Geometric)
    return model.double()


@pytest.mark.parametrize("score", ["dot", "metric", "fidelity", "fidelity_complex", "hyperbolic", "born"])
def test_later_ids_do_not_reach_earlier_ones(score: str) -> None:
    model, read = network(score=score), torch.arange(48)[None] % 23
    changed = read.clone()
    changed[:, 21:] = (changed[:, 21:] + 3) % 23
    with torch.no_grad():
        before, after = model(read), model(changed)
    torch.testing.assert_close(after[:, :21], before[:, :21], rtol=1e-12, atol=1e-12)
    assert (after[:, 21] - before[:, 21]).abs().max() > 1e-3


def test_a_choice_by_own_wishes_is_another_one() -> None:
    """Why `earlier` is the default: with `own` a token's answer depends on what later ones of its tile look for."""
    read = torch.arange(48)[None] * 7 % 23
    changed = read.clone()
    changed[:, 45:] = (changed[:, 45:] + 3) % 23
    model = network(choose_by="own", score="dot")
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query.weight.mul_(20)
        apart = (model(read) - model(changed))[:, 40:45].abs().max()
    assert apart > 1e-9


@pytest.mark.slow
def test_weights_trained_dense_serve_every_plan() -> None:
    torch_optimizer = torch.optim.Adam
    model, read = network(plan="dense"), torch.arange(49)[None] * 5 % 23
    optimizer = torch_optimizer(model.parameters(), 3e-3)
    first = None
    for _ in range(40):
        loss = cross_entropy(model(read[:, :-1])[0], read[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < 0.5 * first
    with torch.no_grad():
        dense = model(read[:, :-1])
        for plan in ("topk", "ranked"):
            other = network(plan=plan, refine=6)
            other.load_state_dict(model.state_dict())
            torch.testing.assert_close(other(read[:, :-1]), dense, rtol=1e-9, atol=1e-9)


def test_a_shorter_sequence_answers_like_the_beginning_of_a_longer_one() -> None:
    model, read = network(refine=99), torch.arange(48)[None] % 23
    with torch.no_grad():
        torch.testing.assert_close(model(read[:, :19]), model(read)[:, :19], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"heads": 3}, "geometric: 3 heads cannot share a width of 16"),
        ({"score": "cosine"}, "geometric: score = 'cosine' is not allowed"),
        ({"plan": "best"}, "geometric: plan = 'best' is not allowed"),
        ({"flow_share": 1.5}, "geometric: flow_share = 1.5 is not allowed"),
        ({"tile": 0}, "geometric: tile = 0 is not allowed"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(Config, {**SMALL, **fields})


def test_an_odd_state_is_no_complex_one() -> None:
    with pytest.raises(GeometryError, match="3 real numbers are no complex state"):
        network(score="fidelity_complex", state_width=3)


def test_ids_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInput, match="49 ids, and the position table has 48 rows"):
        network()(torch.zeros(1, 49, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="ids from 0 to 23"):
        network()(torch.tensor([[0, 23]]))
