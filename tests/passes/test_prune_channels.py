"""Channels really go: fewer multiply-accumulates in the exported graph, the same signature, the accuracy kept."""

import sys
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
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.export import Export
from passes.torch_level.layer_work import layers_of, seconds
from passes.torch_level.narrowing import Plan, everywhere, where_least
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.tied_channels import tied_channels
from targets.cost import estimate
from targets.errors import MissingDependency
from targets.graph import read_workload
from targets.target import load_stack, vector_width
from tests.passes.pruned_programs import PI, labelled, macs, noise, program_of, seeded, state_of, unchanged, widths
from toolkit.models import digits
from toolkit.training.trainer import Trainer


def digits_program() -> Program:
    return program_of(digits.build(), image=np.zeros((1, 1, 8, 8), np.float32))


def trained_context(count: int | None = None, **fields: Any) -> Context:
    data = labelled() if count is None else labelled().take(count)
    given = {"data": data, "validation": digits.validation(), "metric": TOP1, **fields}
    fit = Trainer(data=data, metric=TOP1, inputs=("image",))
    return Context(stack=PI, fit=fit, **given)


# ---- what goes and what stays


@pytest.mark.slow
def test_half_of_the_arithmetic_goes_and_the_accuracy_stays() -> None:
    start = digits_program()
    before = state_of(start.model)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    after, proof = PruneChannels(ratio=0.5, epochs=2, rate=3e-3)(start, trained_context())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert proof.decision is Decision.KEPT
    assert proof.kind == Kind.RETRAINED
    assert macs(after) <= 0.5 * macs(start)
    assert proof.metric is not None
    assert proof.metric.samples == 360
    assert proof.metric.drop_interval[1] < 0.025, "the paired interval of the drop"
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < 0.6 * proof.size_bytes[0]
    assert proof.cost_s is not None
    assert proof.cost_s[1] < proof.cost_s[0]
    assert any("multiply-accumulates became" in note for note in proof.notes)
    assert any("classify kept its width" in note for note in proof.notes)
    assert after.signature == start.signature
    assert after.truth.model is after.model, "the result of training is the reference of what follows"
    assert unchanged(start.model, before)
    assert all(layer.outputs % 4 == 0 for name, layer in widths(after).items() if name != "classify")


@pytest.mark.slow
def test_what_the_stack_gains_decides_step_by_step_and_the_accuracy_stays() -> None:
    step = PruneChannels(ratio=0.3, importance="latency", iterations=2, epochs=2, rate=3e-3)
    start = digits_program()
    after, proof = step(start, trained_context())
    assert proof.decision is Decision.KEPT
    assert seconds(widths(after).values(), PI) <= 0.7 * seconds(widths(start).values(), PI)
    assert proof.metric is not None
    assert proof.metric.drop_interval[1] < 0.025


@pytest.mark.parametrize("stack", ["raspberry_pi_4/onnxruntime-fp32", "raspberry_pi_4/onnxruntime-int8"])
@pytest.mark.parametrize("global_", [True, False])
def test_a_ratio_of_latency_is_one_of_predicted_seconds(stack: str, global_: bool) -> None:
    """In the stack's own precision; no step more than it takes, and of what arithmetic alone would have stopped at."""
    start, ctx = digits_program(), Context(stack=load_stack(stack))
    step = PruneChannels(ratio=0.4, importance="latency", global_=global_, epochs=0, round_to=4)
    after = step.apply(start, ctx)
    whole, left = (seconds(widths(p).values(), ctx.stack) for p in (start, after))
    assert left <= 0.6 * whole
    assert left > 0.45 * whole, "steps of four channels are no larger than that here"
    plan = digits_plan(4)
    assert Plan(plan.groups, plan.layers, 4, ctx.stack).work(plan.all) == pytest.approx(whole)
    note = next(n for n in step.notes(start, after, ctx) if "are predicted to take" in n)
    assert f"{1e3 * left:.4g} ms on {stack}, {1e3 * whole:.4g} ms before" in note


def test_seconds_that_cannot_be_saved_are_refused() -> None:
    step = PruneChannels(ratio=0.97, importance="latency", epochs=0)
    with pytest.raises(PassFailed, match=f"of the predicted seconds on {PI.id} go"):
        step(digits_program(), Context(stack=PI))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights() -> None:
    step = PruneChannels(ratio=0.4, importance="taylor", epochs=1)
    first, second = (step.apply(digits_program(), trained_context(128)) for _ in range(2))
    assert unchanged(second.model, state_of(first.model))


def planted() -> nn.Module:
    """Eight channels of 24 that everything rests on; the others see next to nothing."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3), nn.Flatten(1)))
    with torch.no_grad():
        net[0].weight[torch.arange(24) % 3 != 1] *= 1e-3
        net[0].bias[torch.arange(24) % 3 != 1] *= 1e-3
    return net


@pytest.mark.slow
@pytest.mark.parametrize(("importance", "ratio"), [("magnitude", 0.6), ("taylor", 0.6), ("latency", 0.15)])
def test_what_matters_stays(importance: Any, ratio: float) -> None:
    """Two thirds of the channels are more than 60 % of the arithmetic; most of the time is for each call of a layer."""
    start = program_of(planted(), image=noise(1, 3, 6, 6))
    ctx = Context(stack=PI, data=Dataset.of_arrays("noise", {"image": noise(8, 3, 6, 6)}))
    after, proof = PruneChannels(ratio=ratio, importance=importance, epochs=0, round_to=8)(start, ctx)
    assert after.model[0].out_channels == 8
    assert torch.equal(after.model[0].weight, start.model[0].weight[1::3])
    assert proof.worst_sqnr_db > 40


def test_labels_decide_what_matters() -> None:
    """Half of the units have large weights but move all classes alike, which no label sees."""
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
    with torch.no_grad():
        net[0].weight[:8] *= 10
        net[2].weight[:, :8] = 1.0
    start = program_of(net, x=noise(1, 4))
    data = Dataset.of_arrays("noise", {"x": noise(32, 4)}, np.arange(32) % 3)
    ctx = Context(stack=PI, data=data, metric=TOP1)
    for importance, kept in (("magnitude", slice(0, 8)), ("taylor", slice(8, 16))):
        step = PruneChannels(ratio=0.4, importance=importance, epochs=0, round_to=8)  # type: ignore[arg-type]
        assert torch.equal(step.apply(start, ctx).model[0].weight, net[0].weight[kept])


def test_protected_layers_keep_their_width() -> None:
    start = digits_program()
    after = PruneChannels(ratio=0.3, epochs=0, protect=("block2.*",)).apply(start, Context(stack=PI))
    assert after.model.block2[0].out_channels == 48
    assert after.model.stem[0].out_channels < 24


@pytest.mark.slow
def test_a_metric_that_fell_too_far_halves_the_ratio_and_then_reverts() -> None:
    start = digits_program()
    ctx = Context(stack=PI, data=digits.validation().take(64), metric=TOP1)
    step = PruneChannels(ratio=0.3, epochs=0)
    after, proof = step(start, ctx)
    assert proof.decision in (Decision.NARROWED, Decision.REVERTED)
    assert proof.settings["ratio"] == 0.15
    assert proof.decision is Decision.NARROWED or after.model is start.model


# ---- widths


def digits_plan(round_to: int) -> Plan:
    model, args = digits.build(), [torch.zeros(1, 1, 8, 8)]
    free = [tied for tied in tied_channels(model, args) if not tied.held]
    return Plan(tuple(free), layers_of(model, args), round_to)


PLANS = {step: digits_plan(step) for step in (1, 4, 8, 16)}


@settings(max_examples=40, deadline=None)
@given(
    step=st.sampled_from(sorted(PLANS)), ratio=st.floats(0.01, 0.99), everywhere_=st.booleans(), seed=st.integers(0, 9)
)
def test_widths_are_whole_steps_and_never_empty(step: int, ratio: float, everywhere_: bool, seed: int) -> None:
    plan = PLANS[step]
    whole = plan.macs(plan.all)
    prices = np.random.default_rng(seed).random(1000)

    def loss(tied: Any, now: int, then: int, kept: Any) -> float:
        assert then < now == kept[tied.root]
        return float(prices[now])

    budget = int(whole * (1 - ratio))
    kept = everywhere(plan, budget) if everywhere_ else where_least(plan, budget, loss)
    for tied in plan.groups:
        assert 0 < kept[tied.root] <= tied.units
        assert kept[tied.root] % step == 0 or kept[tied.root] == tied.units
    assert plan.macs(kept) <= max(budget, plan.macs(plan.least))
    for name, layer in plan.narrowed(kept).items():
        assert min(layer.inputs, layer.outputs) > 0, name


@pytest.mark.slow
def test_what_layers_cost_is_what_the_exported_graph_says() -> None:
    start = digits_program()
    layers = widths(start).values()
    graph = Export().apply(start, Context(stack=PI)).static_model
    assert sum(layer.macs for layer in layers) == read_workload(graph).macs
    rows = [row for row in estimate(graph, PI).operators if row.macs]
    own = {row.op_class: row.latency_s for row in rows if row.op_class in ("depthwise", "matmul")}
    priced = {layer.op_class: seconds([layer], PI) for layer in layers}
    assert own.keys() <= priced.keys()
    for op_class, whole in own.items():  # what the runtime folds into a layer, a norm or a bias, is priced in the graph
        assert 0.85 * whole < priced[op_class] <= whole


def test_the_default_step_is_what_the_processor_takes_at_once() -> None:
    assert vector_width(PI) == 4
    assert vector_width(load_stack("raspberry_pi_4/onnxruntime-int8")) == 16
    assert vector_width(load_stack("desktop_cpu/onnxruntime-fp32")) == 8
    assert vector_width(load_stack("jetson_nano/tensorrt-fp16")) == 8


# ---- refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ratio": 0.99}, "would empty a layer"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"iterations": 0}, "0 iterations"),
        ({"round_to": -1}, "steps of -1"),
        ({"epochs": -1}, "-1 epochs"),
        ({"rate": float("inf")}, "rate of inf"),
        ({"epochs": 1}, "nothing here does"),
        ({"importance": "taylor"}, "taylor needs data"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PassFailed, match=words) as refusal:
        PruneChannels(**{"epochs": 0, **fields})(digits_program(), Context(stack=PI))
    assert refusal.value.hint


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range_are_refused_before_time_is_spent(label: int) -> None:
    data = Dataset.of_arrays("d", {"image": noise(4, 1, 8, 8)}, np.array([0, 1, label, 3]))

    def fit(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError("nothing is trained")

    with pytest.raises(PassFailed, match="out of range"):
        PruneChannels(ratio=0.3)(digits_program(), Context(stack=PI, data=data, fit=fit))  # type: ignore[arg-type]


def test_training_without_data_is_refused() -> None:
    ctx = Context(stack=PI, fit=Trainer(data=labelled()))
    with pytest.raises(PassFailed, match="no data"):
        PruneChannels(ratio=0.3)(digits_program(), ctx)


def test_a_script_is_refused() -> None:
    start = program_of(torch.jit.trace(digits.build(), torch.zeros(1, 1, 8, 8)), image=noise(1, 1, 8, 8))
    with pytest.raises(PassFailed, match="TorchScript"):
        PruneChannels(epochs=0)(start, Context(stack=PI))


def test_answers_that_no_label_judges_stay_near_the_reference() -> None:
    start = digits_program()
    data = Dataset.of_arrays("images", {"image": labelled_images(16)})
    with pytest.raises(PassFailed, match="without labels") as refusal:
        PruneChannels(ratio=0.8, epochs=0)(start, Context(stack=PI, data=data))
    assert "dB" in refusal.value.problem


def labelled_images(count: int) -> Array:
    (images, _), _ = digits.split()
    return images[:count]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingDependency) as refusal:
        PruneChannels()(digits_program(), Context(stack=PI))
    assert "edge-toolkit[prune]" in refusal.value.hint
