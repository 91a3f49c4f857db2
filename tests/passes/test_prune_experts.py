"""Experts that are used least go, for real; who stays is chosen as if the others had never been there."""

import copy
from collections.abc import Callable
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
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.expert_layers import expert_layers, shrink
from passes.torch_level.export import Export
from passes.torch_level.prune_experts import PruneExperts
from passes.torch_level.routing import Routing, never
from targets.target import load_stack
from toolkit.models import digits
from toolkit.training.trainer import Trainer

pytestmark = pytest.mark.slow

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")
EXPERTS = 8


def mlp(width: int, hidden: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class Dense(nn.Module):
    """Every expert is computed; a softmax over the best `top_k` logits weighs them, the others have zeros."""

    def __init__(self, width: int = 32, experts: int = EXPERTS, top_k: int = 2) -> None:
        super().__init__()
        self.num_experts, self.top_k = experts, top_k
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.gate(x).topk(self.top_k, dim=-1)
        weights, x_in = torch.zeros(*x.shape[:-1], self.num_experts).scatter(-1, which, best.softmax(-1)), x
        for expert, weight in zip(self.experts, weights.unbind(-1), strict=True):
            x = x + expert(x_in) * weight.unsqueeze(-1)
        return x


class Mixtral(nn.Module):
    """As in Transformers: a softmax over all, the best of it made to sum to one, tokens gathered by expert."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.num_experts, self.top_k = experts, 2
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))
        self.shared_expert, self.shared_expert_gate = mlp(width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, which = torch.topk(functional.softmax(self.gate(rows), dim=1), self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        mask = functional.one_hot(which, num_classes=self.num_experts).permute(2, 1, 0)
        total = self.shared_expert(rows) * self.shared_expert_gate(rows).sigmoid()
        for i in range(self.num_experts):
            place, token = torch.where(mask[i])
            total.index_add_(0, token, self.experts[i](rows[token]) * weights[token, place, None])
        return x + total.reshape(x.shape)


class StackedExperts(nn.Module):
    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.num_experts = experts
        self.up = nn.Parameter(torch.randn(experts, width, 16) / width**0.5)
        self.up_bias = nn.Parameter(torch.randn(experts, 16) / 4)
        self.down = nn.Parameter(torch.randn(experts, 16, width) / 4)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        rows = x.reshape(1, -1, x.shape[-1]).expand(self.num_experts, -1, -1)
        made = torch.bmm(torch.relu(torch.bmm(rows, self.up) + self.up_bias[:, None]), self.down)
        return (made * weights.reshape(-1, self.num_experts).T[..., None]).sum(0).reshape(x.shape)


class OwnRouter(nn.Module):
    """No `nn.Linear`: a module that multiplies its own weight, and returns what it chose."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.top_k, self.num_experts = 2, experts
        self.weight, self.bias = nn.Parameter(torch.randn(experts, width)), nn.Parameter(torch.randn(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = functional.linear(x, self.weight, self.bias).softmax(-1)
        best, which = scores.topk(self.top_k, dim=-1)
        return best / best.sum(-1, keepdim=True), which


class Stacked(nn.Module):
    """As in GPT-OSS and Llama 4: parameters of three axes, experts and router in modules of their own."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.router, self.experts = OwnRouter(width, experts), StackedExperts(width, experts)

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.router(x)
        weights = torch.zeros(*x.shape[:-1], self.experts.num_experts).scatter(-1, which, best)
        return x + self.experts(x, weights)


class StackedHere(nn.Module):
    """As in Tutel: experts are parameters of the layer that holds the gate."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.k, self.wg = 2, nn.Linear(width, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, width, 8))
        self.w2 = nn.Parameter(torch.randn(experts, 8, width))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.wg(x).sigmoid().topk(self.k, dim=-1)
        weights = torch.zeros(*x.shape[:-1], self.w1.shape[0]).scatter(-1, which, best)
        return x + torch.einsum("...d,edh,ehf,...e->...f", x, self.w1, self.w2, weights)


class SwitchRouter(nn.Module):
    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.num_experts, self.classifier = experts, nn.Linear(width, experts, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probability = self.classifier(x).softmax(-1)
        return probability.amax(-1, keepdim=True), probability.argmax(-1)


class Switch(nn.Module):
    """As the Switch transformer: one expert answers, and nothing states that; experts have names."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.router = SwitchRouter(width, experts)
        self.experts = nn.ModuleDict({f"expert_{i}": mlp(width) for i in range(experts)})

    def forward(self, x: Tensor) -> Tensor:
        probability, which = self.router(x)
        chosen = functional.one_hot(which, self.router.num_experts)
        made = torch.stack([self.experts[f"expert_{i}"](x) for i in range(len(self.experts))], -1)
        return x + probability * (made * chosen.unsqueeze(-2)).sum(-1)


class Soft(nn.Module):
    """All answer, each with its weight; first the experts, then the gate."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))
        self.gating = nn.Linear(width, experts)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return x + (made * self.gating(x).softmax(-1).unsqueeze(-2)).sum(-1)


class Net(nn.Module):
    """Eight layers built alike and eight classes: what chooses nothing is no router."""

    def __init__(self, layer: Callable[[], nn.Module], classes: int = 10) -> None:
        super().__init__()
        self.embed, self.moe, self.classify = nn.Linear(64, 32), layer(), nn.Linear(32, classes)
        self.more = nn.ModuleList(nn.Linear(32, 32) for _ in range(classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moe(self.embed(x.flatten(1)))
        for layer in self.more:
            x = x + layer(x).relu() / 4
        return self.classify(x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dense": Dense, "mixtral": Mixtral, "stacked": Stacked, "tutel": StackedHere, "switch": Switch, "soft": Soft,
}  # fmt: skip
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def program_of(module: nn.Module) -> Program:
    example = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, {}),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def labelled() -> Dataset:
    (images, labels), _ = digits.split()
    return Dataset.of_arrays("digits", {"image": images}, labels)


def images(count: int) -> Dataset:
    (pictures, _), _ = digits.split()
    return Dataset.of_arrays("digits", {"image": pictures[:count]})


def context(**fields: Any) -> Context:
    return Context(stack=PI, **{"data": images(64), **fields})


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


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


# ---- a trained mixture


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


# ---- how mixtures are written


def layers_of(program: Program) -> list[Any]:
    step = PruneExperts(epochs=0)
    return step._layers(program, context())


@each_layer
def test_each_way_of_writing_a_mixture_is_followed(layer: Callable[[], nn.Module]) -> None:
    """Against the whole network whose router never chooses those that went."""
    start = program_of(seeded(lambda: Net(layer)))
    before, step = state_of(start.model), PruneExperts(ratio=0.4, epochs=0)
    step.requires(start, context())
    found = [x for x in layers_of(start) if not x.held]
    assert [(x.name, x.count, x.chosen) for x in found] == [
        ("moe", EXPERTS, {Soft: None, Switch: 1}.get(layer, 2))  # type: ignore[call-overload]
    ]
    after = step.apply(start, context())
    gone = step._gone(start, context())[found[0].router]
    assert len(gone) == 3
    whole, lost = copy.deepcopy(start.model), sum(p.numel() for p in start.model.parameters())
    lost -= sum(p.numel() for p in after.model.parameters())
    weight = whole.get_submodule(found[0].router).weight
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with Routing({"it": weight}, never({"it": gone})):
            want = whole(x)
        torch.testing.assert_close(after.model(x), want)
    experts = [p for n, p in start.model.named_parameters() if n.startswith(("moe.experts", "moe.w1", "moe.w2"))]
    router = weight.shape[1] + (getattr(whole.get_submodule(found[0].router), "bias", None) is not None)
    assert lost == sum(p.numel() for p in experts) * 3 // 8 + 3 * router
    assert unchanged(start.model, before)


def test_a_classifier_behind_layers_built_alike_is_no_router() -> None:
    start = program_of(seeded(lambda: Net(lambda: mlp(32), classes=8)))
    assert all(layer.held for layer in layers_of(start))
    with pytest.raises(PassFailed, match="no layer can lose an expert"):
        PruneExperts(epochs=0)(start, context())


def test_one_of_two_mixtures_is_protected() -> None:
    start = program_of(seeded(lambda: Net(lambda: nn.Sequential(Dense(), Dense()))))
    after = PruneExperts(epochs=0, protect=("*.0",)).apply(start, context())
    assert [len(layer.experts) for layer in after.model.moe] == [8, 4]


def test_where_every_expert_is_chosen_the_number_chosen_goes_along() -> None:
    start = program_of(seeded(lambda: Net(lambda: Dense(experts=4, top_k=4))))
    after = PruneExperts(epochs=0).apply(start, context())
    assert (after.model.moe.top_k, after.model.moe.num_experts) == (2, 2)


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


class Hash(nn.Module):
    """Which expert answers is read off the input."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(32) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        which = (x[:, 0] * 1000).long() % len(self.experts)
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return (made * functional.one_hot(which, len(self.experts)).unsqueeze(-2)).sum(-1)


class Corrected(Dense):
    """A term for each expert, as in DeepSeek-V3, that decides but does not weigh."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("correction_bias", torch.zeros(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).sigmoid()
        which = (scores + self.correction_bias).topk(self.top_k, dim=-1).indices
        weights = torch.zeros_like(scores).scatter(-1, which, scores.gather(-1, which))
        return x + (torch.stack([expert(x) for expert in self.experts], -1) * weights.unsqueeze(-2)).sum(-1)


class Noisy(Dense):
    """A second product, of the noise that the first one gets in training."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Linear(32, EXPERTS)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x) + self.noise(x).tanh()
        weights = logits.softmax(-1)
        return x + (torch.stack([expert(x) for expert in self.experts], -1) * weights.unsqueeze(-2)).sum(-1)


class Literal(Soft):
    """A forward that counts to eight."""

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gating(x).softmax(-1)
        return x + torch.stack([self.experts[i](x) * weights[:, i, None] for i in range(8)]).sum(0)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Hash, "a table or a hash"),
        (Corrected, "correction_bias has an entry for each expert"),
        (Noisy, "cannot be followed"),
        (Literal, "cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused(layer: Callable[[], nn.Module], said: str) -> None:
    start = program_of(seeded(lambda: Net(layer)))
    before = state_of(start.model)
    with pytest.raises(PassFailed, match=said) as refusal:
        PruneExperts(epochs=0)(start, context())
    assert "moe" in refusal.value.problem
    assert refusal.value.hint
    assert unchanged(start.model, before)


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


def test_inner_experts_go_with_their_outer_ones() -> None:
    """Where experts hold mixtures themselves, the outer ones are taken."""

    class Outer(Soft):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(Soft(experts=2) for _ in range(4))
            self.gating = nn.Linear(32, 4)

    start = program_of(seeded(lambda: Net(Outer)))
    free = [layer for layer in layers_of(start) if not layer.held]
    assert [layer.name for layer in free] == ["moe"]
    assert expert_layers(start.model, [torch.zeros(1, 1, 8, 8)], ("*",), lambda *_: "")[0].held == "it is protected"
