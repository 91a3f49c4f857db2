"""A1: the organism with its whole lifecycle beside a transformer of as many parameters as it has on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import learn, learn_transformer, text_for
from toolkit.bench.ablations.matching import flops_of, match, parameters_of
from toolkit.bench.ablations.presets import Preset
from toolkit.models import transformer
from toolkit.organism.native import SlimeModel

__all__ = ["ABLATION"]


@cache
def _warmed_up(preset: Preset) -> None:
    """What is loaded and set up with the first step is no arm's cost."""
    few = replace(preset, steps=2 * preset.medium)
    learn(dynamic(few), few, 0)
    learn_transformer(transformer.Config(width=preset.width, heads=preset.heads, context=preset.context), few, 0)


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    _warmed_up(preset)
    organism = learn(dynamic(preset), preset, seed)
    assert isinstance(organism.model, SlimeModel)
    layers = list(organism.model.organisms.values())
    each = sum(p.numel() for p in next(iter(layers[0].pool)).parameters())
    missing = sum(organism.mean_components - len(layer.pool) for layer in layers)
    mean = parameters_of(organism.model) + missing * each
    text = text_for(preset, seed)
    baseline = learn_transformer(
        match(mean, vocabulary=text.task.inputs, width=preset.width, heads=preset.heads, layers=preset.layers,
              context=preset.context, seed=seed), preset, seed,
    )  # fmt: skip
    frozen = organism.model.freeze()
    return {
        "organism": {"test_loss_nats": organism.loss, "tokens_per_cpu_s": organism.tokens_per_s,
                     "mean_parameters": mean,
                     "final_forward_flops": float(flops_of(frozen, text.asked[0])),
                     "lifecycle_share": organism.overhead / organism.seconds},
        "transformer": {"test_loss_nats": baseline.loss, "tokens_per_cpu_s": baseline.tokens_per_s,
                        "mean_parameters": float(parameters_of(baseline.model)),
                        "final_forward_flops": float(flops_of(baseline.model, text.asked[0])), "lifecycle_share": 0.0},
    }  # fmt: skip


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    loss, speed = (found[f"{name}: organism - transformer"].verdict for name in ("test_loss_nats", "tokens_per_cpu_s"))
    said = f"Loss: {loss}. Speed of training: {speed}."
    if Verdict.BETTER not in (loss, speed):
        return f"{said} The organism is better in neither: on this text, at this size, its lifecycle is not worth it."
    if Verdict.WORSE in (loss, speed):
        return f"{said} Better in one and worse in the other is not enough."
    return f"{said} The organism passes."


ABLATION = Ablation(
    name="A1",
    question="Is an organism with its whole lifecycle worth more than a transformer of as many parameters?",
    arms=("organism", "transformer"),
    rule="better in loss or speed, and not worse by more than the margin in the other; else simplify, keep the search",
    run=_run,
    contrasts=(
        Contrast(arm="organism", against="transformer", measure="test_loss_nats", margin=0.02),
        Contrast(arm="organism", against="transformer", measure="tokens_per_cpu_s", margin=0.0, better="higher"),
    ),
    conclude=_conclude,
    note="Speed is processor time on one thread: attention by `kernels` against torch's own, the lifecycle included. "
    "FLOPs are products with weights, of the last pool; scores of attention are counted on neither side.",
)
