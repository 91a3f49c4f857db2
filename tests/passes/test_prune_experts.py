"""Experts that are used least go, for real; who stays is chosen as if the others had never been there."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.expert_layers import shrink
from passes.torch_level.export import Export
from passes.torch_level.prune_experts import PruneExperts
from tests.passes.mixtures import EXPERTS, Dense, Net, Soft, context, images, layers_of, program_of
from tests.passes.pruned_programs import PI, labelled, seeded, state_of, unchanged
from toolkit.models import digits
from toolkit.training.trainer import Trainer

pytestmark = pytest.mark.slow


@cache
def _trained() -> nn.Module:
    """Top two of eight experts, on the digits."""
    data = labelled()
    fit = Trainer(data=data, metric=TOP1, inputs=("image",))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, labels = batch
        return functional.cross_entropy(model(*inputs.values()), labels)

    return fit(seeded(lambda: Net(Dense)), loss, step="moe", epochs=8, rate=5e-3)


@pytest.fixture
def trained() -> Program:
    return program_of(copy.deepcopy(_trained()))


def accuracy(program: Program) -> float:
    data = digits.validation()
    assert data.labels is not None
    return float(
        np.mean([TOP1.score(a, int(label)) for a, label in zip(program.answers(data), data.labels, strict=True)])
    )


def usage_by_hand(module: nn.Module, data: Dataset, k: int = 2) -> tuple[Array, Array]:
    """Shares of choices and of probability, without any of what is tested."""
    pictures = torch.cat([torch.from_numpy(sample["image"]) for sample in data])
    with torch.no_grad():
        logits = module.moe.gate(module.embed(pictures.flatten(1)))  # type: ignore[operator, union-attr]
    best = np.argsort(-logits.numpy(), axis=1)[:, :k]
    return np.bincount(best.ravel(), minlength=EXPERTS) / best.size, logits.double().softmax(1).mean(0).numpy()


def test_half_of_the_experts_go_and_the_accuracy_stays(trained: Program) -> None:
    before = state_of(trained.model)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    ctx = context(data=labelled(), validation=digits.validation(), metric=TOP1)
    ctx = Context(**{**vars(ctx), "fit": Trainer(data=labelled(), metric=TOP1, inputs=("image",))})
    after, proof = PruneExperts(ratio=0.5, epochs=2)(trained, ctx)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert unchanged(trained.model, before)
    assert proof.decision is Decision.KEPT
    assert proof.kind == Kind.RETRAINED
    assert proof.metric is not None
    assert proof.metric.before > 0.93
    assert proof.metric.drop_interval[1] < 0.025, "the paired interval of the drop"
    assert len(after.model.moe.experts) == after.model.moe.gate.out_features == after.model.moe.num_experts == 4
    assert after.model.moe.top_k == 2
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < 0.8 * proof.size_bytes[0]
    assert proof.cost_s is not None
    assert proof.cost_s[1] < proof.cost_s[0], "all experts are computed here"
    weights = [sum(p.numel() for p in model.parameters()) for model in (trained.model, after.model)]
    assert any(f"{weights[0]:,} parameters became {weights[1]:,}" in note for note in proof.notes)
    choices, probability = usage_by_hand(trained.model, labelled().take(1024))
    table = next(note for note in proof.notes if note.startswith("moe: 4 of 8 experts stay, 2 at once answer"))
    gone = set(np.argsort(choices)[:4].tolist())
    for i in range(EXPERTS):
        fate = "goes" if i in gone else "stays"
        assert f"{i} {fate}: {choices[i]:.1%} of choices, {probability[i]:.1%} of probability" in table
    assert after.signature == trained.signature
    assert after.truth.model is after.model


def test_those_used_least_cost_less_than_those_used_most(trained: Program) -> None:
    """And than four at random, in the mean over all sets of four."""
    after = PruneExperts(ratio=0.5, epochs=0).apply(trained, context(data=labelled()))
    choices, _ = usage_by_hand(trained.model, labelled())
    layer = layers_of(trained)[0]

    def without(gone: Any) -> float:
        model = copy.deepcopy(trained.model)
        shrink(model, layer, [i for i in range(EXPERTS) if i not in gone])
        return accuracy(program_of(model))

    most = without(np.argsort(-choices)[:4])
    rng = np.random.default_rng(0)
    random = [without(rng.choice(EXPERTS, 4, replace=False)) for _ in range(12)]
    assert accuracy(after) > most + 0.1
    assert accuracy(after) > np.mean(random)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 16).round()


def test_experts_that_are_never_chosen_leave_the_answers_as_they_are(trained: Program) -> None:
    """Bit by bit: the softmax is over the chosen ones, and products of small integers have no rounding to differ in."""
    gate = trained.model.moe.gate
    with torch.no_grad():
        gate.weight.copy_((gate.weight * 64).round() / 1024)
        gate.bias = nn.Parameter(torch.tensor([0.0, -1024.0, 0, 0, -1024.0, 0, -1024.0, 0]))
    trained.model.moe.gate = nn.Sequential(Rounded(), gate)
    assert accuracy(trained) > 0.8
    before = state_of(trained.model)
    after = PruneExperts(keep=5, epochs=0).apply(trained, context(data=images(200)))
    assert torch.equal(after.model.moe.gate[1].weight, before["moe.gate.1.weight"][[0, 2, 3, 5, 7]])
    for want, have in zip(trained.answers(images(200)), after.answers(images(200)), strict=True):
        np.testing.assert_array_equal(want["output"], have["output"])


def test_the_router_is_a_softmax_over_those_that_stay(trained: Program) -> None:
    after = PruneExperts(ratio=0.5, epochs=0).apply(trained, context())
    choices, _ = usage_by_hand(trained.model, images(64))
    kept = sorted(np.argsort(choices, kind="stable")[4:].tolist())
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, left = trained.model.moe.gate(x).softmax(-1), after.model.moe.gate(x).softmax(-1)
    torch.testing.assert_close(left, whole[:, kept] / whole[:, kept].sum(-1, keepdim=True))


def test_the_pruned_mixture_answers_the_same_in_onnx(trained: Program) -> None:
    after = PruneExperts(ratio=0.5, epochs=0).apply(trained, context())
    graph = Export().apply(after, context())
    whole = Export().apply(trained, context())
    for sample in images(20):
        np.testing.assert_allclose(graph.run(sample)["output"], after.run(sample)["output"], rtol=2e-5, atol=2e-5)
    assert len(graph.onnx_bytes) < 0.8 * len(whole.onnx_bytes)


def test_the_same_data_give_the_same_bytes(trained: Program) -> None:
    first, second = (PruneExperts(epochs=0).apply(trained, context()) for _ in range(2))
    assert unchanged(second.model, state_of(first.model))


def test_those_with_their_share_stay(trained: Program) -> None:
    choices, _ = usage_by_hand(trained.model, images(64))
    bound = float(np.sort(choices)[1:3].mean())
    step = PruneExperts(ratio=0.5, min_share=bound, epochs=0)
    after = step.apply(trained, context())
    assert len(after.model.moe.experts) == EXPERTS - int((choices < bound).sum()) > 4
    soft = program_of(seeded(lambda: Net(Soft)))
    assert PruneExperts(min_share=0.01, epochs=0).apply(soft, context()) is soft, "all have more than that"


def test_too_many_are_halved_where_the_metric_fell(trained: Program) -> None:
    ctx = context(validation=digits.validation(), metric=TOP1)
    after, proof = PruneExperts(keep=2, epochs=0)(trained, ctx)
    assert proof.decision in (Decision.NARROWED, Decision.REVERTED)
    assert proof.decision is Decision.REVERTED or len(after.model.moe.experts) > 2


# ---- what is refused


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (PruneExperts(ratio=1.0), "without experts"),
        (PruneExperts(keep=-1), "without experts"),
        (PruneExperts(keep=1), "moe would keep 1 of 8 experts, and chooses 2 at once"),
        (PruneExperts(ratio=0.9), "moe would keep 1 of 8 experts"),
        (PruneExperts(keep=8), "nothing would go"),
        (PruneExperts(ratio=0.1), "nothing would go"),
        (PruneExperts(min_share=0.0), "min_share"),
        (PruneExperts(protect=("moe",)), "it is protected"),
    ],
)
def test_settings_that_make_no_sense_are_refused(trained: Program, step: PruneExperts, said: str) -> None:
    with pytest.raises(PassFailed, match=said) as refusal:
        replace(step, epochs=0)(trained, context())
    assert refusal.value.hint


def test_without_data_nothing_is_known_of_usage(trained: Program) -> None:
    with pytest.raises(PassFailed, match="without data"):
        PruneExperts(epochs=0)(trained, Context(stack=PI))
