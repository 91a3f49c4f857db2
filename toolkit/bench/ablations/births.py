"""A2: newborns that begin from an archived elite, from fresh weights, or as a copy of the fittest that lives."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic, static
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, learn
from toolkit.bench.ablations.presets import Preset
from toolkit.training.organism.rules import Births

__all__ = ["ABLATION"]

_ARMS: tuple[Births, ...] = ("archive", "fresh", "copy")


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    plain = learn(static(preset, max(1, preset.heads // 2)), preset, seed)
    assert plain.keeping is not None
    wanted = plain.keeping.history[-1]["probe_loss"]
    return {births: _measures(learn(dynamic(preset, births=births), preset, seed), wanted, preset) for births in _ARMS}


def _measures(found: Learnt, wanted: float, preset: Preset) -> Measures:
    assert found.keeping is not None
    history = found.keeping.history
    steps = next((row["step"] for row in history if row["probe_loss"] <= wanted), 2.0 * preset.steps)
    return {
        "test_loss_nats": found.loss, "steps_to_founders_loss": steps, "births": history[-1]["births"],
        "lifecycle_share": found.overhead / found.seconds, "coverage": history[-1].get("coverage", 0.0),
    }  # fmt: skip


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    verdicts = [found[f"test_loss_nats: archive - {other}"].verdict for other in _ARMS[1:]]
    said = f"Final loss, archive beside fresh: {verdicts[0]}; beside copy: {verdicts[1]}."
    if all(verdict is Verdict.BETTER for verdict in verdicts):
        return f"{said} Births from the archive stay the default."
    return f"{said} Births from the archive are not shown to be better than both: they are off by default."


ABLATION = Ablation(
    name="A2",
    question="Do newborns gain from an archived parent?",
    arms=_ARMS,
    rule="the archive better than both others in final loss; else it is off by default",
    run=_run,
    contrasts=tuple(
        Contrast(arm="archive", against=other, measure=measure, margin=margin)
        for measure, margin in (("test_loss_nats", 0.02), ("steps_to_founders_loss", 0.0))
        for other in _ARMS[1:]
    ),
    conclude=_conclude,
    note="Steps are those to the last probe loss of the founders alone; twice all steps where it was never reached.",
)
