"""Two thin layers for one: of all such the best for the data, and only where the stack gains by it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.layer_work import LayerWork, seconds
from passes.torch_level.low_rank import Factorise, FactoriseAndTrain
from targets.graph import read_workload
from targets.target import load_stack, load_target, target_names
from toolkit.models import digits
from toolkit.training.trainer import Trainer

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")


class Wide(nn.Module):
    """Much wider than digits need, so that its middle layer has little to say."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.classify = nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classify(self.b(self.a(image.flatten(1)).relu()).relu())


def program_of(module: nn.Module, **example: Array) -> Program:
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, {}),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture(scope="module")
def trained() -> tuple[Program, Context]:
    (images, labels), _ = digits.split()
    data = Dataset.of_arrays("digits", {"image": images}, labels)
    fit = Trainer(data=data, metric=TOP1)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]["image"]), batch[1])

    model = fit(seeded(Wide), loss, step="wide", epochs=6, rate=3e-3)
    ctx = Context(stack=PI, data=data, validation=digits.validation(), metric=TOP1, fit=fit)
    return program_of(model, image=images[:1]), ctx


def macs(program: Program) -> int:
    """Of the exported ONNX graph."""
    return read_workload(Factorise().priced(program, Context(stack=PI)).static_model).macs


@pytest.mark.slow
def test_a_trained_network_gets_faster_and_keeps_its_accuracy(trained: tuple[Program, Context]) -> None:
    start, ctx = trained
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    after, proof = Factorise(error=0.003)(start, ctx)
    assert proof.decision is Decision.KEPT
    assert proof.kind == Kind.APPROXIMATE
    assert isinstance(after.model.b, nn.Sequential)
    assert [m.bias is not None for m in after.model.b] == [False, True]
    assert macs(after) < 0.5 * macs(start)
    assert proof.cost_s is not None
    assert proof.cost_s[1] < proof.cost_s[0]
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < 0.5 * proof.size_bytes[0]
    assert proof.metric is not None
    assert proof.metric.drop_interval[1] < 0.03
    assert any(note.startswith("b: rank") for note in proof.notes)
    assert after.truth.model is start.model
    assert all(torch.equal(start.model.state_dict()[name], value) for name, value in before.items())
    assert Factorise(error=0.003).apply(start, ctx).digest == after.digest


def test_weights_that_know_the_inputs_need_a_lower_rank(trained: tuple[Program, Context]) -> None:
    start, ctx = trained
    plain, whitened = (Factorise(weighted=w)._spectra(start, ctx)["b"] for w in (False, True))
    assert all(whitened.lost(rank) < plain.lost(rank) for rank in (4, 16, 64))
    without = Context(stack=PI, metric=TOP1)
    assert "as if inputs were all alike" in " ".join(Factorise().notes(start, start, without))


@pytest.mark.slow
def test_a_worse_result_is_narrowed(trained: tuple[Program, Context]) -> None:
    start, ctx = trained
    after, proof = Factorise(error=0.5)(start, replace(ctx, validation=digits.validation().take(120)))
    assert proof.decision is Decision.NARROWED
    assert proof.settings["error"] < 0.5
    assert proof.metric is not None
    assert proof.metric.drop <= ctx.budget.max_metric_drop
    assert isinstance(after.model.b, nn.Sequential)


@pytest.mark.slow
def test_training_wins_back_what_a_larger_error_loses(trained: tuple[Program, Context]) -> None:
    start, ctx = trained
    plain = Factorise(error=0.06).apply(start, ctx)
    after, proof = FactoriseAndTrain(error=0.06, epochs=5)(start, ctx)
    assert proof.kind == Kind.RETRAINED
    assert proof.decision is Decision.KEPT
    assert macs(after) == macs(plain)
    assert proof.metric is not None
    assert proof.metric.drop_interval[1] < 0.03


def test_the_product_is_the_best_of_its_rank_for_the_data() -> None:
    """Against the closed form for a known covariance, and against plain truncation and random products."""
    scale = np.logspace(0, -3, 32).astype(np.float32)
    data = noise(400, 32) * scale
    layer = seeded(lambda: nn.Linear(32, 24))
    start = program_of(nn.Sequential(layer, nn.ReLU()), x=data[:1])
    ctx = Context(stack=PI, data=Dataset.of_arrays("d", {"x": data}))
    x, w = torch.from_numpy(data[:256]).double(), layer.weight.detach().double()
    whole = x @ w.T
    for rank in (2, 6, 12):
        spectrum, plain = (Factorise(weighted=weighted)._spectra(start, ctx)["0"] for weighted in (True, False))
        a, b = spectrum.factors(rank)
        lost = float((whole - x @ (a @ b).T).square().sum() / whole.square().sum())
        assert lost == pytest.approx(spectrum.lost(rank), rel=1e-3, abs=1e-6)
        c, d = plain.factors(rank)
        assert lost < float((whole - x @ (c @ d).T).square().sum() / whole.square().sum())
        best = torch.linalg.svd(whole).S.square()
        assert lost == pytest.approx(float(best[rank:].sum() / best.sum()), rel=1e-2, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 12), inputs=st.integers(1, 12), seed=st.integers(0, 99), zero=st.booleans())
def test_a_full_rank_is_the_layer_itself(outputs: int, inputs: int, seed: int, zero: bool) -> None:
    data = noise(32, inputs, seed=seed)
    if zero:
        data[:, 0] = 0  # an input that is never there
    layer = nn.Linear(inputs, outputs)
    start = program_of(nn.Sequential(layer, nn.ReLU()), x=data[:1])
    spectrum = Factorise()._spectra(start, Context(stack=PI, data=Dataset.of_arrays("d", {"x": data})))["0"]
    a, b = spectrum.factors(spectrum.full)
    torch.testing.assert_close(a @ b, layer.weight.detach().double(), rtol=1e-6, atol=1e-6)
    lost = [spectrum.lost(rank) for rank in range(spectrum.full + 1)]
    assert lost[-1] == 0
    assert all(before >= after for before, after in pairwise(lost))


@pytest.mark.slow
def test_a_convolution_of_1x1_is_factorised_with_its_stride() -> None:
    conv = seeded(lambda: nn.Conv2d(128, 128, 1, stride=2))
    with torch.no_grad():
        conv.weight.copy_((torch.randn(128, 4) @ torch.randn(4, 128))[..., None, None])
    start = program_of(nn.Sequential(conv, nn.ReLU()), x=noise(1, 128, 8, 8))
    after, proof = Factorise(error=1e-4)(start, Context(stack=PI))
    assert proof.decision is Decision.KEPT
    first, second = after.model[0]
    assert (first.stride, second.stride) == ((2, 2), (1, 1))
    assert first.out_channels == 4
    assert proof.worst_sqnr_db > 80


# ---- never where it is slower


STACKS = [load_target(name).stack() for name in target_names()]


@pytest.mark.parametrize("stack", STACKS, ids=lambda s: s.id)
@pytest.mark.parametrize("size", [(16, 16), (384, 384)])
def test_no_rank_is_taken_that_is_predicted_slower(stack: Any, size: tuple[int, int]) -> None:
    inputs, outputs = size
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(outputs, 1) @ torch.ones(1, inputs))  # every rank is within the error
    start = program_of(nn.Sequential(layer, nn.ReLU()), x=np.zeros((1, inputs), np.float32))
    chosen = Factorise()._chosen(start, Context(stack=stack))
    work = LayerWork(name="0", op_class="matmul", positions=1, taps=1, inputs=inputs, outputs=outputs)
    for rank in chosen.values():
        assert rank < inputs * outputs / (inputs + outputs)
        thin = Factorise()._spectra(start, Context(stack=stack))["0"].thin(rank)
        assert seconds(thin, stack) < seconds([work], stack)
    if size == (16, 16):
        assert not chosen, "a launch costs more than so small a layer"


@pytest.mark.slow
def test_a_network_that_gains_nothing_stays_as_it_is() -> None:
    start = program_of(digits.build(), image=np.zeros((1, 1, 8, 8), np.float32))
    after, proof = Factorise()(start, Context(stack=PI, data=digits.calibration()))
    assert after.model is start.model
    assert not proof.changed
    assert any("stays: no rank" in note for note in proof.notes)


def test_ranks_by_latency_save_the_share_that_was_asked_for(trained: tuple[Program, Context]) -> None:
    start, ctx = trained
    few, many = (Factorise(error=0.9, ranks="latency", gain=gain)._chosen(start, ctx) for gain in (0.05, 0.6))
    spectra = Factorise()._spectra(start, ctx)

    def saved(ranks: dict[str, int]) -> float:
        return sum(seconds([spectra[n].work], PI) - seconds(spectra[n].thin(r), PI) for n, r in ranks.items())

    total = sum(seconds([s.work], PI) for s in spectra.values())
    assert saved(few) >= 0.05 * total
    assert saved(many) > saved(few)


# ---- networks and settings


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


@pytest.mark.slow
def test_the_layers_of_torch_transformers_may_be_thin() -> None:
    net = seeded(Encoder)
    with torch.no_grad():
        for name in ("linear1", "linear2"):
            weight = getattr(net.encoder.layers[0], name).weight
            weight.copy_(weight[:, :2] @ weight[:2])
    start = program_of(net, x=noise(1, 16, 128))
    after, proof = Factorise(error=1e-3)(start, Context(stack=PI))
    assert proof.decision is Decision.KEPT
    assert isinstance(after.model.encoder.layers[0].linear1, nn.Sequential)
    assert proof.worst_sqnr_db > 30


@pytest.mark.parametrize(
    "fields", [{"error": 0.0}, {"error": 1.0}, {"error": float("nan")}, {"gain": 0.0}, {"gain": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(PassFailed, match="make no sense") as refusal:
        Factorise(**fields)(program_of(nn.Linear(4, 4), x=noise(1, 4)), Context(stack=PI))  # type: ignore[arg-type]
    assert refusal.value.hint


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(PassFailed, match="no linear layer"):
        Factorise()(program_of(nn.Sequential(nn.Conv2d(1, 4, 3)), x=noise(1, 1, 8, 8)), Context(stack=PI))


def test_training_without_a_trainer_is_refused() -> None:
    with pytest.raises(PassFailed, match="nothing here does"):
        FactoriseAndTrain()(program_of(nn.Sequential(nn.Linear(4, 4)), x=noise(1, 4)), Context(stack=PI))
