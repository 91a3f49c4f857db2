"""A5: a price on latency that rises until the model is as fast as wanted, beside no price, and beside random deaths."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, Organic, learn, living
from toolkit.bench.ablations.presets import Preset
from toolkit.training.organism.costs import HeadSizes, Prices
from toolkit.training.organism.lifecycle import Phases

__all__ = ["ABLATION"]

_STACK = "raspberry_pi_4/tflite-int8"
_WANTED, _MARGIN = 0.8, 0.02
_ARMS = ("no price", "price", "random")


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    founders = preset.heads + preset.heads // 2
    sizes = {f"c{k}": HeadSizes(1, preset.width // preset.heads) for k in range(founders)}
    whole_s = preset.layers * Prices(_STACK, preset.context).layer_s(preset.width, sizes)
    priced = {"wanted_latency_s": _WANTED * whole_s, "price_rate": 0.5 / whole_s}
    few = {"births": "none", "stack": _STACK, "phases": Phases(warm_up=0.1, gentle=0.2)}
    rules = {"no price": living(preset, **few), "price": living(preset, **few, **priced),
             "random": living(preset, **few, **priced, cull="random")}  # fmt: skip
    arms = {arm: Organic(founders=founders, most=founders + 1, rules=rules[arm]) for arm in _ARMS}
    return {name: _measures(learn(arm, preset, seed), whole_s) for name, arm in arms.items()}


def _measures(found: Learnt, whole_s: float) -> Measures:
    assert found.keeping is not None
    last = found.keeping.history[-1]
    return {"test_loss_nats": found.loss, "latency_ratio": last["latency_s"] / whole_s,
            "components": last["components"], "deaths": last["deaths"],
            "price_nats_per_s": last["price_nats_per_s"]}  # fmt: skip


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
    ),
    conclude=_conclude,
    note=f"Latency is predicted for {_STACK}, of attention alone.",
)
