"""A6: what says which components matter: leave-one-out on a probe, gradients, entropy, or a coin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Text, judged_loss, learn, text_for
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.attending import Sight, combined_heads
from toolkit.organism.behaviors import probe_batch
from toolkit.organism.torch_compat import organisms_of
from toolkit.rng import uniform
from toolkit.training.organism.fitness import leave_one_out, rank_correlation
from toolkit.training.organism.probing import Probe, Seat, seats_of

__all__ = ["ABLATION"]

_ARMS = ("leave-one-out", "gradient norm", "gate gradient", "attention entropy", "random")
_PRUNED = 0.25
_LOOKS = 2
"""Lengths of training at which metrics are held against the truth: half of it, and all."""


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    text = text_for(preset, seed)
    agreements: dict[str, list[float]] = {arm: [] for arm in _ARMS}
    pruned: dict[str, float] = {}
    for look in range(1, _LOOKS + 1):
        shorter = replace(preset, steps=preset.steps * look // _LOOKS)
        model = learn(static(preset, preset.heads + preset.heads // 2), shorter, seed).model
        seats = {seat.name: seat for seat in seats_of(organisms_of(model))}
        gates = {name: seat.pod.gate for name, seat in seats.items()}
        truth = leave_one_out(lambda model=model: judged_loss(model, text), gates, gates)  # type: ignore[misc]
        for arm in _ARMS:
            worth = _worth(arm, model, seats, text, seed)
            agreements[arm].append(
                rank_correlation([worth[n] for n in sorted(truth)], [truth[n] for n in sorted(truth)])
            )
            if look == _LOOKS:
                pruned[arm] = _pruned_loss(model, gates, worth, text)
    return {arm: {"spearman": float(np.mean(agreements[arm])), "pruned_loss_nats": pruned[arm]} for arm in _ARMS}


def _worth(arm: str, model: nn.Module, seats: Mapping[str, Seat], text: Text, seed: int) -> dict[str, float]:
    probe = Probe(text.probe, text.task.loss)
    if arm == "leave-one-out":
        gates = {name: seat.pod.gate for name, seat in seats.items()}
        return leave_one_out(lambda: probe(model), gates, gates)
    if arm == "random":
        return {name: uniform(seed, "ablation", "worth", name) for name in seats}
    if arm == "attention entropy":
        return {name: _entropy(seat, text.task.length) for name, seat in seats.items()}
    model.zero_grad()
    loss = text.task.loss(model, text.probe[0])
    torch.autograd.backward(loss)
    norms = {name: sum(float(p.grad.square().sum()) for p in seat.pod.parameters() if p.grad is not None) ** 0.5
             for name, seat in seats.items()}  # fmt: skip
    slopes = {
        name: -float(seat.pod.gate.grad) if seat.pod.gate.grad is not None else 0.0 for name, seat in seats.items()
    }
    model.zero_grad()
    return norms if arm == "gradient norm" else slopes


@torch.no_grad()
def _entropy(seat: Seat, length: int) -> float:
    """Minus the entropy of its attention on the seeded probe: sharp attention counts as worth more."""
    h = probe_batch(seat.pod.d_model, length=length)
    _, stats = combined_heads(h, h, seat.pod.matrices(), seat.pod.kernel, Sight(causal=True), return_stats=True)
    assert stats is not None
    return -float(stats.entropy.mean())


def _pruned_loss(model: nn.Module, gates: Mapping[str, torch.Tensor], worth: Mapping[str, float], text: Text) -> float:
    """The loss without the quarter that is worth least by a metric; the gates are put back."""
    worst = sorted(gates, key=lambda name: (worth[name], name))[: max(1, int(_PRUNED * len(gates)))]
    kept = {name: gates[name].detach().clone() for name in worst}
    with torch.no_grad():
        for name in worst:
            gates[name].zero_()
        found = judged_loss(model, text)
        for name in worst:
            gates[name].copy_(kept[name])
    return found


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    ranked = sorted(_ARMS, key=lambda arm: means[arm]["pruned_loss_nats"])
    first, last = ranked[0] == "leave-one-out", ranked[-1] == "random"
    shown = found["pruned_loss_nats: leave-one-out - random"].verdict
    said = f"Loss after removing a quarter, from least: {', '.join(ranked)}. Leave-one-out beside random: {shown}."
    if first and last and shown is Verdict.BETTER:
        return f"{said} The default stands."
    return f"{said} {'Leave-one-out ranks first' if first else 'Leave-one-out does not rank first'}, " \
           f"{'random last' if last else 'random is not last'}."  # fmt: skip


ABLATION = Ablation(
    name="A6",
    question="Which fitness finds the components that can go?",
    arms=_ARMS,
    rule="leave-one-out first in the loss after removing a quarter, and random last",
    run=_run,
    contrasts=(
        *(Contrast(arm="leave-one-out", against=other, measure="pruned_loss_nats", margin=0.02) for other in _ARMS[1:]),
        *(Contrast(arm="leave-one-out", against=other, measure="spearman", margin=0.0, better="higher")
          for other in _ARMS[1:]),
    ),
    conclude=_conclude,
    note="Spearman correlation with leave-one-out on the windows that were asked at the end, the mean of two lengths "
    "of training. The probe and those windows are disjoint.",
)  # fmt: skip
