"""A5: a price on latency that rises until the model is as fast as wanted, beside no price, and beside random deaths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, Organic, Text, judged_loss, learn, living, text_for
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.torch_compat import organisms_of
from toolkit.search.hypervolume import hypervolume
from toolkit.training.organism.costs import HeadSizes, Prices
from toolkit.training.organism.lifecycle import Phases
from toolkit.training.organism.probing import seats_of

__all__ = ["ABLATION"]

_STACK = "raspberry_pi_4/tflite-int8"
_WANTED, _MARGIN = 0.8, 0.02
_ARMS = ("no price", "price", "random")


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    founders, text = preset.heads + preset.heads // 2, text_for(preset, seed)
    sizes = {f"c{k}": HeadSizes(1, preset.width // preset.heads) for k in range(founders)}
    whole_s = preset.layers * Prices(_STACK, preset.context).layer_s(preset.width, sizes)
    priced = {"wanted_latency_s": _WANTED * whole_s, "price_rate": 0.5 / whole_s}
    few = {"births": "none", "stack": _STACK, "phases": Phases(warm_up=0.1, gentle=0.2)}
    rules = {"no price": living(preset, **few), "price": living(preset, **few, **priced),
             "random": living(preset, **few, **priced, cull="random")}  # fmt: skip
    arms = {arm: Organic(founders=founders, most=founders + 1, rules=rules[arm]) for arm in _ARMS}
    return {name: _measures(learn(arm, preset, seed), text, whole_s) for name, arm in arms.items()}


def _measures(found: Learnt, text: Text, whole_s: float) -> Measures:
    assert found.keeping is not None
    last = found.keeping.history[-1]
    pairs = np.array([(-loss, -latency_s / whole_s) for loss, latency_s in _pairs(found.model, text)])
    return {"test_loss_nats": found.loss, "latency_ratio": last["latency_s"] / whole_s,
            "hypervolume": hypervolume(pairs, np.array([-math.log(text.task.inputs), -1.0])),
            "components": last["components"], "deaths": last["deaths"],
            "price_nats_per_s": last["price_nats_per_s"]}  # fmt: skip


@torch.no_grad()
def _pairs(model: nn.Module, text: Text) -> Iterator[tuple[float, float]]:
    """Loss and latency of the trained pool, and of what is left of it as its least fit go, one after another."""
    left = sorted(seats_of(organisms_of(model)), key=lambda seat: (seat.pod.fitness, seat.name))
    gates = [(seat.pod.gate, seat.pod.gate.clone()) for seat in left]
    prices = Prices(_STACK, text.task.length)
    while left:
        layers = {seat.layer: seat.pod.d_model for seat in left}
        latency_s = sum(
            prices.layer_s(width, {s.name: HeadSizes(s.pod.n_heads, s.pod.head_dim) for s in left if s.layer == layer})
            for layer, width in layers.items()
        )
        yield judged_loss(model, text), latency_s
        left.pop(0).pod.gate.zero_()
    for gate, kept in gates:
        gate.copy_(kept)


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    ratio, plain = (means[arm]["latency_ratio"] for arm in ("price", "no price"))
    cost = found["test_loss_nats: price - no price"].verdict
    control = found["test_loss_nats: price - random"].verdict
    said = (
        f"Of the predicted latency of all founders {ratio:.2f} is left with a price and {plain:.2f} without (wanted: "
        f"{_WANTED}). Loss with it beside none: {cost}; beside as many random deaths: {control}."
    )
    if ratio > _WANTED or cost not in (Verdict.EQUIVALENT, Verdict.BETTER):
        return f"{said} The rule is not met."
    if plain <= _WANTED:
        return f"{said} The rule is met, and it is by deaths alone too: that the price is needed is not shown."
    return f"{said} The rule is met."


ABLATION = Ablation(
    name="A5",
    question="Does a price on latency bring a faster organism for little loss?",
    arms=_ARMS,
    rule=f"at most {_WANTED} of the latency with a loss within {_MARGIN} nats; random deaths are the control",
    run=_run,
    contrasts=(
        Contrast(arm="price", against="no price", measure="test_loss_nats", margin=_MARGIN),
        Contrast(arm="price", against="random", measure="test_loss_nats", margin=_MARGIN),
        Contrast(arm="price", against="no price", measure="latency_ratio", margin=0.0),
        Contrast(arm="price", against="no price", measure="hypervolume", margin=0.0, better="higher"),
        Contrast(arm="price", against="random", measure="hypervolume", margin=0.0, better="higher"),
    ),
    conclude=_conclude,
    note=f"Latency is predicted for {_STACK}, of attention alone. The hypervolume is that of the loss and latency of a "
    "pool, and of what is left of it as its least fit go: nats below a uniform guess times shares below the latency of "
    "all founders.",
)
