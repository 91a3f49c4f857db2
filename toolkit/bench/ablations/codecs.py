"""A9: how the weights of components are stored: whole, as factors, or as factors of what training changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Text, judged_loss, learn, organic, text_for
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.native import SlimeModel
from toolkit.organism.torch_compat import organisms_of
from toolkit.search.codec import Arrays, Codec, decode, encode
from toolkit.training.organism.optimizing import pool_adamw
from toolkit.training.organism.probing import seats_of
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer

__all__ = ["ABLATION"]

_MARGIN = 0.02
_SHARES = (0.125, 0.25, 0.375, 0.5)
"""Ranks, over the smaller side of a matrix."""

_AGAIN = 0.2
"""Of all steps: how long the decoded weights are trained on."""


def _arms() -> dict[str, tuple[str, float]]:
    kinds = {"raw": ("raw", 1.0)}
    for kind in ("lowrank", "seed_delta"):
        kinds |= {f"{kind} {share:g}": (kind, share) for share in _SHARES}
    return kinds


_ARMS = _arms()


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    text = text_for(preset, seed)
    arm = static(preset, preset.heads)
    trained = learn(arm, preset, seed).model
    assert isinstance(trained, SlimeModel)
    fresh = organic(arm, preset, text.task, seed)
    return {name: _measures(kind, share, trained, fresh, text, preset, seed)
            for name, (kind, share) in _ARMS.items()}  # fmt: skip


def _measures(
    kind: str, share: float, trained: SlimeModel, fresh: SlimeModel, text: Text, preset: Preset, seed: int
) -> Measures:
    model, total = copy.deepcopy(trained), 0
    starts = {seat.name: seat.pod.to_record().tensors for seat in seats_of(organisms_of(fresh))}
    rank = max(1, int(share * preset.width // preset.heads))
    codec = Codec(kind=kind, rank=rank)  # type: ignore[arg-type]
    for seat in seats_of(organisms_of(model)):
        record = seat.pod.to_record()
        start: Arrays | None = starts[seat.name] if kind == "seed_delta" else None
        stored = encode(dict(record.tensors), codec, start=start)
        total += stored.nbytes
        seat.pod.load_arrays({name: np.asarray(a, np.float32) for name, a in decode(stored, start=start).items()})
    return {"bytes": float(total), "decoded_loss_nats": judged_loss(model, text),
            "recovered_loss_nats": judged_loss(_trained_on(model, text, preset, seed), text)}  # fmt: skip


def _trained_on(model: SlimeModel, text: Text, preset: Preset, seed: int) -> torch.nn.Module:
    few = replace(preset, steps=max(1, int(_AGAIN * preset.steps)))
    data = text_for(few, seed + 10_000).task.learnt
    trainer = Trainer(data=data, settings=Settings(batch=preset.batch, held_out=0.0, patience=0, device=preset.device),
                      seed=seed, optimizer=pool_adamw)  # fmt: skip
    again = trainer(model, text.task.loss, step="after decoding", epochs=1, rate=preset.rate / 3)
    return again.to(preset.device).eval()


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    good = [arm for arm in list(_ARMS)[1:]
            if found[f"recovered_loss_nats: {arm} - raw"].verdict in (Verdict.EQUIVALENT, Verdict.BETTER)]  # fmt: skip
    if not good:
        return "No codec is shown to recover within the margin: components are stored whole."
    least = min(good, key=lambda arm: means[arm]["bytes"])
    share = means[least]["bytes"] / means["raw"]["bytes"]
    return f"The smallest that recovers within {_MARGIN} nats is {least}, of {share:.2f} of the bytes."


ABLATION = Ablation(
    name="A9",
    question="How few bytes does a component take that can be trained on from?",
    arms=tuple(_ARMS),
    rule="the smallest whose loss after further training is equivalent to that of whole weights",
    run=_run,
    contrasts=tuple(
        Contrast(arm=arm, against="raw", measure=measure, margin=_MARGIN)
        for measure in ("recovered_loss_nats", "decoded_loss_nats") for arm in list(_ARMS)[1:]
    ),
    conclude=_conclude,
    note="Ranks are shares of a head's width; attention's matrices alone are stored so. Further training is a fifth of "
    "the steps, at a third of the rate.",
)  # fmt: skip
