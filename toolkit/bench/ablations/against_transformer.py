"""A1: the organism with its whole lifecycle beside a transformer of as many parameters as it has on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import isfinite

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, Text, learn, learn_transformer, text_for
from toolkit.bench.ablations.matching import flops_of, match, parameters_of
from toolkit.bench.ablations.presets import Preset
from toolkit.bench.ablations.spending import step_bytes
from toolkit.models import transformer
from toolkit.organism.native import SlimeModel

__all__ = ["ABLATION"]

_ARMS = ("organism", "organism, equal time", "transformer")
_MARGIN = 0.02


@cache
def _warmed_up(preset: Preset) -> None:
    """What is loaded, compiled and set up with the first steps is no arm's cost."""
    few = replace(preset, steps=2 * preset.medium)
    learn(dynamic(few), few, 0)
    learn_transformer(transformer.Config(width=preset.width, heads=preset.heads, context=preset.context), few, 0)


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    _warmed_up(preset)
    text = text_for(preset, seed)
    organism = learn(dynamic(preset), preset, seed)
    mean = _mean_parameters(organism)
    baseline = learn_transformer(
        match(mean, vocabulary=text.task.inputs, width=preset.width, heads=preset.heads, layers=preset.layers,
              context=preset.context, seed=seed), preset, seed,
    )  # fmt: skip
    shorter = replace(preset, steps=max(1, round(preset.steps * min(1.0, baseline.seconds / organism.seconds))))
    hurried = learn(dynamic(shorter), shorter, seed)
    return {
        "organism": _measures(organism, text, mean),
        "organism, equal time": _measures(hurried, text, _mean_parameters(hurried)),
        "transformer": _measures(baseline, text, float(parameters_of(baseline.model))),
    }


def _measures(found: Learnt, text: Text, mean_parameters: float) -> Measures:
    model, batch = found.model, text.asked[0]
    still = model.freeze() if isinstance(model, SlimeModel) else model
    memory = found.memory_bytes
    return {
        "test_loss_nats": found.loss, "seconds": found.seconds, "tokens_per_s": found.tokens_per_s,
        "peak_memory_bytes": memory if isfinite(memory) else float(step_bytes(model, text.task.loss, batch)),
        "mean_parameters": mean_parameters, "final_parameters": float(parameters_of(model)),
        "final_forward_flops": float(flops_of(still, batch)), "lifecycle_share": found.overhead / found.seconds,
    }  # fmt: skip


def _mean_parameters(found: Learnt) -> float:
    """Over the measurements: components come and go, the rest stays."""
    assert isinstance(found.model, SlimeModel)
    layers = list(found.model.organisms.values())
    each = sum(p.numel() for p in next(iter(layers[0].pool)).parameters())
    return parameters_of(found.model) + each * sum(found.mean_components - len(layer.pool) for layer in layers)


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    loss, speed, memory, hurried = (
        found[name].verdict for name in (
            "test_loss_nats: organism - transformer", "tokens_per_s: organism - transformer",
            "peak_memory_bytes: organism - transformer", "test_loss_nats: organism, equal time - transformer",
        )
    )  # fmt: skip
    parity, pace = (means["organism"][n] / means["transformer"][n] for n in ("mean_parameters", "tokens_per_s"))
    said = (
        f"Of parameters the organism has {parity:.3f} times the transformer's, over its training. After as many tokens "
        f"its loss is: {loss}; after as much time: {hurried}. Speed of training, {pace:.2f} times the transformer's: "
        f"{speed}. Memory: {memory}."
    )
    if Verdict.BETTER not in (loss, speed):
        return f"{said} The organism is better in neither: on this text, at this size, its lifecycle is not worth it."
    if Verdict.WORSE in (loss, speed):
        return f"{said} Better in one and worse in the other is not enough."
    return f"{said} The organism passes."


ABLATION = Ablation(
    name="A1",
    question="Is an organism with its whole lifecycle worth more than a transformer of as many parameters?",
    arms=_ARMS,
    rule="better in loss or speed, and not worse by more than the margin in the other; else simplify, keep the search",
    run=_run,
    contrasts=(
        Contrast(arm="organism", against="transformer", measure="test_loss_nats", margin=_MARGIN),
        Contrast(arm="organism, equal time", against="transformer", measure="test_loss_nats", margin=_MARGIN),
        Contrast(arm="organism", against="transformer", measure="tokens_per_s", margin=0.0, better="higher"),
        Contrast(arm="organism", against="transformer", measure="peak_memory_bytes", margin=0.0),
    ),
    conclude=_conclude,
    note="Seconds are processor time on one thread, on a GPU elapsed time: attention by `kernels` against torch's own, "
    "the lifecycle included, the optimizer the same. Memory is the allocator's on a GPU; on a CPU it is counted: "
    "weights, gradients, moments, and what the step of a batch keeps for its gradient. FLOPs are products with weights "
    "of the last pool; scores of attention are counted on neither side.",
)
