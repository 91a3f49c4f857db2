"""CleanUpModule: what is computed from the weights at every call is computed once, and nothing else changes."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from passes.contract import PassFailed
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.clean_up_module import CleanUpModule

Make = Callable[..., Any]


def as_it_is(module: nn.Module, x: np.ndarray) -> Program:
    """A program of a module whose weights stay as they are: `torch_program` would write into what is computed."""
    module.eval()
    example = {"x": x}
    return Program(name="net", level=Level.TORCH, model=module, signature=signature_of(module, example, {}),
                   example=example)  # fmt: skip


def computed_weights(module: nn.Module) -> list[str]:
    hooks = [type(h).__name__ for m in module.modules() for h in m._forward_pre_hooks.values()]
    return hooks + [type(m).__name__ for m in module.modules() if parametrize.is_parametrized(m)]


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def tied() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Linear(6, 6))
    return nn.Sequential(layer, nn.ReLU(), layer)


class Holder(nn.Module):
    """Layers in every kind of container."""

    def __init__(self) -> None:
        super().__init__()
        self.several = nn.ModuleList([parametrizations.weight_norm(nn.Linear(6, 6)), nn.Dropout(0.5)])
        self.named = nn.ModuleDict({"a": parametrizations.spectral_norm(nn.Linear(6, 6))})
        self.drop = nn.AlphaDropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.several:
            x = layer(x)
        y: Tensor = self.drop(self.named["a"](x))
        return y


class Root(nn.Linear):
    """The module itself is parametrised."""


def linear(change: Callable[[nn.Module], Any]) -> nn.Module:
    layer = nn.Linear(6, 6)
    change(layer)
    return nn.Sequential(layer, nn.Tanh())


MODULES: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: linear(parametrizations.weight_norm),
    "spectral norm": lambda: linear(parametrizations.spectral_norm),
    "orthogonal": lambda: linear(parametrizations.orthogonal),
    "orthogonal, cayley": lambda: linear(lambda m: parametrizations.orthogonal(m, orthogonal_map="cayley")),
    "one of one's own": lambda: linear(lambda m: parametrize.register_parametrization(m, "weight", Symmetric())),
    "two on one weight": lambda: linear(
        lambda m: (
            parametrize.register_parametrization(m, "weight", Symmetric()),
            parametrize.register_parametrization(m, "weight", Twice()),
        )
    ),
    "weight and bias": lambda: linear(
        lambda m: (parametrizations.weight_norm(m), parametrize.register_parametrization(m, "bias", Twice()))
    ),
    "older weight norm": lambda: linear(nn.utils.weight_norm),
    "older spectral norm": lambda: linear(nn.utils.spectral_norm),
    "tied": tied,
    "holder": Holder,
    "root": lambda: parametrizations.weight_norm(Root(6, 6)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_are_computed_once(name: str, context: Make, noise: Make) -> None:
    torch.manual_seed(0)
    module = MODULES[name]()
    module(torch.ones(1, 6))  # in training: the older hooks leave a computed weight behind, and spectral norm moves
    start = as_it_is(module, noise(2, 6))
    assert computed_weights(module)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    hooks = computed_weights(module)
    after, proof = CleanUpModule()(start, context())
    assert (proof.decision, proof.reason) == (Decision.KEPT, "")
    assert computed_weights(after.model) == []
    assert all(p.grad_fn is None for p in after.model.parameters())
    want, have = (p.run(start.example)["output"] for p in (start, after))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    assert computed_weights(module) == hooks, "the user's module is as it was"
    now = module.state_dict()
    assert state.keys() == now.keys()
    assert all(torch.equal(value, now[key]) for key, value in state.items())
    assert CleanUpModule().apply(after, context()).model is after.model
    assert "module_clean" in after.facts


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_computed_weight_that_cannot_be_copied(context: Make, noise: Make) -> None:
    """After a forward with gradients the older weight norm holds a tensor that deepcopy refuses."""
    layer = nn.utils.weight_norm(nn.Linear(6, 6))
    layer(torch.ones(1, 6)).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(layer)
    start = as_it_is(layer, noise(2, 6))
    layer(torch.ones(1, 6)).sum().backward()
    after, proof = CleanUpModule()(start, context())
    assert proof.decision is Decision.KEPT
    assert computed_weights(after.model) == []
    np.testing.assert_allclose(after.run(start.example)["output"], start.run(start.example)["output"], rtol=1e-5)


def test_tied_layers_stay_tied(context: Make, noise: Make) -> None:
    after = CleanUpModule().apply(as_it_is(tied(), noise(2, 6)), context())
    assert after.model[0] is after.model[2]
    assert len(list(after.model.parameters())) == 2


def test_weights_that_two_layers_share_stay_shared(context: Make, noise: Make) -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    module = nn.Sequential(first, parametrizations.weight_norm(nn.Linear(6, 6)), second)
    after = CleanUpModule().apply(as_it_is(module, noise(2, 6)), context())
    assert after.model[0].weight is after.model[2].weight


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_dropout_stays_for_passes_that_train(kind: type[nn.Module], context: Make, noise: Make) -> None:
    start = as_it_is(nn.Sequential(nn.Linear(6, 6), kind(0.5)), noise(2, 6))
    assert CleanUpModule().apply(start, context()).model is start.model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weight norm", "holder", "older weight norm"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_neither_dropout_nor_norms_of_weights_are_in_the_graph(name: str, context: Make, noise: Make) -> None:
    from passes.onnx_level.fold_constants import FoldConstants
    from passes.torch_level.export import Export

    start = CleanUpModule().apply(as_it_is(MODULES[name](), noise(2, 6)), context())
    graph = FoldConstants().apply(Export().apply(start, context()), context())
    assert {node.op_type for node in graph.graph} <= {"Gemm", "Tanh"}


def test_a_module_without_any_is_the_same_module(context: Make, noise: Make) -> None:
    start = as_it_is(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), noise(2, 6))
    after, _ = CleanUpModule()(start, context())
    assert after.model is start.model


def test_a_script_is_refused(context: Make, noise: Make) -> None:
    start = as_it_is(torch.jit.script(nn.Linear(6, 6).eval()), noise(2, 6))
    with pytest.raises(PassFailed, match="after export") as refusal:
        CleanUpModule()(start, context())
    assert refusal.value.hint
