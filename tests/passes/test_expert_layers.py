"""Mixtures of experts in every way of writing them: experts and router are found and pruned, or refused by name."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from passes.contract import PassFailed
from passes.torch_level.expert_layers import expert_layers
from passes.torch_level.prune_experts import PruneExperts
from passes.torch_level.routing import Routing, never
from tests.passes.mixtures import EXPERTS, Dense, Net, Soft, context, layers_of, mlp, program_of
from tests.passes.pruned_programs import seeded, state_of, unchanged

pytestmark = pytest.mark.slow


# ---- ways of writing them


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


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dense": Dense, "mixtral": Mixtral, "stacked": Stacked, "tutel": StackedHere, "switch": Switch, "soft": Soft,
}  # fmt: skip
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))


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
