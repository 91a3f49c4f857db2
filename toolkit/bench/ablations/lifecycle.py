"""A3: a pool that lives beside pools that do not: of its mean size, and of its final size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic, static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, learn
from toolkit.bench.ablations.presets import Preset

__all__ = ["ABLATION"]

_MARGIN = 0.02


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    lived = learn(dynamic(preset), preset, seed)
    assert lived.keeping is not None
    final = lived.keeping.history[-1]["components"]
    return {
        "dynamic": _measures(lived),
        "static, mean size": _measures(_of_size(lived.mean_components * preset.layers, preset, seed)),
        "static, final size": _measures(_of_size(final, preset, seed)),
    }


def _of_size(components: float, preset: Preset, seed: int) -> Learnt:
    """As many components in all layers together, to the nearest whole one."""
    each, extra = divmod(max(preset.layers, round(components)), preset.layers)
    return learn(static(preset, each, extra=extra), preset, seed)


def _measures(found: Learnt) -> Measures:
    assert found.keeping is not None
    history = found.keeping.history
    jumps = np.diff([row["probe_loss"] for row in history])
    return {"test_loss_nats": found.loss, "mean_components": found.mean_components,
            "probe_loss_jump_sd_nats": float(np.std(jumps)) if len(jumps) else 0.0,
            "cpu_s": found.seconds, "births": history[-1]["births"], "deaths": history[-1]["deaths"]}  # fmt: skip


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    same, final = (found[f"test_loss_nats: dynamic - static, {size} size"].verdict for size in ("mean", "final"))
    said = f"Beside a static pool of the same mean size, and so of equal FLOPs: {same}; of the final size: {final}."
    if same is Verdict.BETTER:
        return f"{said} The lifecycle is worth its steps."
    return f"{said} Births and deaths are not shown to be worth anything that a pool of that size does not give."


ABLATION = Ablation(
    name="A3",
    question="Is a pool that lives better than one that does not, at the same size?",
    arms=("dynamic", "static, mean size", "static, final size"),
    rule="better than the static pool of equal mean size, which computes as much; both static arms are shown",
    run=_run,
    contrasts=tuple(
        Contrast(arm="dynamic", against=f"static, {size} size", measure="test_loss_nats", margin=_MARGIN)
        for size in ("mean", "final")
    ),
    conclude=_conclude,
)
