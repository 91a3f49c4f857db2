"""The ground that an organism walks on: how sharp it is at the end, and whether lives stay in one basin.

    python -m toolkit.bench.landscape [--preset smoke|quick|cpu] [--seed N] [--json]

For every component that was born in training: the loss on the straight line from the model at its birth to the model
where it began to fade, or at the end. A barrier near 0 says that the model stayed in one basin while it lived.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from toolkit.bench.ablations.presets import Preset

__all__ = ["Life", "main", "report"]

_MOST = 12
"""Lives that are kept as copies of the whole model."""


@dataclass(frozen=True)
class Life:
    """One component: the steps of its birth and of its end, and how far the line between rises, in nats."""

    component: str
    born: int
    ended: int
    faded: bool
    barrier_nats: float
    losses_nats: tuple[float, ...]


def report(preset: Preset, seed: int) -> dict[str, Any]:
    """Train the dynamic arm of the ablations and walk around it."""
    from functools import partial

    from toolkit.bench.ablations.arms import dynamic
    from toolkit.bench.ablations.learning import keeper_of, organic, text_for, trained
    from toolkit.training.organism.landscape import life_line, sharpness
    from toolkit.training.organism.probing import Probe

    text, arm = text_for(preset, seed), dynamic(preset)
    born: dict[str, tuple[int, nn.Module]] = {}
    faded: dict[str, tuple[int, nn.Module]] = {}

    def note(kind: str, name: str, step: int, model: nn.Module) -> None:
        if kind == "birth" and len(born) < _MOST:
            born[name] = (step, copy.deepcopy(model))
        if kind == "fade" and name in born:
            faded[name] = (step, copy.deepcopy(model))

    keeper = keeper_of(arm, text, preset, seed, noted=note)
    model, _ = trained(organic(arm, preset, text.task, seed), text, preset, seed, keeper)
    asked = Probe(text.asked, text.task.loss)
    lives = []
    for name, (step, before) in sorted(born.items()):
        ended, after = faded.get(name, (preset.steps, model))
        line = life_line(before.cpu(), copy.deepcopy(after).cpu(), asked, points=7)
        lives.append(Life(name, step, ended, name in faded, line.barrier, line.losses))
    sharp = sharpness(model, partial(asked, model), seed=seed)
    return {"schema": "toolkit.bench.landscape/1", "preset": preset.to_data(), "seed": seed,
            "sharpness": {"radius": sharp.radius, "mean_rise_nats": sharp.mean, "worst_rise_nats": sharp.worst},
            "lives": [vars(life) for life in lives]}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Print the report."""
    from toolkit.bench.ablations.presets import PRESETS

    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.landscape", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS), help="sizes and steps (quick)")
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    found = report(PRESETS[given.preset], given.seed)
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    _show(found)
    return 0


def _show(found: Mapping[str, Any]) -> None:
    sharp = found["sharpness"]
    print(f"sharpness: steps of {sharp['radius']:.0%} of each tensor raise the loss by {sharp['mean_rise_nats']:.4f} "
          f"nats in the mean, {sharp['worst_rise_nats']:.4f} at worst")  # fmt: skip
    print(f"{'component':40} {'born':>6} {'ended':>6} {'':6} {'barrier':>12}")
    for life in found["lives"]:
        end = "faded" if life["faded"] else "alive"
        print(f"{life['component']:40} {life['born']:>6} {life['ended']:>6} {end:6} {life['barrier_nats']:>+7.4f} nats")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
