"""Channels really go: fewer multiply-accumulates in the exported graph, the same signature, the accuracy kept."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.program import Level, Program
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.export import Export
from passes.torch_level.layer_work import layers_of, seconds
from passes.torch_level.narrowing import Plan, everywhere, where_least
from passes.torch_level.open_attention import OpenAttention, open_attention
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.tied_channels import tied_channels
from targets.cost import estimate
from targets.errors import MissingDependency
from targets.graph import read_workload
from targets.target import load_stack, vector_width
from toolkit.models import digits
from toolkit.training.trainer import Trainer

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")
Make = Callable[..., Any]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.heads, self.packed = heads, packed
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        if self.packed:
            q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, length, -1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, packed)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, 32), nn.Parameter(torch.randn(1, 7, 32))
        self.block, self.classify = Block(32, 4, packed), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.block(self.embed(x) + self.position).mean(1))


class TorchTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.classify = nn.Linear(6, 32), nn.Linear(32, 5)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.encoder(self.embed(x)).mean(1))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def program_of(module: nn.Module, batch: str = "", **example: Array) -> Program:
    dynamic = {name: {0: batch} for name in example} if batch else {}
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, dynamic),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def digits_program() -> Program:
    return program_of(digits.build(), image=np.zeros((1, 1, 8, 8), np.float32))


def labelled() -> Dataset:
    (images, labels), _ = digits.split()
    return Dataset.of_arrays("digits", {"image": images}, labels)


def trained_context(count: int | None = None, **fields: Any) -> Context:
    data = labelled() if count is None else labelled().take(count)
    given = {"data": data, "validation": digits.validation(), "metric": TOP1, **fields}
    fit = Trainer(data=data, metric=TOP1, inputs=("image",))
    return Context(stack=PI, fit=fit, **given)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


def macs(program: Program) -> int:
    """Of the exported ONNX graph."""
    return read_workload(PruneChannels().priced(program, Context(stack=PI)).static_model).macs


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


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


def widths(program: Program) -> Any:
    return layers_of(program.model, [torch.from_numpy(a) for a in program.example.values()])


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


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: Transformer(False), lambda: Transformer(True), TorchTransformer],
                         ids=["q, k, v", "packed", "torch's own"])  # fmt: skip
def test_a_transformer_loses_heads_and_hidden_units(make: Callable[[], nn.Module]) -> None:
    start = program_of(seeded(make), x=noise(1, 7, 6))
    before = state_of(start.model)
    step = PruneChannels(ratio=0.4, global_=False, epochs=0, round_to=8)
    after = step.apply(start, Context(stack=PI))
    step.requires(start, Context(stack=PI))
    assert macs(after) <= 0.7 * macs(start), "the products of attention are no weights, and stay in part"
    opened = program_of(copy.deepcopy(start.model), **start.example)
    open_attention(opened.model)
    assert sum(layer.macs for layer in widths(after).values()) <= 0.6 * sum(x.macs for x in widths(opened).values())
    blocks = [m for m in after.model.modules() if isinstance(m, (Attention, OpenAttention))]
    assert [block.heads for block in blocks] == [2]
    hidden = [
        m.out_features for name, m in after.model.named_modules() if name in ("block.mlp.0", "encoder.layers.0.linear1")
    ]
    assert hidden == [32]
    assert unchanged(start.model, before)
    assert after.run(start.example)["output"].shape == (1, 5)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_taken_apart_answers_the_same(weights: bool, bias: bool, batch_first: bool) -> None:
    whole = nn.ModuleDict({"a": seeded(lambda: nn.MultiheadAttention(24, 3, bias=bias, batch_first=batch_first))})
    parts = copy.deepcopy(whole)
    assert open_attention(parts) == ["a"]
    q, k = torch.from_numpy(noise(4, 4, 24)), torch.from_numpy(noise(4, 4, 24)[::-1].copy())
    causal = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    padding = torch.tensor([[False, False, False, i == 1] for i in range(4)])
    for options in ({}, {"attn_mask": causal}, {"key_padding_mask": padding},
                    {"attn_mask": causal.expand(12, 4, 4), "key_padding_mask": padding}):  # fmt: skip
        want, have = (net["a"](q, k, k, need_weights=weights, **options) for net in (whole, parts))
        torch.testing.assert_close(have[0], want[0])
        torch.testing.assert_close(have[1], want[1])
    want, have = (net["a"](q[0], k[0], k[0], average_attn_weights=False) for net in (whole, parts))
    torch.testing.assert_close(have, want)


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


# ---- networks with ties


class Ties(nn.Module):
    """A gate over channels, a concatenation, a group norm and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.gate, self.join = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 16, 1)
        self.up, self.classify = nn.ConvTranspose2d(16, 8, 2), nn.Linear(8 * 25, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.norm(self.a(x))
        a = a * self.gate(a.mean((2, 3), keepdim=True)).sigmoid()
        return self.classify(self.up(self.join(torch.cat([a, self.b(x)], 1)).relu()).relu().flatten(1))


def test_ties_through_gates_concatenations_norms_and_flattening_are_followed() -> None:
    start = program_of(seeded(Ties), x=noise(1, 3, 6, 6))
    step = PruneChannels(ratio=0.5, global_=False, epochs=0, round_to=4)
    step.requires(start, Context(stack=PI))
    after = step.apply(start, Context(stack=PI))
    assert after.model.norm.num_groups == after.model.norm.num_channels // 4 < 4
    assert after.model.classify.in_features == 25 * after.model.up.out_channels < 200


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.classify = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.a(x)
        return self.classify(self.b(features.relu()).relu().mean((2, 3))), features


def test_features_that_are_an_output_keep_their_width() -> None:
    start = program_of(seeded(Inner), x=noise(1, 3, 6, 6))
    step = PruneChannels(ratio=0.3, epochs=0, round_to=4)
    step.requires(start, Context(stack=PI))
    after = step.apply(start, Context(stack=PI))
    assert after.model.a.out_channels == 16
    assert after.model.b.out_channels < 16


def test_protected_layers_keep_their_width() -> None:
    start = digits_program()
    after = PruneChannels(ratio=0.3, epochs=0, protect=("block2.*",)).apply(start, Context(stack=PI))
    assert after.model.block2[0].out_channels == 48
    assert after.model.stem[0].out_channels < 24


# ---- refusals


class FixedHeads(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(x.shape[0], -1, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.gru, self.classify = nn.Linear(6, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.gru(self.a(x))[0][:, -1])


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.classify = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.c = nn.Linear(16, 16)
        self.c.weight = self.b.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.c(self.b(self.a(x)).relu()).relu())


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (lambda: nn.Sequential(FixedHeads(32, 4, False), nn.Linear(32, 5)), (1, 7, 32), "tied to the channels"),
        (Recurrent, (1, 7, 6), "cannot follow"),
        (Shared, (1, 6), "shares its weights"),
        (lambda: nn.Linear(6, 5), (1, 6), "an output of the model"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)), (1, 6), "one step of 4"),
        (lambda: nn.Sequential(nn.ReLU()), (1, 6), "none with weights"),
    ],
    ids=["heads stated as numbers", "recurrent", "shared weights", "only an output", "too narrow", "nothing"],
)  # fmt: skip
def test_a_network_that_cannot_be_followed_is_refused(make: Make, shape: Any, words: str) -> None:
    start = program_of(seeded(make), x=noise(*shape))
    before = state_of(start.model)
    with pytest.raises(PassFailed, match=words) as refusal:
        PruneChannels(ratio=0.5, epochs=0, round_to=4)(start, Context(stack=PI))
    assert refusal.value.hint
    assert unchanged(start.model, before)


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


@pytest.mark.slow
def test_a_metric_that_fell_too_far_halves_the_ratio_and_then_reverts() -> None:
    start = digits_program()
    ctx = Context(stack=PI, data=digits.validation().take(64), metric=TOP1)
    step = PruneChannels(ratio=0.3, epochs=0)
    after, proof = step(start, ctx)
    assert proof.decision in (Decision.NARROWED, Decision.REVERTED)
    assert proof.settings["ratio"] == 0.15
    assert proof.decision is Decision.NARROWED or after.model is start.model


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingDependency) as refusal:
        PruneChannels()(digits_program(), Context(stack=PI))
    assert "edge-toolkit[prune]" in refusal.value.hint
