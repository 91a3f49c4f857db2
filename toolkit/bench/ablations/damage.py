"""A10: how unlike the components of a pool that lived are, and how much of it can be lost, beside one that did not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic, static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, Text, judged_loss, learn, text_for
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.behaviors import probe_batch
from toolkit.organism.torch_compat import organisms_of
from toolkit.rng import numpy_generator
from toolkit.training.organism.probing import seats_of

__all__ = ["ABLATION"]

_DRAWS = 5


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    text = text_for(preset, seed)
    lived = learn(dynamic(preset), preset, seed)
    assert lived.keeping is not None
    each, extra = divmod(int(lived.keeping.history[-1]["components"]), preset.layers)
    plain = learn(static(preset, max(1, each), extra=extra), preset, seed)
    return {"lifecycle": _measures(lived, text, preset, seed), "plain": _measures(plain, text, preset, seed)}


def _measures(found: Learnt, text: Text, preset: Preset, seed: int) -> Measures:
    alike, dimension = _diversity(found, preset)
    draws = 1 if preset.name == "smoke" else _DRAWS
    curves = [_removal(found, text, seed, draw) for draw in range(draws)]
    rise = float(np.mean([np.mean(curve) for curve in curves])) - found.loss
    return {
        "mean_cosine": alike,
        "effective_dimension": dimension,
        "removal_rise_nats": rise,
        "test_loss_nats": found.loss,
    }


@torch.no_grad()
def _diversity(found: Learnt, preset: Preset) -> tuple[float, float]:
    """Mean |cosine| of what two components of a layer write on the seeded probe, and the participation ratio of all."""
    cosines, dimensions = [], []
    for organism in organisms_of(found.model).values():
        h = probe_batch(organism.d_model, length=preset.context).to(next(organism.parameters()).device)
        written = torch.stack([pod(h, h, causal=True).flatten() for pod in organism.pool])
        unit = functional.normalize(written, dim=1)
        gram = (unit @ unit.T).double()
        count = len(gram)
        if count > 1:
            cosines.append(float((gram.abs().sum() - gram.diagonal().abs().sum()) / (count * (count - 1))))
        dimensions.append(float(gram.trace() ** 2 / gram.square().sum()) / count)
    return float(np.mean(cosines)) if cosines else 0.0, float(np.mean(dimensions))


@torch.no_grad()
def _removal(found: Learnt, text: Text, seed: int, draw: int) -> list[float]:
    """The loss with 1 up to half of all components silenced, in one random order; gates are put back."""
    gates = {seat.name: seat.pod.gate for seat in seats_of(organisms_of(found.model))}
    order = numpy_generator(seed, "ablation", "removal", draw).permutation(sorted(gates)).tolist()
    kept = {name: gate.detach().clone() for name, gate in gates.items()}
    losses = []
    for name in order[: max(1, len(order) // 2)]:
        gates[name].zero_()
        losses.append(judged_loss(found.model, text))
    for name, gate in gates.items():
        gate.copy_(kept[name])
    return losses


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    verdict = found["removal_rise_nats: lifecycle - plain"].verdict
    said = (f"Mean rise of the loss while up to half of the components go: lifecycle "
            f"{means['lifecycle']['removal_rise_nats']:.3f} nats, plain {means['plain']['removal_rise_nats']:.3f}: "
            f"{verdict}.")  # fmt: skip
    return f"{said} {'Damage is borne better.' if verdict is Verdict.BETTER else 'Graceful degradation is not shown.'}"


ABLATION = Ablation(
    name="A10",
    question="Are components that lived less alike, and can more of them be lost?",
    arms=("lifecycle", "plain"),
    rule="graceful degradation is claimed only if the loss rises less over the removals",
    run=_run,
    contrasts=(
        Contrast(arm="lifecycle", against="plain", measure="removal_rise_nats", margin=0.02),
        Contrast(arm="lifecycle", against="plain", measure="mean_cosine", margin=0.0),
        Contrast(arm="lifecycle", against="plain", measure="effective_dimension", margin=0.0, better="higher"),
    ),
    conclude=_conclude,
    note=f"Removal in {_DRAWS} random orders. The effective dimension is over the number of components.",
)
