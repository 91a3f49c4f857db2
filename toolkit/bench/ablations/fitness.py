"""A6: what says which components matter: leave-one-out on a probe, gradients, entropy, or a coin."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Text, judged_loss, keeper_of, organic, text_for, trained
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
_LOOKS = 5
"""Points of one training, evenly apart, at which metrics are held against the truth; the last is its end."""


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    text = text_for(preset, seed)
    model, earlier = _watched(text, preset, seed)
    agreements = [_agreements(looked, text, seed) for looked in (*earlier, model)]
    seats = {seat.name: seat for seat in seats_of(organisms_of(model))}
    gates = {name: seat.pod.gate for name, seat in seats.items()}
    return {
        arm: {
            **{f"spearman_{k + 1}": found[arm] for k, found in enumerate(agreements)},
            "spearman": float(np.mean([found[arm] for found in agreements])),
            "pruned_loss_nats": _pruned_loss(model, gates, _worth(arm, model, seats, text, seed), text),
        } for arm in _ARMS
    }  # fmt: skip


def _watched(text: Text, preset: Preset, seed: int) -> tuple[nn.Module, list[nn.Module]]:
    """A static pool after its training, and copies of it from measurements on the way, nearest to even distances."""
    arm, copies = static(preset, preset.heads + preset.heads // 2), dict[int, nn.Module]()
    turns = [max(1, round(preset.steps * look / _LOOKS / preset.medium)) for look in range(1, _LOOKS)]

    def note(kind: str, name: str, step: int, model: nn.Module) -> None:
        if kind == "measurement" and step // preset.medium in turns:
            copies[step // preset.medium] = copy.deepcopy(model).eval()

    keeper = keeper_of(arm, text, preset, seed, noted=note)
    model, _ = trained(organic(arm, preset, text.task, seed), text, preset, seed, keeper)
    return model, [copies[turn] for turn in turns]


def _agreements(model: nn.Module, text: Text, seed: int) -> dict[str, float]:
    """Of each metric with leave-one-out on the windows asked at the end, by rank."""
    seats = {seat.name: seat for seat in seats_of(organisms_of(model))}
    gates = {name: seat.pod.gate for name, seat in seats.items()}
    truth = leave_one_out(lambda: judged_loss(model, text), gates, gates)
    names = sorted(truth)
    found = {}
    for arm in _ARMS:
        worth = _worth(arm, model, seats, text, seed)
        found[arm] = rank_correlation([worth[name] for name in names], [truth[name] for name in names])
    return found


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
    h = probe_batch(seat.pod.d_model, length=length).to(seat.pod.gate)
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
    note="Spearman correlation with leave-one-out on the windows that were asked at the end, at five points of one "
    "training (spearman_5 is its end) and their mean. The probe and those windows are disjoint.",
)  # fmt: skip
